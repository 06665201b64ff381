"""Messages that are well formed and mean nothing, or harm: the engine stands."""

from __future__ import annotations

from enum import IntEnum
from itertools import islice
from typing import Annotated, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcache.codec.frames import hints
from meshcache.codec.messages import (
    CONTROL,
    DATA,
    Borrow,
    Cancel,
    Lent,
    Load,
    Stranger,
)
from meshcache.engine.effects import RunLoader
from meshcache.engine.ops import (
    ClearCache,
    Deliver,
    Drop,
    Failure,
    Forsake,
    LoaderName,
    LoadKeys,
    Lot,
    Register,
    RunEnded,
)
from meshcache.hashing import key_hash

BOUNDS = {"max_flights": 4, "max_waiters": 5, "max_requests": 6, "loader_threads": 1}
KEYS = [b"c\0i%x" % number for number in range(6)]
IDS = [name.ljust(16, b".") for name in (b"me", b"ann", b"bob", b"eve")]
EPOCHS = [0, 4, 5, 6]
LOADER = LoaderName("app:load", 1)
TIMES = st.sampled_from([0.01, 2.0, 30.0])
KINDS = [*CONTROL.values(), *DATA.values(), Stranger]

# What a message about this very node would say; drawn more often than anything else.
LIKELY = {
    "epoch": st.just(5),
    "sender_epoch": st.sampled_from(EPOCHS),
    "target_epoch": st.sampled_from(EPOCHS),
    "rid": st.integers(0, 3),
    "seq": st.integers(0, 3),
    "node_id": st.sampled_from(IDS),
    "target": st.sampled_from(IDS),
    "subject": st.sampled_from(IDS),
    "accuser": st.sampled_from(IDS),
    "caller": st.sampled_from(IDS),
    "owner": st.sampled_from(IDS),
    "key": st.sampled_from(KEYS),
    "keys": st.lists(st.sampled_from(KEYS), min_size=1, max_size=4).map(tuple),
    "cache": st.sampled_from(["c", "\ud800", ""]),
    "loader": st.sampled_from([LOADER.name, ""]),
    "loader_version": st.just(1),
    "budget_ms": st.sampled_from([0, 1, 1000, 2**32 - 1]),
    "number": st.integers(0, 4),
    "incarnation": st.integers(0, 3),
}


def values_of(hint):
    if get_origin(hint) is not Annotated:
        if hint is bool:
            return st.booleans()
        return st.sampled_from(hint) if issubclass(hint, IntEnum) else records(hint)
    inner, bound = get_args(hint)[:2]
    if inner is int:
        return st.integers(*bound)
    sizes = {"min_size": bound.low, "max_size": max(bound.low, min(bound.high, 4))}
    if inner is bytes:
        return st.binary(**sizes)
    if inner is str:
        return st.text(st.characters(), **sizes)
    return st.lists(values_of(get_args(inner)[0]), **sizes).map(tuple)


ALWAYS = {"node_id": LIKELY["node_id"], "weight": st.just(1)}
"""Each new member makes a new table, which takes its time and is tested elsewhere."""


def records(kind):
    """Mostly what is likely, here and there anything that the bounds allow."""
    fields = []
    for name, hint in hints(kind).items():
        anything = values_of(hint)
        likely = LIKELY.get(name)
        mixed = anything if likely is None else likely | likely | anything
        fields.append(ALWAYS.get(name, mixed))
    return st.tuples(*fields).map(kind._make)


class Live:
    """What only the run of a test knows: the ids and tokens in use."""

    def __init__(self, s):
        self.s = s
        self.tokens: list[int] = [0]
        self.rids: list[int] = [0]
        self.runs: list[int] = [0]
        self.forsaken: set[int] = set()

    def forsake(self, ticket: int) -> None:
        self.forsaken.add(ticket)
        self.s.tells(Forsake(ticket))

    def note(self) -> None:
        for effect in self.s.effects:
            message = getattr(effect, "message", None)
            if hasattr(message, "rid"):
                self.rids.append(message.rid)
            if hasattr(message, "token"):
                self.tokens.append(message.token)
            if isinstance(message, Lent):
                self.tokens += [loan.token for loan in message.results]
            if isinstance(effect, RunLoader):
                self.runs.append(effect.flight)
        for outcomes in self.s.outcomes.values():
            for outcome in outcomes:
                told = outcome.outcomes if isinstance(outcome, Lot) else (outcome,)
                self.tokens += [o.lease for o in told if hasattr(o, "lease")]

    def aimed(self, message, choose):
        """Let a message be about something that exists."""
        for field, known in (("rid", self.rids), ("token", self.tokens)):
            if hasattr(message, field) and choose(st.booleans()):
                value = choose(st.sampled_from(known))
                message = message._replace(**{field: value})
        if hasattr(message, "rids"):
            message = message._replace(rids=(*message.rids, *self.rids[-3:]))
        return message

    def check(self) -> None:
        stats = self.s.engine.stats()["engine"]
        assert stats["flights_open"] <= BOUNDS["max_flights"]
        assert stats["waiting"] <= BOUNDS["max_waiters"]
        assert stats["calls_open"] <= BOUNDS["max_requests"]
        assert stats["running"] <= BOUNDS["loader_threads"]
        assert all(len(outcomes) <= 1 for outcomes in self.s.outcomes.values())
        core = self.s.engine._core
        waiters = [list(f.waiters) for f in core.flights]
        assert stats["waiting"] == sum(map(len, waiters))
        parties = [p for some in waiters for p in some]
        parties += [f.holder.party for f in core.flights if f.holder is not None]
        assert len(parties) == len(set(parties))
        assert core.flights._by_party.keys() == set(parties)
        lots = [p for lot in core.flights._lots for p in core.flights.parts(lot)]
        assert set(lots) == {p for p in parties if p.part}


