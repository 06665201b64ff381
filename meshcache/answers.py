"""What came of an operation, as the application hears it: results, or errors."""

from __future__ import annotations

from typing import Final

from meshcache.codec.messages import Item, Status, Verb
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.ops import Got, Results, Unreached, WriteResult, WriteResults
from meshcache.errors import (
    NotANumber,
    PeerTimeout,
    PeerUnavailable,
    ValueTooLarge,
)
from meshcache.runtime.steps import Answer

__all__ = ["checked", "found", "not_kept", "results", "unreached"]

NUMBERS: Final = MsgpackCodec()


def checked(item: Item, result: WriteResult | Unreached) -> WriteResult:
    """Return *result*, or raise what kept the write from being done."""
    if isinstance(result, Unreached):
        raise unreached(f"{item.key!r:.200}", result)
    if result.status is Status.TOO_LARGE:
        raise ValueTooLarge(
            f"the value of {item.key!r:.200} takes {len(item.value)} bytes, over "
            "its owner's max_value_bytes; raise that, or store less under one key"
        )
    if result.status is Status.NOT_A_NUMBER:
        raise NotANumber(
            f"{item.key!r:.200} holds something that is no integer; "
            "delete it, or count under another key"
        )
    return result


def not_kept(verb: Verb, item: Item) -> WriteResult:
    """Return how a write goes in a cache that is always empty: meshcache is off."""
    if verb is Verb.INCR:
        number = NUMBERS.decode(item.value)
        assert isinstance(number, int)
        return WriteResult(Status.HIT, NUMBERS.encode(number + item.delta))
    stored = verb in {Verb.SET, Verb.ADD}
    return WriteResult(Status.HIT if stored else Status.MISS, b"")


def found(answer: Answer, length: int) -> tuple[Got | None, ...]:
    """Return what was found; nothing, if the node could not answer."""
    if isinstance(answer.outcome, Results):
        return answer.outcome.found
    return (None,) * length


def results(answer: Answer, length: int) -> tuple[WriteResult | Unreached, ...]:
    """Return how each of *length* writes went."""
    if isinstance(answer.outcome, WriteResults):
        return answer.outcome.results
    # The node stopped, or too much waits: it may have been done or not.
    return (Unreached("", unknown=True),) * length


def unreached(what: str, result: Unreached) -> PeerUnavailable:
    """Return the error of a write whose owner did not do it."""
    where = result.address or "its owner"
    if result.unknown:
        return PeerTimeout(
            f"{what}: {where} did not answer, so the write may or may not have been "
            "done; read it back, or write again"
        )
    return PeerUnavailable(
        f"{what}: {where} cannot be reached, so the write was not done; "
        "write again once the cluster has settled"
    )
