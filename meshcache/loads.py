"""How a region loads what is missing, and what is old.

    host    an arena of this host has it
    owner   its owner has it, or knows who loads it
    load    the owner runs the loader, or leases the load to this caller

What is found may be old. Then it is given at once and loaded anew behind its reader
(stale), or given only if the load fails or takes long (late); `freshness` has the
rules. A refresh goes the same way as a load, and asks for a version that is newer than
what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from meshcache.clock import NEVER, monotonic
from meshcache.engine.ops import Got, Granted, LoadKey, Raised, Tier, TimedOut
from meshcache.errors import LoadTimeout, RecursiveLoad
from meshcache.freshness import Age, Recipe
from meshcache.lease import Absent, Lease
from meshcache.region import Held, Region
from meshcache.runtime.chain import MAX_DEPTH
from meshcache.runtime.failures import error_of
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import STILL, Answer, Behind, RunHere, Steps

__all__ = ["ALONE_TIMEOUT", "Wanted", "check_circle", "load", "load_newer"]

ALONE_TIMEOUT: Final = 3600.0
"""Seconds for an awaitable loader where there is no node, and so no setting."""


class Wanted(NamedTuple):
    """A value that shall be loaded if nobody has it.

    Attributes:
        near_key: under which it is kept near.
        op: what to ask the engine; a timeout of 0 is the node's setting.
        loader: run here if this caller is the one to load.
        recipe: what is stored of what it brings.
        errors: classes of errors raised elsewhere that may be raised here, by name.
    """

    near_key: object
    op: LoadKey
    loader: Callable[[], Any]
    recipe: Recipe
    errors: Mapping[str, type[Exception]]


def load(region: Region, runtime: Runtime | None, wanted: Wanted) -> Steps[Any]:
    """Answer from the host, the owner or a load.

    Raises:
        LoadError, LoadTimeout, RecursiveLoad: see `Cache.get_or_load`.
    """
    check_circle(region, wanted.op)
    try:
        if runtime is None:
            alone = _alone(wanted.op, wanted.op.timeout or ALONE_TIMEOUT, wanted)
            region.tally.load()
            value = yield alone
            region.tally.local()
            return value
        timeout = wanted.op.timeout or runtime.config.load_timeout
        wanted = wanted._replace(op=wanted.op._replace(timeout=timeout))
        return (yield from _load(region, runtime, wanted))
    except Absent:
        raise
    except Exception:
        region.tally.raised()
        raise


def check_circle(region: Region, op: LoadKey) -> None:
    """Refuse a load that would wait for itself.

    Raises:
        RecursiveLoad: its own loader has asked for it, or it is within too many.
    """
    if len(op.chain) >= MAX_DEPTH:
        raise RecursiveLoad(
            "RecursiveLoad",
            f"a loader of {region.name!r} is within {MAX_DEPTH} others; load some of "
            "what they ask for before",
        )
    if op.hashed in op.chain:
        raise RecursiveLoad(
            "RecursiveLoad",
            f"a loader of {region.name!r} asked for the key it is loading, "
            f"{op.key!r:.200}, and would wait for itself; have it compute the "
            "value without asking the cache for the same key",
        )


def _alone(op: LoadKey, timeout: float, wanted: Wanted) -> RunHere:
    return RunHere(wanted.loader, (*op.chain, op.hashed), timeout)


def _load(region: Region, runtime: Runtime, wanted: Wanted) -> Steps[Any]:
    op = wanted.op
    held = region.find(runtime, wanted.near_key, op.key, op.hashed)
    if held is None:
        held = yield from _ask(region, runtime, wanted)
    match held.age:
        case Age.FRESH:
            return _value(region, held, wanted)
        case Age.EARLY | Age.STALE if held.failure is None:
            yield _refresh(region, runtime, wanted, held, 0.0)
            return _value(region, held, wanted)
        case Age.LATE if held.failure is None:
            return (yield from _load_or(region, runtime, wanted, held))
    anew = yield from _ask(region, runtime, _newer(wanted, held))
    return _value(region, anew, wanted)


def load_newer(
    region: Region, runtime: Runtime, wanted: Wanted, held: Held
) -> Steps[Held]:
    """Load what is newer than *held*, for nobody who waits to the end of it.

    Raises:
        LoadError, LoadTimeout: see `Cache.get_or_load`.
    """
    # Whoever it is for does not wait for it, so it closes no circle.
    newer = _newer(wanted, held)
    newer = newer._replace(op=newer.op._replace(chain=()))
    anew = yield from _ask(region, runtime, newer)
    if anew.failure is not None:
        raise error_of(anew.failure, wanted.errors)
    return anew


def _newer(wanted: Wanted, held: Held) -> Wanted:
    """Return *wanted*, but for a value that is newer than what is there."""
    return wanted._replace(op=wanted.op._replace(than=held.got.version))


def _value(region: Region, held: Held, wanted: Wanted) -> Any:
    """Return the value that was found, or raise the error that was remembered."""
    if held.failure is not None:
        raise error_of(held.failure, wanted.errors)
    if held.age is Age.STALE:
        region.tally.stale()
    region.tally.at(held.got.tier.value)
    return held.value


# --- old values ------------------------------------------------------------------


def _refresh(
    region: Region, runtime: Runtime, wanted: Wanted, held: Held, patience: float
) -> Behind:
    """Have the value loaded anew, once in this process and once in the cluster."""
    steps = partial(load_newer, region, runtime, wanted, held)
    return Behind(wanted.op.key, steps, patience)


def _load_or(
    region: Region, runtime: Runtime, wanted: Wanted, held: Held
) -> Steps[Any]:
    """Load, but give the old value if that fails or takes too long.

    Or has failed just now: an origin in trouble is not asked by every read.
    """
    key, background = wanted.op.key, runtime.background
    if not background.rests(key):
        try:
            anew = yield from _in_time(region, runtime, wanted, held)
            if anew is not None:
                return _value(region, anew, wanted)
        except RecursiveLoad:
            raise
        except Exception:  # noqa: BLE001 - what is old is given in its place
            region.tally.raised()
            background.failed(key)
    region.tally.stale()
    region.tally.at(held.got.tier.value)
    return held.value


def _in_time(
    region: Region, runtime: Runtime, wanted: Wanted, held: Held
) -> Steps[Held | None]:
    """Load what is newer than *held*; None if that takes longer than the time-out."""
    soft = region.freshness.soft_timeout
    if not soft:
        return (yield from _ask(region, runtime, _newer(wanted, held)))
    anew = yield _refresh(region, runtime, wanted, held, soft)
    return None if anew is STILL else anew


# --- the load itself -------------------------------------------------------------


def _ask(region: Region, runtime: Runtime, wanted: Wanted) -> Steps[Held]:
    """Return what the owner has or brings, or what this caller loads."""
    near_key, op, _, _, errors = wanted
    step, asked = _alone(op, op.timeout, wanted), monotonic()
    answer: Answer = yield op
    match answer.outcome:
        case Got() as got:
            held = region.judge(runtime, near_key, got)
            if held is not None and (held.age is not Age.GONE or not op.than):
                return held
        case Granted() as granted:
            ticket, recipe = answer.ticket, wanted.recipe
            lease = Lease(region, runtime, near_key, recipe, granted, ticket)
            in_turn = step._replace(waited=monotonic() - asked)
            return (yield from _run_granted(region, lease, in_turn))
        case Raised(failure):
            raise error_of(failure, errors)
        case TimedOut():
            raise LoadTimeout(
                "LoadTimeout",
                f"no value for {op.key!r:.200} within {op.timeout} s; the loader may "
                "still be running; raise load_timeout= if it needs so long",
            )
    # Nobody could answer, or what came cannot be read: this caller loads alone.
    region.tally.load()
    value = yield step
    got = Got(b"", NEVER, 0, Tier.LOCAL, None)
    return Held(value, Age.FRESH, got)


def _run_granted(region: Region, lease: Lease, step: RunHere) -> Steps[Held]:
    """Run the loader under the lease that was granted, and hand in its value."""
    region.tally.load()
    began = monotonic()
    try:
        value = yield step
        return lease.brought(value, monotonic() - began)
    except BaseException as error:
        lease.failed(error)
        raise
