"""Asking everybody which table they go by, so that a caller can wait for agreement."""

from __future__ import annotations

from functools import partial
from typing import final

from meshcache.codec.mail import Route
from meshcache.codec.messages import Survey, Surveyed
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.gather import Gather
from meshcache.engine.ops import Tables, Ticket
from meshcache.engine.peers import Peer

__all__ = ["Surveys"]


@final
class Surveys:
    """Comparing tables. Confined to the driver thread."""

    __slots__ = ("_calls", "_core")

    def __init__(self, core: Core, calls: Calls) -> None:
        self._core = core
        self._calls = calls

    def ask(self, ticket: Ticket) -> None:
        """Ask every living owner of something for its table's epoch."""
        core = self._core
        peers = [peer for peer in core.peers if peer.member.routable]
        gather = Gather[int | None](
            1 + len(peers), None, lambda epochs: core.complete(ticket, Tables(epochs))
        )
        deadline = core.now + core.config.request_timeout
        for index, peer in enumerate(peers, 1):
            lost = partial(_lost, gather, index)
            started = self._calls.start(
                peer,
                partial(_survey, peer),
                deadline,
                partial(_answered, gather, index),
                lost,
            )
            if started is None:
                lost(Loss.AVOIDED)
        gather.put(0, core.ranges.table.epoch)

    def try_again(self, peer: Peer) -> None:
        """Ask an avoided peer; its answer, as any answer, ends the avoiding."""
        if peer.tried:
            return
        deadline = self._core.now + self._core.config.request_timeout
        started = self._calls.start(
            peer,
            partial(_survey, peer),
            deadline,
            lambda _answer: _tried(peer),
            lambda _why: _tried(peer),
            avoided_too=True,
        )
        peer.tried = started is not None

    def serve(self, route: Route, message: Survey) -> None:
        """Tell a peer which table this node goes by."""
        answer = Surveyed(message.rid, self._core.ranges.table.epoch)
        self._core.reply(route, answer)


def _survey(peer: Peer, rid: int) -> Survey:
    return Survey(rid, peer.member.epoch)


def _answered(gather: Gather[int | None], index: int, answer: Answer) -> None:
    gather.put(index, answer.table if isinstance(answer, Surveyed) else None)


def _lost(gather: Gather[int | None], index: int, _why: Loss) -> None:
    gather.put(index, None)


def _tried(peer: Peer) -> None:
    peer.tried = False
