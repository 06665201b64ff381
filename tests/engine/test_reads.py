"""Reading without loading: here, at the owners, and when they do not answer."""

from __future__ import annotations

from itertools import islice

import pytest

from meshcache.clock import NEVER
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Ack,
    Clear,
    Fetch,
    Filled,
    Found,
    Gossip,
    NotOwner,
    Pending,
    Ping,
    Reason,
    Refused,
    Status,
    Survey,
    Surveyed,
    Values,
)
from meshcache.engine.effects import Complete, Send
from meshcache.engine.ops import Got, Results, Tier

OTHERS = ("ann", "bob", "eve")
DISOWNED = Found(Status.NOT_OWNER, b"", 0, 0)


# --- here -------------------------------------------------------------------------


def test_what_is_here_is_answered_at_once(story):
    s = story()
    s.set(b"c\0k", b"v")
    ticket = s.get(b"c\0k")

    (got,) = s.outcome(ticket).found
    assert (b"v", NEVER, Tier.HOST) == (got.value, got.expires, got.tier)
    assert got.stamp.stands
    assert [Complete] == [type(effect) for effect in s.effects]


def test_what_is_nowhere_is_none(story):
    s = story()

    assert Results((None,)) == s.outcome(s.get(b"c\0k"))


def test_no_keys_are_no_work(story):
    s = story(*OTHERS)
    ticket = s.get()

    assert Results(()) == s.outcome(ticket)
    assert [] == s.sent(Fetch)


def test_what_has_expired_is_none(story):
    s = story()
    s.set(b"c\0k", b"v", ttl_ms=500)

    assert s.now + 0.5 == s.outcome(s.get(b"c\0k")).found[0].expires
    s.passes(0.5)
    assert Results((None,)) == s.outcome(s.get(b"c\0k"))


def test_an_observer_alone_finds_nothing_and_does_not_wait(story):
    s = story(weight=0)

    assert Results((None,)) == s.outcome(s.get(b"c\0k"))


# --- at the owners ----------------------------------------------------------------


def test_a_key_of_a_peer_is_asked_of_its_owner(story):
    s = story(*OTHERS)
    key = s.key("bob")
    ticket = s.get(key)

    (fetch,) = s.sent(Fetch, "bob")
    assert (5, s.engine.ranges.table.epoch, 0, 1000, False, (key,)) == fetch[1:]
    assert [Send] == [type(effect) for effect in s.effects]
    assert s.waits(ticket)

    s.hears(Values(fetch.rid, (Found(Status.HIT, b"v", 2000, 77),)))
    (got,) = s.outcome(ticket).found
    assert Got(b"v", s.now + 2.0, 77, Tier.PEER, got.stamp) == got
    assert got.stamp.stands


def test_a_hundred_keys_of_three_owners_are_three_requests_and_one_answer(story):
    s = story(*OTHERS)
    keys = list(islice(s.keys("me", *OTHERS), 100))
    for key in keys[::4]:
        s.set(key, b"mine " + key)
    ticket = s.get(*keys)

    fetches = s.sent(Fetch)
    assert 3 == len(fetches)
    assert sorted(set(keys) - set(keys[::4])) == sorted(
        key for fetch in fetches for key in fetch.keys
    )
    for name in OTHERS:
        (fetch,) = [f for f in fetches if s.owner(f.keys[0]) == name]
        assert {name} == {s.owner(key) for key in fetch.keys}

    for left, fetch in zip((2, 1, 0), reversed(fetches), strict=True):
        s.answers(fetch, *(b"theirs " + key for key in fetch.keys))
        assert bool(left) == s.waits(ticket)
    values = [got.value for got in s.outcome(ticket).found]
    assert values == [
        (b"mine " if index % 4 == 0 else b"theirs ") + key
        for index, key in enumerate(keys)
    ]


def test_the_same_key_twice_has_two_answers(story):
    s = story("ann")
    key = s.key("ann")
    ticket = s.get(key, key)
    s.answers(*s.sent(Fetch), b"v", b"v")

    assert [b"v", b"v"] == [got.value for got in s.outcome(ticket).found]


