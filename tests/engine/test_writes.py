"""Writing: at the owner in one order, at peers with an outcome that is told."""

from __future__ import annotations

from itertools import islice

import pytest

from meshcache.clock import NEVER
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Clear,
    Found,
    Invalidate,
    Item,
    Leased,
    Load,
    Reason,
    Refused,
    Status,
    Verb,
    Write,
    Written,
)
from meshcache.codec.values import MsgpackCodec
from meshcache.engine.effects import Reply
from meshcache.engine.ops import (
    ClearCache,
    Granted,
    Results,
    Unreached,
    WriteResult,
    WriteResults,
)
from meshcache.hashing import bucket_of, key_hash

KEY = b"c\0k"
DONE = WriteResult(Status.HIT, b"")
NOTHING = WriteResult(Status.MISS, b"")
HIT = Found(Status.HIT, b"", 0, 0)
DISOWNED = Found(Status.NOT_OWNER, b"", 0, 0)
number = MsgpackCodec().encode


def stored(s, key: bytes = KEY):
    (got,) = s.outcome(s.get(key)).found
    return got and (got.value, got.expires)


def result(s, ticket: int) -> WriteResult | Unreached:
    (only,) = s.outcome(ticket).results
    return only


def item(value: bytes = b"", ttl_ms: int = NO_EXPIRY, delta: int = 0, key=KEY) -> Item:
    return Item(key, value, ttl_ms, delta)


# --- at the owner -----------------------------------------------------------------


def test_set_stores_and_replaces(story):
    s = story()

    assert DONE == result(s, s.set(KEY, b"v", ttl_ms=2500))
    assert (b"v", s.now + 2.5) == stored(s)
    assert DONE == result(s, s.set(KEY, b"w"))
    assert (b"w", NEVER) == stored(s)


def test_set_with_no_time_to_live_removes_what_was_there(story):
    s = story()
    s.set(KEY, b"v")

    assert DONE == result(s, s.set(KEY, b"w", ttl_ms=0))
    assert stored(s) is None


def test_add_leaves_what_is_there(story):
    s = story()

    assert DONE == result(s, s.write(Verb.ADD, item(b"v")))
    assert NOTHING == result(s, s.write(Verb.ADD, item(b"w")))
    assert (b"v", NEVER) == stored(s)


def test_touch_changes_the_time_and_nothing_else(story):
    s = story()

    assert NOTHING == result(s, s.write(Verb.TOUCH, item(ttl_ms=500)))
    s.set(KEY, b"v")
    assert DONE == result(s, s.write(Verb.TOUCH, item(ttl_ms=500)))
    assert (b"v", s.now + 0.5) == stored(s)
    assert DONE == result(s, s.write(Verb.TOUCH, item(ttl_ms=0)))
    assert stored(s) is None


def test_delete_says_whether_something_was_there(story):
    s = story()
    s.set(KEY, b"v")

    assert DONE == result(s, s.write(Verb.DELETE, item()))
    assert NOTHING == result(s, s.write(Verb.DELETE, item()))
    assert stored(s) is None


def test_incr_counts_and_keeps_the_expiry(story):
    s = story()
    s.set(KEY, number(40), ttl_ms=5000)
    expires = s.now + 5.0
    s.passes(1.0)
    ticket = s.write(Verb.INCR, item(number(0), ttl_ms=9999, delta=2))

    assert WriteResult(Status.HIT, number(42)) == result(s, ticket)
    assert (number(42), expires) == stored(s)


def test_incr_of_nothing_starts_at_the_value_given(story):
    s = story()
    ticket = s.write(Verb.INCR, item(number(10), ttl_ms=3000, delta=-1))

    assert WriteResult(Status.HIT, number(9)) == result(s, ticket)
    assert (number(9), s.now + 3.0) == stored(s)


def test_incr_that_is_not_to_be_kept_is_only_told(story):
    s = story()
    ticket = s.write(Verb.INCR, item(number(10), ttl_ms=0, delta=1))

    assert WriteResult(Status.HIT, number(11)) == result(s, ticket)
    assert stored(s) is None


