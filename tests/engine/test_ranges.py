"""Whose arena a partition's entries come from, and when a newcomer opens at all."""

from __future__ import annotations

import pytest

from meshcache.codec.messages import Verb
from meshcache.engine.handover import STRANGERS
from meshcache.engine.ops import Results
from meshcache.engine.readers import BEAT
from meshcache.hashing import key_hash, partition_of
from meshcache.placement.placement import Placement
from meshcache.store.view import View

PATIENCE = 0.5
"""Half of the default `request_timeout`."""


def alone(host, **settings):
    h = host(**settings)
    h.starts("ann")
    h.settles()
    return h


def joined(host, *names, **settings):
    """Nodes that came one after the other, ann first."""
    h = alone(host, **settings)
    for name in names:
        h.starts(name)
        h.settles()
    return h


def fill(h, name, count=40):
    """Write keys at *name*, whoever owns them; return them."""
    keys = [b"c\0f%x" % number for number in range(count)]
    for key in keys:
        h.sets(name, key, b"v" + key)
    h.passes(0.1)
    return keys


def seen(h, name, keys):
    """What a process reads by its lanes."""
    return [h.nodes[name].lane(key, h.now) for key in keys]


def written(keys):
    return [b"v" + key for key in keys]


def granted(h, name):
    return sum(h.nodes[name].granted(p) for p in range(16_384))


# --- lanes ------------------------------------------------------------------------


def test_a_sibling_reads_what_another_owns_without_a_message(host):
    h = joined(host, "bob")
    keys = fill(h, "ann")

    assert written(keys) == seen(h, "ann", keys) == seen(h, "bob", keys)
    assert 0 == h["ann"].stats()["engine"]["served_hits"]


def test_what_one_writes_ends_what_another_keeps_near_at_once(host):
    h = joined(host, "bob")
    key = h.keys("bob", 1)[0]
    h.direct("bob", Verb.SET, key, b"old")
    assert b"old" == h.nodes["ann"].lane(key, h.now) == h.nodes["ann"].kept(key, h.now)

    h.direct("bob", Verb.SET, key, b"new")
    assert None is h.nodes["ann"].kept(key, h.now)
    assert b"new" == h.nodes["ann"].lane(key, h.now)


def test_a_member_whose_arena_is_not_seen_is_asked(host):
    h = joined(host)
    h.unseen.add("bob")
    h.starts("bob")
    h.settles()
    key = h.keys("bob", 1)[0]
    h.sets("bob", key, b"v")
    ticket = h.gets("ann", key)
    h.passes(0.0)

    assert None is h["ann"].ranges.lane(h.nodes["bob"].me.node_id)
    assert [None] == seen(h, "ann", [key])
    assert b"v" == h.outcome("ann", ticket).found[0].value


def test_an_arena_of_an_earlier_process_of_an_id_is_not_read(host):
    h = alone(host)
    member = h.nodes["ann"].me

    assert None is not h._lane(member)
    assert None is h._lane(member._replace(epoch=member.epoch + 1))


def test_a_member_that_is_gone_is_read_no_more(host):
    h = joined(host, "bob")
    bob = h.nodes["bob"].me.node_id
    assert None is not h["ann"].ranges.lane(bob)
    h.leaves("bob")
    h.passes(1.0)

    assert None is h["ann"].ranges.lane(bob)


# --- survivors --------------------------------------------------------------------


@pytest.mark.slow
def test_entries_survive_whoever_comes_and_goes(host):
    h = joined(host)
    keys = fill(h, "ann")
    for name in ("bob", "cat"):
        h.starts(name)
        h.settles()
        assert written(keys) == seen(h, name, keys)
    h.leaves("ann")
    h.passes(1.0)
    h.settles()
    assert written(keys) == seen(h, "cat", keys)
    h.crashes("bob")
    h.buries("bob")
    h.claim("bob")
    h.settles()
    assert written(keys) == seen(h, "cat", keys)
    h.starts("dan")
    h.settles()

    assert written(keys) == seen(h, "dan", keys)


@pytest.mark.slow
def test_entries_survive_when_all_have_died(host):
    h = joined(host, "bob", "cat")
    keys = fill(h, "ann")
    for name in ("ann", "bob", "cat"):
        h.crashes(name)
    orphans = [h.claim(name) for name in ("ann", "bob", "cat")]
    h.starts("dan", orphans=orphans)
    h.settles()

    assert written(keys) == seen(h, "dan", keys)