def test_more_keys_than_a_batch_holds_go_as_several_requests(story):
    s = story("ann", max_batch_keys=10)
    keys = list(islice(s.keys("ann"), 25))
    ticket = s.get(*keys)

    fetches = s.sent(Fetch)
    assert [10, 10, 5] == [len(fetch.keys) for fetch in fetches]
    for fetch in fetches:
        s.answers(fetch, *fetch.keys)
    assert keys == [got.value for got in s.outcome(ticket).found]


def test_an_answer_that_stops_early_is_continued(story):
    s = story("ann")
    keys = list(islice(s.keys("ann"), 3))
    ticket = s.get(*keys)
    s.answers(*s.sent(Fetch), b"0")
    (rest,) = s.sent(Fetch)
    assert tuple(keys[1:]) == rest.keys
    s.answers(rest, b"1", None)

    assert [b"0", b"1", None] == [got and got.value for got in s.outcome(ticket).found]


@pytest.mark.parametrize(
    "answer",
    [
        lambda rid: Refused(rid, Reason.OVERLOADED),
        lambda rid: NotOwner(rid, b"", 0),
        lambda rid: Filled(rid, b"v", NO_EXPIRY, 1, loaded=True),
        lambda rid: Values(rid, ()),
    ],
)
def test_an_answer_that_is_no_use_is_a_miss(story, answer):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    s.hears(answer(s.sent(Fetch)[0].rid))

    assert Results((None,)) == s.outcome(ticket)
    assert [] == s.sent(Fetch)


def test_an_answer_with_too_many_results_loses_the_rest(story):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    s.answers(*s.sent(Fetch), b"v", b"w", b"x")

    assert [b"v"] == [got.value for got in s.outcome(ticket).found]


def test_there_are_only_so_many_requests_under_way(story):
    s = story("ann", max_requests=2)
    keys = list(islice(s.keys("ann"), 3))
    waiting = [s.get(key) for key in keys[:2]]
    ticket = s.get(keys[2])

    assert Results((None,)) == s.outcome(ticket)
    assert [] == s.sent(Fetch)
    assert all(map(s.waits, waiting))
    assert 2 == s.count("calls_open")


# --- a node that serves -----------------------------------------------------------


def test_a_peer_gets_what_is_here_what_is_not_and_what_is_not_ours(story):
    s = story("ann")
    here, gone = islice(s.keys("me"), 2)
    s.set(here, b"v", ttl_ms=3000)
    version = s.outcome(s.get(here)).found[0].version
    s.passes(1.0)
    s.fetch(here, gone, s.key("ann"), rid=9)

    hit = Found(Status.HIT, b"v", 2000, version)
    miss = Found(Status.MISS, b"", 0, 0)
    assert [Values(9, (hit, miss, DISOWNED))] == s.replied(Values)
    assert 1 == s.count("served_hits") == s.count("served_misses")
    assert 1 == s.count("not_owner_sent")


def test_an_answer_stops_when_it_has_grown_too_long(story):
    s = story("ann", max_batch_bytes="64KiB")
    keys = list(islice(s.keys("me"), 4))
    for key in keys:
        s.set(key, bytes(30_000))
    s.fetch(*keys)

    assert [2] == [len(values.results) for values in s.replied(Values)]


def test_an_answer_has_at_least_one_value_however_long(story):
    s = story("ann", max_batch_bytes="64KiB")
    key = s.key("me")
    s.set(key, bytes(200_000))
    s.fetch(key, key)

    assert [1] == [len(values.results) for values in s.replied(Values)]


@pytest.mark.parametrize("epoch", [4, 6])
def test_what_is_meant_for_another_process_is_refused(story, epoch):
    s = story("ann")
    for rid, message in enumerate(
        (Fetch(0, epoch, 0, 0, 1, False, (b"c\0k",)), Clear(1, epoch, 1, "c"))
    ):
        s.hears(message)
        assert [Refused(rid, Reason.WRONG_EPOCH)] == s.replied(Refused)
    assert 2 == s.count("wrong_epoch")
    assert 0 == s.count("readers")


# --- disagreement -----------------------------------------------------------------


def moving_key(s, member, before: str, after: str) -> bytes:
    """A key that goes from one owner to another when *member* is heard of."""
    keys = islice(s.keys(before), 400)
    after_all = type(s)(*s.peers)
    after_all.meets(member)
    return next(key for key in keys if after_all.owner(key) == after)


