"""The engine as a whole: inputs in order, an end for everything that waits."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from meshcache.codec.messages import (
    Abandon,
    Cancel,
    Clear,
    Fetch,
    Fulfil,
    Item,
    Leased,
    Load,
    LoaderName,
    Loaders,
    Ping,
    Reason,
    Refused,
    Stranger,
    Survey,
    Surveyed,
    Verb,
    Write,
)
from meshcache.engine.effects import Changed, Complete, Retabled, Send
from meshcache.engine.engine import ANNOUNCE_DELAY, ANNOUNCE_INTERVAL, Engine
from meshcache.engine.ops import (
    AskTables,
    ClearCache,
    Closed,
    Deliver,
    Register,
    Results,
    Tables,
    Unreached,
)
from meshcache.engine.stranded import LOOK
from meshcache.model import State

NAME = LoaderName("app:load", 1)


# --- the shape --------------------------------------------------------------------


def test_a_new_engine_owns_everything_and_has_something_to_do_soon(story):
    s = story()

    assert {"me"} == {s.owner(key) for key in islice(s.keys("me"), 20)}
    assert s.engine.deadline() <= s.now + s.config.sweep_interval


def test_time_may_begin_at_zero(story):
    s = story()
    engine = Engine(s.me, s.config, random.Random(1), now=-1.0)
    engine.join((), -1.0)
    while engine.deadline() < 0:
        engine.tick(engine.deadline())

    assert 0.0 == engine.deadline()


def test_a_tick_before_anything_is_due_does_nothing(story):
    s = story("ann")
    s.passes(1.1)

    assert s.engine.deadline() > s.now
    assert [] == s.engine.tick(s.now)


def test_the_same_story_has_the_same_effects(story):
    def told():
        s = story("ann", "bob")
        effects = []
        for key in islice(s.keys("me", "ann", "bob"), 6):
            s.load(key)
            effects += s.effects
        s.passes(5.0)
        return [repr(effect) for effect in effects + s.effects]

    assert told() == told()


def test_a_stranger_says_nothing(story):
    s = story("ann")
    s.hears(Stranger())

    assert [] == s.effects


def test_a_member_that_comes_is_told_and_the_table_with_it(story, member):
    s = story("ann")
    s.meets(member("bob"))

    assert [Changed(member("bob"), None)] == s.wanted(Changed)
    (retabled,) = s.wanted(Retabled)
    assert retabled.table is s.engine.ranges.table
    assert 3 == len(retabled.table.members)


def test_an_observer_changes_no_table(story, member):
    s = story("ann")
    s.meets(member("eye", weight=0))

    assert [] == s.wanted(Retabled)


def test_addresses_that_a_member_has_given_up_are_forgotten(story, member):
    s = story("ann")
    peers = s.engine._core.peers
    for number in range(1, 50):
        s.meets(member("ann", incarnation=number, address=f"ann:{number + 10}"))

    assert peers.at("ann:1") is peers.at("ann:58") is None
    assert peers.at("ann:59") is peers.at("ann:2") is not None
    assert 2 == len(peers._by_address)


def test_a_second_process_of_an_id_ends_what_the_first_was_asked(story, member):
    s = story("ann", "bob")
    reads, loads = s.get(s.key("ann")), s.load(s.key("ann"))
    s.meets(member("ann", epoch=6))

    assert Results((None,)) == s.outcome(reads)
    assert 0 == s.count("calls_open")
    s.passes(LOOK)
    assert [6] == [load.epoch for load in s.sent(Load, "ann")]
    assert s.waits(loads)


def test_a_dead_member_is_known_by_no_address(story):
    s = story("ann", "bob")
    s.buries("ann")

    assert s.engine._core.peers.at("ann:1") is None
    assert 1 == len(s.engine._core.peers)


# --- what others can load ---------------------------------------------------------


def test_loaders_are_announced_to_all_and_again_and_again(story):
    s = story("ann", "bob")
    s.passes(1.0)
    s.tells(Register((NAME,)))
    note = Loaders(s.me.node_id, 5, (NAME,))
    assert [note] == s.sent(Loaders, "ann") == s.sent(Loaders, "bob")
    s.passes(2 * ANNOUNCE_INTERVAL)

    assert [note] * 2 == s.sent(Loaders, "ann")


def test_a_newcomer_hears_of_them_when_it_knows_us(story, member):
    s = story("ann")
    s.passes(1.0)
    s.tells(Register((NAME,)))
    s.meets(member("bob"))
    assert [] == s.sent(Loaders)
    s.passes(ANNOUNCE_DELAY)

    assert 1 == len(s.sent(Loaders, "bob")) == len(s.sent(Loaders))


def test_a_newcomer_that_is_gone_again_hears_nothing(story, member):
    s = story("ann")
    s.passes(1.0)
    s.tells(Register((NAME,)))
    s.meets(member("bob"))
    s.buries("bob")
    s.passes(ANNOUNCE_DELAY)

    assert [] == s.sent(Loaders)


def test_a_node_without_loaders_announces_nothing(story):
    s = story("ann")
    s.passes(2 * ANNOUNCE_INTERVAL)

    assert [] == s.sent(Loaders)


def test_what_a_peer_can_load_is_what_it_said_last(story):
    s = story("ann")
    ann = s.peers["ann"]
    key = s.key("ann")
    s.hears(Loaders(ann.node_id, ann.epoch, (NAME,)))
    s.hears(Loaders(ann.node_id, ann.epoch, ()))
    s.load(key, loader=NAME.name, loader_version=1)

    assert [""] == [load.loader for load in s.sent(Load)]


# --- tables -----------------------------------------------------------------------


def test_a_survey_is_answered_with_our_table(story):
    s = story("ann")
    s.hears(Survey(3, 5), "ann")

    assert [Surveyed(3, s.engine.ranges.table.epoch)] == s.replied(Surveyed, "ann")


def test_asking_for_tables_ends_with_one_of_each(story, member):
    s = story("ann", "bob", "eve")
    s.meets(member("eye", weight=0))
    s.breaks("eve")
    ticket = s.asks(AskTables())
    (ann,) = s.sent(Survey, "ann")
    assert 2 == len(s.sent(Survey))
    s.hears(Surveyed(ann.rid, 77))
    s.passes(1.0)

    epochs = s.outcome(ticket).epochs
    assert s.engine.ranges.table.epoch == epochs[0]
    assert [None, None, 77] == sorted(epochs[1:], key=lambda e: (e is not None, e))
    assert Tables(epochs) == s.outcome(ticket)


# --- leaving ----------------------------------------------------------------------


def busy(story):
    """A node in the middle of everything: (story, tickets that wait)."""
    s = story("ann", "bob")
    mine, other = islice(s.keys("me"), 2)
    tickets = {"read": s.get(s.key("ann"))}
    tickets["write"] = s.set(s.key("ann"), b"v")
    tickets["load"] = s.load(s.key("bob"))
    tickets["clear"] = s.asks(ClearCache("c"))
    tickets["tables"] = s.asks(AskTables())
    s.load(mine)
    tickets["joined"] = s.load(mine)
    s.asked_to_load(other, "ann", rid=4)
    s.asked_to_load(other, "bob", rid=6)
    assert all(map(s.waits, tickets.values()))
    return s, tickets


def test_leaving_ends_all_that_waits_here(story):
    s, tickets = busy(story)
    s.leaves()

    assert Results((None,)) == s.outcome(tickets["read"])
    gone = Unreached("ann:2", unknown=True)
    assert (gone,) == s.outcome(tickets["write"]).results
    assert Closed() == s.outcome(tickets["load"]) == s.outcome(tickets["joined"])
    assert 3 == len(s.outcome(tickets["clear"]).results)
    assert 3 == len(s.outcome(tickets["tables"]).epochs)
    assert {"flights_open": 0, "waiting": 0, "calls_open": 0}.items() <= (
        s.engine.stats()["engine"].items()
    )


def test_leaving_tells_the_peers_who_wait_for_us(story):
    s, _ = busy(story)
    s.leaves()

    assert [Refused(6, Reason.LEAVING)] == s.replied(Refused, "bob")


def test_leaving_gives_back_what_was_leased(story):
    s = story("ann")
    s.load(s.key("ann"))
    s.hears(Leased(s.sent(Load)[0].rid, 88, 30_000), "ann")
    s.leaves()

    assert [Abandon(5, 88, "", "", "", b"")] == s.sent(Abandon, "ann")


def test_whoever_asks_a_leaving_node_hears_it_at_once(story):
    s = story("ann")
    s.leaves()
    asked = [
        s.get(b"c\0k"),
        s.load(b"c\0k"),
        s.set(b"c\0k", b"v"),
        s.asks(ClearCache("c")),
        s.asks(AskTables()),
    ]

    assert [Closed()] * 5 == [s.outcome(ticket) for ticket in asked]


@pytest.mark.parametrize(
    "message",
    [
        Fetch(9, 5, 0, 0, 1, False, (b"c\0k",)),
        Load(9, 5, 0, 0, 1, False, b"", b"c\0k", "", 0, b"", ()),
        Write(9, 5, 0, 0, 1, Verb.SET, (Item(b"c\0k", b"", 0, 0),)),
        Clear(9, 5, 1, "c"),
        Survey(9, 5),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_peer_that_asks_a_leaving_node_is_refused(story, message):
    s = story("ann")
    s.leaves()
    s.hears(message, "ann")

    assert [Refused(9, Reason.LEAVING)] == s.replied(Refused, "ann")


def test_the_farewell_ends(story):
    s, _ = busy(story)
    s.leaves()
    assert not s.engine.left
    s.passes(200.0)

    assert s.engine.left
    assert State.LEFT is s.engine.me.state


def test_leaving_twice_is_leaving_once(story):
    s, _ = busy(story)
    s.leaves()
    s.leaves()

    assert [] == s.wanted(Complete)


def test_what_comes_after_leaving_does_no_harm(story):
    s = story("ann")
    held = s.load(s.key("me"))
    lease = s.outcome(held).lease
    s.leaves()
    s.tells(Deliver(lease, b"v", -1))
    s.hears(Fulfil(5, lease, b"v", -1))
    s.hears(Cancel(4))

    assert [] == s.effects
    assert 0 == s.engine.stats()["store"]["entries"]


# --- connections ------------------------------------------------------------------


def test_losing_an_unknown_address_is_nothing(story):
    s = story("ann")
    s._do(s.engine.connection_lost("nobody:1", s.now))

    assert [] == s.effects


def test_losing_the_control_plane_is_losing_the_peer(story):
    s = story("ann", "bob")
    ticket = s.get(s.key("ann"))
    s._do(s.engine.connection_lost("ann:1", s.now))

    assert Results((None,)) == s.outcome(ticket)
    sent = [e for e in s.effects if isinstance(e, Send)]
    assert ["ann:1"] == [e.address for e in sent if isinstance(e.message, Ping)]


def unlinked(s, name):
    """Whether membership holds the connection to a peer for lost."""
    [record] = s.engine.swim._core.roster.at(f"{name}:1")
    return record.unlinked


def test_a_lost_control_connection_is_evidence_until_it_is_made_again(story):
    s = story("ann", "bob")

    s._do(s.engine.connection_lost("ann:1", s.now))
    assert (True, False) == (unlinked(s, "ann"), unlinked(s, "bob"))

    s._do(s.engine.connection_made("ann:1", s.now))
    assert not unlinked(s, "ann")


def test_a_lost_data_connection_is_a_reason_to_probe_and_no_evidence(story):
    s = story("ann", "bob")
    s._do(s.engine.connection_lost("ann:2", s.now))

    sent = [e for e in s.effects if isinstance(e, Send)]
    assert ["ann:1"] == [e.address for e in sent if isinstance(e.message, Ping)]
    assert not unlinked(s, "ann")
