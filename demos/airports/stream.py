"""The requests: who asks what, how often, and in which order.

Popularity follows Zipf's law over a catalogue that is shuffled with a fixed seed, so
every process agrees on what is popular while each asks in an order of its own. A
trace file replaces this: each distinct line becomes a distinct request.
"""

from __future__ import annotations

import gzip
import random
from itertools import accumulate, cycle, islice
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["SEED", "Request", "catalogue", "from_trace", "read_trace", "zipf"]

SEED: Final = 1906
"""Of the catalogue's order, and with the slot of each process's own order."""

TRACE_LINES: Final = 2_000_000
"""Longest trace that is read; what comes after is left out."""

_CATALOGUE: Final = 2000
_EXPONENT: Final = 0.95
# Web proxies saw 0.64 to 0.83 (Breslau et al., INFOCOM'99, section III); what an
# application asks of itself is more skewed.
_CHUNK: Final = 4096
_RADII_KM: Final = (100, 250, 500)
_ABOVE_FT: Final = 1500
_TRACE_RADIUS_KM: Final = 100


class Request(NamedTuple):
    """One question to the application: which loader, with which arguments."""

    loader: str
    args: tuple[str | int, ...]

    @property
    def key(self) -> str:
        """The request as one word. Equal for equal requests only."""
        return ":".join((self.loader, *map(str, self.args)))


def catalogue(codes: Sequence[str], countries: Sequence[str]) -> list[Request]:
    """Return the requests the stream makes, the most popular first.

    Of all the questions one could ask, a fixed sample: small enough that a run of
    twenty seconds gets from the first load to a cache that answers nearly all.
    """
    requests = [Request("within", (code, km)) for code in codes for km in _RADII_KM]
    requests += [Request("nearest", (code, _ABOVE_FT)) for code in codes]
    requests += [Request("country", (country,)) for country in countries]
    return random.Random(SEED).sample(requests, min(_CATALOGUE, len(requests)))


def zipf(requests: Sequence[Request], slot: int) -> Iterator[Request]:
    """Yield requests for ever, the one of rank r about 1/r**0.95 as often as the first.

    The same slot gets the same stream each time it asks.
    """
    rng = random.Random(f"{SEED}/{slot}")
    weights = list(
        accumulate((rank + 1) ** -_EXPONENT for rank in range(len(requests)))
    )
    while True:
        yield from rng.choices(requests, cum_weights=weights, k=_CHUNK)


def read_trace(path: Path) -> list[str]:
    """Return the keys of a trace, one a line, in order; `.gz` is unpacked."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
        keys = [line.strip() for line in islice(lines, TRACE_LINES)]
    return [key for key in keys if key]


def from_trace(
    keys: Sequence[str], codes: Sequence[str], slot: int, slots: int
) -> Iterator[Request]:
    """Yield the trace's requests for ever, each slot starting at its share of it.

    Keys are numbered as they first appear; the number picks an airport, and once all
    airports are taken, the next radius. So distinct keys are distinct requests, and
    every process makes the same of the same key.
    """
    numbers: dict[str, int] = {}
    for key in keys:
        numbers.setdefault(key, len(numbers))
    known = [_numbered(number, codes) for number in range(len(numbers))]
    start = len(keys) * slot // slots
    for key in cycle((*keys[start:], *keys[:start])):
        yield known[numbers[key]]


def _numbered(number: int, codes: Sequence[str]) -> Request:
    lap, place = divmod(number, len(codes))
    return Request("within", (codes[place], _TRACE_RADIUS_KM + lap))
