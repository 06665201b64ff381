"""Loading what is missing: who loads, who waits, and what becomes of the value."""

from __future__ import annotations

from itertools import islice

import pytest

from meshcache.clock import NEVER
from meshcache.codec.envelope import Envelope
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Abandon,
    Cancel,
    Clear,
    Failed,
    Filled,
    Fulfil,
    Gossip,
    Item,
    Leased,
    Load,
    LoaderName,
    Loaders,
    NotOwner,
    Pending,
    Ping,
    Reason,
    Refused,
    Values,
    Verb,
)
from meshcache.engine.effects import Reply, RunLoader, Send
from meshcache.engine.leases import NO_LEASE, RECURSIVE
from meshcache.engine.ops import (
    Deliver,
    Drop,
    Failure,
    Forsake,
    Got,
    Granted,
    Raised,
    Register,
    RunEnded,
    Tier,
    TimedOut,
)
from meshcache.hashing import bucket_of, key_hash
from meshcache.model import State

FAILURE = Failure("app:Oops", "no", "Traceback", b"args")
NAME = LoaderName("app:load", 3)


def value_of(s, key: bytes) -> bytes | None:
    """What is stored here."""
    (got,) = s.outcome(s.get(key)).found
    return got and got.value


def granted(s, ticket: int) -> Granted:
    outcome = s.outcome(ticket)
    assert isinstance(outcome, Granted)
    return outcome


def delivered(s, ticket: int, value: bytes = b"v", ttl_ms: int = NO_EXPIRY) -> None:
    """The caller that was granted a lease has loaded."""
    s.tells(Deliver(granted(s, ticket).lease, value, ttl_ms))


# --- asked here, and the key is ours ----------------------------------------------


def test_what_is_here_is_no_load(story):
    s = story()
    s.set(b"c\0k", b"v")
    got = s.outcome(s.load(b"c\0k"))

    assert (b"v", NEVER, Tier.HOST) == (got.value, got.expires, got.tier)
    assert 0 == s.count("flights")


def test_the_first_to_miss_gets_the_lease_and_the_others_its_value(story):
    s = story()
    first, *others = [s.load(b"c\0k") for _ in range(3)]
    lease = granted(s, first)
    assert Tier.FILL is lease.tier
    assert lease.stamp.stands
    assert all(map(s.waits, others))

    s.tells(Deliver(lease.lease, b"v", 2000))
    for ticket in others:
        got = s.outcome(ticket)
        assert (b"v", s.now + 2.0, Tier.FILL) == (got.value, got.expires, got.tier)
        assert got.stamp.stands
    assert b"v" == value_of(s, b"c\0k")
    assert (1, 2, 0) == tuple(map(s.count, ("flights", "joined", "flights_open")))


def test_a_fill_is_no_write(story):
    """What others hold near of the keys in its bucket stays good."""
    s = story("ann")
    key = s.key("me")
    s.fetch(key, route="reader")
    before = s.stamp(key)
    delivered(s, s.load(key))

    assert before.stands
    assert [] == s.effects


def test_a_value_that_is_not_to_be_kept_is_for_those_who_wait(story):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    delivered(s, first, ttl_ms=0)

    assert b"v" == s.outcome(second).value
    assert value_of(s, b"c\0k") is None


def test_a_value_over_the_limit_is_for_those_who_wait(story):
    s = story(max_value_bytes="1KiB")
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    delivered(s, first, bytes(2000))

    assert bytes(2000) == s.outcome(second).value
    assert value_of(s, b"c\0k") is None


def test_an_error_is_what_every_waiter_hears(story):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    s.tells(Drop(granted(s, first).lease, first, FAILURE))

    assert Raised(FAILURE) == s.outcome(second)
    assert isinstance(s.outcome(s.load(b"c\0k")), Granted)


def test_a_lease_is_of_one_load(story):
    s = story()
    ticket = s.load(b"c\0k")
    delivered(s, ticket)
    delivered(s, ticket, b"again")

    assert b"v" == value_of(s, b"c\0k")


# --- the lease passes -------------------------------------------------------------


def test_a_cancelled_caller_passes_its_lease_on(story):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    s.tells(Drop(granted(s, first).lease, first, None))

    assert granted(s, second).lease == granted(s, first).lease
    assert 1 == s.count("leases_passed")


def test_a_caller_that_is_gone_passes_its_lease_on(story):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    s.tells(Forsake(first))

    assert isinstance(s.outcome(second), Granted)


def test_a_caller_that_runs_late_passes_its_lease_on(story):
    s = story()
    s.load(b"c\0k", timeout=5.0)
    second = s.load(b"c\0k", timeout=30.0)
    s.passes(4.9)
    assert s.waits(second)
    s.passes(0.5)

    assert isinstance(s.outcome(second), Granted)


def test_a_value_that_comes_after_its_lease_has_passed_is_welcome(story):
    s = story()
    first, second, third = (
        s.load(b"c\0k", timeout=timeout) for timeout in (5.0, 30.0, 30.0)
    )
    s.passes(5.5)
    assert isinstance(s.outcome(second), Granted)
    delivered(s, first)

    assert b"v" == s.outcome(third).value == value_of(s, b"c\0k")