def test_a_key_its_owner_disowns_is_asked_of_the_next_and_never_of_a_third(
    story, member
):
    s = story("ann", "bob")
    key = moving_key(s, member("zoe"), "ann", "zoe")
    ticket = s.get(key)
    (first,) = s.sent(Fetch, "ann")
    s.meets(member("zoe"))
    s.hears(Values(first.rid, (DISOWNED,)))
    (second,) = s.sent(Fetch, "zoe")

    assert (0, 1) == (first.hop, second.hop)
    assert s.waits(ticket)
    s.hears(Values(second.rid, (DISOWNED,)))
    assert [] == s.sent(Fetch)
    assert Results((None,)) == s.outcome(ticket)


def test_a_key_that_has_moved_twice_is_not_chased(story, member):
    after = story("ann", "bob", "zoe"), story("ann", "bob", "zoe", "yan")
    s = story("ann", "bob")
    key = next(
        k for k in s.keys("ann") if [t.owner(k) for t in after] == ["zoe", "yan"]
    )
    ticket = s.get(key)
    (first,) = s.sent(Fetch, "ann")
    s.meets(member("zoe"))
    s.hears(Values(first.rid, (DISOWNED,)))
    (second,) = s.sent(Fetch, "zoe")
    s.meets(member("yan"))
    s.hears(Values(second.rid, (DISOWNED,)))

    assert [] == s.sent(Fetch)
    assert Results((None,)) == s.outcome(ticket)


def test_a_redirected_value_is_not_to_be_kept_near(story, member):
    s = story("ann", "bob")
    key = moving_key(s, member("zoe"), "ann", "zoe")
    ticket = s.get(key)
    (first,) = s.sent(Fetch)
    s.meets(member("zoe"))
    s.hears(Values(first.rid, (DISOWNED,)))
    s.answers(*s.sent(Fetch), b"v")

    (got,) = s.outcome(ticket).found
    assert (b"v", None) == (got.value, got.stamp)


def test_a_disowned_key_that_has_become_ours_is_looked_up_here(story, member):
    s = story("ann", "bob")
    observer = member("ann", weight=0, incarnation=1)
    key = moving_key(s, observer, "ann", "me")
    ticket = s.get(key)
    (first,) = s.sent(Fetch)
    s.meets(observer)
    s.set(key, b"v")
    s.hears(Values(first.rid, (DISOWNED,)))

    assert [b"v"] == [got.value for got in s.outcome(ticket).found]


def test_an_owner_that_disowns_while_our_table_stands_is_not_asked_again(story):
    s = story("ann", "bob")
    ticket = s.get(s.key("ann"))
    s.hears(Values(s.sent(Fetch)[0].rid, (DISOWNED,)))

    assert [] == s.sent(Fetch)
    assert Results((None,)) == s.outcome(ticket)
    assert 1 == s.count("not_owner_received")


def test_of_many_keys_only_those_disowned_are_asked_for_again(story, member):
    s = story("ann", "bob")
    moves = moving_key(s, member("zoe"), "ann", "zoe")
    stays = moving_key(s, member("zoe"), "ann", "ann")
    ticket = s.get(moves, stays)
    (first,) = s.sent(Fetch)
    s.meets(member("zoe"))
    hit = Found(Status.HIT, b"stayed", NO_EXPIRY, 7)
    s.hears(Values(first.rid, (DISOWNED, hit)))
    (second,) = s.sent(Fetch)
    assert (moves,) == second.keys
    s.answers(second, b"moved")

    assert [b"moved", b"stayed"] == [got.value for got in s.outcome(ticket).found]


# --- an owner that does not answer ------------------------------------------------


def test_a_silent_owner_costs_one_time_out_and_then_nothing(story):
    s = story("ann", "bob")
    one, two = islice(s.keys("ann"), 2)
    ticket = s.get(one)
    s.passes(0.99)
    assert s.waits(ticket)
    s.passes(0.02)

    assert Results((None,)) == s.outcome(ticket)
    later = s.get(two)
    assert Results((None,)) == s.outcome(later)
    assert [] == s.sent(Fetch)
    assert 1 == s.count("timeouts")


def test_a_silent_owner_is_probed_at_once(story):
    s = story("ann", "bob")
    s.get(s.key("ann"))
    s.passes(1.0)

    assert [s.peers["ann"].node_id] == [
        effect.message.target
        for effect in s.effects
        if isinstance(effect, Send) and isinstance(effect.message, Ping)
    ]


