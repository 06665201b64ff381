"""What the mesh promises, held against the summary of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from launcher.summary import Summary

__all__ = [
    "CONVERGE_S",
    "DETECT_S",
    "READ_S",
    "REJOIN_S",
    "Promise",
    "broken",
    "check",
]

CONVERGE_S: Final = 20.0
DETECT_S: Final = 15.0
REJOIN_S: Final = 10.0
READ_S: Final = 1.0
"""The one time-out that a read may cost, whatever dies."""

_BUSY_S: Final = 0.5  # what a machine with fewer cores than workers may add


class Promise(NamedTuple):
    """One thing a run must show: its name, whether it held, and the numbers."""

    name: str
    kept: bool
    detail: str


def check(run: Summary) -> list[Promise]:
    """Return every promise that a run was to show, kept or broken."""
    promises = [_converged(run), _loaded_once(run), _answered(run), _in_time(run)]
    if run.kill:
        promises += [_noticed(run), _owned_again(run), _rejoined(run)]
    return [*promises, _nobody_left(run)]


def broken(promises: list[Promise]) -> list[Promise]:
    """Return the promises that did not hold."""
    return [promise for promise in promises if not promise.kept]


def _converged(run: Summary) -> Promise:
    return _within(
        f"all {run.nodes} processes agree on one table", run.converged_s, CONVERGE_S
    )


def _loaded_once(run: Summary) -> Promise:
    loads, keys = run.loads_before_kill, run.distinct_keys
    if loads is None:
        return Promise("every key is loaded once", kept=False, detail="not reached")
    kept = loads == keys > 0 and not run.not_once
    detail = f"{loads:,} loads of {keys:,} distinct keys"
    if run.not_once:
        detail += f" ({', '.join(run.not_once)})"
    return Promise("every key is loaded once", kept, detail)


def _answered(run: Summary) -> Promise:
    kept = run.requests > 0 and run.failed == run.wrong == 0
    detail = f"{run.failed:,} failed and {run.wrong:,} wrong of {run.requests:,}"
    if run.troubles:
        detail += f" ({run.troubles[-1]})"
    return Promise("every answer comes, and is right", kept, detail)


def _in_time(run: Summary) -> Promise:
    limit = READ_S + run.slowest_load_s + _BUSY_S
    return Promise(
        "no read outlasts a time-out and a load",
        run.slowest_read_s <= limit,
        f"{run.slowest_read_s:.2f} s, allowed {limit:.2f} s",
    )


def _noticed(run: Summary) -> Promise:
    return _within("a killed process is noticed by all", run.detected_s, DETECT_S)


def _owned_again(run: Summary) -> Promise:
    name = "its hash ranges are owned again"
    if run.partitions_moved is None:
        return Promise(name, kept=False, detail="not reached")
    kept = run.partitions_moved > 0 and run.partitions_orphaned == 0
    detail = f"{run.partitions_moved:,} moved, {run.partitions_orphaned:,} ownerless"
    return Promise(name, kept, detail)


def _rejoined(run: Summary) -> Promise:
    return _within("started again, it rejoins", run.rejoined_s, REJOIN_S)


def _nobody_left(run: Summary) -> Promise:
    trouble = [f"{label} ended by itself" for label in run.crashed]
    trouble += [f"{label} had to be killed" for label in run.forced]
    trouble += [f"process {pid} still runs" for pid in run.left_behind]
    return Promise(
        "every process leaves when told",
        not trouble,
        ", ".join(trouble) or "none left behind",
    )


def _within(name: str, took_s: float | None, limit_s: float) -> Promise:
    if took_s is None:
        return Promise(name, kept=False, detail=f"not within {limit_s:.0f} s")
    detail = f"{took_s:.2f} s, allowed {limit_s:.0f} s"
    return Promise(name, took_s <= limit_s, detail)