def test_only_the_holder_can_drop_a_lease(story):
    s = story()
    first, second, third = (s.load(b"c\0k") for _ in range(3))
    lease = granted(s, first).lease
    s.tells(Drop(lease, first, None))
    s.tells(Drop(lease, first, FAILURE))
    s.tells(Drop(lease, third, FAILURE))

    assert isinstance(s.outcome(second), Granted)
    assert s.waits(third)


def test_a_dropped_lease_that_nobody_waits_for_ends_the_flight(story):
    s = story()
    ticket = s.load(b"c\0k")
    s.tells(Drop(granted(s, ticket).lease, ticket, None))

    assert 0 == s.count("flights_open")


def test_a_waiter_with_too_little_time_left_is_not_made_to_load(story):
    s = story()
    first = s.load(b"c\0k", timeout=30.0)
    short = s.load(b"c\0k", timeout=10.0)
    s.passes(8.0)
    s.tells(Forsake(first))

    assert TimedOut() == s.outcome(short)
    assert 0 == s.count("flights_open")


def test_whoever_waits_too_long_is_told_and_the_load_goes_on(story):
    s = story()
    first, second = s.load(b"c\0k", timeout=30.0), s.load(b"c\0k", timeout=2.0)
    s.passes(1.99)
    assert s.waits(second)
    s.passes(0.3)
    assert TimedOut() == s.outcome(second)
    delivered(s, first)

    assert b"v" == value_of(s, b"c\0k")


def test_who_has_gone_is_not_told(story):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    s.tells(Forsake(second))
    delivered(s, first)

    assert s.waits(second)
    assert 0 == s.count("waiting")


# --- a write during a load --------------------------------------------------------


@pytest.mark.parametrize("verb", [Verb.SET, Verb.DELETE, Verb.ADD])
def test_what_was_loaded_before_a_write_is_not_stored_after_it(story, verb):
    s = story()
    first, second = s.load(b"c\0k"), s.load(b"c\0k")
    s.write(verb, Item(b"c\0k", b"new", NO_EXPIRY, 0))
    delivered(s, first, b"older")

    got = s.outcome(second)
    assert b"older" == got.value
    assert not got.stamp.stands
    assert (None if verb is Verb.DELETE else b"new") == value_of(s, b"c\0k")
    assert 1 == s.count("fenced")


def test_whoever_asks_after_the_write_starts_a_load_of_its_own(story):
    s = story()
    first = s.load(b"c\0k")
    s.write(Verb.DELETE, Item(b"c\0k", b"", 0, 0))
    second, third = s.load(b"c\0k"), s.load(b"c\0k")
    assert granted(s, first).lease != granted(s, second).lease
    assert s.waits(third)
    delivered(s, second, b"new")
    delivered(s, first, b"older")

    assert b"new" == s.outcome(third).value == value_of(s, b"c\0k")


def test_a_clear_fences_like_a_write(story):
    s = story("ann")
    key = s.key("me")
    first = s.load(key)
    s.hears(Clear(1, 5, 1000, "c"))
    delivered(s, first, b"older")

    assert value_of(s, key) is None
    assert 1 == s.count("fenced")


def test_a_tag_that_nobody_knew_of_before_fences_too(story):
    """The value itself says what it bears, when it is there."""
    s = story()
    first = s.load(b"c\0k")
    core = s.engine._core
    with core.store.lock:
        core.store.mark_tags((5,), core.stamp())
    later = s.load(b"c\0l")
    tagged = Envelope(b"v", tags=(5,)).wrap()
    delivered(s, first, tagged)
    delivered(s, later, tagged)

    assert (None, tagged) == (value_of(s, b"c\0k"), value_of(s, b"c\0l"))
    assert 1 == s.count("fenced")


def test_a_partition_that_moved_during_the_load_fences_too(story, member):
    s = story("bob")
    after = story("bob", "zoe")
    key = next(k for k in s.keys("me") if after.owner(k) == "zoe")
    first = s.load(key)
    s.meets(member("zoe"))
    delivered(s, first)
    s.meets(member("zoe", weight=0, incarnation=1))

    assert s.owner(key) == "me"
    assert value_of(s, key) is None


def test_a_partition_that_came_back_during_the_load_fences_too(story, member):
    """Another owner may have taken writes in between."""
    s = story("bob")
    after = story("bob", "zoe")
    key = next(k for k in s.keys("me") if after.owner(k) == "zoe")
    first = s.load(key)
    s.meets(member("zoe"))
    s.meets(member("zoe", weight=0, incarnation=1))
    assert s.owner(key) == "me"
    delivered(s, first)

    assert value_of(s, key) is None
    assert 1 == s.count("fenced")