def silenced(story):
    s = story("ann", "bob")
    s.get(s.key("ann"))
    (fetch,) = s.sent(Fetch)
    s.passes(1.0)
    return s, fetch


def is_asked(s) -> bool:
    s.get(s.key("ann"))
    return bool(s.sent(Fetch))


def test_an_avoided_owner_is_tried_once_its_probe_was_answered(story):
    s, _ = silenced(story)
    ann = s.peers["ann"]
    s.hears(Ack(1, ann, ann.node_id, 0, ()))
    (survey,) = s.sent(Survey)

    # That it lives was said on the other plane: a read shall not be the one to try.
    assert not is_asked(s)
    s.hears(Surveyed(survey.rid, 0))

    assert is_asked(s)


def test_an_avoided_owner_is_tried_once_it_has_probed_us(story):
    s, _ = silenced(story)
    s.hears(Ping(1, s.peers["ann"], s.me.node_id, s.me.epoch, 0, ()))
    (survey,) = s.sent(Survey)
    s.hears(Surveyed(survey.rid, 0))

    assert is_asked(s)


def test_an_avoided_owner_that_lives_but_does_not_answer_stays_avoided(story):
    s, _ = silenced(story)
    ann = s.peers["ann"]
    s.hears(Ack(1, ann, ann.node_id, 0, ()))
    assert 1 == len(s.sent(Survey))
    s.hears(Ack(2, ann, ann.node_id, 0, ()))
    assert [] == s.sent(Survey)
    s.passes(1.01)

    assert not is_asked(s)


def test_an_avoided_owner_that_could_not_be_tried_is_tried_at_the_next_sign(story):
    s = story("ann", "bob", max_requests=1)
    s.get(s.key("ann"))
    s.passes(1.0)
    ann = s.peers["ann"]
    s.get(s.key("bob"))
    (busy,) = s.sent(Fetch, "bob")
    s.hears(Ack(1, ann, ann.node_id, 0, ()))
    assert [] == s.sent(Survey)
    s.answers(busy, b"v")
    s.hears(Ack(2, ann, ann.node_id, 0, ()))

    assert 1 == len(s.sent(Survey, "ann"))


def test_the_ack_of_another_does_not_clear_it(story):
    s, _ = silenced(story)
    bob = s.peers["bob"]
    s.hears(Ack(1, bob, s.peers["ann"].node_id, 0, ()))

    assert not is_asked(s)


def test_hearsay_does_not_clear_it(story):
    s, _ = silenced(story)
    s.hears(Gossip(s.peers["bob"], (s.peers["ann"],)))

    assert not is_asked(s)


def test_a_late_answer_is_counted_and_dropped(story):
    s, fetch = silenced(story)
    s.answers(fetch, b"late")

    assert [] == s.effects
    assert 1 == s.count("late_answers")


def test_an_answer_counts_once(story):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    (fetch,) = s.sent(Fetch)
    s.answers(fetch, b"v")
    s.answers(fetch, b"w")

    assert b"v" == s.outcome(ticket).found[0].value
    assert 1 == s.count("late_answers")


def test_a_broken_connection_ends_what_waits_for_it_at_once(story):
    s = story("ann", "bob")
    waits, other = s.get(s.key("ann")), s.get(s.key("bob"))
    s.breaks("ann")

    assert Results((None,)) == s.outcome(waits)
    assert s.waits(other)
    assert not is_asked(s)
    assert 1 == s.count("lost")


def test_a_dead_owner_ends_what_waits_for_it_at_once(story):
    s = story("ann", "bob")
    ticket = s.get(s.key("ann"))
    s.buries("ann")

    assert Results((None,)) == s.outcome(ticket)
    assert {"me", "bob"} == {s.owner(b"c\0i%x" % number) for number in range(50)}


def test_a_pending_note_puts_the_time_out_off(story):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    (fetch,) = s.sent(Fetch)
    s.passes(0.9)
    s.hears(Pending((fetch.rid, 12345)))
    s.passes(0.9)
    assert s.waits(ticket)
    s.passes(0.2)

    assert Results((None,)) == s.outcome(ticket)
