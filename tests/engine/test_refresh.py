"""Loading anew what is there: the old value serves on, and one load replaces it."""

from __future__ import annotations

from collections import Counter

import pytest

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Clear,
    Filled,
    Fulfil,
    Invalidate,
    Item,
    Leased,
    Load,
    LoaderName,
    Verb,
)
from meshcache.engine.effects import Reply, RunLoader
from meshcache.engine.ops import (
    Deliver,
    Drop,
    Failure,
    Got,
    Granted,
    LoadKey,
    Raised,
    Register,
    RunEnded,
    Tier,
)
from meshcache.hashing import bucket_of, key_hash

FAILURE = Failure("app:Oops", "no", "Traceback", b"args")
NAME = LoaderName("app:load", 3)
KEY = b"c\0k"


def value_of(s, key: bytes) -> bytes | None:
    """What is stored here."""
    (got,) = s.outcome(s.get(key)).found
    return got and got.value


def held(s, key: bytes = KEY, value: bytes = b"old") -> int:
    """A value of a key of ours is stored; return its version."""
    s.set(key, value)
    return s.outcome(s.load(key)).version


def delivered(s, ticket: int, value: bytes = b"new", ttl_ms: int = NO_EXPIRY) -> None:
    granted = s.outcome(ticket)
    assert isinstance(granted, Granted)
    s.tells(Deliver(granted.lease, value, ttl_ms))


# --- a key of our own -------------------------------------------------------------


def test_a_value_no_newer_than_what_the_caller_has_is_no_answer(story):
    s = story()
    version = held(s)

    assert b"old" == s.outcome(s.load(KEY, than=version - 1)).value
    assert isinstance(s.outcome(s.load(KEY, than=version)), Granted)


def test_while_it_is_loaded_anew_the_old_value_is_given_at_once(story):
    s = story("ann")
    key = s.key("me")
    version = held(s, key)
    first = s.load(key, than=version)
    s.asked_to_load(key, "ann", rid=4)

    (filled,) = s.replied(Filled, "ann")
    assert (4, b"old", False) == (filled.rid, filled.value, filled.loaded)
    assert b"old" == s.outcome(s.load(key)).value == value_of(s, key)
    delivered(s, first)
    assert b"new" == s.outcome(s.load(key)).value == value_of(s, key)


def test_all_who_want_it_anew_share_one_load(story):
    s = story("ann")
    key = s.key("me")
    version = held(s, key)
    first, second = s.load(key, than=version), s.load(key, than=version)
    s.asked_to_load(key, "ann", rid=4, than=version)
    assert s.waits(second)
    assert [] == s.effects
    delivered(s, first)

    assert b"new" == s.outcome(second).value
    assert s.outcome(second).version > version
    (filled,) = s.replied(Filled, "ann")
    assert (4, b"new", True) == (filled.rid, filled.value, filled.loaded)
    assert 1 == s.count("flights")


def test_what_is_replaced_is_no_longer_good_near(story):
    s = story("ann")
    key = s.key("me")
    version = held(s, key)
    s.fetch(key, route="reader")
    before = s.stamp(key)
    first, second = s.load(key, than=version), s.load(key, than=version)
    delivered(s, first)

    assert not before.stands
    (note,) = s.replied(Invalidate, "reader")
    assert (bucket_of(key_hash(key)),) == note.buckets
    # Whoever waited has the very value that took its place.
    assert s.outcome(second).stamp.stands


def test_readers_are_told_before_whoever_waited(story):
    s = story("ann")
    key = s.key("me")
    version = held(s, key)
    s.asked_to_load(key, "ann", rid=3)
    first = s.load(key, than=version)
    s.asked_to_load(key, "ann", rid=4, than=version)
    delivered(s, first)

    replies = [type(e.message) for e in s.effects if isinstance(e, Reply)]
    assert [Invalidate, Filled] == replies


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(lambda s, t, lease: Drop(lease, t, FAILURE), id="error"),
        pytest.param(lambda s, t, lease: Drop(lease, t, None), id="drop"),
        pytest.param(lambda s, t, lease: Deliver(lease, b"new", 0), id="not to keep"),
        pytest.param(
            lambda s, t, lease: Deliver(lease, bytes(2000), NO_EXPIRY), id="too large"
        ),
    ],
)
def test_what_brings_nothing_leaves_the_old_value(story, ending):
    s = story(max_value_bytes="1KiB")
    version = held(s)
    before = s.stamp(KEY)
    ticket = s.load(KEY, than=version)
    s.tells(ending(s, ticket, s.outcome(ticket).lease))

    assert b"old" == value_of(s, KEY)
    assert before.stands
    assert 0 == s.count("flights_open")


