"""Partitions that change hands on one host: when they open, and what comes over."""

from __future__ import annotations

import pytest

from meshcache.codec.envelope import Envelope
from meshcache.codec.messages import Status, Verb
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.handover import POLL
from meshcache.engine.ops import (
    ClearCache,
    Closed,
    Forsake,
    GetKeys,
    Granted,
    InvalidateTags,
    Results,
    Unreached,
    WriteResult,
    WriteResults,
)
from meshcache.engine.ranges import LOOK_AGAIN
from meshcache.engine.readers import BEAT
from meshcache.hashing import key_hash, partition_of
from meshcache.placement.placement import Placement
from meshcache.store.layout import SEALING, Words

NUMBERS = MsgpackCodec()
RED = 0x1111_0000_0001
DONE = WriteResult(Status.HIT, b"")
PATIENCE = 0.5
"""Half of the default `request_timeout`."""


def handover(host, name):
    return host[name]._core.handover


def counts(host, name):
    return host[name].stats()["handover"]


def result_of(host, name, ticket):
    """How a write of one key went."""
    return host.outcome(name, ticket).results[0]


def value_of(host, name, ticket):
    got = host.outcome(name, ticket).found[0]
    return got and got.value


def alone(host, **settings):
    """A host with one node, which owns everything."""
    h = host(**settings)
    h.starts("ann")
    h.settles()
    return h


def moving(h, newcomer, count=50):
    """Write *count* keys of ann's that *newcomer* will own; return them.

    Who owns what follows from the members alone, so a table made here tells.
    """
    members = [*h["ann"].ranges.table.members, h.member(newcomer)]
    table = Placement().update(members)
    found, number = [], 0
    while len(found) < count:
        key = b"c\0m%x" % number
        number += 1
        heir = table.owner_of(key_hash(key)).node_id
        if h.owner("ann", key) == "ann" and heir == members[-1].node_id:
            found.append(key)
            h.sets("ann", key, b"v" + key)
    return found


def waiting(host, count=10, **settings):
    """A host where bob waits for ann's seal, and what he will get from her.

    He has heard of her from cat, and she hears nothing.
    """
    h = alone(host, **settings)
    h.starts("cat")
    h.settles()
    keys = moving(h, "bob", count)
    h.holds("ann")
    h.starts("bob", found=False)
    h.discovers("bob", "cat")
    h.passes(0.02)
    assert handover(h, "bob").waiting
    return h, keys


def arriving(host):
    """A host where bob has opened, and ann's entries are on their way to him.

    With the keys of those that have not come.
    """
    h, keys = waiting(host, 600, max_bytes="1MiB")
    h.releases("ann")
    while not handover(h, "bob").arriving or handover(h, "bob").waiting:
        h.steps()
    missing = [key for key in keys if h.value("bob", key) is None]
    assert len(missing) > 100
    return h, missing


# --- the seal ---------------------------------------------------------------------


def test_a_partition_opens_when_its_old_owner_has_sealed_it_and_not_before(host):
    h, keys = waiting(host)
    partition = partition_of(key_hash(keys[0]))
    assert h.nodes["ann"].granted(partition)
    assert not h.nodes["bob"].granted(partition)

    h.releases("ann")
    h.settles()
    assert not h.nodes["ann"].granted(partition)
    assert h.nodes["bob"].granted(partition)


@pytest.mark.slow
def test_never_do_two_have_the_same_partition(host):
    h = alone(host, delay=0.01)
    twice = set()

    def look():
        held = [
            {p for p in range(0, 16_384, 97) if seat.granted(p)}
            for seat in h.nodes.values()
            if seat.runs
        ]
        for one in held:
            for other in held:
                if one is not other:
                    twice.update(one & other)

    h.after = look
    for name in ("bob", "cat"):
        h.starts(name)
        h.settles()
    h.leaves("ann")
    h.passes(1.0)
    h.settles()

    assert set() == twice


@pytest.mark.slow
def test_of_two_newcomers_that_do_not_know_each_other_one_opens(host):
    """Each would own it by its own table; who comes second waits for the first.

    cat looks for seals at other moments than bob, and is the first to see ann's. He
    knows nothing of her: she came after him.
    """
    h = alone(host)
    h.starts("bob", found=False)
    h.passes(0.002)
    h.starts("cat", found=False)
    h.passes(0.019)
    h.holds("ann")
    for name in ("bob", "cat"):
        # What ann would say, if she did not yet know of the other.
        h.knows(name, "ann")
    both = [p for p in range(16_384) if h.would_own("bob", p) and h.would_own("cat", p)]
    assert both
    h.claim("ann")
    h.passes(0.002)
    assert h.nodes["cat"].granted(both[0])
    h.passes(0.1)

    holders = [h.nodes["bob"].granted(p) + h.nodes["cat"].granted(p) for p in both]
    assert [1] * len(both) == holders


