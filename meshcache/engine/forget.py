"""Forgetting much at once, on every member: a cache, or whatever bears a tag.

Nobody knows which entries those are. So each member leaves a mark in its arena, which
says up to which version what bears that name is void, and detaches the loads that are
under way for it. When all have answered, it holds everywhere.

**All are told once more** if somebody has just given up a part of its range. Its heir
may have been told before it was, and then have taken over what it had stored since: by
a load that it had not been told to drop yet.

**Tags are told twice**, to those who read some owner's values over the wire. What they
keep near of these falls by an account of their own (`Ranges.copies`), and that may have
been right too early: told of the tag, they read a value from an owner that was not told
yet. So who answers HIT to the first round hears of it `again`, when all owners know.
Where all processes see each other's arenas, nobody has to: there what is kept near
falls by the owner's own marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias, final

from meshcache.codec.mail import Route
from meshcache.codec.messages import Clear, Found, Status, Untag, Written
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.gather import Gather
from meshcache.engine.handover import POLL
from meshcache.engine.ops import (
    ClearCache,
    InvalidateTags,
    Ticket,
    Unreached,
    WriteResult,
    WriteResults,
)
from meshcache.engine.peers import Peer
from meshcache.model import NodeId, State

__all__ = ["Forgets"]

DONE: Final = WriteResult(Status.HIT, b"")
MOVED: Final = WriteResult(Status.NOT_OWNER, b"")
LEAVING: Final = Unreached("this node, which is stopping", unknown=True)
NOBODY: Final = Unreached("", unknown=False)

Told: TypeAlias = WriteResult | Unreached
Done: TypeAlias = Callable[[tuple[Told, ...], Sequence[Peer], tuple[Told, ...]], None]
"""Takes who was missed, and who was told, and what each of these said."""

Message: TypeAlias = Callable[[Peer, int, int], Clear | Untag]
"""Makes what a peer is told of the peer, the milliseconds it has, and the rid."""


@final
class Forgets:
    """Invalidation of much at once. Confined to the driver thread.

    Args:
        core: of the engine.
        calls: likewise.
        reclaim: looks whether others have opened what is ours.
    """

    __slots__ = ("_calls", "_core", "_reclaim")

    def __init__(self, core: Core, calls: Calls, reclaim: Callable[[], None]) -> None:
        self._core = core
        self._calls = calls
        self._reclaim = reclaim

    # --- for the application -----------------------------------------------------

    def ask(self, ticket: Ticket, op: ClearCache | InvalidateTags) -> None:
        """Forget it here and on every member that may have some of it."""
        if isinstance(op, ClearCache):
            self._tell_all(op, (), partial(self._complete, ticket), last=False)
        elif op.tags:
            told = partial(self._tell_again, ticket, op)
            self._tell_all(op, (), told, last=False)
        else:
            self._complete(ticket, (), (), ())

    def _tell_all(
        self,
        op: ClearCache | InvalidateTags,
        missed: tuple[Told, ...],
        done: Done,
        *,
        last: bool,
    ) -> None:
        """Forget it here and have all do so; once more if something has moved.

        *missed* are those who were not reached the first time: they may have handed
        over in between what they should have dropped.
        """
        core = self._core
        living = (p for p in core.peers if p.member.state <= State.SUSPECT)
        if isinstance(op, ClearCache):
            peers = [peer for peer in living if peer.member.weight]
            message: Message = partial(_clear_message, op.cache)
            self._forget_cache(op.cache)
        else:
            peers = list(living)
            message = partial(_untag_message, op.tags, again=False)
            self._forget_tags(op.tags)
        # Their arenas are read by all processes of this host.
        missed += tuple(_unmet(node_id) for node_id in core.ranges.unmet(core.now))

        def told(results: tuple[Told, ...]) -> None:
            if MOVED in results and not last:
                lost = tuple(r for r in results if isinstance(r, Unreached))
                self._once_more(op, missed + lost, done, core.now)
            else:
                done(missed, peers, results)

        self._tell(peers, message, told)

    def _once_more(
        self,
        op: ClearCache | InvalidateTags,
        missed: tuple[Told, ...],
        done: Done,
        now: float,
    ) -> None:
        """Tell all again, also whoever has come meanwhile and is about to be met."""
        if self._core.leaving:
            done((*missed, LEAVING), (), ())
        elif self._core.ranges.awaits_strangers(now, self._core.config.request_timeout):
            again = partial(self._once_more, op, missed, done)
            self._core.agenda.at(now + POLL, again)
        else:
            self._tell_all(op, missed, done, last=True)

    def _tell_again(
        self,
        ticket: Ticket,
        op: InvalidateTags,
        missed: tuple[Told, ...],
        peers: Sequence[Peer],
        results: tuple[Told, ...],
    ) -> None:
        """All owners have been told: what is read from now on bears the tag anew."""
        if self._core.leaving:
            self._complete(ticket, missed, peers, results)
            return
        self._forget_copies(op.tags)
        copied = [i for i, told in enumerate(results) if told in (DONE, MOVED)]

        def done(second: tuple[Told, ...]) -> None:
            last = dict(zip(copied, second, strict=True))
            merged = tuple(last.get(i, first) for i, first in enumerate(results))
            self._complete(ticket, missed, peers, merged)

        message = partial(_untag_message, op.tags, again=True)
        self._tell([peers[i] for i in copied], message, done)

    def _complete(
        self,
        ticket: Ticket,
        missed: tuple[Told, ...],
        _peers: Sequence[Peer],
        results: tuple[Told, ...],
    ) -> None:
        told = [r if isinstance(r, Unreached) else DONE for r in results]
        # Who was missed twice is told of once.
        again = [m for m in dict.fromkeys(missed) if m not in told]
        self._core.complete(ticket, WriteResults((*told, *again, DONE)))

    def _tell(
        self,
        peers: Sequence[Peer],
        message: Message,
        done: Callable[[tuple[Told, ...]], None],
    ) -> None:
        """Tell each of *peers*; *done* takes the answers when all are there."""
        if not peers:
            done(())
            return
        core = self._core
        gather = Gather[Told](len(peers), NOBODY, done)
        deadline = core.now + core.config.request_timeout
        budget_ms = int(core.config.request_timeout * 1000)
        for index, peer in enumerate(peers):
            started = self._calls.start(
                peer,
                partial(message, peer, budget_ms),
                deadline,
                partial(_answered, gather, index, peer),
                partial(_lost, gather, index, peer),
            )
            if started is None:
                _lost(gather, index, peer, Loss.AVOIDED)

    # --- for peers ---------------------------------------------------------------

    def serve(self, route: Route, message: Clear | Untag) -> None:
        """Forget it because a peer says so."""
        status = Status.HIT
        if isinstance(message, Clear):
            self._forget_cache(message.cache)
        elif message.again:
            self._forget_copies(message.tags)
        else:
            self._forget_tags(message.tags)
            if not self._core.ranges.copying:
                status = Status.MISS
        if self._has_moved():
            status = Status.NOT_OWNER
        self._core.reply(route, Written(message.rid, (Found(status, b"", 0, 0),)))

    def _has_moved(self) -> bool:
        """Whether we have given up something since the caller may have begun."""
        self._reclaim()
        core = self._core
        return core.now - core.handover.gave_up_at <= core.config.request_timeout

    # --- here --------------------------------------------------------------------

    def _forget_cache(self, cache: str) -> None:
        core = self._core
        prefix = cache.encode(errors="surrogatepass")
        with core.store.lock:
            core.store.clear(prefix, core.stamp())
            core.store.generations.bump_all()
        for peer in core.peers:
            peer.generations.bump_all()
        # A cache `a|b` is a part of `a`, and cleared with it.
        whole = (prefix + b"\0", prefix + b"|")
        core.flights.detach_if(lambda f: f.key.startswith(whole))
        core.readers.moved_all()

    def _forget_tags(self, tags: tuple[int, ...]) -> None:
        core = self._core
        with core.store.lock:
            # Stamped under the lock, so above all that is stored.
            core.store.mark_tags(tags, core.stamp())
        self._forget_copies(tags)

    def _forget_copies(self, tags: tuple[int, ...]) -> None:
        """Let go of what this process may have of others, or load for itself."""
        core, wanted = self._core, frozenset(tags)
        core.ranges.copies.mark(tags, core.stamp())
        # Without a stamp it is not known what a flight will bring.
        core.flights.detach_if(
            lambda f: f.stamp is None or not wanted.isdisjoint(f.tags)
        )


def _clear_message(cache: str, peer: Peer, budget_ms: int, rid: int) -> Clear:
    return Clear(rid, peer.member.epoch, budget_ms, cache)


def _untag_message(
    tags: tuple[int, ...],
    peer: Peer,
    budget_ms: int,
    rid: int,
    *,
    again: bool,
) -> Untag:
    return Untag(rid, peer.member.epoch, budget_ms, tags, again)


def _unmet(node_id: NodeId) -> Unreached:
    return Unreached(f"the node {node_id.hex()} of this host", unknown=False)


def _answered(gather: Gather[Told], index: int, peer: Peer, answer: Answer) -> None:
    if not isinstance(answer, Written):
        gather.put(index, Unreached(peer.member.data_address, unknown=False))
        return
    statuses = [found.status for found in answer.results] or [Status.HIT]
    gather.put(index, WriteResult(statuses[0], b""))


def _lost(gather: Gather[Told], index: int, peer: Peer, why: Loss) -> None:
    unknown = why is not Loss.AVOIDED
    gather.put(index, Unreached(peer.member.data_address, unknown))
