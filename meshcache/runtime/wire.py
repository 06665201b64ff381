"""Writes that a thread of the application sends to a sibling by itself.

Over ZeroMQ a write goes through this node's I/O thread and two of libzmq's own. Where
the owner is a node of this host that has a host wire, the calling thread sends the same
`Write` itself and sleeps until the `Written` comes: one thread of the owner
(service.py) is the only other that runs.

What it takes on is what it can carry to the end: a write of one or a few keys of one
owner. Everything else goes the ordinary way, and so does what the owner says it has not
done. What may have been done is never sent again, by either way.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias, final

from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import (
    Found,
    Item,
    NotOwner,
    Refused,
    Status,
    Stranger,
    Verb,
    Write,
    Written,
)
from meshcache.config import Config
from meshcache.engine.effects import Effect
from meshcache.engine.engine import Engine
from meshcache.engine.ops import (
    Asked,
    Outcome,
    Unreached,
    WriteKeys,
    WriteResult,
    WriteResults,
    Wrote,
)
from meshcache.engine.owner import DONE
from meshcache.errors import LocalProtocolError, RemoteProtocolError
from meshcache.model import Member, NodeId
from meshcache.runtime.driver import Driver
from meshcache.runtime.threads import allocate_lock
from meshcache.transport.host import MAX_FRAME, HostListener
from meshcache.transport.letters import PLAINLY_DONE
from meshcache.transport.wires import Bell, HostCaller, NotSent, Unanswered

__all__ = ["HostWire"]

MAX_ITEMS: Final = 16
"""Keys of a write that goes by the wire. More are worth the ordinary way's price."""

_COUNTED: Final = ("sent", "fallbacks", "timeouts", "lost", "garbage")

_FOUND: Final = Found(DONE.status, DONE.number, 0, 0)
_NOT_DONE: Final = WriteResult(Status.NOT_OWNER, b"")

Results: TypeAlias = tuple[WriteResult | Unreached, ...]


class _Garbage(Exception):
    """An answer that no sibling sends."""