def test_a_write_of_another_key_of_the_bucket_does_not_split_the_load(story):
    s = story()
    first = s.load(b"c\0k")
    bucket = bucket_of(key_hash(b"c\0k"))
    numbers = (b"c\0%d" % number for number in range(100_000))
    neighbour = next(k for k in numbers if bucket_of(key_hash(k)) == bucket)
    s.set(neighbour, b"x")
    second = s.load(b"c\0k")
    assert s.waits(second)
    delivered(s, first)

    assert b"v" == s.outcome(second).value == value_of(s, b"c\0k")
    assert not s.outcome(second).stamp.stands


# --- asked here, and the key is a peer's ------------------------------------------


def test_the_owner_is_asked_once_for_all_who_ask_here(story):
    s = story("ann")
    key = s.key("ann")
    first = s.load(key)
    (load,) = s.sent(Load, "ann")
    assert (5, s.engine.ranges.table.epoch, 0, 30_000) == load[1:5]
    assert (False, s.me.node_id, key, "", 0, b"", (), 0, ()) == load[5:]
    second = s.load(key)
    assert [] == s.sent(Load)

    s.hears(Filled(load.rid, b"v", 2000, 77, loaded=True))
    got = s.outcome(first)
    assert Got(b"v", s.now + 2.0, 77, Tier.FILL, got.stamp) == got
    assert got == s.outcome(second)
    assert got.stamp.stands


def test_what_the_owner_had_is_no_fill(story):
    s = story("ann")
    ticket = s.load(s.key("ann"))
    s.hears(Filled(s.sent(Load)[0].rid, b"v", NO_EXPIRY, 7, loaded=False))

    assert Tier.PEER is s.outcome(ticket).tier


def test_what_a_peer_owns_is_not_stored_here(story):
    s = story("ann")
    s.load(s.key("ann"))
    s.hears(Filled(s.sent(Load)[0].rid, b"v", NO_EXPIRY, 7, loaded=True))

    assert 0 == s.engine.stats()["store"]["entries"]


def leased(s, key: bytes, waiters: int = 3) -> tuple[list[int], int]:
    """Some callers here want a key of ann's, who has leased the load to us."""
    tickets = [s.load(key) for _ in range(waiters)]
    s.hears(Leased(s.first_load.rid, 88, 30_000), "ann")
    return tickets, 88


@pytest.fixture
def asking(story):
    """A story whose first `Load` can be looked up later."""

    class Asking(story):
        first_load: Load

        def load(self, key, **changes):
            ticket = super().load(key, **changes)
            if loads := self.sent(Load):
                self.first_load = loads[0]
            return ticket

    return Asking


def test_a_lease_of_the_owner_goes_to_who_has_waited_longest(asking):
    s = asking("ann")
    (first, *others), token = leased(s, s.key("ann"))
    lease = granted(s, first)
    assert Tier.FILL is lease.tier
    assert all(map(s.waits, others))
    delivered(s, first, ttl_ms=2000)

    assert [Fulfil(5, token, b"v", 2000)] == s.sent(Fulfil, "ann")
    assert [b"v", b"v"] == [s.outcome(ticket).value for ticket in others]


def test_a_lease_of_the_owner_goes_back_to_it_to_pass_on(asking):
    s = asking("ann")
    (first, second, third), token = leased(s, s.key("ann"))
    s.tells(Forsake(first))

    assert [Abandon(5, token, "", "", "", b"")] == s.sent(Abandon, "ann")
    (again,) = s.sent(Load, "ann")
    assert s.waits(second)
    s.hears(Leased(again.rid, token, 30_000), "ann")
    delivered(s, second)
    assert [Fulfil(5, token, b"v", NO_EXPIRY)] == s.sent(Fulfil, "ann")
    assert b"v" == s.outcome(third).value


def test_a_lease_of_the_owner_that_has_run_out_is_not_passed_on_here(asking):
    s = asking("ann")
    key = s.key("ann")
    first, second = s.load(key, timeout=2.0), s.load(key, timeout=20.0)
    s.hears(Leased(s.first_load.rid, 88, 2_000), "ann")
    granted(s, first)
    s.passes(2.5)

    # The owner has passed it on already, or does so now: only it knows to whom.
    (again,) = s.sent(Load, "ann")
    assert 17_000 < again.budget_ms < 18_500
    assert s.waits(second)
    s.hears(Filled(again.rid, b"v", NO_EXPIRY, 7, loaded=True))
    assert b"v" == s.outcome(second).value


def test_a_value_that_comes_after_its_lease_went_back_is_told_to_the_owner(asking):
    s = asking("ann")
    key = s.key("ann")
    first, second = s.load(key, timeout=2.0), s.load(key, timeout=20.0)
    s.hears(Leased(s.first_load.rid, 88, 2_000), "ann")
    lease = granted(s, first)
    s.passes(2.5)
    s.tells(Deliver(lease.lease, b"late", NO_EXPIRY))

    assert [Fulfil(5, 88, b"late", NO_EXPIRY)] == s.sent(Fulfil, "ann")
    assert b"late" == s.outcome(second).value