def test_a_seal_counts_when_the_near_entries_of_all_have_ended(host):
    h, keys = waiting(host)
    header = memoryview(h.nodes["ann"].memory).cast("Q")
    h.releases("ann")
    h.after = lambda: header.__setitem__(Words.STATE, SEALING)
    h.passes(0.1)
    assert not h.nodes["bob"].granted(partition_of(key_hash(keys[0])))

    h.after = lambda: None
    header[Words.STATE] = 1
    h.settles()
    assert h.nodes["bob"].granted(partition_of(key_hash(keys[0])))


def test_what_was_near_anywhere_has_ended_when_the_seal_is_seen(host):
    h = alone(host)
    keys = moving(h, "cat", 1)
    h.starts("bob")
    h.settles()
    key = keys[0]
    h.nodes["bob"].lane(key, h.now)
    seen = []

    def look():
        if "cat" in h.nodes and h.nodes["cat"].granted(partition_of(key_hash(key))):
            seen.append(h.nodes["bob"].kept(key, h.now))

    h.after = look
    h.starts("cat")
    h.settles()

    assert seen
    assert {None} == set(seen)


# --- entries ----------------------------------------------------------------------


def test_entries_arrive_with_their_versions_and_expiries(host):
    h = alone(host)
    keys = moving(h, "bob")
    store = h["ann"].store
    before = {key: store.get(key, key_hash(key), h.now) for key in keys}
    h.starts("bob")
    h.settles()

    store = h["bob"].store
    assert before == {key: store.get(key, key_hash(key), h.now) for key in keys}
    assert len(keys) == counts(h, "bob")["entries"]


def test_a_write_after_the_handover_has_the_greater_version(host):
    h = alone(host)
    (key,) = moving(h, "bob", 1)
    old = h["ann"].store.get(key, key_hash(key), h.now)
    h.starts("bob")
    h.settles()
    h.direct("bob", Verb.SET, key, b"new")

    assert old.version < h["bob"].store.get(key, key_hash(key), h.now).version


def test_what_has_not_arrived_is_found_when_it_is_asked_for(host):
    h, keys = arriving(host)
    key = keys[-1]
    ticket = h.gets("bob", key)

    assert b"v" + key == value_of(h, "bob", ticket) == h.value("bob", key)
    assert 1 == counts(h, "bob")["found"]
    h.settles()
    assert 600 == counts(h, "bob")["entries"]


def test_a_peer_that_asks_finds_it_too(host):
    h, keys = arriving(host)
    key = keys[-1]
    ticket = h.gets("ann", key)
    h.passes(0.0)

    assert b"v" + key == value_of(h, "ann", ticket)


def test_what_was_written_meanwhile_is_not_overwritten(host):
    h, keys = arriving(host)
    key = keys[-1]
    h.sets("bob", key, b"new")
    h.settles()

    assert b"new" == h.value("bob", key)
    assert b"v" + keys[0] == h.value("bob", keys[0])


def test_what_was_deleted_meanwhile_does_not_come_back(host):
    h, keys = arriving(host)
    key = keys[-1]
    ticket = h.writes("bob", Verb.DELETE, key)
    h.settles()

    assert Status.HIT is result_of(h, "bob", ticket).status
    assert None is h.value("bob", key)


def test_what_was_written_and_deleted_meanwhile_does_not_come_back(host):
    h, keys = arriving(host)
    key = keys[-1]
    h.sets("bob", key, b"new")
    h.writes("bob", Verb.DELETE, key)
    h.settles()

    assert None is h.value("bob", key)


@pytest.mark.parametrize(
    ("verb", "status"),
    [
        (Verb.ADD, Status.MISS),
        (Verb.TOUCH, Status.HIT),
        (Verb.INCR, Status.NOT_A_NUMBER),
        (Verb.DELETE, Status.HIT),
    ],
)
def test_a_write_that_looks_first_sees_what_has_not_arrived(host, verb, status):
    h, keys = arriving(host)
    ticket = h.writes("bob", verb, keys[-1], NUMBERS.encode(0))

    assert status is result_of(h, "bob", ticket).status


