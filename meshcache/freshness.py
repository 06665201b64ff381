"""When a stored value is fresh, when it is old and of use still, and when it is gone.

    |---------- ttl ----------|----- stale -----|                      |
    stored                    |------------ stale_if_error ------------|
       fresh                     stale             late                  gone
       (early: refresh soon)     given at once,    loaded; given only    a miss
                                 refreshed behind  if that fails

The ends of the two windows count from the end of the ttl. A value is stored until the
longer of them is over, and its envelope says how long that is, so that every process
knows when it stopped being fresh; what it may be used for after that is for the reader
to say.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import exp, log
from typing import Any, Final, NamedTuple, TypeAlias

from meshcache.codec.envelope import Envelope
from meshcache.errors import ConfigError
from meshcache.model import UNSET, Unset
from meshcache.times import Ttl, checked_ttl

__all__ = [
    "EARLIEST",
    "PLAIN",
    "Age",
    "Freshness",
    "Recipe",
    "TtlOf",
    "checked_early",
    "checked_seconds",
]

TtlOf: TypeAlias = Ttl | Callable[[Any], Ttl]
"""Seconds to live, or what makes them of the loaded value."""

MAX_EARLY: Final = 1000.0
HEAD_STARTS: Final = 8.0
"""A head start is looked for within so many mean ones: all but 0.03 % of them."""
EARLIEST: Final = exp(-HEAD_STARTS)
"""The chance of the longest one: with it, all are early that ever could be."""


class Age(Enum):
    """What a reader may do with what it has found."""

    FRESH = "fresh"
    EARLY = "early"
    """Fresh, but this reader shall have it loaded anew behind its back."""
    STALE = "stale"
    LATE = "late"
    GONE = "gone"


class Freshness(NamedTuple):
    """How old a value may be for whoever reads it.

    Attributes:
        stale: seconds for which a value that is over its ttl is given all the same,
            while one caller in the cluster has it loaded anew.
        stale_if_error: seconds for which it is given if the load fails or, with a
            `soft_timeout`, takes long.
        early: how eagerly a fresh value is loaded anew before its ttl is over, by
            chance: 0 not at all, 1 as the paper has it, more is earlier (beta in
            XFetch; Vattani et al., VLDB 8(8), 2015, algorithm 2).
        soft_timeout: seconds to wait for a load where there is an old value to give;
            0 is to its end.
    """

    stale: float = 0.0
    stale_if_error: float = 0.0
    early: float = 0.0
    soft_timeout: float = 0.0

    @property
    def keep_ms(self) -> int:
        """For how long a value is kept once it is over its ttl."""
        return int(max(self.stale, self.stale_if_error) * 1000)

    def age(self, found: Envelope, expires: float, now: float, chance: float) -> Age:
        """Return how old a value is.

        Args:
            found: what is said of it.
            expires: when it will be dead.
            now: the time.
            chance: a number drawn evenly from 0 to 1, for a head start.
        """
        late = now - found.fresh_until(expires)
        if late < 0:
            mean = self._head_start(found)
            early = mean and late >= mean * log(max(chance, EARLIEST))
            return Age.EARLY if early else Age.FRESH
        if late < self.stale:
            return Age.STALE
        return Age.LATE if late < self.stale_if_error else Age.GONE

    def near_until(self, found: Envelope, expires: float, now: float) -> float:
        """Return until when a fresh value may be given without another look at it.

        Before the time of head starts, all of that; within it, a quarter of the mean
        one, so that each process draws again and again.
        """
        until = found.fresh_until(expires)
        mean = self._head_start(found)
        if not mean:
            return until
        quiet = until - HEAD_STARTS * mean
        return quiet if quiet > now else min(until, now + mean / 4)

    def _head_start(self, found: Envelope) -> float:
        return found.cost_ms / 1000 * self.early


PLAIN: Final = Freshness()
"""A value is fresh or gone."""


class Recipe(NamedTuple):
    """What is stored of what a loader brings, and for how long.

    Attributes:
        ttl: seconds to live, or what makes them of the value.
        none_ttl: those of `None`; unset, as of any other value.
        cache_if: whether a value is stored at all; None is always.
        errors: the exceptions that are remembered.
        error_ttl: for how long; 0 not at all.
        tags: the hashes of the tags it bears.
    """

    ttl: TtlOf = UNSET
    none_ttl: Ttl = UNSET
    cache_if: Callable[[Any], bool] | None = None
    errors: tuple[type[Exception], ...] = ()
    error_ttl: float | None = 0.0
    tags: tuple[int, ...] = ()

    def ttl_of(self, value: object) -> Ttl:
        """Return the seconds that *value* lives; 0 if it is not to be stored."""
        if self.cache_if is not None and not self.cache_if(value):
            return 0
        if value is None and not isinstance(self.none_ttl, Unset):
            return self.none_ttl
        return self.ttl(value) if callable(self.ttl) else self.ttl

    def remembers(self, error: BaseException) -> bool:
        """Whether *error* is stored, so that the next caller hears it at once."""
        return self.error_ttl != 0 and isinstance(error, self.errors)


def checked_seconds(seconds: object, what: str) -> float:
    """Return a window in seconds, 0 for none.

    Raises:
        ConfigError: it is negative, not finite, over ten years, or no number.
    """
    found = checked_ttl(seconds, what)
    if found is None:
        raise ConfigError(f"{what}=None is no number of seconds; 0 turns it off")
    return found


def checked_early(early: object) -> float:
    """Return how eager early refreshes are.

    Raises:
        ConfigError: it is no number from 0 to 1000.
    """
    if isinstance(early, bool) or not isinstance(early, int | float):
        raise ConfigError(f"early={early!r} is no number; 0 turns it off, 1 is usual")
    if not 0 <= early <= MAX_EARLY:
        raise ConfigError(f"early={early!r} is not in 0 to {MAX_EARLY:g}; 1 is usual")
    return float(early)
