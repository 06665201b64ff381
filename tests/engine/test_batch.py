"""Many loads at once: what each key of a lot comes to, and who else wants one."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Abandon,
    Borrow,
    Cancel,
    Clear,
    Failed,
    Filled,
    Found,
    Fulfil,
    Gossip,
    Invalidate,
    Item,
    Leased,
    Lent,
    Load,
    LoaderName,
    Loaders,
    Loan,
    Pending,
    Reason,
    Refused,
    Status,
    Values,
    Verb,
)
from meshcache.engine.leases import NO_LEASE, RECURSIVE
from meshcache.engine.ops import (
    Busy,
    Closed,
    Deliver,
    Drop,
    Failure,
    Forsake,
    Got,
    Granted,
    LoadKey,
    LoadKeys,
    Raised,
    Tier,
    TimedOut,
)
from meshcache.hashing import key_hash
from meshcache.model import State

FAILURE = Failure("app:Oops", "no", "Traceback", b"args")
NAME = LoaderName("app:load", 3)
BUSY = Loan(Status.BUSY, b"", 0, 0, 0)
DISOWNED = Loan(Status.NOT_OWNER, b"", 0, 0, 0)
NOTHING = Loan(Status.MISS, b"", 0, 0, 0)


def hit(value: bytes, ttl_ms: int = NO_EXPIRY) -> Loan:
    return Loan(Status.HIT, value, ttl_ms, 7, 0)


def leased(token: int) -> Loan:
    return Loan(Status.LEASED, b"", 0, 0, token)


def lot(s, *keys: bytes, timeout: float = 30.0, **changes) -> int:
    """Somebody here wants all of these keys."""
    hashed = tuple((key, key_hash(key)) for key in keys)
    return s.asks(LoadKeys(hashed, timeout)._replace(**changes))


def lent(s, borrow: Borrow, *loans: Loan, by: str = "ann") -> None:
    s.hears(Lent(borrow.rid, 30_000, loans), by)


def borrowed(s, *keys: bytes, caller: str = "ann", rid: int = 4, **changes) -> None:
    """A peer wants all of these keys; its route goes by its name."""
    node_id = s.peers[caller].node_id
    message = Borrow(rid, s.me.epoch, 0, 0, 30_000, False, node_id, keys, ())
    s.hears(message._replace(**changes), caller)


def loans(s, to: str = "ann") -> tuple[Loan, ...]:
    """What the last input had a peer told of the keys it wants."""
    (answer,) = s.replied(Lent, to)
    return answer.results


def delivered(s, granted: Granted, value: bytes = b"v", ttl_ms: int = NO_EXPIRY):
    assert isinstance(granted, Granted)
    s.tells(Deliver(granted.lease, value, ttl_ms))


def value_of(s, key: bytes) -> bytes | None:
    (got,) = s.outcome(s.get(key)).found
    return got and got.value


def kinds(s, ticket: int) -> list[type]:
    return [type(outcome) for outcome in s.outcome(ticket).outcomes]


# --- keys of our own --------------------------------------------------------------


def test_each_key_is_had_or_leased_or_somebody_is_at_it(story):
    s = story()
    s.set(b"c\0a", b"v", ttl_ms=2000)
    s.load(b"c\0b")
    ticket = lot(s, b"c\0a", b"c\0b", b"c\0c")
    got, busy, granted = s.outcome(ticket).outcomes

    assert (b"v", s.now + 2.0, Tier.HOST) == (got.value, got.expires, got.tier)
    assert Busy() == busy
    assert (Tier.FILL, True) == (granted.tier, granted.stamp.stands)


def test_nothing_is_asked_of_no_keys(story):
    s = story()

    assert () == s.outcome(lot(s)).outcomes


def test_who_wants_a_key_of_a_lot_waits_for_it(story):
    s = story()
    one, two = s.outcome(lot(s, b"c\0a", b"c\0b")).outcomes
    single = s.load(b"c\0b")
    delivered(s, one)
    assert s.waits(single)
    delivered(s, two, b"w")

    assert (b"w", Tier.FILL) == (s.outcome(single).value, s.outcome(single).tier)
    assert (b"v", b"w") == (value_of(s, b"c\0a"), value_of(s, b"c\0b"))
    assert 0 == s.count("flights_open")


def test_a_second_lot_is_told_that_the_first_is_at_it(story):
    s = story()
    lot(s, b"c\0a", b"c\0b")

    assert [Busy, Busy, Granted] == kinds(s, lot(s, b"c\0a", b"c\0b", b"c\0c"))


def test_a_key_that_is_there_twice_is_loaded_once(story):
    s = story()

    assert [Granted, Busy] == kinds(s, lot(s, b"c\0a", b"c\0a"))


def test_the_leases_of_a_lot_are_dropped_one_by_one(story):
    s = story()
    ticket = lot(s, b"c\0a", b"c\0b", b"c\0c")
    one, two, three = s.outcome(ticket).outcomes
    waiting = [s.load(key) for key in (b"c\0a", b"c\0b", b"c\0c")]
    s.tells(Drop(one.lease, ticket, FAILURE))
    s.tells(Drop(two.lease, ticket, None))

    assert Raised(FAILURE) == s.outcome(waiting[0])
    assert two.lease == s.outcome(waiting[1]).lease
    assert s.waits(waiting[2])
    delivered(s, three)
    assert b"v" == s.outcome(waiting[2]).value


def test_a_lease_of_a_lot_is_dropped_by_nobody_else(story):
    s = story()
    ticket = lot(s, b"c\0a")
    (one,) = s.outcome(ticket).outcomes
    single = s.load(b"c\0a")
    s.tells(Drop(one.lease, ticket + 1, FAILURE))
    s.tells(Drop(one.lease, single, FAILURE))

    assert s.waits(single)


def test_who_gives_up_a_lot_gives_up_all_its_leases(story):
    s = story()
    ticket = lot(s, b"c\0a", b"c\0b", b"c\0c")
    delivered(s, s.outcome(ticket).outcomes[0])
    single = s.load(b"c\0b")
    s.tells(Forsake(ticket))

    assert isinstance(s.outcome(single), Granted)
    assert 1 == s.count("flights_open")
    assert b"v" == value_of(s, b"c\0a")


def test_each_lease_of_a_lot_passes_on_when_its_time_is_over(story):
    s = story()
    lot(s, b"c\0a", b"c\0b", timeout=5.0)
    single = s.load(b"c\0b")
    s.passes(4.9)
    assert s.waits(single)
    s.passes(0.5)

    assert isinstance(s.outcome(single), Granted)
    assert 1 == s.count("flights_open")


def test_a_write_fences_that_key_of_a_lot_and_no_other(story):
    s = story()
    one, two = s.outcome(lot(s, b"c\0a", b"c\0b")).outcomes
    s.write(Verb.DELETE, Item(b"c\0a", b"", 0, 0))
    delivered(s, one)
    delivered(s, two)

    assert (None, b"v") == (value_of(s, b"c\0a"), value_of(s, b"c\0b"))
    assert 1 == s.count("fenced")


def test_a_loader_that_asks_for_a_lot_with_its_own_key_is_refused_that_one(story):
    s = story("ann")
    mine, theirs = s.key("me"), s.key("ann")
    chain = (key_hash(mine), key_hash(theirs))
    outcomes = s.outcome(lot(s, mine, theirs, chain=chain)).outcomes

    assert [RECURSIVE] * 2 == [raised.failure.type_name for raised in outcomes]
    assert [] == s.sent(Borrow)


def test_over_the_bound_on_flights_a_lot_loads_for_itself(story):
    s = story(max_flights=2)
    outcomes = s.outcome(lot(s, b"c\0a", b"c\0b", b"c\0c")).outcomes

    assert Granted(NO_LEASE, Tier.LOCAL, None) == outcomes[2]
    assert NO_LEASE not in {outcomes[0].lease, outcomes[1].lease}
    assert 1 == s.count("overloaded")


# --- keys of peers ----------------------------------------------------------------


def asked(story, *peers: str, count: int = 3, timeout: float = 30.0):
    """A lot of keys of ann's, and the request for them."""
    s = story("ann", *peers)
    keys = list(islice(s.keys("ann"), count))
    ticket = lot(s, *keys, timeout=timeout)
    (borrow,) = s.sent(Borrow, "ann")
    return s, keys, ticket, borrow


