"""How what a region holds is changed: one key, many, all of it, or all with a tag.

As with reads, each is a generator of steps, and the runtime an argument. A write that
was not done, or may not have been, raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshcache.answers import checked, not_kept
from meshcache.answers import results as results_in
from meshcache.codec.envelope import tag_hash
from meshcache.codec.fields import MAX_UNTAGGED
from meshcache.codec.messages import Item, Verb
from meshcache.engine.ops import (
    ClearCache,
    InvalidateTags,
    Unreached,
    WriteKeys,
    WriteResult,
)
from meshcache.errors import ConfigError, NodeClosed, PeerTimeout, PeerUnavailable
from meshcache.hashing import key_hash
from meshcache.node import NodeState
from meshcache.region import Region
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Answer, Steps

__all__ = ["clear", "untag", "write", "write_one"]


def write(
    region: Region, runtime: Runtime | None, verb: Verb, items: Sequence[Item]
) -> Steps[tuple[WriteResult | Unreached, ...]]:
    """Do one write of each item; return how each went, in order.

    Raises:
        NodeClosed: the node does not run.
    """
    if runtime is None:
        _check_disabled(region, verb.name.lower())
        return tuple(not_kept(verb, item) for item in items)
    hashed = tuple((item, key_hash(item.key)) for item in items)
    answer: Answer = yield WriteKeys(verb, hashed)
    return results_in(answer, len(items))


def write_one(
    region: Region, runtime: Runtime | None, verb: Verb, item: Item
) -> Steps[WriteResult]:
    """Do one write of one item, or raise what kept it from being done."""
    if runtime is not None:
        done = runtime.write_here(verb, item, key_hash(item.key))
        if done is not None:
            return checked(item, done)
    results = yield from write(region, runtime, verb, [item])
    return checked(item, results[0])


def clear(region: Region, runtime: Runtime | None) -> Steps[None]:
    """Forget the region and its parts, on every member.

    Raises:
        PeerUnavailable, PeerTimeout: some member was not reached.
    """
    if runtime is None:
        _check_disabled(region, "clear")
        return
    answer: Answer = yield ClearCache(region.name)
    _check_reached(answer, f"clear of {region.name!r}")


def untag(region: Region, runtime: Runtime | None, tags: Iterable[str]) -> Steps[None]:
    """Forget all in the region's cache that bears one of *tags*, on every member.

    Raises:
        PeerUnavailable, PeerTimeout: some member was not reached.
    """
    names = list(dict.fromkeys(tags))
    if runtime is None:
        _check_disabled(region, "invalidate_tags")
        return
    if len(names) > MAX_UNTAGGED:
        raise ConfigError(
            f"{len(names)} tags are over the {MAX_UNTAGGED} of one call; make several"
        )
    if not names:
        return
    hashes = tuple(tag_hash(region.name, name) for name in names)
    answer: Answer = yield InvalidateTags(hashes)
    _check_reached(answer, f"invalidate_tags of {names!r:.200} in {region.name!r}")


def _check_reached(answer: Answer, what: str) -> None:
    results = results_in(answer, 1)
    missed = [result for result in results if isinstance(result, Unreached)]
    if missed:
        names = dict.fromkeys(result.address or "some members" for result in missed)
        kind = PeerTimeout if any(m.unknown for m in missed) else PeerUnavailable
        raise kind(
            f"{what} has not reached {', '.join(names)}: what they hold may be read "
            "still; call it again, which does no harm"
        )


def _check_disabled(region: Region, what: str) -> None:
    """Raise, unless there is no node because none is wanted."""
    if region.node.state is not NodeState.DISABLED:
        raise NodeClosed(f"{what} in {region.name!r}: {region.node!r} does not run")
