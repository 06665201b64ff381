"""Members to tell stories about, and one machine to tell them to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from meshcache.codec.mail import Reply, Send
from meshcache.membership.machine import Swim
from meshcache.membership.settings import Settings
from meshcache.model import Member, NodeId, State

ROUTE = "the way it came"


def make_member(name: str, **changes: Any) -> Member:
    member = Member(
        node_id=NodeId(name.encode().ljust(16, b".")),
        epoch=1000,
        incarnation=0,
        state=State.ALIVE,
        address=f"tcp://{name}:1",
        data_address=f"tcp://{name}:2",
        host=name,
        weight=1,
    )
    return member._replace(**changes)


class Story:
    """One machine that has joined, and what it wants sent."""

    def __init__(self, *others: Member, seed: int = 1, **settings: Any) -> None:
        self.now = 100.0
        self.me = make_member("me")
        self.others = others
        self.swim = Swim(self.me, Settings(**settings), random.Random(seed))
        self.swim.join((), self.now)
        self.changes: list[Any] = []
        for other in others:
            self.hears(self.gossip(other))

    def gossip(self, sender: Member, *updates: Member, accusations: Any = ()) -> Any:
        from meshcache.codec.messages import Gossip

        return Gossip(sender, updates, tuple(accusations))

    def hears(self, message: Any) -> list[Any]:
        return self._note(self.swim.receive(message, ROUTE, self.now))

    def calls(self, method: str, *args: Any) -> list[Any]:
        return self._note(getattr(self.swim, method)(*args, self.now))

    def until(self, at: float) -> list[Any]:
        """Tick whenever something is due up to *at*; return all effects."""
        effects = []
        while (due := self.swim.deadline()) is not None and due <= at:
            self.now = max(self.now, due)
            effects += self._note(self.swim.tick(self.now))
        self.now = at
        return effects

    def pause(self, seconds: float) -> list[Any]:
        """Let time pass in which nobody calls, and tick once at its end."""
        self.now += seconds
        return self._note(self.swim.tick(self.now))

    def state(self, member: Member) -> State | None:
        known = self.swim.member(member.node_id)
        return known.state if known else None

    def _note(self, effects: Iterable[Any]) -> list[Any]:
        effects = list(effects)
        self.changes += [e for e in effects if type(e).__name__ == "Changed"]
        return effects


def sent(effects: Iterable[Any], kind: type, to: Member | None = None) -> list[Any]:
    """The messages of one kind among *effects* that are sent, not replied."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send)
        and isinstance(effect.message, kind)
        and (to is None or effect.address == to.address)
    ]


def replied(effects: Iterable[Any], kind: type) -> list[Any]:
    """The messages of one kind among *effects* that go back the way one came."""
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Reply) and isinstance(effect.message, kind)
    ]


@pytest.fixture
def member() -> Callable[..., Member]:
    return make_member


@pytest.fixture
def story() -> type[Story]:
    return Story


@pytest.fixture(name="sent")
def sent_fixture() -> Callable[..., list[Any]]:
    return sent


@pytest.fixture(name="replied")
def replied_fixture() -> Callable[..., list[Any]]:
    return replied