def test_the_owner_is_asked_once_for_all_its_keys(story):
    s = story("ann", "bob")
    mine, *keys = islice(s.keys("me", "ann", "bob"), 6)
    ticket = lot(s, mine, *keys, tags=(5, 6))
    (ann,), (bob,) = s.sent(Borrow, "ann"), s.sent(Borrow, "bob")
    table = s.engine.ranges.table.epoch
    assert (5, table, 0, 30_000, False, s.me.node_id) == ann[1:7]
    assert ((keys[0], keys[3]), (5, 6), ()) == ann[7:]
    assert (keys[1], keys[4]) == bob.keys

    lent(s, ann, hit(b"v", 2000), leased(88))
    assert s.waits(ticket)
    lent(s, bob, BUSY, hit(b"w"), by="bob")
    outcomes = s.outcome(ticket).outcomes
    assert [Granted, Got, Busy, Granted, Granted, Got] == kinds(s, ticket)
    assert (b"v", s.now + 2.0, 7, Tier.PEER) == outcomes[1][:4]
    assert outcomes[1].stamp.stands
    # Its value goes to ann, who may hear of a write before that.
    assert (Tier.FILL, None) == outcomes[4][1:]


def test_what_was_leased_is_brought_to_the_owner_key_by_key(story):
    s, _, ticket, borrow = asked(story)
    lent(s, borrow, leased(81), leased(82), leased(83))
    one, two, three = s.outcome(ticket).outcomes
    delivered(s, two, b"v", 2000)
    assert [Fulfil(5, 82, b"v", 2000)] == s.sent(Fulfil, "ann")
    s.tells(Drop(one.lease, ticket, FAILURE))
    assert [Abandon(5, 81, *FAILURE)] == s.sent(Abandon, "ann")
    s.tells(Drop(three.lease, ticket, None))

    assert [Abandon(5, 83, "", "", "", b"")] == s.sent(Abandon, "ann")
    assert 0 == s.count("flights_open")