def test_the_haste_of_who_asked_first_is_nobody_elses(story):
    s = story("ann")
    key = s.key("ann")
    hasty = s.load(key, timeout=0.5)
    (load,) = s.sent(Load)
    patient = s.load(key, timeout=20.0)
    s.passes(0.8)
    assert TimedOut() == s.outcome(hasty)
    s.hears(Refused(load.rid, Reason.TIMED_OUT))

    (again,) = s.sent(Load, "ann")
    assert 19_200 == again.budget_ms
    assert s.waits(patient)
    s.hears(Refused(again.rid, Reason.TIMED_OUT))
    # Nobody has more time than was asked for now, so the owner is done without.
    assert Tier.LOCAL is granted(s, patient).tier


def test_the_owner_hears_when_nobody_here_can_load(asking):
    s = asking("ann")
    (first,), token = leased(s, s.key("ann"), waiters=1)
    s.tells(Forsake(first))

    assert [Abandon(5, token, "", "", "", b"")] == s.sent(Abandon, "ann")
    assert 0 == s.count("flights_open")


def test_the_owner_hears_of_an_error(asking):
    s = asking("ann")
    (first, second), token = leased(s, s.key("ann"), waiters=2)
    s.tells(Drop(granted(s, first).lease, first, FAILURE))

    assert [Abandon(5, token, *FAILURE)] == s.sent(Abandon, "ann")
    assert Raised(FAILURE) == s.outcome(second)


def test_the_owners_error_is_what_every_waiter_hears(story):
    s = story("ann")
    tickets = [s.load(s.key("ann"))]
    (load,) = s.sent(Load)
    tickets.append(s.load(s.key("ann")))
    s.hears(Failed(load.rid, *FAILURE))

    assert [Raised(FAILURE)] * 2 == [s.outcome(ticket) for ticket in tickets]


def test_who_asks_last_and_leaves_cancels_the_request(story):
    s = story("ann")
    first = s.load(s.key("ann"))
    (load,) = s.sent(Load)
    second = s.load(s.key("ann"))
    s.tells(Forsake(first))
    assert [] == s.sent(Cancel)
    s.tells(Forsake(second))

    assert [Cancel(load.rid)] == s.sent(Cancel, "ann")
    assert 0 == s.count("flights_open") == s.count("calls_open")


def test_a_lease_that_nobody_waits_for_any_more_goes_back(story):
    s = story("ann")
    ticket = s.load(s.key("ann"))
    (load,) = s.sent(Load)
    s.tells(Forsake(ticket))
    s.hears(Leased(load.rid, 88, 30_000), "ann")

    assert [Reply("ann", Cancel(load.rid))] == s.effects


@pytest.mark.parametrize(
    ("loader", "told"), [(NAME, True), (NAME._replace(version=4), False)]
)
def test_the_owner_is_told_which_loader_if_it_has_just_that(story, loader, told):
    s = story("ann")
    ann = s.peers["ann"]
    s.hears(Loaders(ann.node_id, ann.epoch, (NAME,)))
    s.load(s.key("ann"), loader=loader.name, loader_version=loader.version, args=b"a")

    (load,) = s.sent(Load)
    assert (load.loader, load.args) == ((NAME.name, b"a") if told else ("", b""))


# --- the owner does not help ------------------------------------------------------


def alone(s, first: int, second: int) -> None:
    """The first who waited loads for both, and for nobody else."""
    lease = granted(s, first)
    assert Tier.LOCAL is lease.tier
    assert s.waits(second)
    delivered(s, first)
    assert [] == s.sent(Fulfil)
    assert (b"v", Tier.LOCAL) == (s.outcome(second).value, s.outcome(second).tier)
    assert 0 == s.engine.stats()["store"]["entries"]
    assert 1 == s.count("local")


def test_a_silent_owner_is_done_without_after_one_time_out(story):
    s = story("ann")
    key = s.key("ann")
    first, second = s.load(key), s.load(key)
    s.passes(0.99)
    assert s.waits(first)
    s.passes(0.02)

    alone(s, first, second)
    assert isinstance(s.outcome(s.load(key)), Granted)
    assert [] == s.sent(Load)


def test_an_owner_that_was_silent_does_not_keep_a_lease_for_us(story):
    """Its answer may be lost on the way; others would wait for who never heard."""
    s = story("ann")
    s.load(s.key("ann"))
    (load,) = s.sent(Load)
    s.passes(1.0)

    assert [Cancel(load.rid)] == s.sent(Cancel, "ann")


def test_an_owner_that_says_it_is_at_it_is_waited_for(story):
    s = story("ann")
    ticket = s.load(s.key("ann"))
    (load,) = s.sent(Load)
    for _ in range(10):
        s.passes(0.9)
        s.hears(Pending((load.rid,)))
    assert s.waits(ticket)
    s.hears(Filled(load.rid, b"v", NO_EXPIRY, 7, loaded=True))

    assert b"v" == s.outcome(ticket).value


def test_however_alive_the_owner_is_nobody_waits_longer_than_it_said(story):
    s = story("ann")
    ticket = s.load(s.key("ann"), timeout=3.0)
    (load,) = s.sent(Load)
    for _ in range(5):
        s.passes(0.7)
        s.hears(Pending((load.rid,)))

    assert TimedOut() == s.outcome(ticket)
    assert 0 == s.count("calls_open")