def test_an_error_is_what_all_hear_who_wanted_it_anew(story):
    s = story()
    version = held(s)
    first, second = s.load(KEY, than=version), s.load(KEY, than=version)
    s.tells(Drop(s.outcome(first).lease, first, FAILURE))

    assert Raised(FAILURE) == s.outcome(second)


@pytest.mark.parametrize(
    ("verb", "left"),
    [(Verb.SET, b"newest"), (Verb.DELETE, None), (Verb.TOUCH, b"old")],
)
def test_a_write_meanwhile_wins(story, verb, left):
    s = story()
    version = held(s)
    first, second = s.load(KEY, than=version), s.load(KEY, than=version)
    s.write(verb, Item(KEY, b"newest", 60_000, 0))
    after = s.stamp(KEY)
    delivered(s, first)

    assert b"new" == s.outcome(second).value
    assert not s.outcome(second).stamp.stands
    assert left == value_of(s, KEY)
    assert after.stands
    assert 1 == s.count("fenced")


def test_a_clear_meanwhile_wins(story):
    s = story("ann")
    key = s.key("me")
    first = s.load(key, than=held(s, key))
    s.hears(Clear(1, 5, 1000, "c"))
    delivered(s, first)

    assert value_of(s, key) is None


def test_whoever_wants_it_anew_after_a_write_has_what_was_written(story):
    s = story()
    version = held(s)
    s.load(KEY, than=version)
    s.set(KEY, b"newest")

    assert b"newest" == s.outcome(s.load(KEY, than=version)).value


def test_a_thread_of_the_application_leaves_a_write_meanwhile_to_the_driver(story):
    s = story()
    s.load(KEY, than=held(s))
    item = Item(KEY, b"newest", NO_EXPIRY, 0)

    assert s.engine.is_loading(KEY)
    assert s.engine.owner.direct(Verb.SET, item, key_hash(KEY), s.now) is None


def test_when_the_old_value_is_gone_all_wait_for_the_new_one(story):
    s = story()
    s.set(KEY, b"old", ttl_ms=1000)
    first = s.load(KEY, than=s.outcome(s.load(KEY)).version)
    s.passes(2.0)
    plain = s.load(KEY)
    assert s.waits(plain)
    delivered(s, first)

    assert b"new" == s.outcome(plain).value


def test_a_loader_that_wants_its_own_key_anew_is_refused(story):
    s = story()
    version = held(s)
    ticket = s.load(KEY, than=version, chain=(key_hash(KEY),))

    assert s.outcome(ticket).recursive


# --- asked by a peer --------------------------------------------------------------


def test_a_peer_that_has_the_newest_is_leased_the_load(story):
    s = story("ann")
    key = s.key("me")
    version = held(s, key)
    s.asked_to_load(key, "ann", rid=4, than=version - 1)
    assert [False] == [filled.loaded for filled in s.replied(Filled)]
    s.asked_to_load(key, "ann", rid=5, than=version, tags=(8, 9))
    (lease,) = s.replied(Leased)
    flight = s.engine._core.flights.get(lease.token)
    assert (8, 9) == flight.tags
    assert version < flight.born
    s.hears(Fulfil(5, lease.token, b"new", NO_EXPIRY), "ann")

    assert b"new" == value_of(s, key)
    assert flight.born < s.outcome(s.load(key)).version