def test_who_gives_up_a_lot_gives_its_leases_back(story):
    s, _, ticket, borrow = asked(story)
    lent(s, borrow, leased(81), hit(b"v"), leased(83))
    s.tells(Forsake(ticket))

    assert [81, 83] == [abandon.token for abandon in s.sent(Abandon, "ann")]
    assert 0 == s.count("flights_open")


def test_a_long_lot_goes_as_several_requests(story):
    s = story("ann", max_batch_keys=2)
    ticket = lot(s, *islice(s.keys("ann"), 5))
    requests = s.sent(Borrow, "ann")
    assert [2, 2, 1] == [len(borrow.keys) for borrow in requests]
    for borrow in requests:
        lent(s, borrow, *[hit(b"v")] * len(borrow.keys))

    assert [Got] * 5 == kinds(s, ticket)


def test_what_an_answer_left_out_is_asked_for_again(story):
    s, keys, ticket, borrow = asked(story)
    lent(s, borrow, leased(81))
    (again,) = s.sent(Borrow, "ann")
    assert tuple(keys[1:]) == again.keys
    lent(s, again, hit(b"v"), BUSY)

    assert [Granted, Got, Busy] == kinds(s, ticket)


@pytest.mark.parametrize("event", ["silence", "refusal", "garbage"])
def test_without_the_owner_a_lot_is_loaded_here_and_for_here(story, event):
    s = story("ann")
    keys = list(islice(s.keys("ann"), 3))
    ticket = lot(s, *keys)
    (borrow,) = s.sent(Borrow, "ann")
    single = s.load(keys[1])
    if event == "silence":
        s.passes(0.99)
        assert s.waits(ticket)
        s.passes(0.02)
        assert [Cancel(borrow.rid)] == s.sent(Cancel, "ann")
    elif event == "refusal":
        s.hears(Refused(borrow.rid, Reason.OVERLOADED))
    else:
        s.hears(Values(borrow.rid, (Found(Status.HIT, b"v", 0, 0),) * 3))

    outcomes = s.outcome(ticket).outcomes
    assert [Tier.LOCAL] * 3 == [granted.tier for granted in outcomes]
    assert 3 == s.count("local")
    delivered(s, outcomes[1])
    assert [] == s.sent(Fulfil)
    assert (b"v", Tier.LOCAL) == (s.outcome(single).value, s.outcome(single).tier)


@pytest.mark.parametrize("loan", [NOTHING, NOTHING._replace(status=Status.TOO_LARGE)])
def test_a_key_that_the_owner_has_no_place_for_is_loaded_here(story, loan):
    s, _, ticket, borrow = asked(story, count=2)
    lent(s, borrow, loan, hit(b"v"))
    granted, _ = s.outcome(ticket).outcomes

    assert Tier.LOCAL is granted.tier
    assert granted.lease != NO_LEASE


@pytest.mark.parametrize("suspected", [True, False])
def test_a_suspect_or_avoided_owner_is_not_asked(story, suspected):
    s = story("ann", "bob")
    if suspected:
        suspect = s.peers["ann"]._replace(state=State.SUSPECT)
        s.hears(Gossip(s.peers["bob"], (suspect,)), ("control", "bob"))
    else:
        s.get(s.key("ann"))
        s.passes(1.01)
    ticket = lot(s, *islice(s.keys("ann"), 2))

    assert [] == s.sent(Borrow)
    assert [Tier.LOCAL] * 2 == [granted.tier for granted in s.outcome(ticket).outcomes]


def test_with_too_many_requests_a_lot_is_loaded_here(story):
    s = story("ann", max_requests=1)
    one, two = islice(s.keys("ann"), 2)
    s.load(one)
    (granted,) = s.outcome(lot(s, two)).outcomes

    assert Tier.LOCAL is granted.tier