@pytest.mark.parametrize("reason", [Reason.OVERLOADED, Reason.TIMED_OUT])
def test_an_owner_that_refuses_is_done_without_at_once(story, reason):
    s = story("ann")
    first = s.load(s.key("ann"))
    (load,) = s.sent(Load)
    second = s.load(s.key("ann"))
    s.hears(Refused(load.rid, reason))

    alone(s, first, second)


def test_an_answer_that_is_none_is_done_without(story):
    s = story("ann")
    ticket = s.load(s.key("ann"))
    s.hears(Values(s.sent(Load)[0].rid, ()))

    assert Tier.LOCAL is granted(s, ticket).tier


def test_a_suspect_is_not_asked(story):
    s = story("ann", "bob")
    suspect = s.peers["ann"]._replace(state=State.SUSPECT)
    s.hears(Gossip(s.peers["bob"], (suspect,)), ("control", "bob"))
    ticket = s.load(s.key("ann"))

    assert Tier.LOCAL is granted(s, ticket).tier


def test_an_owner_that_disowns_points_to_another_and_no_third_is_asked(story):
    s = story("ann", "bob")
    ticket = s.load(s.key("ann"))
    (first,) = s.sent(Load, "ann")
    s.hears(NotOwner(first.rid, s.peers["bob"].node_id, 1))
    (second,) = s.sent(Load, "bob")
    assert (0, 1) == (first.hop, second.hop)
    s.hears(NotOwner(second.rid, s.peers["ann"].node_id, 2))

    assert [] == s.sent(Load)
    assert Tier.LOCAL is granted(s, ticket).tier


def test_our_newer_table_is_believed_before_the_pointer(story, member):
    s = story("ann", "bob")
    after = story("ann", "bob", "zoe")
    key = next(k for k in s.keys("ann") if after.owner(k) == "zoe")
    s.load(key)
    (first,) = s.sent(Load)
    s.meets(member("zoe"))
    s.hears(NotOwner(first.rid, s.peers["bob"].node_id, 1))

    assert 1 == len(s.sent(Load, "zoe"))


def test_a_redirected_value_is_not_to_be_kept_near(story):
    s = story("ann", "bob")
    ticket = s.load(s.key("ann"))
    s.hears(NotOwner(s.sent(Load)[0].rid, s.peers["bob"].node_id, 1))
    s.hears(Filled(s.sent(Load)[0].rid, b"v", NO_EXPIRY, 7, loaded=True))

    assert s.outcome(ticket).stamp is None


@pytest.mark.parametrize("pointer", ["ann", "me", "nobody"])
def test_a_pointer_to_nowhere_is_done_without(story, pointer):
    s = story("ann", "bob")
    ticket = s.load(s.key("ann"))
    owner = pointer.encode().ljust(16, b".")
    s.hears(NotOwner(s.sent(Load)[0].rid, owner, 1))

    assert [] == s.sent(Load)
    assert Tier.LOCAL is granted(s, ticket).tier


def test_a_disowned_key_that_has_become_ours_is_loaded_here(story, member):
    s = story("ann", "bob")
    after = story("bob")
    key = next(k for k in s.keys("ann") if after.owner(k) == "me")
    ticket = s.load(key)
    (load,) = s.sent(Load)
    s.meets(member("ann", weight=0, incarnation=1))
    s.hears(NotOwner(load.rid, b"", 1))

    assert [] == s.sent(Load)
    assert isinstance(s.outcome(ticket), Granted)


# --- asked by a peer --------------------------------------------------------------


def test_a_peer_gets_what_is_here(story):
    s = story("ann")
    key = s.key("me")
    s.set(key, b"v", ttl_ms=3000)
    s.passes(1.0)
    s.asked_to_load(key, "ann", rid=4)

    (filled,) = s.replied(Filled, "ann")
    assert (4, b"v", 2000, False) == (*filled[:3], filled.loaded)


def test_a_peer_that_asks_for_what_is_not_ours_hears_whose_it_is(story):
    s = story("ann", "bob")
    s.asked_to_load(s.key("bob"), "ann", rid=4)
    bob = s.peers["bob"].node_id

    assert [NotOwner(4, bob, s.engine.ranges.table.epoch)] == s.replied(NotOwner)
    assert 0 == s.count("flights")


def test_the_first_peer_loads_and_the_second_gets_its_value(story):
    s = story("ann", "bob")
    key = s.key("me")
    s.asked_to_load(key, "ann", rid=4)
    (lease,) = s.replied(Leased, "ann")
    assert (4, 30_000) == (lease.rid, lease.lease_ms)
    s.asked_to_load(key, "bob", rid=6)
    assert [] == s.effects
    here = s.load(key)

    s.hears(Fulfil(5, lease.token, b"v", 2000), "ann")
    (filled,) = s.replied(Filled, "bob")
    assert (6, b"v", 2000, True) == (*filled[:3], filled.loaded)
    assert Tier.FILL is s.outcome(here).tier
    assert b"v" == value_of(s, key)
    assert filled.version == s.outcome(s.tickets).found[0].version


