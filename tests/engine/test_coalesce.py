"""Single reads that wait for company: who waits, when they go, and what each gets."""

from __future__ import annotations

from itertools import count, islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import Fetch, Found, Invalidate, Status, Values, Write
from meshcache.codec.messages import Written as WriteDone
from meshcache.engine.ops import Closed, Forsake, Results, Tier
from meshcache.hashing import bucket_of, key_hash

WINDOW = 0.01
DISOWNED = Found(Status.NOT_OWNER, b"", 0, 0)


@pytest.fixture
def waiting(story):
    """An engine whose single reads wait, among the peers of these names."""

    def make(*names, **settings):
        return story(*names, coalesce_window=WINDOW, **settings)

    return make


def value_of(s, ticket):
    (got,) = s.outcome(ticket).found
    return got and got.value


# --- who waits, and for how long --------------------------------------------------


def test_single_reads_of_one_owner_go_as_one_request(waiting):
    s = waiting("ann")
    keys = list(islice(s.keys("ann"), 64))
    tickets = [s.get(key) for key in keys]
    assert [] == s.effects

    s.passes(WINDOW)
    (fetch,) = s.sent(Fetch, "ann")
    assert tuple(keys) == fetch.keys
    s.answers(fetch, *keys)
    assert keys == [value_of(s, ticket) for ticket in tickets]
    assert {Tier.PEER} == {s.outcome(t).found[0].tier for t in tickets}


def test_the_window_begins_with_the_first_and_is_not_prolonged(waiting):
    s = waiting("ann")
    one, two, three = islice(s.keys("ann"), 3)
    s.get(one)
    s.passes(0.6 * WINDOW)
    s.get(two)
    s.passes(0.3 * WINDOW)
    assert [] == s.sent(Fetch)
    s.passes(0.1 * WINDOW)
    assert [(one, two)] == [fetch.keys for fetch in s.sent(Fetch)]

    s.get(three)
    s.passes(0.9 * WINDOW)
    assert [] == s.sent(Fetch)
    s.passes(0.1 * WINDOW)
    assert [(three,)] == [fetch.keys for fetch in s.sent(Fetch)]


def test_each_owner_is_asked_by_itself(waiting):
    s = waiting("ann", "bob")
    theirs = list(islice(s.keys("ann", "bob"), 4))
    for key in theirs:
        s.get(key)
    s.passes(WINDOW)

    assert [tuple(theirs[0::2])] == [f.keys for f in s.sent(Fetch, "ann")]
    assert [tuple(theirs[1::2])] == [f.keys for f in s.sent(Fetch, "bob")]


def test_what_is_ours_does_not_wait(waiting):
    s = waiting("ann")
    key = s.key("me")
    s.set(key, b"v")

    assert b"v" == value_of(s, s.get(key))


@pytest.mark.slow
def test_what_lies_in_sight_does_not_wait(host):
    h = host(coalesce_window=0.1)
    h.starts("ann")
    h.settles()
    h.starts("bob")
    h.settles()
    (key,) = h.keys("ann", 1, owner="bob")
    h.sets("ann", key, b"v")
    ticket = h.gets("ann", key)
    h.passes(0.05)

    assert b"v" == h.outcome("ann", ticket).found[0].value


def test_a_read_of_many_keys_does_not_wait(waiting):
    s = waiting("ann")
    keys = tuple(islice(s.keys("ann"), 2))
    s.get(*keys)

    assert [keys] == [fetch.keys for fetch in s.sent(Fetch)]


def test_without_a_window_nobody_waits(story):
    s = story("ann")
    s.get(s.key("ann"))

    assert 1 == len(s.sent(Fetch))


def test_an_avoided_owner_is_not_waited_with(waiting):
    s = waiting("ann")
    s.breaks("ann")

    assert Results((None,)) == s.outcome(s.get(s.key("ann")))


# --- what is asked ----------------------------------------------------------------


def test_a_key_that_several_want_is_asked_once(waiting):
    s = waiting("ann")
    one, two = islice(s.keys("ann"), 2)
    tickets = [s.get(key) for key in (one, two, one)]
    s.passes(WINDOW)

    (fetch,) = s.sent(Fetch)
    assert (one, two) == fetch.keys
    s.answers(fetch, b"1", b"2")
    assert [b"1", b"2", b"1"] == [value_of(s, ticket) for ticket in tickets]