def test_incr_goes_beyond_64_bits(story):
    s = story()
    s.set(KEY, number(2**64))
    ticket = s.write(Verb.INCR, item(number(0), delta=1))

    assert number(2**64 + 1) == result(s, ticket).number


@pytest.mark.parametrize(
    "odd", [number("7"), number(True), number(1.5), number(None), b"\xd9", b""]
)
def test_incr_refuses_what_is_no_number_and_leaves_it(story, odd):
    s = story()
    s.set(KEY, odd)
    ticket = s.write(Verb.INCR, item(number(0), delta=1))

    assert WriteResult(Status.NOT_A_NUMBER, b"") == result(s, ticket)
    assert (odd, NEVER) == stored(s)


def test_a_value_over_the_limit_is_refused_and_what_was_there_stays(story):
    s = story(max_value_bytes="1KiB")
    s.set(KEY, b"v")

    assert WriteResult(Status.TOO_LARGE, b"") == result(s, s.set(KEY, bytes(2000)))
    assert (b"v", NEVER) == stored(s)


def test_no_items_are_no_work(story):
    s = story("ann")

    assert WriteResults(()) == s.outcome(s.write(Verb.SET))


@pytest.mark.parametrize(
    ("verb", "moves"),
    [
        (Verb.SET, True),
        (Verb.ADD, True),
        (Verb.TOUCH, False),
        (Verb.DELETE, True),
        (Verb.INCR, True),
    ],
)
def test_a_write_of_a_new_key_ends_what_was_read_before(story, verb, moves):
    """A delete of nothing too: somebody may just be loading it."""
    s = story()
    before = s.stamp(KEY)
    s.write(verb, item(number(1), delta=1))

    assert moves != before.stands


@pytest.mark.parametrize("verb", [Verb.ADD, Verb.INCR])
def test_a_write_that_changed_nothing_lets_what_was_read_stand(story, verb):
    s = story()
    s.set(KEY, b"no number")
    before = s.stamp(KEY)
    s.write(verb, item(b"v", delta=1))

    assert before.stands


# --- at peers ---------------------------------------------------------------------


def test_many_keys_go_as_one_request_to_each_owner(story):
    s = story("ann", "bob")
    keys = list(islice(s.keys("me", "ann", "bob"), 30))
    ticket = s.write(Verb.SET, *(item(key, key=key) for key in keys))

    writes = s.sent(Write)
    assert 2 == len(writes)
    for write in writes:
        assert 10 == len(write.items)
        assert (5, 0, 1000, Verb.SET) == (write.epoch, *write[3:6])
        s.hears(Written(write.rid, (HIT,) * 10))
    assert (DONE,) * 30 == s.outcome(ticket).results


def test_the_number_of_an_incr_comes_back(story):
    s = story("ann")
    ticket = s.write(Verb.INCR, item(number(0), delta=1, key=s.key("ann")))
    found = Found(Status.HIT, number(8), 0, 0)
    s.hears(Written(s.sent(Write)[0].rid, (found,)))

    assert WriteResult(Status.HIT, number(8)) == result(s, ticket)


def test_a_batch_is_cut_by_keys_and_by_bytes(story):
    s = story("ann", max_batch_keys=4, max_batch_bytes="64KiB")
    small = [item(b"", key=key) for key in islice(s.keys("ann"), 6)]
    s.write(Verb.SET, *small)
    assert [4, 2] == [len(write.items) for write in s.sent(Write)]

    large = [item(bytes(30_000), key=key) for key in islice(s.keys("ann"), 3)]
    s.write(Verb.SET, *large)
    assert [2, 1] == [len(write.items) for write in s.sent(Write)]


def test_this_process_reads_its_own_writes(story):
    """The owner's note travels by itself, so the writer does not wait for it."""
    s = story("ann")
    key = s.key("ann")
    before = s.stamp(key)
    s.set(key, b"v")
    (write,) = s.sent(Write)
    assert not before.stands
    during = s.stamp(key)
    s.hears(Written(write.rid, (HIT,)))

    assert not during.stands
    assert s.stamp(key).stands