def registered(story, **settings):
    s = story("ann", "bob", **settings)
    s.tells(Register((NAME,)))
    return s, s.key("me")


def with_loader(**changes) -> dict:
    return {"loader": NAME.name, "loader_version": NAME.version, "args": b"a"} | changes


def test_a_loader_we_know_is_run_here(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, **with_loader())

    (run,) = s.effects
    assert RunLoader(run.flight, *NAME, key, b"a", (key_hash(key),)) == run
    s.tells(RunEnded(run.flight, b"v", 2000, None))
    (filled,) = s.replied(Filled, "ann")
    assert (4, b"v", 2000, True) == (*filled[:3], filled.loaded)
    assert b"v" == value_of(s, key)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loader": "app:other"}, id="unknown"),
        pytest.param({"loader": ""}, id="none"),
        pytest.param({"loader_version": 4}, id="another version"),
        pytest.param({"chain": (77,)}, id="within a loader"),
    ],
)
def test_a_load_we_cannot_or_must_not_run_is_leased(story, changes):
    s, key = registered(story)
    s.asked_to_load(key, "ann", **with_loader(**changes))

    assert [Leased] == [type(effect.message) for effect in s.effects]


def test_a_busy_pool_leases_and_a_free_place_is_used(story):
    s, _ = registered(story, loader_threads=2)
    keys = list(islice(s.keys("me"), 4))
    runs = []
    for rid, key in enumerate(keys[:2]):
        s.asked_to_load(key, "ann", rid, **with_loader())
        runs += s.wanted(RunLoader)
    s.asked_to_load(keys[2], "ann", 2, **with_loader())
    assert [] == s.wanted(RunLoader)
    assert 1 == len(s.replied(Leased))

    s.tells(RunEnded(runs[0].flight, b"v", NO_EXPIRY, None))
    s.asked_to_load(keys[3], "ann", 3, **with_loader())
    assert 1 == len(s.wanted(RunLoader))
    assert 2 == s.count("running")


def test_tasks_have_places_of_their_own(story):
    s = story("ann", loader_threads=1, loader_tasks=2)
    task = LoaderName("app:task", 1)
    s.tells(Register((NAME, task), frozenset({task})))
    keys = islice(s.keys("me"), 5)
    started = []
    for rid, (key, loader) in enumerate(zip(keys, (NAME, NAME, task, task, task))):  # noqa: B905 - the keys go on
        named = with_loader(loader=loader.name, loader_version=loader.version)
        s.asked_to_load(key, "ann", rid, **named)
        started.append(len(s.wanted(RunLoader)))

    assert [1, 0, 1, 1, 0] == started


def test_a_run_that_cannot_start_leaves_the_load_to_who_asked(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, **with_loader())
    (run,) = s.wanted(RunLoader)
    s.tells(RunEnded(run.flight, None, 0, None))

    assert [4] == [lease.rid for lease in s.replied(Leased, "ann")]
    assert 0 == s.count("running")


def test_a_run_that_fails_is_what_every_waiter_hears(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, **with_loader())
    (run,) = s.wanted(RunLoader)
    s.asked_to_load(key, "bob", rid=6)
    here = s.load(key)
    s.tells(RunEnded(run.flight, None, 0, FAILURE))

    assert [Failed(4, *FAILURE)] == s.replied(Failed, "ann")
    assert [Failed(6, *FAILURE)] == s.replied(Failed, "bob")
    assert Raised(FAILURE) == s.outcome(here)


def test_a_run_goes_on_when_nobody_waits_and_its_value_is_kept(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, **with_loader())
    (run,) = s.wanted(RunLoader)
    s.hears(Cancel(4), "ann")
    s.tells(RunEnded(run.flight, b"v", NO_EXPIRY, None))

    assert b"v" == value_of(s, key)


def test_a_run_that_never_ends_does_not_hold_its_key_for_ever(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, budget_ms=5000, **with_loader())
    (stuck,) = s.wanted(RunLoader)
    s.passes(4.9)
    s.asked_to_load(key, "bob", rid=6, **with_loader())
    assert [] == s.wanted(RunLoader)
    s.passes(0.5)
    assert [Refused(4, Reason.TIMED_OUT)] == s.replied(Refused, "ann")
    s.asked_to_load(key, "ann", rid=8, **with_loader())

    (again,) = s.wanted(RunLoader)
    assert stuck.flight != again.flight


def test_peers_who_wait_are_told_that_we_are_at_it(story):
    s, key = registered(story)
    s.asked_to_load(key, "ann", rid=4, **with_loader())
    other = next(k for k in s.keys("me") if k != key)
    s.asked_to_load(other, "ann", rid=5, **with_loader())
    s.asked_to_load(key, "bob", rid=6)
    s.passes(1.01)

    assert [(4, 5)] * 3 == [p.rids for p in s.replied(Pending, "ann")]
    assert [(6,)] * 3 == [p.rids for p in s.replied(Pending, "bob")]


def test_who_holds_a_lease_is_not_told_to_wait(story):
    s = story("ann")
    s.asked_to_load(s.key("me"), "ann")
    s.passes(2.0)

    assert [] == s.replied(Pending)