def test_a_loader_we_know_is_run_here(story):
    s = story("ann")
    s.tells(Register((NAME,)))
    key = s.key("me")
    version = held(s, key)
    s.asked_to_load(
        key, "ann", rid=4, than=version, loader=NAME.name, loader_version=NAME.version
    )
    (run,) = s.wanted(RunLoader)
    s.tells(RunEnded(run.flight, b"new", NO_EXPIRY, None))

    assert [(4, b"new")] == [filled[:2] for filled in s.replied(Filled, "ann")]
    assert b"new" == value_of(s, key)


# --- a key of a peer --------------------------------------------------------------


def test_the_owner_is_told_what_the_caller_has(story):
    s = story("ann")
    s.load(s.key("ann"), than=77, tags=(8, 9))

    assert [(77, (8, 9))] == [load[-2:] for load in s.sent(Load, "ann")]


def test_who_has_nothing_does_not_wait_for_a_refresh(story):
    s = story("ann")
    key = s.key("ann")
    refreshing = [s.load(key, than=77)]
    (refresh,) = s.sent(Load)
    refreshing.append(s.load(key, than=70))
    assert [] == s.sent(Load)
    plain = [s.load(key)]
    (load,) = s.sent(Load)
    assert 0 == load.than
    plain.append(s.load(key))
    assert [] == s.sent(Load)
    s.hears(Filled(load.rid, b"old", NO_EXPIRY, 77, loaded=False))

    assert [b"old"] * 2 == [s.outcome(ticket).value for ticket in plain]
    assert all(map(s.waits, refreshing))
    s.hears(Filled(refresh.rid, b"new", NO_EXPIRY, 90, loaded=True))
    assert [b"new"] * 2 == [s.outcome(ticket).value for ticket in refreshing]
    assert 0 == s.count("flights_open")


def test_who_has_something_newer_asks_for_itself(story):
    """What the owner has may be newer than what one has, and not what another has."""
    s = story("ann")
    key = s.key("ann")
    first = s.load(key, than=70)
    (older,) = s.sent(Load)
    second = s.load(key, than=77)
    (newer,) = s.sent(Load)
    assert (70, 77) == (older.than, newer.than)
    s.hears(Filled(older.rid, b"v", NO_EXPIRY, 75, loaded=False))

    assert b"v" == s.outcome(first).value
    assert s.waits(second)


def test_who_has_something_newer_waits_for_a_load_that_goes_on(story):
    s = story("ann")
    key = s.key("ann")
    first = s.load(key, than=70)
    s.hears(Leased(s.sent(Load)[0].rid, 88, 30_000), "ann")
    second = s.load(key, than=77)
    assert [] == s.sent(Load)
    delivered(s, first)

    assert [Fulfil(5, 88, b"new", NO_EXPIRY)] == s.sent(Fulfil, "ann")
    assert b"new" == s.outcome(second).value


def test_who_is_left_of_those_who_wait_asks_for_what_is_newer_than_its_own(story):
    s = story("ann")
    key = s.key("ann")
    first = s.load(key, than=70)
    s.hears(Leased(s.sent(Load)[0].rid, 88, 30_000), "ann")
    s.load(key, than=77)
    s.load(key, than=75)
    s.tells(Drop(s.outcome(first).lease, first, None))
    (again,) = s.sent(Load, "ann")

    assert 77 == again.than
    assert 77 == s.engine._core.flights.joinable(key, beside=True).than


def test_a_write_parts_whoever_asks_later_from_every_load_of_the_key(story):
    s = story("ann")
    key = s.key("ann")
    tickets = [s.load(key), s.load(key, than=77)]
    assert s.engine.is_loading(key)
    s.write(Verb.DELETE, Item(key, b"", 0, 0))
    assert not s.engine.is_loading(key)
    s.load(key)
    assert 1 == len(s.sent(Load))
    s.load(key, than=77)

    assert 1 == len(s.sent(Load))
    assert all(map(s.waits, tickets))


def test_a_refresh_alone_is_a_load_to_be_told_of_writes(story):
    s = story("ann")
    key = s.key("ann")
    s.load(key, than=77)

    assert s.engine.is_loading(key)