def test_a_write_keeps_newcomers_out_of_a_load_that_began_before_it(story):
    s = story("ann")
    key = s.key("ann")
    s.load(key)
    s.set(key, b"v")
    s.load(key)

    assert 1 == len(s.sent(Load))


def test_a_silent_owner_leaves_the_outcome_unknown(story):
    s = story("ann")
    ticket = s.set(s.key("ann"), b"v")
    s.passes(1.0)

    assert Unreached("ann:2", unknown=True) == result(s, ticket)


def test_a_broken_connection_leaves_the_outcome_unknown(story):
    s = story("ann")
    ticket = s.set(s.key("ann"), b"v")
    s.breaks("ann")

    assert Unreached("ann:2", unknown=True) == result(s, ticket)


def test_a_write_to_an_avoided_owner_was_surely_not_done(story):
    s = story("ann")
    s.breaks("ann")
    ticket = s.set(s.key("ann"), b"v")

    assert Unreached("ann:2", unknown=False) == result(s, ticket)
    assert [] == s.sent(Write)


def test_a_write_that_nobody_owns_was_surely_not_done(story):
    s = story(weight=0)

    assert Unreached("", unknown=False) == result(s, s.set(KEY, b"v"))


@pytest.mark.parametrize("reason", Reason)
def test_a_refused_write_was_surely_not_done(story, reason):
    s = story("ann")
    ticket = s.set(s.key("ann"), b"v")
    s.hears(Refused(s.sent(Write)[0].rid, reason))

    assert Unreached("ann:2", unknown=False) == result(s, ticket)


@pytest.mark.parametrize("results", [(), (HIT, HIT)])
def test_an_answer_of_the_wrong_length_leaves_the_outcome_unknown(story, results):
    s = story("ann")
    ticket = s.set(s.key("ann"), b"v")
    s.hears(Written(s.sent(Write)[0].rid, results))

    assert Unreached("", unknown=True) == result(s, ticket)


def test_a_disowned_write_goes_to_the_next_owner_and_never_to_a_third(story, member):
    s = story("ann", "bob")
    after = story("ann", "bob", "zoe")
    key = next(k for k in s.keys("ann") if after.owner(k) == "zoe")
    ticket = s.set(key, b"v")
    (first,) = s.sent(Write, "ann")
    s.meets(member("zoe"))
    s.hears(Written(first.rid, (DISOWNED,)))
    (second,) = s.sent(Write, "zoe")
    assert (0, 1) == (first.hop, second.hop)
    s.hears(Written(second.rid, (DISOWNED,)))

    assert [] == s.sent(Write)
    assert Unreached("zoe:2", unknown=False) == result(s, ticket)


def test_a_disowned_write_of_a_key_that_has_become_ours_is_done_here(story, member):
    s = story("ann", "bob")
    observer = member("ann", weight=0, incarnation=1)
    after = story("bob")
    key = next(k for k in s.keys("ann") if after.owner(k) == "me")
    ticket = s.set(key, b"v")
    (first,) = s.sent(Write)
    s.meets(observer)
    s.hears(Written(first.rid, (DISOWNED,)))

    assert DONE == result(s, ticket)
    assert (b"v", NEVER) == stored(s, key)


def test_a_write_to_a_dead_owner_ends_at_once(story):
    s = story("ann", "bob")
    ticket = s.set(s.key("ann"), b"v")
    s.buries("ann")

    assert Unreached("ann:2", unknown=True) == result(s, ticket)


# --- a node that serves -----------------------------------------------------------


def test_a_peer_writes_what_is_ours_and_hears_of_what_is_not(story):
    s = story("ann")
    mine, theirs = s.key("me"), s.key("ann")
    s.told_to(Verb.SET, item(b"v", key=mine), item(b"w", key=theirs))

    assert [Written(1, (HIT, DISOWNED))] == s.replied(Written)
    assert (b"v", NEVER) == stored(s, mine)
    assert 1 == s.count("not_owner_sent")