# --- a peer's lease passes --------------------------------------------------------


def held(story, *waiting: str):
    """Ann holds the lease of a key of ours, and *waiting* wait, with rids from 10."""
    s = story("ann", "bob", "eve")
    key = s.key("me")
    s.asked_to_load(key, "ann", rid=4)
    (lease,) = s.replied(Leased)
    for rid, name in enumerate(waiting, 10):
        s.asked_to_load(key, name, rid=rid)
    return s, lease.token


def passed_to(s, name: str) -> bool:
    return 1 == len(s.replied(Leased, name)) == len(s.replied(Leased))


def test_a_lease_passes_when_its_holder_abandons_it(story):
    s, token = held(story, "bob", "eve")
    s.hears(Abandon(5, token, "", "", "", b""), "ann")

    assert passed_to(s, "bob")
    assert 1 == s.count("leases_passed")


def test_a_lease_passes_when_its_holder_cancels(story):
    s, _ = held(story, "bob")
    s.hears(Cancel(4), "ann")

    assert passed_to(s, "bob")


def test_a_lease_passes_when_its_holder_dies(story):
    s, _ = held(story, "bob")
    s.buries("ann")

    assert passed_to(s, "bob")


def test_a_lease_passes_when_the_connection_to_its_holder_breaks(story):
    s, _ = held(story, "bob")
    s.breaks("ann")

    assert passed_to(s, "bob")


def test_a_lease_passes_when_its_time_is_over(story):
    s = story("ann", "bob")
    key = s.key("me")
    s.asked_to_load(key, "ann", budget_ms=5000)
    s.asked_to_load(key, "bob", rid=6)
    s.passes(4.9)
    assert [] == s.replied(Leased)
    s.passes(0.5)

    assert passed_to(s, "bob")


def test_a_lease_passes_to_a_caller_here(story):
    s, token = held(story)
    here = s.load(s.key("me"))
    s.hears(Abandon(5, token, "", "", "", b""), "ann")

    assert Granted(token, Tier.FILL, s.outcome(here).stamp) == s.outcome(here)


def test_a_lease_does_not_pass_to_one_who_has_died(story):
    s, token = held(story, "bob", "eve")
    s.buries("bob")
    s.hears(Abandon(5, token, "", "", "", b""), "ann")

    assert passed_to(s, "eve")


def test_a_lease_can_only_be_abandoned_along_the_way_it_went(story):
    s, token = held(story, "bob")
    s.hears(Abandon(5, token, "", "", "", b""), "bob")
    assert [] == s.effects
    s.hears(Cancel(4), "bob")
    assert [] == s.effects
    s.hears(Abandon(5, token + 1, "", "", "", b""), "ann")

    assert [] == s.effects


def test_an_abandon_of_one_whose_lease_has_passed_changes_nothing(story):
    s, token = held(story, "bob", "eve")
    s.hears(Abandon(5, token, "", "", "", b""), "ann")
    s.hears(Abandon(5, token, *FAILURE), "ann")

    assert [] == s.effects


def test_a_value_of_one_whose_lease_has_passed_is_welcome(story):
    s, token = held(story, "bob", "eve")
    s.breaks("ann")
    s.hears(Fulfil(5, token, b"v", NO_EXPIRY), "ann")

    assert 1 == len(s.replied(Filled, "eve"))
    assert b"v" == value_of(s, s.key("me"))


def test_a_second_value_comes_too_late(story):
    s, token = held(story, "bob")
    s.hears(Fulfil(5, token, b"v", NO_EXPIRY), "ann")
    s.hears(Fulfil(5, token, b"w", NO_EXPIRY), "ann")

    assert [] == s.effects
    assert 1 == s.count("late_values")
    assert b"v" == value_of(s, s.key("me"))


def test_a_holders_error_is_what_every_waiter_hears(story):
    s, token = held(story, "bob")
    here = s.load(s.key("me"))
    s.hears(Abandon(5, token, *FAILURE), "ann")

    assert [Failed(10, *FAILURE)] == s.replied(Failed, "bob")
    assert Raised(FAILURE) == s.outcome(here)


def test_a_write_of_a_peer_during_a_peers_load_fences_it(story):
    s, token = held(story, "bob")
    key = s.key("me")
    s.told_to(Verb.DELETE, Item(key, b"", 0, 0))
    s.hears(Fulfil(5, token, b"older", NO_EXPIRY), "ann")

    assert [b"older"] == [filled.value for filled in s.replied(Filled, "bob")]
    assert value_of(s, key) is None
    assert 1 == s.count("fenced")


def test_a_peer_that_gives_up_is_told_so_in_time(story):
    s, _ = held(story)
    s.asked_to_load(s.key("me"), "bob", rid=6, budget_ms=2000)
    s.passes(1.99)
    assert [] == s.replied(Refused)
    s.passes(0.3)

    assert [Refused(6, Reason.TIMED_OUT)] == s.replied(Refused, "bob")


