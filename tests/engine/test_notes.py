"""How a reader hears what has moved, and how it finds out that it did not hear."""

from __future__ import annotations

from itertools import islice

import pytest

from meshcache.codec.messages import (
    Fetch,
    Found,
    Invalidate,
    Item,
    Pending,
    Status,
    Values,
    Verb,
)
from meshcache.engine.effects import Reply
from meshcache.engine.readers import BEAT, READER_IDLE, SILENCE
from meshcache.hashing import bucket_of, key_hash


def touched(s, key: bytes) -> None:
    """A write by this process, which every reader must hear of."""
    s.write(Verb.SET, Item(key, b"v", -1, 0))


def note(s, number: int, *keys: bytes, everything: bool = False, **changes) -> None:
    """Hear from ann that the buckets of *keys* have moved."""
    ann = s.peers["ann"]
    buckets = tuple(bucket_of(key_hash(key)) for key in keys)
    message = Invalidate(ann.node_id, ann.epoch, number, everything, buckets)
    s.hears(message._replace(**changes))


def read(s, key: bytes):
    """Read one key of a peer's and return the stamp that came with it."""
    ticket = s.get(key)
    (fetch,) = s.sent(Fetch)
    s.answers(fetch, b"v")
    return s.outcome(ticket).found[0].stamp


# --- the owner tells --------------------------------------------------------------


def test_each_reader_has_its_own_numbers_from_one(story):
    s = story("ann", "bob")
    key = s.key("me")
    s.fetch(key, route="r1")
    touched(s, key)
    s.fetch(key, route="r2")
    touched(s, key)

    assert [2] == [m.number for m in s.replied(Invalidate, "r1")]
    assert [1] == [m.number for m in s.replied(Invalidate, "r2")]


def test_only_who_has_read_is_told(story):
    s = story("ann")
    touched(s, s.key("me"))

    assert [] == s.replied(Invalidate)


def test_whoever_asks_for_a_load_reads_too(story):
    s = story("ann")
    s.asked_to_load(s.key("me"), "ann")
    touched(s, s.key("me"))

    assert 1 == len(s.replied(Invalidate, "ann"))


def test_a_reader_hears_a_sign_of_life_at_every_beat(story):
    s = story("ann")
    s.fetch(s.key("me"), route="r1")
    touched(s, s.key("me"))
    s.passes(3 * BEAT)

    assert [(1, False, ())] * 3 == [m[2:] for m in s.replied(Invalidate, "r1")]


def test_a_reader_that_is_gone_is_told_nothing(story):
    s = story("ann")
    s.fetch(s.key("me"), route="r1")
    s.engine.route_lost("r1")
    touched(s, s.key("me"))

    assert [] == s.replied(Invalidate)
    assert 0 == s.count("readers")


def test_a_reader_that_asks_for_nothing_any_more_is_dropped(story):
    s = story("ann")
    s.fetch(s.key("me"), route="r1")
    s.passes(READER_IDLE + 2 * BEAT)
    assert 0 == s.count("readers")
    touched(s, s.key("me"))

    assert [] == s.replied(Invalidate)


def test_a_reader_that_is_dropped_is_told_to_trust_nothing(story):
    """Without it, one that comes back before it misses the beats would see the number
    it knows, although it was not told of what was written in between."""
    s = story("ann")
    s.fetch(s.key("me"), route="r1")
    s.passes(READER_IDLE + 2 * BEAT)

    assert (1, True, ()) == s.replied(Invalidate, "r1")[-1][2:]
    assert 1 == sum(m.everything for m in s.replied(Invalidate, "r1"))


def test_a_reader_that_goes_on_asking_is_kept(story):
    s = story()
    for _ in range(3):
        s.fetch(s.key("me"), route="r1")
        s.passes(READER_IDLE - BEAT)

    assert 1 == s.count("readers")
    assert not any(m.everything for m in s.replied(Invalidate))


def test_readers_trust_nothing_of_who_gets_back_what_it_had(story, member):
    """Whoever had it meanwhile may have taken writes that they never heard of."""
    s = story()
    s.fetch(s.key("me"), route="r1")
    s.meets(member("ann"))
    assert [] == s.replied(Invalidate)
    s.buries("ann")

    assert [(1, True, ())] == [m[2:] for m in s.replied(Invalidate, "r1")]


def test_notes_come_before_everything_else_and_once(story):
    s = story("ann")
    mine, theirs = s.key("me"), s.key("ann")
    s.fetch(mine, route="r1")
    s.write(Verb.SET, Item(mine, b"v", -1, 0), Item(theirs, b"v", -1, 0))

    assert isinstance(s.effects[0], Reply)
    assert isinstance(s.effects[0].message, Invalidate)
    s.get(mine)
    assert [] == s.replied(Invalidate)


# --- the reader hears -------------------------------------------------------------


def test_a_note_ends_what_was_read_of_its_buckets_and_nothing_else(story):
    s = story("ann", "bob")
    moves, stays = islice(s.keys("ann"), 2)
    stamps = [read(s, moves), read(s, stays), read(s, s.key("bob"))]
    note(s, 1, moves)

    assert [False, True, True] == [stamp.stands for stamp in stamps]
    assert s.stamp(moves).stands
    assert 0 == s.count("invalidation_gaps")


def test_a_note_during_a_read_wins_over_its_answer(story):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    (fetch,) = s.sent(Fetch)
    note(s, 1, s.key("ann"))
    s.answers(fetch, b"older")

    assert not s.outcome(ticket).found[0].stamp.stands


