"""One engine and its peers: stories told with hand-fed messages and exact effects.

`Story` is one engine whose peers are the test; `Host` is several on one host.
"""

from __future__ import annotations

import gc
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from mmap import mmap
from typing import Any, NamedTuple

import pytest

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Reply, Send
from meshcache.codec.messages import (
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
from meshcache.engine.ops import Deliver, GetKeys, LoadKey, Operation, WriteKeys
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.model import Member, NodeId, State
from meshcache.store.arena import private
from meshcache.store.generations import Stamp
from meshcache.store.view import View

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
        self.hears(Fetch(rid, self.me.epoch, 0, 0, 1000, False, keys), route)

    def asked_to_load(
        self, key: bytes, caller: str, rid: int = 1, **changes: Any
    ) -> None:
        """A peer wants a key; its route goes by its name."""
        node_id = self.peers[caller].node_id
        message = Load(
            rid, self.me.epoch, 0, 0, 30_000, False, node_id, key, "", 0, b"", ()
        )
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


@pytest.fixture(scope="module", autouse=True)
def _collects_seldom():
    """Each node has 16,384 tenures: to look through them all again takes its time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 50)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def story() -> type[Story]:
    return Story


@pytest.fixture
def member() -> Callable[..., Member]:
    return make_member


# --- several engines on one host --------------------------------------------------

BOOT = 1
"""What names the host of `Host`."""

MAX_EVENTS = 200_000


class Kept(NamedTuple):
    """What a process holds decoded, as near does."""

    value: bytes
    expires: float
    stamp: Stamp


class Seated:
    """A process of `Host`: an engine, its memory, and what its application does."""

    def __init__(self, engine: Engine, memory: mmap) -> None:
        self.engine = engine
        self.memory = memory
        self.runs = True
        self.held = False
        self.inbox: list[tuple[str, Any]] = []
        self.near: dict[bytes, Kept] = {}
        self.outcomes: dict[int, Any] = {}
        self.wanted: dict[int, Callable[[Any], None]] = {}

    @property
    def me(self) -> Member:
        return self.engine.me

    def granted(self, partition: int) -> bool:
        return self.engine.store.granted(partition)

    def kept(self, key: bytes, now: float) -> bytes | None:
        """What a near hit would give."""
        kept = self.near.get(key)
        if kept is None or kept.expires <= now or not kept.stamp.stands:
            return None
        return kept.value

    def lane(self, key: bytes, now: float) -> bytes | None:
        """What the owner's arena gives, kept near; as `Region` does it."""
        hashed = key_hash(key)
        tenure = self.engine.ranges.tenures[partition_of(hashed)]
        get = tenure.get
        if get is None:
            return None
        stamp = tenure.stamp(bucket_of(hashed))
        found = get(key, hashed, now)
        if found is None:
            return None
        self.near[key] = Kept(found.value, found.expires, stamp)
        return found.value


class Host:
    """Engines of one host, which see each other's arenas, and the mail between them.

    Mail is in order between two nodes and takes up to `delay` seconds. Time passes by
    `passes`; `settles` lets it pass until nothing is waited for.
    """

    def __init__(self, seed: int = 1, delay: float = 0.0, **settings: Any) -> None:
        self.now = START
        self.rng = random.Random(seed)
        self.delay = delay
        self.config = Config(
            cluster="story", **({"max_bytes": "256KiB", "near_entries": 0} | settings)
        )
        self.nodes: dict[str, Seated] = {}
        self._seen: dict[str, set[str]] = defaultdict(set)
        # Whether who looks for newcomers finds the dead, too.
        self.finds_dead = False
        self.memories: dict[bytes, mmap] = {}
        self.unseen: set[str] = set()
        self.after: Callable[[], None] = lambda: None
        self._mail: list[tuple[float, int, str, str, Any]] = []
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._last: dict[tuple[str, str], float] = {}
        self._order = 0
        self._tickets = 0

    def __getitem__(self, name: str) -> Engine:
        return self.nodes[name].engine

    # --- who takes part -----------------------------------------------------------

    def starts(
        self,
        name: str,
        *,
        orphans: Iterable[View] = (),
        found: bool = True,
        expecting: bool = True,
    ) -> Engine:
        """Start a node, which *found* out at once who else there is."""
        me = self.member(name)
        memory = private(self.config.max_bytes)
        engine = Engine(
            me,
            self.config,
            random.Random(self.rng.random()),
            self.now,
            memory=memory,
            host=BOOT,
            open_lane=self._lane,
            look=lambda: self._look(name),
            expecting=expecting,
        )
        assert name not in self.nodes
        self.nodes[name] = Seated(engine, memory)
        self.memories[me.node_id] = memory
        engine.ranges.neighbours(self._look(name), orphans)
        self._do(name, engine.join((), self.now))
        if found:
            self.discovers(name)
        return engine

    def discovers(self, name: str, *others: str) -> None:
        """Hear from discovery, of *others* or of all who run."""
        known = others or [n for n, s in self.nodes.items() if s.runs and n != name]
        addresses = [self.nodes[other].me.address for other in known]
        self._do(name, self[name].seeds(addresses, self.now))

    def member(self, name: str) -> Member:
        """What a node of that name would be, started now."""
        return make_member(name, host="host", epoch=int(self.now * 1e6))

    def _look(self, name: str) -> list[View]:
        for other, seat in self.nodes.items():
            if self.finds_dead and not seat.runs:
                self.claim(other)
        seen = self._seen[name]
        coming = [n for n, s in self.nodes.items() if s.runs and n not in {*seen, name}]
        views = {n: self._lane(self.nodes[n].me) for n in coming}
        found = {n: view for n, view in views.items() if view is not None}
        seen.update(found)
        return list(found.values())

    def _lane(self, member: Member) -> View | None:
        memory = self.memories.get(member.node_id)
        if memory is None or member.address.partition(":")[0] in self.unseen:
            return None
        view = View(memory, BOOT)
        return view if view.epoch == member.epoch else None

    def knows(self, name: str, other: str) -> None:
        """Have a node know another, who knows nothing of it."""
        self.hears(name, Gossip(self.nodes[other].me, ()), other)

    def hears(self, name: str, message: Any, source: str) -> None:
        """Have a node receive a message now."""
        self._do(name, self[name].receive(message, source, self.now))

    def would_own(self, name: str, partition: int) -> bool:
        """Whether a partition is a node's by its own table."""
        owner = self[name].ranges.table.owner(partition)
        return owner is not None and owner.node_id == self.nodes[name].me.node_id

    def crashes(self, name: str) -> None:
        """End a process; what it has sent still arrives, and nobody notices yet."""
        self.nodes[name].runs = False

    def claim(self, name: str) -> View:
        """Seal what a crash has left, as whoever finds its lock free does."""
        view = View(self.nodes[name].memory, BOOT)
        view.seal_all(self.now)
        return view

    def buries(self, name: str) -> None:
        """Have all others learn for certain that a process is gone."""
        member = self.nodes[name].me
        for other, seat in list(self.nodes.items()):
            if seat.runs:
                effects = seat.engine.proof_of_death(
                    member.node_id, member.epoch, self.now
                )
                self._do(other, effects)

    def leaves(self, name: str) -> None:
        self._do(name, self[name].leave(self.now))

    def holds(self, name: str) -> None:
        """Let a node's mail from others wait, while its time goes on."""
        self.nodes[name].held = True

    def releases(self, name: str) -> None:
        seat = self.nodes[name]
        seat.held = False
        inbox, seat.inbox = seat.inbox, []
        for source, message in inbox:
            self._post(source, name, message)

    def steps(self) -> None:
        """Let the next thing happen, whenever that is."""
        self.now = max(self.now, self._next())
        self._step()

    # --- time ---------------------------------------------------------------------

    def passes(self, seconds: float) -> None:
        until, events = self.now + seconds, 0
        while (at := self._next()) <= until:
            events += 1
            assert events < MAX_EVENTS
            self.now = max(self.now, at)
            self._step()
            self.after()
        self.now = until

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have *action* happen when so much time has passed."""
        self._order += 1
        heappush(self._plans, (self.now + seconds, self._order, action))

    def settles(self, within: float = 30.0) -> None:
        """Let time pass until all know all, and all entries have arrived."""
        end = self.now + within
        while not self.settled:
            assert self.now < end, "it does not settle"
            self.passes(0.01)

    @property
    def settled(self) -> bool:
        running = {n: s for n, s in self.nodes.items() if s.runs}
        ids = {s.me.node_id for s in running.values()}
        return all(
            s.engine.settled
            and ids == {m.node_id for m in s.engine.ranges.table.members}
            for s in running.values()
        )

    def _next(self) -> float:
        dues = [s.engine.deadline() for s in self.nodes.values() if s.runs]
        soonest = min((due for due in dues if due is not None), default=float("inf"))
        queues = (queue[0][0] for queue in (self._mail, self._plans) if queue)
        return min(soonest, *queues, float("inf"))

    def _step(self) -> None:
        if self._plans and self._plans[0][0] <= self.now:
            heappop(self._plans)[2]()
            return
        if self._mail and self._mail[0][0] <= self.now:
            _, _, source, target, message = heappop(self._mail)
            if self.nodes[target].held:
                self.nodes[target].inbox.append((source, message))
            elif self.nodes[target].runs:
                effects = self[target].receive(message, source, self.now)
                self._do(target, effects)
            return
        for name, seat in list(self.nodes.items()):
            due = seat.engine.deadline()
            if seat.runs and due is not None and due <= self.now:
                self._do(name, seat.engine.tick(self.now))
                if seat.engine.left:
                    seat.runs = False
                return

    def _do(self, name: str, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._post(name, effect.address.partition(":")[0], effect.message)
            elif isinstance(effect, Reply):
                self._post(name, effect.route, effect.message)
            elif isinstance(effect, Complete):
                self._complete(self.nodes[name], effect)

    def _post(self, source: str, target: str, message: Any) -> None:
        if target not in self.nodes:
            return
        at = self.now + self.rng.random() * self.delay
        at = max(at, self._last.get((source, target), 0.0))
        self._last[source, target] = at
        self._order += 1
        coded = CODEC.decode(CODEC.encode(message))
        heappush(self._mail, (at, self._order, source, target, coded))

    def _complete(self, seat: Seated, effect: Complete) -> None:
        assert effect.ticket not in seat.outcomes
        seat.outcomes[effect.ticket] = effect.outcome
        if effect.ticket in seat.wanted:
            seat.wanted.pop(effect.ticket)(effect.outcome)

    # --- what its applications do -------------------------------------------------

    def asks(
        self, name: str, op: Operation, done: Callable[[Any], None] | None = None
    ) -> int:
        self._tickets += 1
        if done is not None:
            self.nodes[name].wanted[self._tickets] = done
        self._do(name, self[name].request(self._tickets, op, self.now))
        return self._tickets

    def tells(self, name: str, op: Operation) -> None:
        self._do(name, self[name].request(None, op, self.now))

    def outcome(self, name: str, ticket: int) -> Any:
        return self.nodes[name].outcomes.get(ticket)

    def writes(
        self,
        name: str,
        verb: Verb,
        key: bytes,
        value: bytes = b"",
        done: Callable[[Any], None] | None = None,
    ) -> int:
        """Write as `Cache` does where the key is not this process's own."""
        item = Item(key, value, NO_EXPIRY, 1)
        return self.asks(name, WriteKeys(verb, ((item, key_hash(key)),)), done)

    def sets(self, name: str, key: bytes, value: bytes) -> int:
        return self.writes(name, Verb.SET, key, value)

    def gets(
        self, name: str, key: bytes, done: Callable[[Any], None] | None = None
    ) -> int:
        return self.asks(name, GetKeys(((key, key_hash(key)),)), done)

    def loads(self, name: str, key: bytes) -> int:
        return self.asks(name, LoadKey(key, key_hash(key), "", 0, b"", (), 30.0))

    def delivers(self, name: str, lease: int, value: bytes) -> None:
        self.tells(name, Deliver(lease, value, NO_EXPIRY))

    def direct(self, name: str, verb: Verb, key: bytes, value: bytes = b"") -> Any:
        """Write on a thread of the application, if that can be done."""
        hashed = key_hash(key)
        engine = self[name]
        if engine.ranges.tenures[partition_of(hashed)].get is not engine.store.get:
            return None
        item = Item(key, value, NO_EXPIRY, 1)
        return engine.owner.direct(verb, item, hashed, self.now)

    def value(self, name: str, key: bytes) -> bytes | None:
        """What a node's own store holds of a key."""
        entry = self[name].store.get(key, key_hash(key), self.now)
        return None if entry is None else entry.value

    def owner(self, name: str, key: bytes) -> str | None:
        """Who owns a key, as *name* sees it."""
        member = self[name].ranges.owner(key_hash(key))
        return None if member is None else member.address.partition(":")[0]

    def keys(self, name: str, count: int, owner: str | None = None) -> list[bytes]:
        """Keys that belong to *owner* or, by default, *name*, as *name* sees it."""
        found, number = [], 0
        while len(found) < count:
            key = b"c\0i%x" % number
            number += 1
            if self.owner(name, key) == (owner or name):
                found.append(key)
        return found


@pytest.fixture
def host() -> type[Host]:
    return Host