def test_with_too_many_waiters_a_lot_is_loaded_alone(story):
    s = story("ann", max_waiters=2)
    ticket = lot(s, *islice(s.keys("ann"), 3))
    (borrow,) = s.sent(Borrow, "ann")
    assert 2 == len(borrow.keys)
    lent(s, borrow, hit(b"v"), hit(b"v"))

    assert [Got, Got, Granted] == kinds(s, ticket)
    assert NO_LEASE == s.outcome(ticket).outcomes[2].lease
    assert (1, 0) == (s.count("overloaded"), s.count("flights_open"))


def test_disowned_keys_are_asked_of_whom_the_newer_table_says(story, member):
    s = story("ann", "bob")
    after = story("ann", "bob", "zoe")
    keys = [k for k in islice(s.keys("ann"), 40) if after.owner(k) == "zoe"][:2]
    ticket = lot(s, *keys)
    (first,) = s.sent(Borrow, "ann")
    s.meets(member("zoe"))
    lent(s, first, DISOWNED, DISOWNED)
    (second,) = s.sent(Borrow, "zoe")
    assert (1, tuple(keys)) == (second.hop, second.keys)
    lent(s, second, hit(b"v"), DISOWNED, by="zoe")

    got, granted = s.outcome(ticket).outcomes
    # Nobody's notes are heard for what was redirected.
    assert (b"v", None) == (got.value, got.stamp)
    assert Tier.LOCAL is granted.tier


def test_keys_that_their_only_owner_disowns_are_loaded_here(story):
    s, _, ticket, borrow = asked(story)
    lent(s, borrow, *[DISOWNED] * 3)

    assert [] == s.sent(Borrow)
    assert [Granted] * 3 == kinds(s, ticket)


def test_disowned_keys_that_have_become_ours_are_loaded_here(story, member):
    s = story("ann", "bob")
    after = story("bob")
    key = next(k for k in s.keys("ann") if after.owner(k) == "me")
    ticket = lot(s, key)
    (borrow,) = s.sent(Borrow)
    s.meets(member("ann", weight=0, incarnation=1))
    lent(s, borrow, DISOWNED)

    assert [Granted] == kinds(s, ticket)


def test_no_more_than_one_time_out_is_waited_however_the_owner_answers(story):
    s, _, ticket, borrow = asked(story)
    s.passes(0.7)
    lent(s, borrow, leased(81))
    s.passes(0.31)

    assert [Granted] * 3 == kinds(s, ticket)


def test_leases_that_nobody_waits_for_any_more_go_back(story):
    s, _, _, borrow = asked(story)
    s.passes(1.0)
    lent(s, borrow, leased(81), leased(82), leased(83))

    assert [Cancel(borrow.rid)] == s.replied(Cancel, "ann")


def test_a_lot_whose_time_is_short_ends_in_it(story):
    s = story("ann", request_timeout=10.0)
    keys = list(islice(s.keys("ann"), 2))
    ticket = lot(s, *keys, timeout=2.0)
    s.passes(2.3)

    assert [TimedOut] * 2 == kinds(s, ticket)
    assert 0 == s.count("flights_open")


# --- others want the same keys while their owner is asked ------------------------


def joined(story, **lots):
    """A lot of two keys under way, and two callers who want the first of them."""
    s, keys, ticket, borrow = asked(story, count=2, **lots)
    ann = s.peers["ann"]
    s.hears(Loaders(ann.node_id, ann.epoch, (NAME,)))
    one = {"loader": NAME.name, "loader_version": NAME.version, "args": b"a"}
    singles = [s.load(keys[0], **one), s.load(keys[0])]
    assert [] == s.sent(Load)
    return s, ticket, borrow, singles


def test_who_joins_a_lot_gets_the_value_that_the_owner_had(story):
    s, ticket, borrow, singles = joined(story)
    lent(s, borrow, hit(b"v"), leased(82))

    assert [s.outcome(ticket).outcomes[0]] * 2 == [s.outcome(t) for t in singles]


def test_who_joins_a_lot_gets_what_it_loads(story):
    s, ticket, borrow, singles = joined(story)
    lent(s, borrow, leased(81), leased(82))
    assert all(map(s.waits, singles))
    delivered(s, s.outcome(ticket).outcomes[0])

    assert [b"v", b"v"] == [s.outcome(single).value for single in singles]


