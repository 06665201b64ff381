"""A histogram of durations: small, mergeable, and good to three percent.

Durations fall into buckets whose width doubles with every power of two, 32 buckets
to each, so one table covers nanoseconds and minutes alike.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Histogram", "bucket_of", "middle_of"]

_BITS: Final = 5
_HALF: Final = 1 << _BITS


def bucket_of(ns: int) -> int:
    """Return the bucket of a duration. Longer durations never get a lower one."""
    shift = max(ns.bit_length() - 1 - _BITS, 0)
    return (shift << _BITS) + (ns >> shift)


def middle_of(bucket: int) -> float:
    """Return the duration in the middle of a bucket, in nanoseconds."""
    shift = max((bucket >> _BITS) - 1, 0)
    return ((bucket - (shift << _BITS)) + 0.5 * (shift > 0)) * (1 << shift)


@final
class Histogram:
    """Durations counted by bucket. Confined to one thread at a time."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def add(self, ns: int) -> None:
        """Count one duration."""
        self.counts[bucket_of(ns)] += 1

    def merge(self, other: Histogram) -> None:
        """Count everything that another histogram has counted."""
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return self.counts.total()

    def quantile_us(self, share: float) -> float | None:
        """Return the microseconds that *share* of all stayed within, if any."""
        rank = max(1, round(share * self.total))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return round(middle_of(bucket) / 1000, 3)
        return None