def test_the_same_request_twice_is_one_request(story):
    """What is repeated on the way must not wait, or load, for itself."""
    s, token = held(story, "bob")
    for rid, name in ((4, "ann"), (10, "bob")):
        s.asked_to_load(s.key("me"), name, rid=rid)
        assert [] == s.effects
    other = list(islice(s.keys("me"), 2))[1]
    s.asked_to_load(other, "bob", rid=10)
    assert [] == s.effects
    s.hears(Fulfil(5, token, b"v", NO_EXPIRY), "ann")

    assert 1 == len(s.replied(Filled))
    assert 0 == s.count("waiting") == s.count("flights_open")


# --- bounds -----------------------------------------------------------------------


def test_with_too_many_flights_a_caller_here_loads_for_itself(story):
    s = story(max_flights=1)
    s.load(b"c\0a")
    lease = granted(s, s.load(b"c\0b"))

    assert Granted(NO_LEASE, Tier.LOCAL, None) == lease
    assert 1 == s.count("overloaded")
    s.tells(Deliver(lease.lease, b"v", NO_EXPIRY))
    s.tells(Drop(lease.lease, s.tickets, FAILURE))
    assert value_of(s, b"c\0b") is None


def test_with_too_many_waiters_a_caller_here_loads_for_itself(story):
    s = story("ann", max_waiters=1)
    mine, theirs = s.key("me"), s.key("ann")
    s.load(mine)
    s.load(mine)

    assert NO_LEASE == granted(s, s.load(mine)).lease
    assert NO_LEASE == granted(s, s.load(theirs)).lease
    assert 1 == s.count("flights_open") == s.count("waiting")
    assert [] == s.sent(Load)


def test_with_too_much_under_way_a_peer_is_refused(story):
    s = story("ann", "bob", max_flights=1, max_waiters=1)
    one, two = islice(s.keys("me"), 2)
    s.asked_to_load(one, "ann", 1)
    s.asked_to_load(two, "ann", 2)
    assert [Refused(2, Reason.OVERLOADED)] == s.replied(Refused)
    s.asked_to_load(one, "bob", 3)
    assert [] == s.effects
    s.asked_to_load(one, "bob", 4)

    assert [Refused(4, Reason.OVERLOADED)] == s.replied(Refused)
    assert 2 == s.count("overloaded")


def test_with_too_many_requests_one_of_those_here_loads_for_all(story):
    s = story("ann", max_requests=1)
    one, two = islice(s.keys("ann"), 2)
    s.load(one)
    first, second = s.load(two), s.load(two)

    alone(s, first, second)


def test_loads_that_are_over_leave_nothing_behind(story):
    """A deadline is not kept for each read until it would have been due."""
    s = story("ann")
    key = s.key("ann")
    s.load(key)
    (load,) = s.sent(Load)
    s.hears(Filled(load.rid, b"v", 0, 7, loaded=True))
    s.passes(2.0)
    before = len(s.engine._core.agenda)
    for _ in range(200):
        s.load(key)
        (load,) = s.sent(Load)
        s.hears(Filled(load.rid, b"v", 0, 7, loaded=True))
    s.passes(2.0)

    assert before == len(s.engine._core.agenda)


# --- recursion --------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["me", "ann"])
def test_a_loader_that_asks_for_its_own_key_is_refused(story, owner):
    s = story("ann")
    key = s.key(owner)
    ticket = s.load(key, chain=(1, key_hash(key)))

    outcome = s.outcome(ticket)
    assert (True, RECURSIVE) == (outcome.recursive, outcome.failure.type_name)
    assert 0 == s.count("flights")


def test_a_loader_may_ask_for_other_keys_and_says_for_whom(story):
    s = story("ann")
    s.load(s.key("ann"), chain=(1, 2))

    assert [(1, 2)] == [load.chain for load in s.sent(Load)]


def test_only_the_innermost_of_many_loaders_are_named(story):
    s = story("ann")
    s.load(s.key("ann"), chain=tuple(range(100)))

    assert [tuple(range(36, 100))] == [load.chain for load in s.sent(Load)]


def test_recursion_found_elsewhere_is_told_as_such(story):
    s = story("ann")
    ticket = s.load(s.key("ann"))
    s.hears(Failed(s.sent(Load)[0].rid, RECURSIVE, "circle", "", b""))

    assert s.outcome(ticket).recursive


def test_a_silent_owner_is_probed(story):
    s = story("ann")
    s.load(s.key("ann"))
    s.passes(1.0)

    assert [Ping] == [
        type(effect.message)
        for effect in s.effects
        if isinstance(effect, Send) and effect.address == "ann:1"
    ][-1:]


def test_a_value_under_anothers_lease_is_not_to_be_kept_near(asking):
    s = asking("ann", "bob")
    (holder, *_), _ = leased(s, s.key("ann"))

    # Its owner may have heard of a write since, whose note has yet to reach us.
    assert s.outcome(holder).stamp is None


def test_a_value_loaded_for_a_key_of_our_own_may_be_kept_near(story):
    s = story("ann", "bob")
    ticket = s.load(s.key("me"))

    assert s.outcome(ticket).stamp.stands