@pytest.mark.parametrize("event", ["given up", "dropped", "late"])
def test_a_lease_of_a_lot_goes_back_to_its_owner_to_pass_on(story, event):
    """Only the owner knows who waits elsewhere: two would load if both passed it on."""
    s, ticket, borrow, singles = joined(story, timeout=5.0)
    lent(s, borrow, leased(81), leased(82))
    if event == "given up":
        s.tells(Forsake(ticket))
    elif event == "dropped":
        s.tells(Drop(s.outcome(ticket).outcomes[0].lease, ticket, None))
    else:
        s.passes(5.3)

    assert 81 in [abandon.token for abandon in s.sent(Abandon, "ann")]
    (load,) = s.sent(Load, "ann")
    assert (NAME.name, b"a") == (load.loader, load.args)
    assert 24_500 < load.budget_ms <= 30_000
    assert all(map(s.waits, singles))
    s.hears(Leased(load.rid, 83, 30_000), "ann")
    delivered(s, s.outcome(singles[0]))
    assert [Fulfil(5, 83, b"v", NO_EXPIRY)] == s.sent(Fulfil, "ann")
    assert b"v" == s.outcome(singles[1]).value


def test_a_value_of_a_lot_that_comes_after_its_lease_went_back_is_welcome(story):
    s, ticket, borrow, singles = joined(story, timeout=5.0)
    lent(s, borrow, leased(81), leased(82))
    s.passes(5.3)
    delivered(s, s.outcome(ticket).outcomes[0], b"late")

    assert [Fulfil(5, 81, b"late", NO_EXPIRY)] == s.sent(Fulfil, "ann")
    assert b"late" == s.outcome(singles[0]).value


def test_a_lease_that_comes_too_late_for_a_lot_is_for_who_has_joined(story):
    s, ticket, borrow, singles = joined(story, timeout=1.2)
    s.passes(0.95)
    lent(s, borrow, leased(81), leased(82))

    # It does not wait for another's load, since it may hold leases itself.
    assert [Busy, TimedOut] == kinds(s, ticket)
    assert isinstance(s.outcome(singles[0]), Granted)
    assert [82] == [abandon.token for abandon in s.sent(Abandon)]


def test_who_joins_a_lot_waits_at_the_owner_if_somebody_is_at_it(story):
    s, ticket, borrow, singles = joined(story)
    s.passes(0.6)
    lent(s, borrow, BUSY, hit(b"w"))
    assert [Busy, Got] == kinds(s, ticket)
    (load,) = s.sent(Load, "ann")
    s.passes(0.9)
    s.hears(Pending((load.rid,)))
    s.passes(0.9)
    assert all(map(s.waits, singles))
    s.hears(Filled(load.rid, b"v", NO_EXPIRY, 7, loaded=True))

    assert [b"v", b"v"] == [s.outcome(single).value for single in singles]
    assert [Busy, Got] == kinds(s, ticket)


def test_nobody_asks_again_for_a_key_that_only_the_lot_wanted(story):
    s, _, ticket, borrow = asked(story)
    lent(s, borrow, BUSY, BUSY, BUSY)

    assert [] == s.effects[1:]
    assert [Busy] * 3 == kinds(s, ticket)
    assert 0 == s.count("flights_open") == s.count("waiting")


def test_a_lot_that_is_given_up_leaves_the_answer_to_who_has_joined(story):
    s, ticket, borrow, singles = joined(story)
    s.tells(Forsake(ticket))
    lent(s, borrow, leased(81), leased(82))

    assert [82] == [abandon.token for abandon in s.sent(Abandon)]
    assert isinstance(s.outcome(singles[0]), Granted)
    assert s.waits(singles[1])
    assert s.waits(ticket)


def test_a_lot_that_is_given_up_gives_back_what_comes_for_it(story):
    s, _, ticket, borrow = asked(story)
    s.tells(Forsake(ticket))
    assert 0 == s.count("flights_open") == s.count("waiting")
    assert {} == s.engine._leases._lots
    lent(s, borrow, leased(81), hit(b"v"), BUSY)

    assert [81] == [abandon.token for abandon in s.sent(Abandon)]
    assert s.waits(ticket)


def test_those_who_have_joined_and_gone_leave_the_lot_alone(story):
    s, ticket, borrow, singles = joined(story)
    for single in singles:
        s.tells(Forsake(single))
    assert [] == s.sent(Cancel)
    lent(s, borrow, BUSY, leased(82))

    assert [] == s.sent(Load)
    assert [Busy, Granted] == kinds(s, ticket)


def test_who_asks_after_a_write_does_not_join_the_lot(story):
    s, keys, ticket, borrow = asked(story, count=1)
    s.hears(Invalidate(s.peers["ann"].node_id, 5, 1, True, ()))
    single = s.load(keys[0])
    assert 1 == len(s.sent(Load, "ann"))
    lent(s, borrow, hit(b"older"))

    assert s.waits(single)
    assert not s.outcome(ticket).outcomes[0].stamp.stands