def test_no_thread_writes_by_itself_while_entries_arrive(host):
    h, keys = arriving(host)

    assert None is h.direct("bob", Verb.SET, keys[-1], b"new")
    h.settles()
    assert Status.HIT is h.direct("bob", Verb.SET, keys[-1], b"new").status


def test_what_has_expired_on_the_way_stays_behind(host):
    h = alone(host)
    (key,) = moving(h, "bob", 1)
    h["ann"].store.touch(key, key_hash(key), h.now + 0.01, h.now)
    h.passes(0.02)
    h.starts("bob")
    h.settles()

    assert 0 == counts(h, "bob")["entries"]


# --- giving up what is still arriving ---------------------------------------------


@pytest.mark.slow
def test_a_partition_is_given_up_only_when_its_entries_have_come(host):
    h, keys = arriving(host)
    h.starts("dan")
    h.passes(0.0)
    theirs = [key for key in keys if h.owner("bob", key) == "dan"]
    assert theirs
    partition = partition_of(key_hash(theirs[0]))
    assert h.nodes["bob"].granted(partition)
    assert not h.nodes["dan"].granted(partition)

    h.settles()
    assert not h.nodes["bob"].granted(partition)
    assert [b"v" + key for key in theirs] == [h.value("dan", key) for key in theirs]


def test_a_partition_that_comes_back_before_it_was_sealed_is_kept(host):
    h, keys = arriving(host)
    h.starts("dan")
    h.passes(0.0)
    theirs = [key for key in keys if h.owner("bob", key) == "dan"]
    h.crashes("dan")
    h.buries("dan")
    assert all(h.owner("bob", key) == "bob" for key in theirs)
    h.settles()

    assert [b"v" + key for key in theirs] == [h.value("bob", key) for key in theirs]


# --- old owners that are dead, or do not answer -----------------------------------


@pytest.mark.slow
def test_a_dead_owner_has_sealed_when_somebody_has_claimed_its_arena(host):
    h = alone(host)
    keys = moving(h, "bob")
    h.starts("bob")
    h.settles()
    h.crashes("bob")
    h.buries("bob")
    h.passes(PATIENCE / 2)
    assert handover(h, "ann").waiting
    assert not h.nodes["ann"].granted(partition_of(key_hash(keys[0])))

    h.claim("bob")
    h.passes(2 * POLL)
    h.settles()
    assert [b"v" + key for key in keys] == [h.value("ann", key) for key in keys]
    assert 0 == counts(h, "ann")["unsealed"]


@pytest.mark.slow
def test_a_dead_owner_that_nobody_claims_is_waited_for_no_longer_than_patience(host):
    h = alone(host)
    keys = moving(h, "bob")
    h.starts("bob")
    h.settles()
    h.crashes("bob")
    h.buries("bob")
    h.passes(PATIENCE + 2 * POLL)
    h.settles()

    assert h.nodes["ann"].granted(partition_of(key_hash(keys[0])))
    assert 0 < counts(h, "ann")["unsealed"]
    assert b"v" + keys[0] == h.value("ann", keys[0])


def test_who_inherits_everything_at_once_has_what_was_there(host):
    h = alone(host)
    keys = moving(h, "bob")
    h.holds("ann")
    h.starts("bob")
    h.knows("bob", "ann")
    assert handover(h, "bob").waiting
    h.crashes("ann")
    h.buries("ann")
    h.claim("ann")
    h.settles()

    assert all(b"v" + key == h.value("bob", key) for key in keys)


@pytest.mark.slow
def test_an_owner_that_stood_still_and_was_deposed_takes_back_what_was_written(host):
    h = alone(host)
    keys = moving(h, "bob")
    h.starts("bob")
    h.settles()
    h.crashes("bob")
    for _ in range(60):
        h.passes(1.0)
    h.sets("ann", keys[0], b"new")
    h.passes(0.1)
    h.nodes["bob"].runs = True

    assert None is h.value("bob", keys[0])
    assert None is h.direct("bob", Verb.SET, keys[1], b"lost")
    h.settles(60)
    h.passes(2.0)
    h.settles()
    assert "bob" == h.owner("ann", keys[0])
    assert b"new" == h.value("bob", keys[0])
    assert b"v" + keys[1] == h.value("bob", keys[1])