@pytest.mark.slow
def test_what_the_dead_had_given_away_is_not_taken_from_them(host):
    h = alone(host)
    keys = fill(h, "ann")
    h.starts("bob")
    h.settles()
    moved = [key for key in keys if h.owner("ann", key) == "bob"]
    for key in moved:
        h.direct("bob", Verb.DELETE, key)
    h.crashes("ann")
    h.crashes("bob")
    h.starts("cat", orphans=[h.claim("ann")])
    h.settles()

    assert moved
    assert [None] * len(moved) == seen(h, "cat", moved)
    assert written(set(keys) - set(moved)) == seen(h, "cat", set(keys) - set(moved))


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.02, 0.1])
def test_one_that_comes_just_after_a_death_loses_nothing(host, wait):
    """ann has claimed bob's arena and knows it, cat has yet to hear; then dan comes.

    dan meets bob as a member, too, by cat's word.
    """
    h = joined(host, "bob", "cat")
    keys = fill(h, "ann", 200)
    h.crashes("bob")
    h.holds("cat")
    orphan = h.claim("bob")
    h.passes(wait)
    h.starts("dan", orphans=[orphan], found=False)
    h.knows("dan", "cat")
    h.knows("dan", "bob")
    h.discovers("dan", "ann", "cat")
    h.passes(0.01)
    h.buries("bob")
    h.releases("cat")
    h.settles()

    for name in ("ann", "cat", "dan"):
        assert written(keys) == seen(h, name, keys)


@pytest.mark.slow
def test_an_orphan_is_not_asked_for_what_a_far_node_has_held_since(host):
    h = alone(host)
    keys = fill(h, "ann")
    h.unseen.add("far")
    h.starts("far")
    h.settles()
    h.crashes("ann")
    h.buries("ann")
    h.passes(1.0)
    h.settles()
    for key in keys:
        h.sets("far", key, b"new")
    orphan = h.claim("ann")
    h.starts("cat", orphans=[orphan])
    h.settles()
    moved = [key for key in keys if h.owner("cat", key) == "cat"]

    assert moved
    assert [None] * len(moved) == seen(h, "cat", moved)


def test_an_orphan_is_not_asked_for_what_a_living_one_has_held_since(host):
    h = alone(host)
    keys = fill(h, "ann")
    h.crashes("ann")
    orphan = h.claim("ann")
    h.starts("bob")
    h.settles()
    h.passes(0.1)
    h.starts("cat", orphans=[orphan])
    h.settles()
    moved = [key for key in keys if h.owner("cat", key) == "cat"]

    assert moved
    assert [None] * len(moved) == seen(h, "cat", moved)


@pytest.mark.slow
def test_what_was_written_on_another_host_is_not_older_here(host):
    """What ann has of a partition is worth nothing once a far node has held it."""
    h = joined(host, "bob")
    keys = fill(h, "ann", 300)
    h.unseen.add("far")
    h.starts("far")
    h.settles()
    theirs = [key for key in keys if h.owner("ann", key) == "far"]
    assert theirs
    for key in theirs:
        h.sets("far", key, b"new")
    h.starts("cat")
    h.settles()
    h.leaves("far")
    h.passes(1.0)
    h.settles()

    for name in ("ann", "bob", "cat"):
        assert [None] * len(theirs) == seen(h, name, theirs)


@pytest.mark.slow
def test_what_a_far_node_held_is_not_asked_of_the_one_before(host):
    """cat was here when bob gave it to far, and gets it from far."""
    h = joined(host, "bob")
    keys = fill(h, "ann", 400)
    h.starts("cat", found=False)
    h.passes(0.02)
    h.unseen.add("far")
    h.starts("far", found=False)
    h.discovers("far", "ann", "bob")
    h.passes(0.05)
    h.discovers("cat")
    h.settles()
    theirs = [key for key in keys if h.owner("cat", key) == "far"]
    for key in theirs:
        h.sets("far", key, b"new")
    h.leaves("far")
    h.passes(1.0)
    h.settles()
    moved = [key for key in theirs if h.owner("cat", key) == "cat"]

    assert moved
    assert [None] * len(moved) == seen(h, "cat", moved)


@pytest.mark.slow
def test_of_several_that_have_held_a_partition_the_last_is_asked(host):
    h = alone(host)
    keys = fill(h, "ann")
    for number, name in enumerate(("bob", "cat", "dan", "eve")):
        h.starts(name)
        h.settles()
        for key in keys:
            h.sets(name, key, b"%d" % number)
        h.passes(0.1)
        h.leaves(name)
        h.passes(1.0)
        h.settles()
        assert [b"%d" % number] * len(keys) == seen(h, "ann", keys)