def test_a_lot_that_somebody_else_is_asking_for_says_busy(story):
    s = story("ann")
    one, two = islice(s.keys("ann"), 2)
    s.load(one)
    ticket = lot(s, one, two)
    (borrow,) = s.sent(Borrow, "ann")
    assert (two,) == borrow.keys
    lent(s, borrow, leased(82))

    assert [Busy, Granted] == kinds(s, ticket)


def test_everything_ends_when_the_node_leaves(story):
    s, ticket, _, singles = joined(story)
    s.leaves()

    assert [Closed()] * 3 == [s.outcome(t) for t in (ticket, *singles)]
    assert 0 == s.count("flights_open") == s.count("calls_open")


def test_a_node_that_leaves_gives_its_leases_back(story):
    s, _, ticket, borrow = asked(story)
    lent(s, borrow, leased(81), hit(b"v"), leased(83))
    s.leaves()

    assert [81, 83] == [abandon.token for abandon in s.sent(Abandon)]
    assert [Granted, Got, Granted] == kinds(s, ticket)


def test_an_owner_that_dies_after_it_lent_changes_nothing_for_those_here(story):
    s, ticket, borrow, singles = joined(story)
    lent(s, borrow, leased(81), leased(82))
    s.buries("ann")
    delivered(s, s.outcome(ticket).outcomes[0])

    assert [b"v", b"v"] == [s.outcome(single).value for single in singles]


# --- asked by a peer --------------------------------------------------------------


def lending(story, count: int = 3, **settings):
    """Ann has borrowed some keys of ours."""
    s = story("ann", "bob", **settings)
    keys = list(islice(s.keys("me"), count))
    borrowed(s, *keys)
    return s, keys, [loan.token for loan in loans(s)]


def test_a_peer_gets_what_is_here_and_leases_of_what_nobody_loads(story):
    s = story("ann", "bob")
    one, two, three = islice(s.keys("me"), 3)
    s.set(one, b"v", ttl_ms=3000)
    s.load(two)
    s.passes(1.0)
    borrowed(s, one, two, three, s.key("bob"), rid=9)
    (answer,) = s.replied(Lent, "ann")
    first, second, third, fourth = answer.results

    assert (9, 30_000) == (answer.rid, answer.lease_ms)
    assert (Status.HIT, b"v", 2000) == first[:3]
    assert (BUSY, DISOWNED) == (second, fourth)
    assert Status.LEASED is third.status
    assert 1 == s.count("served_hits") == s.count("not_owner_sent")


def test_a_peers_lot_is_fulfilled_key_by_key(story):
    s, keys, tokens = lending(story)
    single = s.load(keys[1])
    s.asked_to_load(keys[2], "bob", rid=6)
    s.hears(Fulfil(5, tokens[1], b"v", NO_EXPIRY), "ann")
    assert b"v" == s.outcome(single).value == value_of(s, keys[1])
    s.hears(Abandon(5, tokens[2], *FAILURE), "ann")
    assert [Failed(6, *FAILURE)] == s.replied(Failed, "bob")

    assert 1 == s.count("flights_open")


def test_a_peer_drops_one_lease_and_the_next_who_waits_has_it(story):
    s, keys, tokens = lending(story)
    waiting = [s.load(key) for key in keys]
    s.hears(Abandon(5, tokens[0], "", "", "", b""), "ann")

    assert [False, True, True] == [s.waits(ticket) for ticket in waiting]
    assert tokens[0] == s.outcome(waiting[0]).lease


def test_a_peers_leases_are_dropped_by_nobody_else(story):
    s, keys, tokens = lending(story)
    single = s.load(keys[0])
    s.hears(Abandon(5, tokens[0], "", "", "", b""), "bob")
    s.hears(Cancel(4), "bob")
    s.hears(Cancel(5), "ann")

    assert s.waits(single)


@pytest.mark.parametrize("event", ["cancel", "death", "break", "time"])
def test_all_leases_of_a_peers_lot_end_with_it(story, event):
    s, keys, tokens = lending(story)
    s.hears(Fulfil(5, tokens[0], b"v", NO_EXPIRY), "ann")
    s.passes(20.0)
    single = s.load(keys[1])
    if event == "cancel":
        s.hears(Cancel(4), "ann")
    elif event == "time":
        s.passes(10.3)
    else:
        (s.buries if event == "death" else s.breaks)("ann")

    assert isinstance(s.outcome(single), Granted)
    assert 1 == s.count("flights_open")


def test_the_same_lot_twice_is_answered_once(story):
    """What is repeated on the way must not find its own loads busy, or end them."""
    s, keys, tokens = lending(story)
    borrowed(s, *keys)
    assert [] == s.effects
    s.hears(Fulfil(5, tokens[0], b"v", NO_EXPIRY), "ann")

    assert b"v" == value_of(s, keys[0])
    assert 2 == s.count("flights_open")