@final
class HostWire:
    """This process's end of the host wires to its siblings. Thread-safe.

    Args:
        config: the cluster's name and the time-out.
        directory: where siblings listen; this user's alone.
        engine: asked for what any thread may read.
        driver: does to the engine what only its own thread may.
        ask: the ordinary way.
        listener: what siblings send here by, for its counters.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        engine: Engine,
        driver: Driver,
        ask: Callable[[Asked], Outcome],
        *,
        listener: HostListener | None,
    ) -> None:
        self._timeout = config.request_timeout
        self._budget_ms = max(1, int(config.request_timeout * 1000))
        self._frames = FrameCodec(config.cluster)
        self._engine = engine
        self._driver = driver
        self._ask = ask
        self._listener = listener
        self._caller = HostCaller(directory)
        self._rids = count(random.SystemRandom().getrandbits(48))
        self._counts = {name: count() for name in _COUNTED}

    # --- writing -----------------------------------------------------------------

    def write_one(
        self, verb: Verb, item: Item, hashed: int
    ) -> WriteResult | Unreached | None:
        """Do one write; None if it is for the ordinary way, and nothing was done."""
        member = self._engine.ranges.sibling(hashed)
        if member is None or len(item.key) + len(item.value) > MAX_FRAME:
            return None
        results = self._send(member, verb, (item,))
        if results is None or results[0] != _NOT_DONE:
            return None if results is None else results[0]
        next(self._counts["fallbacks"])
        return None

    def write(self, op: WriteKeys) -> WriteResults | None:
        """Do the whole of *op*; None if nothing of it was done or sent."""
        member = self._owner(op)
        if member is None:
            return None
        results = self._send(member, op.verb, tuple([item for item, _ in op.items]))
        return None if results is None else self._finish(op, results)

    def _owner(self, op: WriteKeys) -> Member | None:
        """Return the sibling that owns all keys of *op*, if it is one for the wire."""
        items = op.items
        if not 1 <= len(items) <= MAX_ITEMS:
            return None
        sibling = self._engine.ranges.sibling
        member = sibling(items[0][1])
        if member is None:
            return None
        size = 0
        for item, hashed in items:
            size += len(item.key) + len(item.value)
            other = member if hashed == items[0][1] else sibling(hashed)
            if other is None or other.node_id != member.node_id or size > MAX_FRAME:
                return None
        return member

    def _send(
        self, member: Member, verb: Verb, items: tuple[Item, ...]
    ) -> Results | None:
        """Have *member* write *items*; None if nothing was sent."""
        ranges, rid = self._engine.ranges, next(self._rids)
        message = Write(
            rid, member.epoch, ranges.table.epoch, 0, self._budget_ms, verb, items
        )
        try:
            frame = self._frames.encode(message)
            next(self._counts["sent"])
            lane = ranges.lane(member.node_id)
            read = partial(self._read, rid, len(items))
            bell = None if lane is None else Bell(lane.ring, self._driver.heed)
            return self._caller.call(member.node_id, frame, self._timeout, read, bell)
        except (LocalProtocolError, NotSent):
            next(self._counts["fallbacks"])
            return None
        except Unanswered as error:
            next(self._counts["timeouts" if error.silent else "lost"])
            if error.silent:
                self._report(member)
        except _Garbage:
            next(self._counts["garbage"])
        finally:
            self._doubt(items)
        return (Unreached(member.data_address, unknown=True),) * len(items)

    def _read(self, rid: int, length: int, frame: bytes) -> Results:
        """Return what the owner's answer says of each key.

        Raises:
            _Garbage: it is no answer to this.
        """
        if frame is PLAINLY_DONE:
            return (DONE,) * length
        # To make the usual answer is a fifth of the work of taking one apart.
        if frame == self._frames.encode(Written(rid, (_FOUND,) * length)):
            return (DONE,) * length
        try:
            answer = self._frames.decode(frame)
        except RemoteProtocolError as error:
            raise _Garbage from error
        match answer:
            case Written(answered, results):
                if answered == rid and len(results) == length:
                    return tuple([_result(found) for found in results])
            case NotOwner(answered, _, _) | Refused(answered, _):
                if answered == rid:
                    return (_NOT_DONE,) * length
            case Stranger():
                return (_NOT_DONE,) * length
        raise _Garbage

    def _finish(self, op: WriteKeys, results: Results) -> WriteResults | None:
        """Have the ordinary way do what the owner says is not its own."""
        rest = [i for i, found in enumerate(results) if found == _NOT_DONE]
        if not rest:
            return WriteResults(results)
        next(self._counts["fallbacks"])
        if len(rest) == len(results):
            return None
        outcome = self._ask(WriteKeys(op.verb, tuple(op.items[i] for i in rest)))
        merged: list[WriteResult | Unreached] = list(results)
        for index, i in enumerate(rest):
            merged[i] = (
                outcome.results[index]
                if isinstance(outcome, WriteResults)
                else Unreached("", unknown=True)
            )
        return WriteResults(tuple(merged))

    # --- what follows ------------------------------------------------------------

    def _doubt(self, items: tuple[Item, ...]) -> None:
        """See that no load begun before the write is joined by who asks after it.

        What is kept near needs nothing: it stands on the owner's own generations.
        """
        for item in items:
            if self._engine.is_loading(item.key):
                # In line with what this thread asks next; if the line is full, it will
                # be refused, and others may wait a moment longer.
                self._driver.note(Wrote(item.key))

    def _report(self, member: Member) -> None:
        """Have the silent owner avoided before this thread can ask it again."""
        done = allocate_lock()
        done.acquire()

        def post(engine: Engine, now: float) -> list[Effect]:
            try:
                return engine.silent(member, now)
            finally:
                done.release()

        self._driver.post(post)
        # Not for ever: the node may have been stopped meanwhile.
        done.acquire(timeout=self._timeout)

    # --- siblings, ending --------------------------------------------------------

    def forget(self, node_id: NodeId) -> None:
        """Close what leads to a sibling that is gone."""
        self._caller.forget(node_id)

    def stats(self) -> dict[str, int]:
        """Return what has been counted from the node's start."""
        counts = {name: int(repr(c)[6:-1]) for name, c in self._counts.items()}
        counts["connections"] = len(self._caller)
        counts["letters"] = self._caller.letters
        listener = self._listener
        if listener is not None:
            counts["garbage"] += listener.garbage
            counts |= {
                "received": listener.received,
                "unroutable": listener.unroutable,
                "turned_away": listener.turned_away,
                "callers": len(listener),
            }
        return counts

    def close(self) -> None:
        """End every call under way, and all connections."""
        self._caller.close()

    def abandon_after_fork(self) -> None:
        """In a forked child: close what is the parent's, and change nothing of it."""
        self._caller.abandon_after_fork()


def _result(found: Found) -> WriteResult | Unreached:
    if found.status is Status.UNKNOWN:
        return Unreached("", unknown=True)
    return WriteResult(found.status, found.value)