def test_readers_hear_of_a_write_before_the_writer_has_its_answer(story):
    s = story("ann")
    key = s.key("me")
    s.fetch(key, route="reader")
    s.told_to(Verb.SET, item(b"v", key=key), route="writer")

    note, answer = s.effects
    bucket = bucket_of(key_hash(key))
    assert note == Reply("reader", Invalidate(s.me.node_id, 5, 1, False, (bucket,)))
    assert answer == Reply("writer", Written(1, (HIT,)))


def test_a_write_of_many_keys_is_one_note(story):
    s = story("ann")
    keys = list(islice(s.keys("me"), 9))
    s.fetch(keys[0], route="reader")
    s.told_to(Verb.SET, *(item(b"v", key=key) for key in keys))

    (note,) = s.replied(Invalidate)
    assert tuple(sorted(bucket_of(key_hash(key)) for key in keys)) == note.buckets


# --- clear ------------------------------------------------------------------------


def test_clear_goes_to_every_member_that_may_hold_something(story, member):
    s = story("ann", "bob")
    s.meets(member("eye", weight=0))
    ticket = s.asks(ClearCache("c"))

    assert [1, 1, 0] == [len(s.sent(Clear, name)) for name in ("ann", "bob", "eye")]
    for clear in s.sent(Clear):
        assert (5, 1000, "c") == clear[1:]
        assert s.waits(ticket)
        s.hears(Written(clear.rid, (HIT,)))
    assert WriteResults((DONE,) * 3) == s.outcome(ticket)


def test_clear_forgets_the_cache_and_its_parts_and_no_other(story):
    s = story()
    for key in (b"c\0k", b"c|f\0k", b"cc\0k", b"d\0k"):
        s.set(key, b"v")
    s.asks(ClearCache("c"))

    assert [None, None] == [stored(s, b"c\0k"), stored(s, b"c|f\0k")]
    assert stored(s, b"cc\0k")
    assert stored(s, b"d\0k")


def test_clear_ends_what_was_read_here_and_from_peers(story):
    s = story("ann")
    stamps = [s.stamp(s.key("me")), s.stamp(s.key("ann"))]
    s.asks(ClearCache("c"))

    assert [False, False] == [stamp.stands for stamp in stamps]


def test_clear_keeps_loads_under_way_out_of_the_store(story):
    s = story("ann")
    key = s.key("me")
    s.asked_to_load(key, "ann")
    (leased,) = s.replied(Leased)
    s.asks(ClearCache("c"))
    assert isinstance(s.outcome(s.load(key)), Granted)

    assert leased.token != s.outcome(s.tickets).lease


def test_a_peer_clears_and_the_readers_hear_of_it_first(story):
    s = story("ann")
    s.passes(2 * s.config.request_timeout)
    key = s.key("me")
    s.set(key, b"v")
    s.fetch(key, route="reader")
    s.hears(Clear(4, 5, 1000, "c"), "writer")

    everything = Invalidate(s.me.node_id, 5, 1, True, ())
    assert [
        Reply("reader", everything),
        Reply("writer", Written(4, (HIT,))),
    ] == s.effects
    assert Results((None,)) == s.outcome(s.get(key))


def test_clear_tells_who_was_not_reached(story):
    s = story("ann", "bob")
    s.breaks("ann")
    ticket = s.asks(ClearCache("c"))
    s.passes(1.0)

    assert {
        Unreached("ann:2", unknown=False),
        Unreached("bob:2", unknown=True),
        DONE,
    } == set(s.outcome(ticket).results)


def test_a_cache_of_any_name_can_be_cleared(story):
    """A name that is no UTF-8 comes from no node of ours; it must do no harm."""
    s = story()
    s.hears(Clear(4, 5, 1000, "\ud800"))

    assert [Written(4, (HIT,))] == s.replied(Written)