def test_an_answer_stops_when_it_has_grown_large(story):
    s = story("ann", max_batch_bytes="64KiB")
    keys = list(islice(s.keys("me"), 4))
    for key in (keys[0], keys[2]):
        s.set(key, bytes(60_000))
    borrowed(s, *keys)

    assert [Status.HIT, Status.LEASED] == [loan.status for loan in loans(s)]
    assert 1 == s.count("flights_open")


def test_over_the_bound_on_flights_a_peer_does_without_us(story):
    s = story("ann", max_flights=1)
    borrowed(s, *islice(s.keys("me"), 3))

    assert [NOTHING, NOTHING] == list(loans(s)[1:])
    assert 2 == s.count("overloaded")


@pytest.mark.parametrize("quiet", [True, False])
def test_a_peer_that_borrows_hears_of_later_writes_unless_it_sees_them(story, quiet):
    s = story("ann")
    key = s.key("me")
    borrowed(s, key, quiet=quiet)
    s.set(key, b"v")

    assert (not quiet) == bool(s.replied(Invalidate, "ann"))


def test_a_write_during_a_peers_lot_fences_its_key(story):
    s, keys, tokens = lending(story)
    s.set(keys[0], b"new")
    s.hears(Clear(1, 5, 1000, "d"))
    for token in tokens:
        s.hears(Fulfil(5, token, b"older", NO_EXPIRY), "ann")

    assert [b"new", b"older", b"older"] == [value_of(s, key) for key in keys]
    s.hears(Clear(2, 5, 1000, "c"))
    assert [None] * 3 == [value_of(s, key) for key in keys]


def test_one_who_waits_behind_a_peers_lot_is_leased_in_turn(story):
    s, keys, tokens = lending(story)
    s.asked_to_load(keys[0], "bob", rid=6)
    assert [] == s.effects
    s.hears(Cancel(4), "ann")

    assert [(6, tokens[0])] == [tuple(lease[:2]) for lease in s.replied(Leased, "bob")]


# --- whatever the timing ----------------------------------------------------------

LOAD = 30.0