@pytest.mark.slow
def test_the_dead_that_was_last_keeps_those_before_it_from_being_asked(host):
    """bob held it, then ann, who is gone without a trace; cat must not ask bob."""
    h = joined(host, "bob")
    cat = h.starts("cat")
    h.settles()
    keys = h.keys("cat", 400, owner="bob")
    for key in keys:
        h.direct("bob", Verb.SET, key, b"old")
    h.starts("dan")
    h.settles()
    theirs = [key for key in keys if h.owner("cat", key) == "dan"]
    assert theirs
    for key in theirs:
        h.direct("dan", Verb.SET, key, b"new")
    dan = h.nodes["dan"].me.node_id
    cat.ranges.part(dan, h.now)
    hashed = key_hash(theirs[0])

    partition = partition_of(hashed)
    held = cat.ranges._holders(partition, None)

    assert ["ann", "bob"] == [v.node_id.decode().strip(".") for v in held.values()]
    assert None is cat.ranges._source(partition, None, held)


def test_one_that_is_seen_alive_and_then_found_dead_is_one_and_the_same(host):
    """Counted as two it would look like a tie, and nobody would be asked."""
    h = joined(host, "bob")
    cat = h.starts("cat")
    h.settles()
    key = h.keys("cat", 1, owner="bob")[0]
    h.direct("bob", Verb.SET, key, b"v")
    h.crashes("bob")
    cat.ranges.neighbours((), [h.claim("bob")])

    partition = partition_of(key_hash(key))
    source = cat.ranges._source(partition, None, cat.ranges._holders(partition, None))

    assert source is not None
    assert h.nodes["bob"].me.node_id == source.node_id


@pytest.mark.slow
def test_who_held_a_partition_last_itself_has_what_it_had(host):
    """A newcomer that dies at once takes nothing with it that others have."""
    h = joined(host, "bob")
    keys = fill(h, "ann", 200)
    h.starts("cat", found=False)
    cat = h["cat"]
    before = {p for p in range(16_384) if h.nodes["ann"].granted(p)}
    h.knows("ann", "cat")
    h.knows("bob", "cat")
    assert before != {p for p in range(16_384) if h.nodes["ann"].granted(p)}
    h.crashes("cat")
    h.passes(0.05)
    h.claim("cat")
    h.buries("cat")
    h.settles()

    assert not any(cat.store.granted(p) for p in before)
    assert before == {p for p in range(16_384) if h.nodes["ann"].granted(p)}
    assert written(keys) == seen(h, "ann", keys) == seen(h, "bob", keys)


@pytest.mark.slow
@pytest.mark.parametrize("later", [0, 1])
def test_one_that_held_it_last_itself_does_not_ask_who_did_before(host, later):
    """Nor does it, when two seals are of the same moment."""
    h = joined(host, "bob")
    members = [h.nodes[name].me for name in ("ann", "bob")]
    table = Placement().update([*members, h.member("cat")])
    cat = h.member("cat").node_id
    mine = h.keys("ann", 400)
    key = next(k for k in mine if table.owner_of(key_hash(k)).node_id == cat)
    partition = partition_of(key_hash(key))
    h.direct("ann", Verb.SET, key, b"v")
    h.starts("cat")
    h.settles()
    ranges, store = h["cat"].ranges, h["cat"].store
    held = ranges._holders(partition, None)
    at = h["ann"].store.sealed_at(partition)
    assert at
    assert not ranges._was_last(partition, held)
    assert ranges.lane(members[0].node_id) is ranges._source(partition, None, held)
    store._parts.seals[partition] = at + later

    assert None is ranges._source(partition, None, held)
    assert bool(later) is ranges._was_last(partition, held)


# --- deposed ----------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_what_another_has_sealed_here_is_open_again_after_a_beat(host, times):
    h = alone(host)
    h.passes(2 * BEAT)
    view = View(h.nodes["ann"].memory)
    for partition in range(times):
        view.depose([partition], h.now)
        assert 16_383 == granted(h, "ann")
        tenure = h["ann"].ranges.tenures[partition]
        h.passes(2 * BEAT)

        assert tenure.ended
        assert 16_384 == granted(h, "ann")


def test_who_asks_for_what_another_has_sealed_here_has_it_opened_at_once(host):
    h = alone(host)
    key = fill(h, "ann", 1)[0]
    h.passes(0.1)
    partition = partition_of(key_hash(key))
    View(h.nodes["ann"].memory).depose([partition], h.now)
    assert h["ann"].ranges.deposed(key_hash(key))
    tenure = h["ann"].ranges.tenures[partition]
    h.gets("ann", key)

    assert tenure.ended
    assert h.nodes["ann"].granted(partition)
    assert not h["ann"].ranges.deposed(key_hash(key))


