"""Seeds: where a node looks for its first peers, as the application writes them.

A seed is `host:port`, `dns://name:port` or a callable that returns an iterable of
those. This module reads and checks them; `meshcache.discovery` does the looking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from meshcache.config import address

__all__ = ["DNS", "SEEDS_MAX", "Seed", "canonical", "read", "show"]

Seed: TypeAlias = str | Callable[[], Iterable[str]]

DNS: Final = "dns://"
SEEDS_MAX: Final = 1024


def canonical(text: str) -> str:
    """Return the one spelling of a seed, or raise `ValueError` naming it."""
    prefix = DNS if text.lower().startswith(DNS) else ""
    try:
        return prefix + str(address.parse(text[len(prefix) :]))
    except ValueError as error:
        raise ValueError(
            f"{text!r:.80} is no seed: {error}; write host:port or dns://name:port"
        ) from None


def read(value: object) -> tuple[Seed, ...]:
    """Read seeds: a comma-separated string, a callable, or an iterable of both.

    At most `SEEDS_MAX + 1` are looked at, which is enough to be refused.
    """
    seeds: list[Seed] = []
    for item in _items(value):
        if len(seeds) > SEEDS_MAX:
            break
        if isinstance(item, str):
            found = [
                canonical(part.strip()) for part in item.split(",") if part.strip()
            ]
            seeds.extend(text for text in found if text not in seeds)
        elif callable(item):
            seeds.append(item)
        else:
            raise ValueError(  # noqa: TRY004 - one error for every reader
                f"{item!r:.80} is no seed: neither a string nor a callable"
            )
    return tuple(seeds)


def show(seeds: tuple[Seed, ...]) -> str:
    """Return seeds as they would be written; a callable by its name."""
    return (
        ", ".join(
            seed if isinstance(seed, str) else getattr(seed, "__qualname__", repr(seed))
            for seed in seeds
        )
        or "none"
    )


def _items(value: object) -> Iterable[object]:
    if isinstance(value, str) or callable(value):
        return (value,)
    if isinstance(value, Iterable):
        return value
    raise ValueError("not seeds; write a list of host:port, dns://name:port, callables")