def own_inputs(live: Live, choose) -> None:
    """Something that this process itself does in between."""
    s, key = live.s, choose(st.sampled_from(KEYS))
    ticket = choose(st.integers(0, s.tickets))
    lease = choose(st.sampled_from(live.tokens))
    failure = choose(st.sampled_from([None, Failure("a:B", "", "", b"")]))
    lot = tuple((each, key_hash(each)) for each in KEYS)
    acts = (
        lambda: s.get(*KEYS),
        lambda: s.set(key, b"v"),
        lambda: s.load(key, timeout=choose(TIMES)),
        lambda: s.load(key, chain=(key_hash(key), 1)),
        lambda: s.load(key, than=choose(st.sampled_from([1, 2**64 - 1]))),
        lambda: s.asks(LoadKeys(lot, choose(TIMES))),
        lambda: s.tells(Deliver(lease, b"v", -1)),
        lambda: s.tells(Drop(lease, ticket, failure)),
        lambda: live.forsake(ticket),
        lambda: s.tells(RunEnded(choose(st.sampled_from(live.runs)), None, 0, failure)),
        lambda: s.asks(ClearCache("c")),
    )
    acts[choose(st.integers(0, len(acts) - 1))]()


messages = st.one_of(*(records(kind) for kind in KINDS))
routes = st.sampled_from(["ann", "bob", "eve"])


def play(story, data, steps: int) -> Live:
    s = story("ann", "bob", **BOUNDS)
    s.tells(Register((LOADER,)))
    live = Live(s)
    for _ in range(steps):
        what = data.draw(st.integers(0, 9))
        if what == 0:
            s.passes(data.draw(st.sampled_from([0.1, 1.0, 40.0])))
        elif what < 4:
            own_inputs(live, data.draw)
        else:
            message = live.aimed(data.draw(messages), data.draw)
            s.hears(message, data.draw(routes))
        live.note()
        live.check()
    return live


RUNS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,  # `story` is a class, not a state
    ],
)


@pytest.mark.slow
@RUNS
@given(data=st.data())
def test_no_message_makes_it_raise_or_go_over_its_bounds(story, data):
    play(story, data, steps=25)


@pytest.mark.slow
@RUNS
@given(data=st.data())
def test_whatever_was_said_everything_ends_when_it_leaves(story, data):
    live = play(story, data, steps=12)
    live.s.leaves()

    waiting = {t for t in range(1, live.s.tickets + 1) if live.s.waits(t)}
    assert waiting <= live.forsaken
    assert {} == live.s.engine._leases._lots
    stats = live.s.engine.stats()["engine"]
    assert 0 == stats["flights_open"] == stats["waiting"] == stats["calls_open"]


def test_a_flood_of_loads_that_come_and_go_leaves_nothing_behind(story):
    """Each says that it would wait for seven weeks."""
    s = story("ann", **BOUNDS)
    key = s.key("me")
    before = len(s.engine._core.agenda)
    for rid in range(500):
        message = Load(rid, 5, 0, 0, 2**32 - 1, False, IDS[1], key, "", 0, b"", ())
        s.hears(message, "ann")
        s.hears(message._replace(rid=rid + 1000), "ann")
        s.hears(message, "ann")
        for each in (rid, rid + 1000):
            s.hears(Cancel(each), "ann")

    assert before == len(s.engine._core.agenda)
    assert 0 == s.count("flights_open") == s.count("waiting")


def test_a_flood_of_lots_that_come_and_go_leaves_nothing_behind(story):
    s = story("ann", **BOUNDS)
    keys = tuple(islice(s.keys("me"), 6))
    before = len(s.engine._core.agenda)
    for rid in range(100):
        message = Borrow(rid, 5, 0, 0, 2**32 - 1, False, IDS[1], keys, ())
        s.hears(message, "ann")
        s.hears(message._replace(rid=rid + 1000), "ann")
        s.hears(message, "ann")
        assert BOUNDS["max_flights"] == s.count("flights_open")
        for each in (rid, rid + 1000):
            s.hears(Cancel(each), "ann")

    assert before == len(s.engine._core.agenda)
    assert 0 == s.count("flights_open") == len(s.engine._core.flights._lots)