def test_a_key_that_has_been_asked_for_already_is_asked_again(waiting):
    s = waiting("ann")
    key = s.key("ann")
    first = s.get(key)
    s.passes(WINDOW)
    (earlier,) = s.sent(Fetch)
    second = s.get(key)
    s.passes(WINDOW)
    (later,) = s.sent(Fetch)
    s.answers(earlier, b"old")
    assert s.waits(second)

    s.answers(later, b"new")
    assert [b"old", b"new"] == [value_of(s, first), value_of(s, second)]


def test_as_many_as_a_request_holds_go_at_once(waiting):
    s = waiting("ann", max_batch_keys=2)
    one, two, three = islice(s.keys("ann"), 3)
    s.get(one)
    s.get(two)
    assert [(one, two)] == [fetch.keys for fetch in s.sent(Fetch)]

    s.passes(0.5 * WINDOW)
    s.get(three)
    s.passes(0.9 * WINDOW)
    assert [] == s.sent(Fetch)
    s.passes(0.1 * WINDOW)
    assert [(three,)] == [fetch.keys for fetch in s.sent(Fetch)]


def test_those_who_wait_for_one_key_are_bounded_too(waiting):
    s = waiting("ann", max_batch_keys=2)
    key = s.key("ann")
    s.get(key)
    s.get(key)

    assert [(key,)] == [fetch.keys for fetch in s.sent(Fetch)]


def test_as_many_bytes_as_a_request_holds_go_at_once(waiting):
    s = waiting("ann", max_batch_bytes="64KiB")
    long = (b"c\0b" + bytes([n]) * 32_768 for n in range(256))
    one, two = islice((key for key in long if s.owner(key) == "ann"), 2)
    for _ in range(3):
        s.get(one)
        assert [] == s.sent(Fetch)
    s.get(two)

    assert [one, two] == [key for fetch in s.sent(Fetch) for key in fetch.keys]


def test_what_nobody_waits_for_any_more_is_not_asked(waiting):
    s = waiting("ann")
    one, two = islice(s.keys("ann"), 2)
    tickets = [s.get(key) for key in (one, one, two)]
    s.tells(Forsake(tickets[0]))
    s.tells(Forsake(tickets[2]))
    s.passes(WINDOW)

    (fetch,) = s.sent(Fetch)
    assert (one,) == fetch.keys
    s.answers(fetch, b"1")
    assert [True, False, True] == [s.waits(ticket) for ticket in tickets]


def test_nobody_is_asked_for_nothing(waiting):
    s = waiting("ann")
    s.tells(Forsake(s.get(s.key("ann"))))
    s.passes(WINDOW)

    assert [] == s.sent(Fetch)


# --- what comes of it -------------------------------------------------------------


def test_each_has_what_was_found_of_its_own_key(waiting):
    s = waiting("ann")
    hit, miss, disowned = islice(s.keys("ann"), 3)
    tickets = [s.get(key) for key in (hit, miss, disowned)]
    s.passes(WINDOW)
    (fetch,) = s.sent(Fetch)
    found = Found(Status.HIT, b"v", NO_EXPIRY, 7), Found(Status.MISS, b"", 0, 0)
    s.hears(Values(fetch.rid, (*found, DISOWNED)))

    assert [b"v", None, None] == [value_of(s, ticket) for ticket in tickets]


def test_a_silent_owner_costs_all_of_them_one_time_out(waiting):
    s = waiting("ann", request_timeout=1)
    tickets = [s.get(key) for key in islice(s.keys("ann"), 3)]
    s.passes(WINDOW + 1)

    assert [None] * 3 == [value_of(s, ticket) for ticket in tickets]
    assert 1 == s.count("timeouts")


def test_an_owner_that_is_lost_meanwhile_is_done_without(waiting):
    s = waiting("ann")
    ticket = s.get(s.key("ann"))
    s.breaks("ann")
    s.passes(WINDOW)

    assert Results((None,)) == s.outcome(ticket)


def test_a_key_that_becomes_ours_meanwhile_is_found_here(waiting):
    s = waiting("ann")
    key = s.key("ann")
    ticket = s.get(key)
    s.buries("ann")
    s.set(key, b"v")
    s.passes(WINDOW)

    assert b"v" == value_of(s, ticket)
    assert [] == s.sent(Fetch)


def test_a_key_that_becomes_anothers_meanwhile_is_asked_of_that_one(waiting):
    s = waiting("ann", "bob")
    keys = list(islice(s.keys("ann"), 50))
    tickets = {key: s.get(key) for key in keys}
    s.buries("ann")
    heirs = {key: s.owner(key) for key in keys}
    s.passes(WINDOW)

    (fetch,) = s.sent(Fetch)
    assert [k for k in keys if heirs[k] == "bob"] == list(fetch.keys)
    s.answers(fetch, *fetch.keys)
    assert all(value_of(s, tickets[key]) == key for key in fetch.keys)
    assert not any(s.waits(ticket) for ticket in tickets.values())