# --- newcomers --------------------------------------------------------------------


def test_a_newcomer_opens_nothing_until_discovery_has_spoken(host):
    h = host()
    h.starts("ann", found=False)
    h.passes(PATIENCE / 2)
    assert 0 == granted(h, "ann")
    assert all(tenure.ended for tenure in h["ann"].ranges.tenures)
    ticket = h.gets("ann", b"c\0k")
    assert None is h.outcome("ann", ticket)

    h.discovers("ann")
    h.passes(0.02)
    assert 16_384 == granted(h, "ann")
    assert Results((None,)) == h.outcome("ann", ticket)
    assert h["ann"].settled


def test_a_newcomer_that_hears_nothing_opens_when_patience_ends(host):
    h = host()
    h.starts("ann", found=False)
    h.passes(PATIENCE + 0.02)

    assert 16_384 == granted(h, "ann")


def test_only_the_tenures_of_what_moved_end_when_another_comes(host):
    h = alone(host)
    before = list(h["ann"].ranges.tenures)
    assert not any(tenure.ended for tenure in before)
    h.starts("bob")
    h.settles()

    moved = [h.would_own("bob", partition) for partition in range(16_384)]
    assert {True, False} == set(moved)
    assert moved == [tenure.ended for tenure in before]


def test_a_newcomer_that_finds_others_opens_only_what_they_give_it(host):
    h = alone(host)
    keys = fill(h, "ann")
    h.starts("bob", found=False)
    h.passes(0.1)
    assert 0 == granted(h, "bob")
    assert 16_384 == granted(h, "ann")
    h.discovers("bob")
    h.settles()

    assert 16_384 == granted(h, "ann") + granted(h, "bob")
    assert written(keys) == seen(h, "bob", keys)


def test_a_living_arena_that_membership_has_not_met_is_waited_for(host):
    h = alone(host)
    fill(h, "ann")
    h.starts("bob", found=False)
    h.holds("ann")
    h.discovers("bob")
    h.passes(STRANGERS - 0.1)
    assert 0 == granted(h, "bob")
    assert 16_384 == granted(h, "ann")

    h.releases("ann")
    h.settles()
    assert 16_384 == granted(h, "ann") + granted(h, "bob")


def test_one_that_expects_nobody_and_sees_somebody_opens_in_the_end(host):
    """It marks everything as its own, takes that back, and marks it once more."""
    h = alone(host)
    h.holds("ann")
    bob = h.starts("bob", found=False, expecting=False)
    h.passes(STRANGERS + 0.2)

    assert bob.settled
    assert 16_384 == granted(h, "bob")


def test_one_that_cannot_be_met_is_not_waited_for_for_ever(host):
    h = alone(host)
    key = fill(h, "ann", 1)[0]
    h.starts("bob", found=False)
    h.holds("ann")
    h.discovers("bob", "bob")
    h.passes(STRANGERS + 0.1)
    h.passes(0.1)

    assert 16_384 == granted(h, "bob")
    assert written([key]) == seen(h, "bob", [key])


def test_an_arena_whose_owner_ended_before_it_was_met_is_let_go(host):
    h = alone(host)
    keys = fill(h, "ann")
    ann = h.nodes["ann"].me.node_id
    bob = h.starts("bob", found=False)
    assert None is not bob.ranges.lane(ann)
    h.crashes("ann")
    h.claim("ann")
    h.discovers("bob")
    h.settles()

    assert written(keys) == seen(h, "bob", keys)
    assert None is bob.ranges.lane(ann)


@pytest.mark.slow
def test_a_newcomer_of_two_that_start_at_once_takes_nothing_twice(host):
    h = host()
    for name in ("ann", "bob", "cat"):
        h.starts(name, found=False)
    for name in ("ann", "bob", "cat"):
        h.discovers(name)
    h.settles()

    assert 16_384 == sum(granted(h, name) for name in h.nodes)


# --- loads ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_load_that_began_before_a_partition_opened_brings_nothing(host):
    h = joined(host, "cat")
    h.holds("ann")
    h.starts("bob", found=False)
    h.discovers("bob", "cat")
    h.passes(PATIENCE + 0.05)
    key = next(
        key
        for key in (b"c\0l%x" % number for number in range(10_000))
        if h.owner("bob", key) == "bob" and h.owner("ann", key) == "ann"
    )
    lease = h.outcome("bob", h.loads("bob", key)).lease
    h.direct("ann", Verb.SET, key, b"new")
    h.releases("ann")
    h.settles()
    h.delivers("bob", lease, b"old")

    assert b"new" == h.value("bob", key)
