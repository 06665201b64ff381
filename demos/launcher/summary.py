"""The summary of a run: the numbers, and nothing derived from wishes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.latency import Histogram

__all__ = ["TIERS", "Summary", "hits", "latency_us", "not_once"]

TIERS = ("near", "host", "peer", "fill", "local")
"""Where an answer can come from, nearest first; `local` means that the mesh failed."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened, in numbers. `None` is what the run did not get to."""

    nodes: int
    seconds: float
    trace: str | None
    requests: int = 0
    failed: int = 0
    wrong: int = 0
    distinct_keys: int = 0
    loads_before_kill: int | None = None
    not_once: list[str] = field(default_factory=list)
    loads: int = 0
    evicted: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    latency_us: dict[str, dict[str, float | None]] = field(default_factory=dict)
    slowest_read_s: float = 0.0
    slowest_load_s: float = 0.0
    converged_s: float | None = None
    kill: bool = True
    detected_s: float | None = None
    requests_while_down: int | None = None
    partitions_moved: int | None = None
    partitions_orphaned: int | None = None
    bystanders_moved: int | None = None
    rejoined_s: float | None = None
    crashed: list[str] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)
    left_behind: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values, times rounded to the millisecond."""
        values = asdict(self)
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in values.items()
        }


def hits(latency: Mapping[str, Histogram]) -> dict[str, int]:
    """Return how many reads each tier answered."""
    return {tier: latency[tier].total if tier in latency else 0 for tier in TIERS}


def latency_us(latency: Mapping[str, Histogram]) -> dict[str, dict[str, float | None]]:
    """Return the median and the 99th percentile of each tier that answered."""
    return {
        tier: {
            "p50": latency[tier].quantile_us(0.50),
            "p99": latency[tier].quantile_us(0.99),
        }
        for tier in TIERS
        if tier in latency
    }


def not_once(loads: Mapping[str, int], asked: Iterable[str]) -> list[str]:
    """Return a few of the keys that were not loaded exactly once, with their count."""
    wrong = sorted({key for key in {*asked, *loads} if loads.get(key, 0) != 1})
    return [f"{key} x{loads.get(key, 0)}" for key in wrong[:_NAMED]]