def test_who_leaves_answers_all_who_wait(waiting):
    s = waiting("ann", "bob")
    tickets = [s.get(key) for key in islice(s.keys("ann", "bob"), 4)]
    s.tells(Forsake(tickets[0]))
    s.leaves()

    assert s.waits(tickets[0])
    assert [Closed()] * 3 == [s.outcome(ticket) for ticket in tickets[1:]]
    s.passes(WINDOW)
    assert [] == s.sent(Fetch)


# --- freshness --------------------------------------------------------------------


def test_what_is_written_meanwhile_goes_out_ahead_and_is_read(waiting):
    s = waiting("ann")
    key = s.key("ann")
    ticket = s.get(key)
    s.set(key, b"new")
    (write,) = s.sent(Write)
    assert [] == s.sent(Fetch)
    s.hears(WriteDone(write.rid, (Found(Status.HIT, b"", 0, 0),)))
    s.passes(WINDOW)
    s.answers(*s.sent(Fetch), b"new")

    (got,) = s.outcome(ticket).found
    assert (b"new", True) == (got.value, got.stamp.stands)


@pytest.mark.parametrize("sent", [False, True])
def test_a_write_elsewhere_ends_what_is_kept_near_once_it_was_asked(waiting, sent):
    s = waiting("ann")
    key = s.key("ann")
    ticket = s.get(key)
    fetches = []
    if sent:
        s.passes(WINDOW)
        fetches = s.sent(Fetch)
    ann = s.peers["ann"]
    bucket = bucket_of(key_hash(key))
    s.hears(Invalidate(ann.node_id, ann.epoch, 1, False, (bucket,)))
    if not sent:
        s.passes(WINDOW)
        fetches = s.sent(Fetch)
    s.answers(*fetches, b"v")

    (got,) = s.outcome(ticket).found
    assert (not sent) == got.stamp.stands


class Owner:
    """A peer that does what it was sent, in that order, when the story lets it."""

    def __init__(self):
        self.inbox = []
        self.stored = {}

    def hears(self, s):
        self.inbox += [m for m in s.sent(object) if isinstance(m, Fetch | Write)]
        s.effects = []

    def answers(self, s):
        inbox, self.inbox = self.inbox, []
        for message in inbox:
            if isinstance(message, Fetch):
                s.answers(message, *(self.stored.get(key) for key in message.keys))
                continue
            for item in message.items:
                self.stored[item.key] = item.value
            done = Found(Status.HIT, b"", 0, 0)
            s.hears(WriteDone(message.rid, (done,) * len(message.items)))


@pytest.fixture
def ann(waiting):
    """One engine for all examples, its peer, and the numbers that it writes."""
    return waiting("ann", max_batch_keys=4), Owner(), count()


ACTS = st.sampled_from(["get", "get", "set", "pass", "answer", "forsake"])


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=st.lists(st.tuples(ACTS, st.integers(0, 3)), max_size=40))
def test_a_process_reads_its_own_writes_and_each_read_is_answered_once(ann, done):
    s, owner, numbers = ann
    keys = list(islice(s.keys("ann"), 4))
    reads, writes, forsaken = {}, {}, set()
    floor = next(numbers)
    for act, which in done:
        key = keys[which]
        if act == "get":
            known = [n for n, (k, t) in writes.items() if k == key and not s.waits(t)]
            reads[s.get(key)] = key, max(known, default=-1)
        elif act == "set":
            number = next(numbers)
            writes[number] = key, s.set(key, b"%d" % number)
        elif act == "pass":
            s.passes(0.4 * WINDOW)
        elif act == "forsake" and reads:
            forsaken.add(max(reads))
            s.tells(Forsake(max(reads)))
        elif act == "answer":
            owner.answers(s)
        owner.hears(s)
    s.passes(WINDOW)
    owner.hears(s)
    owner.answers(s)

    assert 0 == len(s.engine._reads.coalescer)
    for ticket, (key, known) in reads.items():
        assert len(s.outcomes[ticket]) == 1 or ticket in forsaken
        for outcome in s.outcomes[ticket]:
            (got,) = outcome.found
            seen = -1 if got is None else int(got.value)
            assert seen >= known
            assert seen < floor or writes[seen][0] == key
