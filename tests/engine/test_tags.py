"""Invalidating by tag: everywhere, once it is done, and in order with writes."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from meshcache.clock import NEVER
from meshcache.codec.envelope import Envelope, tags_of
from meshcache.codec.messages import (
    Clear,
    Fetch,
    Filled,
    Found,
    Fulfil,
    Leased,
    Load,
    NotOwner,
    Reason,
    Refused,
    Status,
    Untag,
    Verb,
    Written,
)
from meshcache.engine.ops import (
    ClearCache,
    GetKeys,
    Got,
    Granted,
    InvalidateTags,
    LoadKey,
    Unreached,
    WriteResult,
    WriteResults,
)
from meshcache.hashing import bucket_of, key_hash, partition_of

RED, BLUE, GREEN = 0x1111_0000_0001, 0x2222_0000_0002, 0x3333_0000_0003
DONE = WriteResult(Status.HIT, b"")
KEEPS = Found(Status.HIT, b"", 0, 0)
MOVED = Found(Status.NOT_OWNER, b"", 0, 0)
KEEPS_NOTHING = Found(Status.MISS, b"", 0, 0)


def tagged(*tags: int, body: bytes = b"value") -> bytes:
    return Envelope(body, tags=tags).wrap()


def stored(s, key: bytes) -> bytes | None:
    entry = s.engine.store.get(key, key_hash(key), s.now)
    return None if entry is None else entry.value


def untagged(s, *tags: int, again: bool = False, rid: int = 9) -> list[Written]:
    """A peer tells that *tags* are void."""
    s.hears(Untag(rid, s.me.epoch, 1000, tags, again), "a peer")
    return s.replied(Written, "a peer")


# --- who is told ------------------------------------------------------------------


def test_every_living_member_is_told_also_one_that_owns_nothing(story, member):
    s = story("ann", "bob")
    s.meets(member("eye", weight=0))
    ticket = s.asks(InvalidateTags((RED, BLUE)))

    assert [1, 1, 1] == [len(s.sent(Untag, name)) for name in ("ann", "bob", "eye")]
    for untag in s.sent(Untag):
        assert (5, 1000, (RED, BLUE), False) == untag[1:]
        assert s.waits(ticket)
        s.hears(Written(untag.rid, (KEEPS_NOTHING,)))
        assert [] == s.sent(Untag)
    assert WriteResults((DONE,) * 4) == s.outcome(ticket)


def test_who_keeps_copies_is_told_again_when_all_have_answered(story):
    s = story("ann", "bob", "cat")
    ticket = s.asks(InvalidateTags((RED,)))
    first = {name: s.sent(Untag, name)[0] for name in s.peers}
    s.hears(Written(first["ann"].rid, (KEEPS,)))
    s.hears(Written(first["bob"].rid, (KEEPS_NOTHING,)))
    assert [] == s.sent(Untag)
    s.hears(Written(first["cat"].rid, (KEEPS,)))

    assert [1, 0, 1] == [len(s.sent(Untag, name)) for name in ("ann", "bob", "cat")]
    for untag in s.sent(Untag):
        assert (5, 1000, (RED,), True) == untag[1:]
        assert s.waits(ticket)
        s.hears(Written(untag.rid, (KEEPS,)))
    assert WriteResults((DONE,) * 4) == s.outcome(ticket)


def test_all_are_told_once_more_when_one_has_just_given_up_a_part_of_its_range(story):
    s = story("ann", "bob")
    ticket = s.asks(InvalidateTags((RED,)))
    first = {name: s.sent(Untag, name)[0] for name in s.peers}
    s.hears(Written(first["ann"].rid, (MOVED,)))
    late = tagged(RED)
    s.set(s.key("me"), late)
    s.hears(Written(first["bob"].rid, (KEEPS_NOTHING,)))

    # What has come over meanwhile may have been loaded before anybody was told.
    assert stored(s, s.key("me")) is None
    second = {name: s.sent(Untag, name)[0] for name in s.peers}
    assert [False, False] == [untag.again for untag in second.values()]
    s.hears(Written(second["bob"].rid, (KEEPS_NOTHING,)))
    s.hears(Written(second["ann"].rid, (MOVED,)))
    (third,) = s.sent(Untag)
    assert third.again
    assert s.waits(ticket)
    s.hears(Written(third.rid, (KEEPS,)))
    assert WriteResults((DONE,) * 3) == s.outcome(ticket)


def test_who_was_told_only_the_second_time_was_not_reached(story):
    """It may have handed over in between what it should have dropped."""
    s = story("ann", "bob")
    ticket = s.asks(ClearCache("c"))
    ann, bob = (s.sent(Clear, name)[0] for name in s.peers)
    s.hears(Refused(ann.rid, Reason.OVERLOADED))
    s.hears(Written(bob.rid, (MOVED,)))
    for again in s.sent(Clear):
        s.hears(Written(again.rid, (KEEPS,)))

    assert {Unreached("ann:2", unknown=False), DONE} == set(s.outcome(ticket).results)


def test_who_has_just_given_up_a_part_of_its_range_says_so(story):
    s = story("ann")

    assert [Written(9, (MOVED,))] == untagged(s, RED)
    s.hears(Clear(9, s.me.epoch, 1000, "c"), "a peer")
    assert [Written(9, (MOVED,))] == s.replied(Written, "a peer")

    s.passes(2 * s.config.request_timeout)

    assert [Written(9, (KEEPS,))] == untagged(s, RED)


def test_who_was_not_reached_is_told_of_whichever_time_it_was(story):
    s = story("ann", "bob", "cat", "dan")
    s.breaks("ann")
    ticket = s.asks(InvalidateTags((RED,)))
    first = {name: s.sent(Untag, name)[0] for name in ("bob", "cat", "dan")}
    s.hears(Written(first["bob"].rid, (KEEPS,)))
    s.hears(Refused(first["dan"].rid, Reason.LEAVING))
    s.passes(1.0)
    assert s.waits(ticket)
    s.passes(1.0)

    assert {
        Unreached("ann:2", unknown=False),
        Unreached("bob:2", unknown=True),
        Unreached("cat:2", unknown=True),
        Unreached("dan:2", unknown=False),
        DONE,
    } == set(s.outcome(ticket).results)


def test_alone_it_is_done_at_once_and_without_tags_too(story):
    s = story()

    assert WriteResults((DONE,)) == s.outcome(s.asks(InvalidateTags((RED,))))
    assert WriteResults((DONE,)) == s.outcome(s.asks(InvalidateTags(())))
    assert WriteResults((DONE,)) == s.outcome(s.asks(ClearCache("c")))


def test_who_sees_no_memory_of_some_owner_says_so(story, member):
    alone, beside = story(), story("ann")
    alone.meets(member("eye", weight=0))
    for s in (alone, beside):
        s.passes(2 * s.config.request_timeout)

    assert [Written(9, (KEEPS_NOTHING,))] == untagged(alone, RED)
    assert [Written(9, (KEEPS,))] == untagged(beside, RED)

    beside.buries("ann")

    assert [Written(9, (KEEPS_NOTHING,))] == untagged(beside, RED)


def test_what_was_meant_for_an_earlier_process_changes_nothing(story):
    s = story("ann")
    key = s.key("me")
    s.set(key, tagged(RED))
    s.hears(Untag(9, s.me.epoch - 1, 1000, (RED,), again=False), "a peer")

    assert [Refused(9, Reason.WRONG_EPOCH)] == s.replied(Refused)
    assert tagged(RED) == stored(s, key)


# --- what is stored ---------------------------------------------------------------


@pytest.mark.parametrize(
    "invalidate", [lambda s: s.asks(InvalidateTags((RED,))), lambda s: untagged(s, RED)]
)
def test_all_that_bears_the_tag_is_gone_and_nothing_else(story, invalidate):
    s = story("ann")
    red, both, blue, plain = (
        s.key("me") + suffix for suffix in (b"1", b"2", b"3", b"4")
    )
    mine = [key for key in (red, both, blue, plain) if s.owner(key) == "me"]
    values = {red: tagged(RED), both: tagged(RED, BLUE), blue: tagged(BLUE)}
    for key in mine:
        s.set(key, values.get(key, b"plain"))
    invalidate(s)

    assert [key for key in mine if key in (blue, plain)] == [
        key for key in mine if stored(s, key)
    ]


def test_a_write_after_the_invalidation_lives_and_one_before_it_does_not(story):
    s = story()
    for _ in range(3):
        s.set(b"c\0k", tagged(RED))
        assert tagged(RED) == stored(s, b"c\0k")
        s.asks(InvalidateTags((RED,)))
        assert stored(s, b"c\0k") is None


def test_it_is_above_all_that_was_stored_whatever_its_version(story):
    s = story("ann")
    key = s.key("me")
    ahead = s.engine._core.stamp() + (30_000 << 16)
    s.engine._core.observe(ahead)
    s.set(key, tagged(RED))
    untagged(s, RED)

    assert stored(s, key) is None


# --- loads ------------------------------------------------------------------------


def test_a_load_under_way_for_the_tag_is_not_stored_nor_joined(story):
    s = story("ann")
    key = s.key("me")
    s.asked_to_load(key, "ann", tags=(RED,))
    (leased,) = s.replied(Leased)
    s.asks(InvalidateTags((RED,)))

    assert isinstance(s.outcome(s.load(key, tags=(RED,))), Granted)

    s.hears(Fulfil(s.me.epoch, leased.token, tagged(RED), -1), "ann")

    assert stored(s, key) is None
    assert 1 == s.count("fenced")


def test_a_load_of_other_tags_goes_on(story):
    s = story("ann")
    key = s.key("me")
    s.asked_to_load(key, "ann", tags=(BLUE,))
    (leased,) = s.replied(Leased)
    s.asks(InvalidateTags((RED,)))

    assert s.waits(s.load(key, tags=(BLUE,)))

    s.hears(Fulfil(s.me.epoch, leased.token, tagged(BLUE), -1), "ann")

    assert tagged(BLUE) == stored(s, key)


def test_a_load_that_turns_out_to_bear_the_tag_is_not_stored(story):
    s = story("ann")
    key = s.key("me")
    s.asked_to_load(key, "ann")
    (leased,) = s.replied(Leased)
    s.asks(InvalidateTags((RED,)))
    s.hears(Fulfil(s.me.epoch, leased.token, tagged(RED), -1), "ann")

    assert stored(s, key) is None


def test_whoever_asks_after_it_does_not_wait_for_an_answer_asked_for_before(story):
    s = story("ann")
    key = s.key("ann")
    before = s.load(key)
    (first,) = s.sent(Load)
    untagged(s, RED)
    after = s.load(key)
    (second,) = s.sent(Load)
    s.hears(Filled(first.rid, tagged(RED), -1, 7, loaded=False))

    assert tagged(RED) == s.outcome(before).value
    assert s.waits(after)

    s.hears(Filled(second.rid, tagged(GREEN), -1, 8, loaded=True))

    assert tagged(GREEN) == s.outcome(after).value


def test_nor_for_one_that_was_asked_for_somewhere_else(story):
    s = story("ann", "bob")
    key = s.key("ann")
    s.load(key)
    (first,) = s.sent(Load)
    s.hears(NotOwner(first.rid, s.peers["bob"].node_id, 1))
    (redirected,) = s.sent(Load, "bob")
    untagged(s, RED)
    after = s.load(key)
    s.hears(Filled(redirected.rid, tagged(RED), -1, 7, loaded=False))

    assert s.waits(after)


# --- near -------------------------------------------------------------------------


def read(s, key: bytes, value: bytes) -> Got:
    ticket = s.get(key)
    for fetch in s.sent(Fetch):
        s.answers(fetch, value)
    (got,) = s.outcome(ticket).found
    return got


@pytest.mark.parametrize("owner", ["me", "ann"])
@pytest.mark.parametrize(
    "invalidate", [lambda s: s.asks(InvalidateTags((RED,))), lambda s: untagged(s, RED)]
)
def test_what_is_kept_near_falls_with_its_tag_and_with_no_other(
    story, owner, invalidate
):
    s = story("ann")
    key = s.key(owner)
    if owner == "me":
        s.set(key, tagged(RED, BLUE))
    got = read(s, key, tagged(RED, BLUE))
    red, green, plain = got.stamp.tagged((RED, BLUE)), got.stamp.tagged((GREEN,)), None
    plain = got.stamp
    invalidate(s)

    assert (False, True, True) == (red.stands, green.stands, plain.stands)


def test_what_was_asked_for_before_is_not_kept_near(story):
    s = story("ann")
    ticket = s.get(s.key("ann"))
    (fetch,) = s.sent(Fetch)
    untagged(s, RED)
    s.answers(fetch, tagged(RED))
    (got,) = s.outcome(ticket).found

    assert got.stamp.tagged((RED,)) is None


def test_what_was_read_from_an_owner_not_told_yet_falls_when_all_are(story):
    s = story("ann")
    untagged(s, RED)
    kept = read(s, s.key("ann"), tagged(RED)).stamp.tagged((RED,))
    assert kept.stands
    untagged(s, RED, again=True)

    assert not kept.stands
    assert tagged(RED) == read(s, s.key("ann"), tagged(RED)).value
    assert read(s, s.key("ann"), tagged(RED)).stamp.tagged((RED,)).stands


def test_the_same_goes_for_who_invalidates(story):
    s = story("ann")
    ticket = s.asks(InvalidateTags((RED,)))
    (untag,) = s.sent(Untag)
    kept = read(s, s.key("ann"), tagged(RED)).stamp.tagged((RED,))
    assert kept.stands
    s.hears(Written(untag.rid, (KEEPS_NOTHING,)))

    assert WriteResults((DONE, DONE)) == s.outcome(ticket)
    assert not kept.stands


def test_being_told_again_ends_no_entry_written_since(story):
    s = story("ann")
    key = s.key("me")
    untagged(s, RED)
    s.set(key, tagged(RED))
    untagged(s, RED, again=True)

    assert tagged(RED) == stored(s, key)


# --- several nodes ----------------------------------------------------------------


@pytest.mark.slow
def test_on_one_host_everybody_is_told_once_and_sees_it_in_memory(host):
    h = host()
    for name in ("ann", "bob", "cat"):
        h.starts(name)
    h.settles()
    (key,) = h.keys("ann", 1)
    h.sets("ann", key, tagged(RED))
    tenure = h["cat"].ranges.tenures[partition_of(key_hash(key))]
    stamp = tenure.stamp(bucket_of(key_hash(key)))._replace(seen=-1)
    entry = tenure.get(key, key_hash(key), h.now)
    kept = stamp.tagged((RED,), entry.version)
    assert kept.stands
    h.holds("cat")
    h.asks("bob", InvalidateTags((RED,)))
    h.passes(0.01)

    # Though it has not read its mail.
    assert not kept.stands
    assert tenure.get(key, key_hash(key), h.now) is None
    assert [False] == [m.again for _, m in h.nodes["cat"].inbox if type(m) is Untag]


def puts(h, name: str, key: bytes, value: bytes, version: int) -> None:
    """Have a node hold what came to it with a version that no clock has now."""
    h[name].store.put(
        key, key_hash(key), value, version=version, expires=NEVER, now=h.now
    )


@pytest.mark.slow
def test_what_arrives_from_a_node_that_is_gone_is_judged_by_what_was_told_since(host):
    h = host()
    h.starts("ann")
    h.settles()
    keys = h.keys("ann", 40)
    for key in keys:
        puts(h, "ann", key, tagged(RED), version=2**63)
        puts(h, "ann", key + b"blue", tagged(BLUE), version=2**63)
    h.starts("bob")
    h.passes(0.02)
    h.crashes("ann")
    h.claim("ann")
    h.buries("ann")
    h.asks("bob", InvalidateTags((RED,)))
    h.settles()

    assert [None] * len(keys) == [h.value("bob", key) for key in keys]
    assert [tagged(BLUE)] * len(keys) == [h.value("bob", key + b"blue") for key in keys]


@pytest.mark.slow
def test_what_arrives_from_a_broken_clock_dies_with_its_tag_all_the_same(host):
    h = host()
    h.starts("ann")
    h.settles()
    (key,) = h.keys("ann", 1)
    puts(h, "ann", key, tagged(RED), version=2**63)
    h.starts("bob")
    h.leaves("ann")
    h.settles()
    assert tagged(RED) == h.value("bob", key)
    h.asks("bob", InvalidateTags((RED,)))

    assert h.value("bob", key) is None


class Kept(NamedTuple):
    value: bytes
    stamp: Any


class World:
    """Applications that read, keep near, load, write and invalidate, all at random.

    A value is void when an invalidation of one of its tags is done that was asked for
    after the value was written, or after its load began. Whoever asks from then on
    must not be given it.
    """

    NAMES = ("ann", "bob", "cat", "dan", "eve")
    TAGS = (RED, BLUE, GREEN)

    def __init__(self, host: Any, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.host = host(seed, delay=rng.choice([0.001, 0.01]))
        self.host.unseen |= set(rng.sample(self.NAMES, rng.choice([0, 1, 2, 5])))
        self.waiting = list(self.NAMES[: rng.randint(2, 5)])
        self.names: list[str] = []
        self.join()
        self.join()
        self.keys = [b"c\0%d" % number for number in range(8)]
        self.numbers = 0
        self.true: set[bytes] = set()
        self.void: set[bytes] = set()
        self.near: dict[tuple[str, bytes], Kept] = {}
        self.counts = dict.fromkeys(("near", "lane", "got", "loaded", "untagged"), 0)

    def join(self) -> None:
        if self.waiting:
            name = self.waiting.pop()
            self.host.starts(name)
            self.names.append(name)
            self.host.settles()

    def make(self, known: tuple[int, ...] = TAGS) -> bytes:
        """Make a new value; a loader that has not said its tags gives it none."""
        self.numbers += 1
        tags = self.rng.sample(known, self.rng.choice([0, 1, 1, 2])) if known else ()
        return tagged(*tags, body=b"%d" % self.numbers)

    def given(self, what: str, value: bytes, void: set[bytes]) -> None:
        self.counts[what] += 1
        assert value not in void, f"{what} gave what was invalidated"

    def keep(self, name: str, key: bytes, value: bytes, stamp: Any, version: int = 0):
        tags = tags_of(value)
        if stamp is not None and tags:
            stamp = stamp.tagged(tags, version)
        if stamp is not None and stamp.stands:
            self.near[name, key] = Kept(value, stamp)

    def write(self, name: str, key: bytes) -> None:
        value = self.make()
        self.host.writes(name, Verb.SET, key, value, lambda _: self.true.add(value))

    def read(self, name: str, key: bytes) -> None:
        kept, now = self.near.get((name, key)), self.host.now
        if kept is not None and kept.stamp.stands:
            self.given("near", kept.value, self.void)
            return
        hashed = key_hash(key)
        tenure = self.host[name].ranges.tenures[partition_of(hashed)]
        get, stamp = tenure.get, tenure.stamp(bucket_of(hashed))
        found = None if get is None else get(key, hashed, now)
        if found is not None:
            self.given("lane", found.value, self.void)
            stamp = stamp._replace(seen=-1)
            self.keep(name, key, found.value, stamp, found.version)
        elif self.rng.random() < 0.5:
            self.ask(name, key, GetKeys(((key, hashed),)))
        else:
            tags = self.rng.choice([(), self.TAGS])
            self.ask(name, key, LoadKey(key, hashed, "", 0, b"", (), 30.0, 0, tags))

    def ask(self, name: str, key: bytes, op: Any) -> None:
        void = set(self.void)

        def told(outcome: Any) -> None:
            if isinstance(outcome, Granted):
                self.load(name, key, outcome, self.make(getattr(op, "tags", ())))
                return
            got = outcome if isinstance(outcome, Got) else outcome.found[0]
            if got is not None:
                self.given("got", got.value, void)
                self.keep(name, key, got.value, got.stamp)

        self.host.asks(name, op, told)

    def load(self, name: str, key: bytes, granted: Granted, value: bytes) -> None:
        self.true.add(value)

        def loaded() -> None:
            self.counts["loaded"] += 1
            self.host.delivers(name, granted.lease, value)
            self.keep(name, key, value, granted.stamp)

        self.host.later(self.rng.random() * 0.02, loaded)

    def invalidate(self, name: str) -> None:
        tags = tuple(self.rng.sample(self.TAGS, self.rng.choice([1, 1, 2])))
        bearing = {v for v in self.true if not set(tags).isdisjoint(tags_of(v))}

        def done(outcome: WriteResults) -> None:
            assert all(result == DONE for result in outcome.results)
            self.counts["untagged"] += 1
            self.void |= bearing

        self.host.asks(name, InvalidateTags(tags), done)

    def runs(self, steps: int) -> None:
        rng = self.rng
        for _ in range(steps):
            name, key, what = (
                rng.choice(self.names),
                rng.choice(self.keys),
                rng.random(),
            )
            if what < 0.15:
                self.write(name, key)
            elif what < 0.25:
                self.invalidate(name)
            elif what < 0.255:
                self.join()
            else:
                self.read(name, key)
            if rng.random() < 0.5:
                self.host.passes(rng.random() * 0.01)
        self.host.passes(1.0)


@pytest.mark.slow
def test_nobody_is_given_what_was_invalidated_before_he_asked(host):
    counts: dict[str, int] = {}
    for seed in range(6):
        world = World(host, seed)
        world.runs(150)
        for what, count in world.counts.items():
            counts[what] = counts.get(what, 0) + count

    # It is about something: all ways of reading were gone, and often.
    assert all(count > 10 for count in counts.values()), counts
