"""Who hears of a clear or a tag that was invalidated, and what they cannot be told."""

from __future__ import annotations

import pytest

from meshcache.codec.envelope import Envelope
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import (
    Clear,
    Found,
    Gossip,
    Status,
    Untag,
    Verb,
    Written,
)
from meshcache.engine.ops import (
    ClearCache,
    Deliver,
    InvalidateTags,
    Unreached,
    WriteResult,
    WriteResults,
)
from meshcache.model import State

RED = 0x1111_0000_0001

DONE = WriteResult(Status.HIT, b"")
VALUE = Envelope(b"v", tags=(RED,)).wrap()
FORGOTTEN = pytest.mark.parametrize("op", [ClearCache("c"), InvalidateTags((RED,))])
BOTH = pytest.mark.parametrize(
    ("op", "kind"), [(ClearCache("c"), Clear), (InvalidateTags((RED,)), Untag)]
)


@BOTH
def test_a_suspect_is_told_for_it_may_live_and_serve(story, op, kind):
    s = story("ann", "bob")
    suspect = s.peers["ann"]._replace(state=State.SUSPECT)
    s.hears(Gossip(s.peers["bob"], (suspect,)), ("control", "bob"))
    s.asks(op)

    assert [1, 1] == [len(s.sent(kind, name)) for name in ("ann", "bob")]


@BOTH
def test_who_cannot_be_told_at_all_was_not(story, op, kind):
    s = story("ann", "bob")
    s.breaks("ann")
    ticket = s.asks(op)

    assert [] == s.sent(kind, "ann")
    s.passes(2.0)
    by_address = {
        r.address: r.unknown
        for r in s.outcome(ticket).results
        if isinstance(r, Unreached)
    }
    assert {"ann:2": False, "bob:2": True} == by_address


def test_a_clear_takes_the_loads_of_its_parts_along_and_no_others(story):
    s = story()
    keys = (b"c\0k", b"c|f|1\0k", b"cd\0k")
    leases = [s.outcome(s.load(key)).lease for key in keys]
    s.outcome(s.asks(ClearCache("c")))
    for lease in leases:
        s.tells(Deliver(lease, b"v", NO_EXPIRY))

    found = [s.outcome(s.get(key)).found[0] for key in keys]
    assert [None, None, b"v"] == [got and got.value for got in found]


# --- siblings that membership does not know -----------------------------------------


def beside_a_stranger(host):
    """Bob, who sees the arena of ann and has not met her; and a key of hers."""
    h = host()
    h.starts("ann")
    h.settles()
    key = h.keys("ann", 1)[0]
    h.direct("ann", Verb.SET, key, VALUE)
    h.starts("bob", found=False)
    h.holds("ann")
    h.discovers("bob")
    return h, key


@FORGOTTEN
def test_a_sibling_that_is_about_to_be_met_is_told_too(host, op):
    h, key = beside_a_stranger(host)
    ticket = h.asks("bob", op)
    h.passes(0.2)
    assert None is h.outcome("bob", ticket)

    h.releases("ann")
    h.passes(0.5)
    assert WriteResults((DONE, DONE)) == h.outcome("bob", ticket)
    assert [None, None] == [h.value(name, key) for name in ("ann", "bob")]


@FORGOTTEN
def test_one_that_takes_over_meanwhile_and_is_about_to_be_met_is_told_too(host, op):
    h = host()
    for name in ("ann", "bob"):
        h.starts(name)
        h.settles()
    h.holds("bob")
    ticket = h.asks("bob", op)
    h.starts("cat", found=False)
    h.discovers("cat", "ann")
    h.passes(0.3)
    # Ann's answer comes first, the news of cat later.
    inbox = h.nodes["bob"].inbox
    answers = [mail for mail in inbox if isinstance(mail[1], Written)]
    h.nodes["bob"].inbox = [mail for mail in inbox if mail not in answers]
    for source, message in answers:
        h.hears("bob", message, source)
    h.passes(0.02)
    assert None is h.outcome("bob", ticket)

    h.releases("bob")
    h.passes(0.5)
    assert WriteResults((DONE,) * 3) == h.outcome("bob", ticket)


@FORGOTTEN
@pytest.mark.parametrize("said", [Status.HIT, Status.NOT_OWNER])
def test_who_stops_between_two_rounds_is_not_left_waiting(story, op, said):
    s = story("ann", "bob")
    ticket = s.asks(op)
    kind = Clear if isinstance(op, ClearCache) else Untag
    s.hears(Written(s.sent(kind, "ann")[0].rid, (Found(said, b"", 0, 0),)))
    s.leaves()

    assert Unreached("bob:2", unknown=True) in s.outcome(ticket).results


@FORGOTTEN
def test_a_sibling_that_is_not_met_was_not_told(host, op):
    h, _ = beside_a_stranger(host)
    ticket = h.asks("bob", op)
    h.passes(h.config.request_timeout + 0.1)
    ann = h.nodes["ann"].me.node_id.hex()

    missed = Unreached(f"the node {ann} of this host", unknown=False)
    assert WriteResults((missed, DONE)) == h.outcome("bob", ticket)


@FORGOTTEN
def test_one_that_is_taken_for_dead_and_lives_is_told_or_sealed_first(host, op):
    h = host()
    for name in ("ann", "bob"):
        h.starts(name)
        h.settles()
    key = h.keys("bob", 1)[0]
    h.direct("bob", Verb.SET, key, VALUE)
    h.holds("bob")
    h.buries("bob")
    ticket = h.asks("ann", op)
    assert None is h.outcome("ann", ticket)
    assert VALUE == h.value("bob", key)

    h.passes(h.config.request_timeout)
    assert WriteResults((DONE,)) == h.outcome("ann", ticket)
    assert [None, None] == [h.value(name, key) for name in ("ann", "bob")]