def test_without_the_owner_it_is_loaded_here_and_kept_nowhere(story):
    s = story("ann")
    key = s.key("ann")
    first, second = s.load(key, than=77), s.load(key, than=77)
    s.passes(1.01)
    assert Tier.LOCAL is s.outcome(first).tier
    delivered(s, first)

    assert (b"new", Tier.LOCAL) == (s.outcome(second).value, s.outcome(second).tier)
    assert 0 == s.engine.stats()["store"]["entries"]


# --- over three nodes -------------------------------------------------------------


@pytest.fixture
def trio(host):
    """Three nodes of one host, and a key that the first owns and all hold near."""
    h = host(1, delay=0.005)
    for name in ("ann", "bob", "eve"):
        h.starts(name)
    h.settles()
    (key,) = h.keys("ann", 1)
    h.sets("ann", key, b"old")
    for seat in h.nodes.values():
        assert b"old" == seat.lane(key, h.now)
    return h, key


def test_a_refresh_over_three_nodes_is_one_load(trio):
    h, key = trio
    entry = h["ann"].store.get(key, key_hash(key), h.now)
    op = LoadKey(key, key_hash(key), "", 0, b"", (), 30.0, than=entry.version)
    tickets = [(name, h.asks(name, op)) for name in h.nodes for _ in range(3)]
    h.passes(0.1)
    outcomes = {told: h.outcome(*told) for told in tickets}
    (holder,) = [told for told, outcome in outcomes.items() if outcome is not None]
    assert isinstance(outcomes[holder], Granted)
    # Meanwhile all read on: near, from the owner's arena, or by asking for it.
    for name, seat in h.nodes.items():
        assert b"old" == seat.kept(key, h.now) == seat.lane(key, h.now)
        plain = h.loads(name, key)
        h.passes(0.05)
        assert b"old" == h.outcome(name, plain).value
    h.delivers(holder[0], outcomes[holder].lease, b"new")
    h.passes(0.1)

    others = [h.outcome(*told) for told in tickets if told != holder]
    assert {(Got, b"new")} == {(type(got), got.value) for got in others}
    assert {True} == {got.version > entry.version for got in others}
    for seat in h.nodes.values():
        assert seat.kept(key, h.now) is None
        assert b"new" == seat.lane(key, h.now) == seat.kept(key, h.now)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_timing_a_key_is_refreshed_by_one_at_a_time(host, seed):
    """Each node refreshes what it has, and the values that it sees only get newer."""
    h = host(seed, delay=0.02)
    for name in ("ann", "bob", "eve"):
        h.starts(name)
    h.settles()
    keys = h.keys("ann", 2, "ann") + h.keys("ann", 2, "bob")
    loading: Counter[bytes] = Counter()
    number, loads = 0, 0
    seen = {(name, key): (0, 0) for name in h.nodes for key in keys}
    waits = 0

    def told(name, key, than, outcome):
        nonlocal number, loads, waits
        waits -= 1
        if isinstance(outcome, Got):
            assert outcome.version > than
            value = int(outcome.value)
            before = seen[name, key]
            if outcome.version > before[0]:
                assert value >= before[1], "a newer version of an older value"
                seen[name, key] = (outcome.version, value)
            return
        assert isinstance(outcome, Granted), outcome
        loads += 1
        loading[key] += 1
        assert 1 == loading[key], "two load at once"
        number += 1
        value = b"%d" % number

        def end():
            loading[key] -= 1
            h.delivers(name, outcome.lease, value)

        h.later(h.rng.random() * 0.1, end)

    for _ in range(200):
        name, key = h.rng.choice(list(h.nodes)), h.rng.choice(keys)
        than = seen[name, key][0] if h.rng.random() < 0.5 else 0
        op = LoadKey(key, key_hash(key), "", 0, b"", (), 30.0, than=than)
        waits += 1
        h.asks(
            name,
            op,
            lambda out, name=name, key=key, than=than: told(name, key, than, out),
        )
        h.passes(h.rng.choice([0.0, 0.005, 0.03]))
    h.passes(5.0)

    assert 0 == waits
    assert loads > 20
    names = ("flights_open", "waiting", "calls_open")
    stats = [seat.engine.stats()["engine"] for seat in h.nodes.values()]
    assert {0} == {stat[name] for stat in stats for name in names}
