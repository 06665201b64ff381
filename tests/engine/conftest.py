"""One engine and its peers: stories told with hand-fed messages and exact effects."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Reply, Send
from meshcache.codec.messages import (
    NO_EXPIRY,
    Fetch,
    Found,
    Gossip,
    Item,
    Load,
    Status,
    Values,
    Verb,
    Write,
)
from meshcache.config import Config
from meshcache.engine.effects import Complete, Effect
from meshcache.engine.engine import Engine
from meshcache.engine.ops import GetKeys, LoadKey, Operation, WriteKeys
from meshcache.hashing import key_hash
from meshcache.model import Member, NodeId, State

START = 1000.0
CODEC = FrameCodec("story")
QUIET = {"probe_interval": 60, "gossip_interval": 60, "push_pull_interval": 3600}
"""Membership says next to nothing, so that what is sent is the engine's own."""


def make_member(name: str, **changes: Any) -> Member:
    member = Member(
        node_id=NodeId(name.encode().ljust(16, b".")),
        epoch=5,
        incarnation=0,
        state=State.ALIVE,
        address=f"{name}:1",
        data_address=f"{name}:2",
        host=name,
        weight=1,
    )
    return member._replace(**changes)


class Story:
    """An engine called `me` among peers, and what has come of each input.

    `effects` are those of the last input; `outcomes` all there have been, by ticket.
    Whatever is sent goes through the codec, so that nothing leaves which a peer would
    refuse.
    """

    def __init__(self, *names: str, weight: int = 1, **settings: Any) -> None:
        self.now = START
        self.me = make_member("me", weight=weight)
        self.config = Config(cluster="story", **(QUIET | settings))
        self.engine = Engine(self.me, self.config, random.Random(1), self.now)
        self.effects: list[Effect] = []
        self.outcomes: dict[Any, list[Any]] = defaultdict(list)
        self.tickets = 0
        self._do(self.engine.join((), self.now))
        self.peers = {name: make_member(name) for name in names}
        if names:
            # All at once: each change of the members makes a new table.
            first, *others = self.peers.values()
            self.hears(Gossip(first, tuple(others)), ("control", first.host))

    # --- inputs -------------------------------------------------------------------

    def hears(self, message: Any, route: Any = "a route") -> None:
        self._do(self.engine.receive(message, route, self.now))

    def meets(self, member: Member) -> None:
        """Hear from a member itself how it is."""
        self.peers[member.host] = member
        self.hears(Gossip(member, ()), ("control", member.host))

    def asks(self, op: Operation) -> int:
        self.tickets += 1
        self._do(self.engine.request(self.tickets, op, self.now))
        return self.tickets

    def tells(self, op: Operation) -> None:
        self._do(self.engine.request(None, op, self.now))

    def passes(self, seconds: float) -> None:
        """Let time pass, with a tick whenever one is due; `effects` are of them all."""
        until, effects, ticks = self.now + seconds, [], 0
        while (due := self.engine.deadline()) is not None and due <= until:
            ticks += 1
            assert ticks < 1000 + 100 * seconds, "a tick leaves what was due undone"
            self.now = max(self.now, due)
            self._do(self.engine.tick(self.now))
            effects += self.effects
        self.now = until
        self.effects = effects

    def breaks(self, name: str) -> None:
        """Lose the connection to a peer's data plane."""
        address = self.peers[name].data_address
        self._do(self.engine.connection_lost(address, self.now))

    def buries(self, name: str) -> None:
        """Learn for certain that a peer's process is gone."""
        member = self.peers[name]
        self._do(self.engine.proof_of_death(member.node_id, member.epoch, self.now))

    def leaves(self) -> None:
        self._do(self.engine.leave(self.now))

    # --- what came of it ----------------------------------------------------------

    def sent(self, kind: type, to: str | None = None) -> list[Any]:
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, Send)
            and isinstance(effect.message, kind)
            and (to is None or effect.address == self.peers[to].data_address)
        ]

    def replied(self, kind: type, route: Any = None) -> list[Any]:
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, Reply)
            and isinstance(effect.message, kind)
            and route in (None, effect.route)
        ]

    def wanted(self, kind: type) -> list[Any]:
        """What the last input wants done, besides mail."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def outcome(self, ticket: int) -> Any:
        """The one outcome of a ticket."""
        (outcome,) = self.outcomes[ticket]
        return outcome

    def waits(self, ticket: int) -> bool:
        return not self.outcomes[ticket]

    def count(self, name: str) -> int:
        return self.engine.stats()["engine"][name]

    # --- keys and operations ------------------------------------------------------

    def keys(self, *owners: str) -> Iterator[bytes]:
        """Keys that belong to one after the other of *owners*, again and again."""
        number = 0
        while True:
            for owner in owners:
                while self.owner(key := b"c\0i%x" % number) != owner:
                    number += 1
                number += 1
                yield key

    def key(self, owner: str) -> bytes:
        return next(self.keys(owner))

    def owner(self, key: bytes) -> str | None:
        member = self.engine.ranges.owner(key_hash(key))
        return member and member.host

    def get(self, *keys: bytes) -> int:
        return self.asks(GetKeys(tuple((key, key_hash(key)) for key in keys)))

    def write(self, verb: Verb, *items: Item) -> int:
        hashed = tuple((item, key_hash(item.key)) for item in items)
        return self.asks(WriteKeys(verb, hashed))

    def set(self, key: bytes, value: bytes, ttl_ms: int = NO_EXPIRY) -> int:
        return self.write(Verb.SET, Item(key, value, ttl_ms, 0))

    def load(self, key: bytes, **changes: Any) -> int:
        op = LoadKey(key, key_hash(key), "", 0, b"", (), 30.0)
        return self.asks(op._replace(**changes))

    def stamp(self, key: bytes) -> Any:
        """How a value read at this moment would be known to be stale."""
        return self.engine.ranges.stamp(key_hash(key))

    # --- messages of peers --------------------------------------------------------

    def fetch(self, *keys: bytes, rid: int = 1, route: Any = "a route") -> None:
        self.hears(Fetch(rid, self.me.epoch, 0, 0, 1000, keys), route)

    def asked_to_load(
        self, key: bytes, caller: str, rid: int = 1, **changes: Any
    ) -> None:
        """A peer wants a key; its route goes by its name."""
        node_id = self.peers[caller].node_id
        message = Load(rid, self.me.epoch, 0, 0, 30_000, node_id, key, "", 0, b"", ())
        self.hears(message._replace(**changes), caller)

    def told_to(self, verb: Verb, *items: Item, route: Any = "a route") -> None:
        self.hears(Write(1, self.me.epoch, 0, 0, 1000, verb, items), route)

    def answers(self, fetch: Fetch, *values: bytes | None) -> None:
        """A peer answers a `Fetch` that this story's engine has sent."""
        found = (
            Found(Status.MISS, b"", 0, 0)
            if value is None
            else Found(Status.HIT, value, NO_EXPIRY, 7)
            for value in values
        )
        self.hears(Values(fetch.rid, tuple(found)))

    # --- inside -------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        self.effects = list(effects)
        for effect in self.effects:
            if isinstance(effect, Complete):
                self.outcomes[effect.ticket].append(effect.outcome)
            elif isinstance(effect, Send | Reply):
                assert effect.message == CODEC.decode(CODEC.encode(effect.message))


@pytest.fixture
def story() -> type[Story]:
    return Story


@pytest.fixture
def member() -> Callable[..., Member]:
    return make_member
