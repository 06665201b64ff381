"""What there is to say about one stored value, when somebody asks."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshcache.clock import NEVER, monotonic, time_ns
from meshcache.codec.envelope import unwrap
from meshcache.model import MISSING, Member
from meshcache.region import Region
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Steps

__all__ = ["CacheEntry", "entry"]


class CacheEntry(NamedTuple):
    """A stored value and what is known of it.

    Attributes:
        value: the value.
        tier: where a read of it is answered now: "near", "host" or "peer".
        stale: whether its ttl is over, so that only loads with `stale` or
            `stale_if_error` are given it.
        age: seconds since it was stored, by the owner's wall clock.
        ttl: seconds until it is stale; None for never, negative since then.
        version: orders the writes of this key; the greater is the newer.
        owner: the member that answers for it, if there is any.
    """

    value: Any
    tier: str
    stale: bool
    age: float
    ttl: float | None
    version: int
    owner: Member | None


def entry(
    region: Region, runtime: Runtime | None, key: object
) -> Steps[CacheEntry | None]:
    """Return what is stored under *key*, fresh or stale, with what is known of it."""
    full, hashed = region.full(runtime, key)
    near_key = region.near_key(key)
    near = region.near(runtime, key) is not MISSING
    held = yield from region.look_up(runtime, near_key, full, hashed)
    if runtime is None or held is None or held.failure is not None:
        return None
    got = held.got
    until = unwrap(got.value).fresh_until(got.expires)
    return CacheEntry(
        value=held.value,
        tier="near" if near else got.tier.value,
        stale=not held.fresh,
        age=max(0.0, time_ns() / 1e9 - (got.version >> 16) / 1e3),
        ttl=None if until == NEVER else until - monotonic(),
        version=got.version,
        owner=runtime.engine.ranges.table.owner_of(hashed),
    )