def test_a_load_from_before_an_owner_stood_still_is_not_stored_when_it_goes_on(host):
    h = alone(host)
    h.starts("bob")
    h.settles()
    key = h.keys("bob", 1)[0]
    lease = h.outcome("bob", h.loads("bob", key)).lease
    h.holds("bob")
    h.crashes("bob")
    h.buries("bob")
    h.passes(PATIENCE + 0.1)
    h.direct("ann", Verb.SET, key, b"new")
    h.leaves("ann")
    h.passes(2.0)
    assert h["ann"].left
    h.nodes["bob"].runs = True
    h.gets("bob", key)
    h.passes(0.05)
    assert b"new" == h.value("bob", key)
    h.delivers("bob", lease, b"old")

    assert b"new" == h.value("bob", key)


def test_what_is_waited_for_is_not_taken_for_deposed(host):
    h, _ = waiting(host)
    before = {p: since for p, (_, _, since) in handover(h, "bob")._waiting.items()}
    h.passes(1.5 * BEAT)

    after = handover(h, "bob")._waiting
    assert before == {p: since for p, (_, _, since) in after.items()}


@pytest.mark.slow
def test_a_living_owner_that_never_seals_is_waited_for_for_ever(host):
    h, keys = waiting(host)
    h.passes(4 * PATIENCE)

    assert handover(h, "bob").waiting
    assert 0 == counts(h, "bob")["unsealed"]
    assert not h.nodes["bob"].granted(partition_of(key_hash(keys[0])))


def test_beyond_patience_reads_miss_writes_are_refused_and_nothing_is_near(host):
    h, keys = waiting(host)
    h.passes(PATIENCE)
    read = h.gets("bob", keys[0])
    write = h.sets("bob", keys[0], b"new")
    stamp = h["bob"].ranges.stamp(key_hash(keys[0]))

    assert Results((None,)) == h.outcome("bob", read)
    refused = result_of(h, "bob", write)
    assert isinstance(refused, Unreached)
    assert not refused.unknown
    assert not stamp.stands
    assert None is h.direct("bob", Verb.SET, keys[0], b"new")
    assert b"v" + keys[0] == h.value("ann", keys[0])


def test_patience_begins_anew_when_the_old_owner_is_met(host):
    h = alone(host)
    keys = moving(h, "bob")
    h.starts("bob", found=False)
    h.holds("ann")
    h.discovers("bob", "bob")
    h.passes(PATIENCE + 2 * POLL)
    early = h.gets("bob", keys[0])
    assert Results((None,)) == h.outcome("bob", early)

    h.knows("bob", "ann")
    h.passes(PATIENCE / 2)
    read = h.gets("bob", keys[0])
    assert None is h.outcome("bob", read)
    h.releases("ann")
    h.settles()
    assert b"v" + keys[0] == value_of(h, "bob", read)


def test_so_it_does_for_who_has_met_others_before(host):
    """Its partitions are its own in both tables, so they do not move."""
    h = alone(host)
    h.starts("cat")
    h.settles()
    key = moving(h, "bob", 1)[0]
    bob = h.starts("bob", found=False)
    for name in ("bob", "ann"):
        h.holds(name)
    h.knows("bob", "cat")
    h.passes(PATIENCE + 2 * POLL)
    assert Results((None,)) == h.outcome("bob", h.gets("bob", key))

    h.knows("bob", "ann")
    assert 3 == len(bob.ranges.table.members)
    assert None is h.outcome("bob", h.gets("bob", key))


def test_one_that_dies_after_patience_is_waited_for_no_more(host):
    h, keys = waiting(host)
    h.passes(2 * PATIENCE)
    partition = partition_of(key_hash(keys[0]))
    assert not h.nodes["bob"].granted(partition)
    h.crashes("ann")
    h.buries("ann")
    h.passes(0.1)

    assert h.nodes["bob"].granted(partition)


def test_one_that_dies_before_it_is_met_is_found_dead(host):
    h = alone(host)
    h.finds_dead = True
    h.starts("bob", found=False)
    h.holds("ann")
    h.discovers("bob")
    h.passes(0.1)
    h.crashes("ann")
    h.passes(PATIENCE + LOOK_AGAIN)

    assert not handover(h, "bob").waiting
    assert 0 == counts(h, "bob")["unsealed"]