class Bustle:
    """Three nodes whose callers want keys, one by one and in lots, from one seed.

    A caller of a lot does as it is told: it loads what it was leased, delivers that,
    and only then waits for what others were at.
    """

    def __init__(self, host, seed: int, *, gentle: bool) -> None:
        self.host = host(seed, delay=0.02, request_timeout=1.0, load_timeout=LOAD)
        self.rng = self.host.rng
        self.gentle = gentle
        self.loading: Counter[bytes] = Counter()
        self.loads: Counter[bytes] = Counter()
        self.most = 0
        self.asked = self.told = self.served = self.forsaken = 0
        for name in ("ann", "bob", "eve"):
            self.host.starts(name)
        self.host.settles()
        self.keys = self.host.keys("ann", 4, "ann") + self.host.keys("ann", 4, "bob")
        self.keys += self.host.keys("ann", 4, "eve")

    def run(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choice([n for n, s in self.host.nodes.items() if s.runs])
            if self.rng.random() < 0.5:
                count = self.rng.randint(1, 8)
                self.wants_lot(name, self.rng.sample(self.keys, count))
            else:
                self.wants(name, self.rng.choice(self.keys))
            self.host.passes(self.rng.choice([0.0, 0.005, 0.03]))
        self.host.passes(2 * LOAD + 5)

    def wants(self, name: str, key: bytes) -> None:
        op = LoadKey(key, key_hash(key), "", 0, b"", (), LOAD)
        self._ask(name, op, lambda ticket, out: self._had(name, ticket, key, out))

    def wants_lot(self, name: str, keys: list[bytes]) -> None:
        hashed = tuple((key, key_hash(key)) for key in keys)

        def done(ticket: int, lot) -> None:
            busy = []
            for key, outcome in zip(keys, lot.outcomes, strict=True):
                if outcome == Busy():
                    busy.append(key)
                else:
                    self._had(name, ticket, key, outcome)
            # A lease takes 0.3 s at most; by then all of them are delivered.
            for key in busy:
                self.host.later(0.4, lambda key=key: self.wants(name, key))

        ticket = self._ask(name, LoadKeys(hashed, LOAD), done)
        if not self.gentle and self.rng.random() < 0.2:
            self.host.later(self.rng.random() * 0.2, lambda: self._goes(name, ticket))

    def _ask(self, name: str, op, done) -> int:
        self.asked += 1
        box: list[int] = []

        def told(outcome) -> None:
            self.told += 1
            if box:
                done(box[0], outcome)
            else:  # at once, before the ticket is known
                self.host.later(0.0, lambda: done(box[0], outcome))

        box.append(self.host.asks(name, op, told))
        return box[0]

    def _goes(self, name: str, ticket: int) -> None:
        """A caller is cancelled, before it was told or after."""
        self.forsaken += ticket not in self.host.nodes[name].outcomes
        self.host.nodes[name].wanted.pop(ticket, None)
        self.host.tells(name, Forsake(ticket))

    def _had(self, name: str, ticket: int, key: bytes, outcome) -> None:
        if isinstance(outcome, Got):
            self.served += 1
            assert outcome.value.startswith(key), "another key's value"
            return
        assert isinstance(outcome, Granted), outcome
        self.loads[key] += 1
        self.loading[key] += 1
        self.most = max(self.most, self.loading[key])
        value = key + b"%d" % self.loads[key]
        fate = 1.0 if self.gentle else self.rng.random()

        def end() -> None:
            self.loading[key] -= 1
            if fate < 0.1:
                self.host.tells(name, Drop(outcome.lease, ticket, None))
            else:
                ttl_ms = NO_EXPIRY if self.gentle else 50
                self.host.tells(name, Deliver(outcome.lease, value, ttl_ms))

        self.host.later(self.rng.random() * 0.3, end)

    @property
    def running(self) -> list:
        return [seat.engine for seat in self.host.nodes.values() if seat.runs]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_lots_and_singles_load_each_key_once_in_the_cluster(host, seed):
    bustle = Bustle(host, seed, gentle=True)
    bustle.run(80)

    assert dict.fromkeys(bustle.loads, 1) == dict(bustle.loads)
    assert bustle.asked == bustle.told
    assert bustle.served > len(bustle.loads) > 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_lot_ends_once_while_callers_go_and_fail(host, seed):
    bustle = Bustle(host, seed, gentle=False)
    bustle.run(150)
    stats = [engine.stats()["engine"] for engine in bustle.running]
    passed = sum(stat["leases_passed"] for stat in stats)

    # A lease given back before its loader knows is a second load; nothing else is.
    assert bustle.asked == bustle.told + bustle.forsaken
    assert bustle.most <= 1 + passed
    names = ("flights_open", "waiting", "calls_open")
    assert {0} == {stat[name] for stat in stats for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_lot_ends_once_while_its_owner_dies(host, seed):
    bustle = Bustle(host, seed, gentle=True)
    bustle.host.later(0.3, lambda: bustle.host.crashes("eve"))
    bustle.host.later(0.5 + seed * 0.2, lambda: bustle.host.buries("eve"))
    bustle.run(80)
    seats = bustle.host.nodes.values()
    lost = sum(len(seat.wanted) for seat in seats if not seat.runs)

    assert 0 == sum(len(seat.wanted) for seat in seats if seat.runs)
    assert bustle.asked == bustle.told + lost
    names = ("flights_open", "waiting", "calls_open")
    stats = [engine.stats()["engine"] for engine in bustle.running]
    assert {0} == {stat[name] for stat in stats for name in names}


# --- keys that shall be newer -----------------------------------------------------


def version_of(s, key: bytes) -> int:
    (got,) = s.outcome(s.get(key)).found
    return got.version


def test_a_key_that_is_no_newer_than_wanted_is_leased_and_stays_readable(story):
    s = story()
    s.set(b"c\0a", b"old")
    s.set(b"c\0b", b"new")
    thans = version_of(s, b"c\0a"), version_of(s, b"c\0b") - 1
    granted, got = s.outcome(lot(s, b"c\0a", b"c\0b", thans=thans)).outcomes

    assert b"new" == got.value
    assert b"old" == value_of(s, b"c\0a")
    delivered(s, granted, b"newer")
    assert b"newer" == value_of(s, b"c\0a")


def test_the_owner_is_told_the_version_of_each_key(story):
    s = story("ann")
    keys = list(islice(s.keys("ann"), 3))
    lot(s, *keys, thans=(7, 0, 9))
    (borrow,) = s.sent(Borrow, "ann")

    assert (tuple(keys), (7, 0, 9)) == (borrow.keys, borrow.thans)


def test_a_peer_is_leased_what_is_no_newer_than_it_holds(story):
    s = story("ann")
    old, new = islice(s.keys("me"), 2)
    s.set(old, b"old")
    s.set(new, b"new")
    thans = version_of(s, old), version_of(s, new) - 1
    borrowed(s, old, new, thans=thans)
    first, second = loans(s)

    assert (Status.LEASED, Status.HIT) == (first.status, second.status)
    assert b"new" == second.value


def test_versions_that_a_peer_leaves_out_are_0(story):
    s = story("ann")
    one, two = islice(s.keys("me"), 2)
    s.set(one, b"1")
    s.set(two, b"2")
    borrowed(s, one, two, thans=(2**64 - 1,))

    assert [Status.LEASED, Status.HIT] == [loan.status for loan in loans(s)]