def test_notes_in_their_order_are_no_gap(story):
    s = story("ann")
    keys = list(islice(s.keys("ann"), 4))
    stamp = read(s, keys[3])
    for number, key in enumerate(keys[:3], 1):
        note(s, number, key)
    note(s, 3)

    assert stamp.stands
    assert 0 == s.count("invalidation_gaps")
    assert 4 == s.count("invalidations_received")


@pytest.mark.parametrize("number", [0, 1, 3, 4, 2**63])
def test_a_note_out_of_its_order_ends_all_that_was_read_of_that_peer(story, number):
    s = story("ann", "bob")
    keys = list(islice(s.keys("ann"), 2))
    mine, theirs = read(s, keys[1]), read(s, s.key("bob"))
    note(s, 1, keys[0])
    note(s, number, keys[0])

    assert [False, True] == [mine.stands, theirs.stands]
    assert 1 == s.count("invalidation_gaps")


@pytest.mark.parametrize(("number", "stands"), [(1, True), (0, False), (2, False)])
def test_a_beat_tells_whether_something_was_missed(story, number, stands):
    s = story("ann")
    one, two = islice(s.keys("ann"), 2)
    stamp = read(s, two)
    note(s, 1, one)
    note(s, number)

    assert stands == stamp.stands


def test_after_a_gap_the_numbers_go_on_from_there(story):
    s = story("ann")
    one, two = islice(s.keys("ann"), 2)
    read(s, two)
    note(s, 7, one)
    stamp = read(s, two)
    note(s, 8, one)

    assert stamp.stands
    assert 1 == s.count("invalidation_gaps")


def test_everything_ends_all(story):
    s = story("ann")
    stamp = read(s, s.key("ann"))
    note(s, 1, everything=True)

    assert not stamp.stands
    assert 0 == s.count("invalidation_gaps")


def test_a_note_of_an_earlier_process_says_nothing(story):
    s = story("ann")
    stamp = read(s, s.key("ann"))
    note(s, 1, s.key("ann"), sender_epoch=4)

    assert stamp.stands
    assert 0 == s.count("invalidations_received")


def test_a_note_of_somebody_unknown_says_nothing(story):
    s = story("ann")
    note(s, 1, s.key("ann"), sender=b"nobody")

    assert 0 == s.count("invalidations_received")


# --- the reader hears nothing -----------------------------------------------------


def test_silence_ends_all_that_was_read(story):
    s = story("ann")
    stamp = read(s, s.key("ann"))
    s.passes(SILENCE)

    assert not stamp.stands


def test_beats_keep_it_standing(story):
    s = story("ann")
    stamp = read(s, s.key("ann"))
    for _ in range(20):
        s.passes(BEAT)
        note(s, 0)

    assert stamp.stands


def test_what_is_read_after_a_silence_may_stand_again(story):
    s = story("ann")
    read(s, s.key("ann"))
    s.passes(3 * SILENCE)
    stamp = read(s, s.key("ann"))
    note(s, 0)
    s.passes(BEAT)

    assert stamp.stands


def test_other_messages_are_no_beat(story):
    s = story("ann")
    key = s.key("ann")
    stamp = read(s, key)
    for _ in range(4):
        s.get(key)
        s.answers(*s.sent(Fetch), b"v")
        s.hears(Pending((1,)))
        s.passes(SILENCE / 3)

    assert not stamp.stands


def test_a_broken_connection_ends_all_that_was_read(story):
    s = story("ann", "bob")
    stamps = read(s, s.key("ann")), read(s, s.key("bob"))
    s.breaks("ann")

    assert [False, True] == [stamp.stands for stamp in stamps]


def test_after_a_broken_connection_numbers_begin_anew(story):
    s = story("ann")
    one, two = islice(s.keys("ann"), 2)
    read(s, two)
    note(s, 1, one)
    s.breaks("ann")
    stamp = s.stamp(two)
    note(s, 1, one)

    assert stamp.stands


def test_a_change_of_owner_ends_what_was_read_under_the_one_before(story, member):
    s = story("ann", "bob")
    after = story("ann", "bob", "zoe")
    moves = next(k for k in s.keys("ann") if after.owner(k) == "zoe")
    stays = next(k for k in s.keys("ann") if after.owner(k) == "ann")
    stamps = read(s, moves), read(s, stays)
    s.meets(member("zoe"))

    assert [False, True] == [stamp.stands for stamp in stamps]


def test_the_death_of_the_owner_ends_what_was_read_of_it(story):
    s = story("ann", "bob")
    stamp = read(s, s.key("ann"))
    s.buries("ann")

    assert not stamp.stands


def test_a_suspicion_does_not(story, member):
    s = story("ann", "bob")
    stamp = read(s, s.key("ann"))
    s.meets(member("ann", incarnation=1))

    assert stamp.stands


def test_what_a_second_process_of_that_id_says_is_heard(story, member):
    """A node id is drawn once, so only a broken or hostile node has two epochs."""
    s = story("ann", "bob")
    s.meets(member("ann", epoch=6))
    key = s.key("ann")
    ticket = s.get(key)
    (fetch,) = s.sent(Fetch)
    s.hears(Values(fetch.rid, (Found(Status.HIT, b"v", -1, 1),)))
    stamp = s.outcome(ticket).found[0].stamp
    note(s, 1, key)

    assert 6 == fetch.epoch
    assert not stamp.stands