def test_who_asks_beyond_patience_does_not_join_the_load_of_who_did_before(host):
    """The old owner has taken writes since, for all that is known here."""
    h, keys = waiting(host)
    h.passes(PATIENCE)
    first, second = (h.loads("bob", keys[0]) for _ in range(2))

    assert isinstance(h.outcome("bob", first), Granted)
    assert isinstance(h.outcome("bob", second), Granted)


def test_nothing_stands_on_an_owner_that_has_not_opened_yet(host):
    h, keys = waiting(host)
    hashed = key_hash(keys[0])
    assert "bob" == h.owner("cat", keys[0])
    assert not h["cat"].ranges.stamp(hashed).stands

    h.releases("ann")
    h.settles()
    assert h["cat"].ranges.stamp(hashed).stands


# --- what is forgotten meanwhile --------------------------------------------------


@pytest.mark.parametrize("forgotten", [ClearCache("c"), InvalidateTags((RED,))])
def test_what_came_over_from_one_that_was_told_later_is_forgotten_too(host, forgotten):
    """It was loaded before, and stored by one who had not been told to drop it."""
    h = alone(host)
    h.starts("bob")
    h.settles()
    key = moving(h, "cat", 1)[0]
    h.direct("ann", Verb.DELETE, key)
    lease = h.outcome("ann", h.loads("ann", key)).lease
    h.holds("ann")
    h.starts("cat")
    h.passes(0.05)
    ticket = h.asks("bob", forgotten)
    h.passes(0.05)
    late = Envelope(b"late", tags=(RED,)).wrap()
    h.delivers("ann", lease, late)
    h.knows("ann", "cat")
    h.passes(0.05)
    assert late == h.value("cat", key)
    assert None is h.outcome("bob", ticket)

    h.releases("ann")
    h.passes(0.1)
    assert WriteResults((DONE,) * 3) == h.outcome("bob", ticket)
    assert None is h.value("cat", key)


# --- what is held back ------------------------------------------------------------


def test_what_is_asked_before_the_seal_is_answered_after_it(host):
    h, keys = waiting(host)
    read, write = h.gets("bob", keys[0]), h.sets("bob", keys[1], b"new")
    h.passes(0.1)
    assert None is h.outcome("bob", read)
    assert None is h.outcome("bob", write)

    h.releases("ann")
    h.settles()
    assert b"v" + keys[0] == value_of(h, "bob", read)
    assert Status.HIT is result_of(h, "bob", write).status
    assert b"new" == h.value("bob", keys[1])


def test_what_a_peer_asks_before_the_seal_is_answered_after_it(host):
    h = alone(host)
    h.starts("bob")
    h.settles()
    (key,) = moving(h, "cat", 1)
    h.passes(0.01)
    h.holds("ann")
    h.holds("bob")
    h.starts("cat")
    h.releases("bob")
    h.passes(0.02)
    assert "cat" == h.owner("bob", key)
    ticket = h.sets("bob", key, b"new")
    h.passes(0.1)
    assert None is h.outcome("bob", ticket)

    h.releases("ann")
    h.settles()
    assert Status.HIT is result_of(h, "bob", ticket).status
    assert b"new" == h.value("cat", key)


def test_what_nobody_waits_for_any_more_is_not_done(host):
    h, keys = waiting(host)
    ticket = h.sets("bob", keys[0], b"new")
    h.tells("bob", Forsake(ticket))
    h.releases("ann")
    h.settles()

    assert None is h.outcome("bob", ticket)
    assert b"v" + keys[0] == h.value("bob", keys[0])


def test_who_leaves_answers_what_it_has_held_back(host):
    h, keys = waiting(host)
    read, write = h.gets("bob", keys[0]), h.sets("bob", keys[1], b"new")
    h.leaves("bob")

    assert Closed() == h.outcome("bob", read) == h.outcome("bob", write)


def test_one_key_that_waits_holds_back_the_read_of_many(host):
    h, keys = waiting(host)
    mine = h.keys("bob", 1, owner="ann")[0]
    h.sets("ann", mine, b"here")
    both = GetKeys(tuple((key, key_hash(key)) for key in (mine, keys[0])))
    ticket = h.asks("bob", both)
    h.passes(0.1)
    assert None is h.outcome("bob", ticket)

    h.releases("ann")
    h.settles()
    found = [got.value for got in h.outcome("bob", ticket).found]
    assert [b"here", b"v" + keys[0]] == found
