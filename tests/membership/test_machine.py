"""The membership machine, told as stories: what it hears, and what it does."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from meshcache.clock import NEVER
from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Reply, Send
from meshcache.codec.messages import (
    Accusation,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingReq,
    PushPull,
)
from meshcache.membership.belief import MAX_PROOFS
from meshcache.membership.detector import MAX_FAILED
from meshcache.membership.effects import Changed
from meshcache.membership.machine import Swim
from meshcache.membership.probe import Probe
from meshcache.membership.settings import Settings
from meshcache.model import State

A, S, D, L = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


@pytest.fixture
def ann(member):
    return member("ann")


@pytest.fixture
def bob(member):
    return member("bob")


def crowd(member, count):
    return [member(f"m{i}") for i in range(count)]


def ack(ping, sender, subject=None, checksum=0):
    return Ack(ping.seq, sender, subject or sender.node_id, checksum, ())


def ping_to(me, sender, *updates, seq=5):
    return Ping(seq, sender, me.node_id, me.epoch, 0, updates)


# --- joining ----------------------------------------------------------------------


def test_joining_asks_every_seed_who_lives_there(member):
    me = member("me")
    swim = Swim(me, Settings(), random.Random(1))

    effects = swim.join(["tcp://s1", "tcp://s2", me.address], 0.0)

    assert Changed(me, None) == effects[0]
    assert ["tcp://s1", "tcp://s2"] == [e.address for e in effects[1:]]
    assert [b"", b""] == [e.message.target for e in effects[1:]]


def test_a_seed_that_sees_others_is_asked_for_its_list(story, member, ann, sent):
    tale = story()
    effects = tale.calls("seeds", [ann.address])
    [ping] = sent(effects, Ping)

    effects = tale.hears(ack(ping, ann, checksum=12345))

    [request] = sent(effects, PushPull, to=ann)
    assert request.answer
    assert request.joining


def test_a_seed_that_sees_the_same_is_not_asked_for_its_list(story, ann, sent):
    tale = story(ann)
    [ping] = sent(tale.calls("seeds", [ann.address]), Ping)

    effects = tale.hears(ack(ping, ann, checksum=tale.swim.checksum))

    assert [] == sent(effects, PushPull)


def test_a_ping_that_knows_only_the_address_is_answered(story, ann, replied):
    tale = story()

    effects = tale.hears(Ping(9, ann, b"", 0, 0, ()))

    [answer] = replied(effects, Ack)
    assert (9, tale.me.node_id) == (answer.seq, answer.subject)


def test_a_ping_meant_for_another_process_at_this_address_is_dropped(story, ann):
    tale = story()
    me = tale.me

    for target, epoch in ((b"y" * 16, me.epoch), (me.node_id, me.epoch - 1)):
        effects = tale.hears(Ping(9, ann, target, epoch, 0, ()))

        assert not [e for e in effects if isinstance(e, Reply)]
    assert 2 == tale.swim.counters.misaddressed


def test_whoever_sends_anything_gets_known_and_told_of(story, ann, bob, sent):
    tale = story(ann)

    effects = tale.hears(ping_to(tale.me, bob))

    assert Changed(bob, None) in effects
    told = sent(tale.until(tale.now + 0.2), Gossip, to=ann)
    assert bob in [m for gossip in told for m in gossip.updates]


def test_a_request_for_the_list_is_answered_with_all_others(
    story, ann, bob, member, replied
):
    dead = member("dead", state=D)
    tale = story(ann)
    tale.hears(tale.gossip(ann, dead))

    effects = tale.hears(PushPull(bob, answer=True, joining=True, members=()))

    [answer] = replied(effects, PushPull)
    assert {ann, bob, dead} == set(answer.members)
    assert not answer.answer


def test_long_lists_go_in_parts_that_fit_a_frame_and_ask_once(
    story, ann, member, sent, replied
):
    long = {"address": "a" * 250, "host": "h" * 100}
    tale = story(ann)
    for i in range(450):
        changes = long if i < 200 else {}
        tale.hears(ping_to(tale.me, member(f"m{i}", **changes)))
    [ping] = sent(tale.calls("seeds", ["tcp://seed"]), Ping)

    parts = sent(tale.hears(ack(ping, ann, checksum=1)), PushPull)

    codec = FrameCodec("c")
    assert 451 == sum(len(part.members) for part in parts)
    assert [False] * (len(parts) - 1) + [True] == [part.answer for part in parts]
    assert all(len(part.members) <= 200 for part in parts)
    assert all(len(codec.encode(part)) < 65_536 for part in parts)


# --- probing ------------------------------------------------------------------------


def first_ping(tale, sent, to):
    """Let time pass, the others answering, until it is this member's turn."""
    while True:
        effects = tale.until(tale.swim.deadline())
        if pings := sent(effects, Ping, to=to):
            return pings[0]
        for other in tale.others:
            for ping in sent(effects, Ping, to=other):
                tale.hears(ack(ping, other, checksum=tale.swim.checksum))


def test_one_member_is_probed_in_each_period_in_turn(story, member, sent):
    others = crowd(member, 4)
    tale = story(*others)
    pings = []
    until = tale.now + 9.0
    while tale.now < until:
        for ping in sent(tale.until(tale.swim.deadline()), Ping):
            pings.append(ping.target)
            target = next(m for m in others if m.node_id == ping.target)
            tale.hears(ack(ping, target, checksum=tale.swim.checksum))

    assert len(pings) in (8, 9, 10)
    assert {m.node_id for m in others} == set(pings[:4]) | set(pings[4:8])
    assert tale.swim.counters.acks == len(pings)


def test_a_silent_member_is_sought_through_helpers(story, member, ann, sent):
    others = crowd(member, 5)
    tale = story(ann, *others)
    ping = first_ping(tale, sent, to=ann)
    began = tale.now

    effects = tale.until(began + 0.499)
    assert [] == sent(effects, PingReq)

    requests = sent(tale.until(began + 0.5), PingReq)
    assert 3 == len(requests)
    assert {(ping.seq, ann.node_id, 500)} == {
        (r.seq, r.target, r.budget_ms) for r in requests
    }
    assert [] == sent(effects, PingReq, to=ann)


def test_a_late_answer_counts_until_the_period_ends(story, member, ann, sent):
    tale = story(ann, *crowd(member, 3))
    ping = first_ping(tale, sent, to=ann)
    tale.until(tale.now + 0.99)
    tale.hears(ack(ping, ann))
    tale.until(tale.now + 0.02)

    assert A == tale.state(ann)


def test_an_answer_through_a_helper_counts(story, member, ann, sent):
    others = crowd(member, 3)
    tale = story(ann, *others)
    ping = first_ping(tale, sent, to=ann)
    tale.until(tale.now + 0.6)
    tale.hears(ack(ping, others[0], subject=ann.node_id))
    tale.until(tale.now + 0.5)

    assert A == tale.state(ann)
    assert 1 == tale.swim.counters.acks


def test_an_answer_about_another_member_does_not_count(story, member, ann, sent):
    others = crowd(member, 3)
    tale = story(ann, *others)
    ping = first_ping(tale, sent, to=ann)
    tale.hears(ack(ping, others[0]))
    tale.until(tale.now + 1.0)

    assert S == tale.state(ann)


def test_no_answer_in_the_period_makes_a_suspect_and_names_the_accuser(
    story, member, ann, sent
):
    tale = story(ann, *crowd(member, 3))
    first_ping(tale, sent, to=ann)

    effects = tale.until(tale.now + 1.3)

    assert Changed(ann._replace(state=S), A) in effects
    named = [g.accusations for g in sent(effects, Gossip) if g.accusations]
    assert (Accusation(ann.node_id, 1000, 0, tale.me.node_id),) in named


def test_a_suspect_that_does_not_object_is_dead(story, ann, sent):
    tale = story(ann)
    first_ping(tale, sent, to=ann)
    tale.until(tale.now + 1.0)
    assert S == tale.state(ann)

    tale.until(tale.now + 3.99)
    assert S == tale.state(ann)

    tale.until(tale.now + 0.02)
    assert D == tale.state(ann)


def test_a_suspect_that_raises_its_incarnation_is_alive(story, ann, bob):
    tale = story(ann, bob)
    tale.hears(tale.gossip(bob, ann._replace(state=S)))
    assert S == tale.state(ann)

    effects = tale.hears(tale.gossip(ann._replace(incarnation=1)))

    assert [Changed(ann._replace(incarnation=1), S)] == effects
    assert 1 == tale.swim.counters.false_suspicions
    tale.until(tale.now + 60)
    assert 0 == tale.swim.counters.verdicts - tale.swim.counters.accusations


def test_a_suspect_that_speaks_without_raising_it_stays_a_suspect_and_is_told(
    story, ann, bob, replied
):
    tale = story(ann, bob)
    suspicion = ann._replace(state=S)
    tale.hears(tale.gossip(bob, suspicion))

    effects = tale.hears(tale.gossip(ann))

    assert S == tale.state(ann)
    assert [(suspicion,)] == [g.updates for g in replied(effects, Gossip)]


def test_a_ping_to_a_suspect_carries_the_suspicion(story, ann, bob, sent):
    tale = story(ann, bob)
    suspicion = ann._replace(state=S)
    tale.hears(tale.gossip(bob, suspicion))
    tale.until(tale.now + 0.9)
    while tale.swim.queued:
        tale.swim._core.broadcasts.draw(99, 1)
        tale.swim._core.broadcasts.draw_accusations(99, 1)

    assert suspicion == first_ping(tale, sent, to=ann).updates[0]


def test_an_answer_to_one_we_accuse_carries_the_accusation(story, ann, bob, replied):
    tale = story(ann, bob)
    verdict = ann._replace(state=D)
    tale.hears(tale.gossip(bob, verdict))
    tale.swim._core.broadcasts.drop(ann.node_id)

    [answer] = replied(tale.hears(ping_to(tale.me, ann)), Ack)

    assert verdict == answer.updates[0]


def test_without_the_buddy_rule_the_accused_hear_of_it_by_gossip_alone(
    story, ann, bob, sent, replied
):
    tale = story(ann, bob, buddy=False)
    tale.hears(tale.gossip(bob, ann._replace(state=S)))
    tale.until(tale.now + 0.9)
    while tale.swim.queued:
        tale.swim._core.broadcasts.draw(99, 1)
        tale.swim._core.broadcasts.draw_accusations(99, 1)

    assert () == first_ping(tale, sent, to=ann).updates

    [answer] = replied(tale.hears(ping_to(tale.me, ann)), Ack)

    assert () == answer.updates


# --- Lifeguard ----------------------------------------------------------------------


def test_independent_accusers_shorten_a_suspicion(story, member, ann):
    others = crowd(member, 4)
    tale = story(ann, *others)
    suspicion = ann._replace(state=S)

    def accused_by(*accusers):
        return [Accusation(ann.node_id, 1000, 0, a.node_id) for a in accusers]

    began = tale.now
    tale.hears(tale.gossip(others[0], suspicion, accusations=accused_by(others[0])))
    end = tale.swim._belief.suspicions.deadline
    assert 24.0 == end() - began

    tale.hears(tale.gossip(others[3], accusations=accused_by(others[0])))
    assert 24.0 == end() - began

    tale.hears(tale.gossip(others[3], accusations=accused_by(others[1])))
    assert 14.0 == end() - began

    tale.hears(tale.gossip(others[3], accusations=accused_by(*others[2:])))
    assert 4.0 == end() - began


def test_an_accusation_is_passed_on_with_the_suspicion_it_is_about(
    story, member, ann, sent
):
    others = crowd(member, 4)
    tale = story(ann, *others)
    tale.until(tale.now + 0.05)
    accusation = Accusation(ann.node_id, 1000, 0, others[0].node_id)
    tale.hears(tale.gossip(others[0], ann._replace(state=S), accusations=[accusation]))

    passed = [
        gossip
        for gossip in sent(tale.until(tale.now + 0.3), Gossip)
        if accusation in gossip.accusations
    ]

    assert passed
    assert all(ann._replace(state=S) in gossip.updates for gossip in passed)


def test_an_accusation_of_another_incarnation_confirms_nothing(story, member, ann):
    others = crowd(member, 4)
    tale = story(ann, *others)
    began = tale.now
    tale.hears(tale.gossip(others[0], ann._replace(state=S, incarnation=1)))
    tale.hears(
        tale.gossip(
            others[0],
            accusations=[Accusation(ann.node_id, 1000, 0, o.node_id) for o in others],
        )
    )

    assert 24.0 == tale.swim._belief.suspicions.deadline() - began


def test_a_second_suspect_leaves_fewer_accusers_to_wait_for(story, member, ann, bob):
    tale = story(ann, bob, member("eve"))
    began = tale.now

    def time_of_ann():
        return tale.swim._belief.suspicions.get(ann.node_id).deadline() - began

    tale.hears(tale.gossip(member("eve"), ann._replace(state=S)))
    assert 24.0 == time_of_ann()

    tale.hears(tale.gossip(member("eve"), bob._replace(state=S)))

    assert 4.0 == time_of_ann()


def test_missing_nacks_speak_against_this_node_and_received_ones_do_not(
    story, member, ann, sent
):
    others = crowd(member, 3)

    def health_after(helpers_that_nack):
        tale = story(ann, *others)
        ping = first_ping(tale, sent, to=ann)
        tale.until(tale.now + 0.9)
        for helper in helpers_that_nack:
            tale.hears(Nack(ping.seq, helper, ()))
        before = tale.swim.health
        tale.until(tale.now + 0.11)
        return tale.swim.health - before

    assert 3 == health_after([])
    assert 2 == health_after(others[:1])
    assert 0 == health_after(others)


def test_a_node_that_is_unwell_takes_more_time(story, member, ann, sent):
    tale = story(ann, *crowd(member, 3))
    tale.swim._core.awareness.worse(3)
    first_ping(tale, sent, to=ann)
    began = tale.now

    assert [] == sent(tale.until(began + 1.99), PingReq)
    assert 3 == len(sent(tale.until(began + 2.0), PingReq))
    tale.until(began + 3.99)
    assert A == tale.state(ann)
    tale.until(began + 4.0)
    assert S == tale.state(ann)


def test_a_probe_that_is_answered_makes_well_again(story, ann, sent):
    tale = story(ann)
    tale.swim._core.awareness.worse(2)

    tale.hears(ack(first_ping(tale, sent, to=ann), ann))

    assert 1 == tale.swim.health


def test_a_node_that_wakes_late_accuses_nobody(story, member, ann, bob, sent):
    tale = story(ann, bob, *crowd(member, 3))
    tale.hears(tale.gossip(bob, bob._replace(state=S)))
    tale.hears(tale.gossip(ann, bob._replace(state=S)))
    ping = first_ping(tale, sent, to=ann)

    effects = tale.pause(100.0)

    assert [] == [e for e in effects if isinstance(e, Changed)]
    assert (A, S) == (tale.state(ann), tale.state(bob))
    assert 1 == tale.swim.counters.late
    assert 1 == tale.swim.health

    tale.until(tale.now + 0.4)
    tale.hears(ack(ping, ann))
    tale.hears(tale.gossip(bob._replace(incarnation=1)))
    tale.until(tale.now + 1.5)
    assert A == tale.state(bob)
    assert 0 == tale.swim.counters.accusations


def test_a_node_that_ticks_in_time_is_not_late(story, ann):
    tale = story(ann)
    tale.pause(tale.swim.deadline() - tale.now + 0.2)

    assert 0 == tale.swim.counters.late


# --- helping ------------------------------------------------------------------------


def test_a_helper_pings_the_target_and_passes_the_answer_on(
    story, ann, bob, sent, replied
):
    tale = story(ann, bob)
    effects = tale.hears(PingReq(77, bob, ann.node_id, ann.epoch, 500, ()))
    [ping] = sent(effects, Ping, to=ann)

    [answer] = replied(tale.hears(ack(ping, ann)), Ack)

    assert (77, tale.me, ann.node_id) == (answer.seq, answer.sender, answer.subject)


def test_a_helper_without_an_answer_says_so_in_time_and_passes_on_a_late_one(
    story, ann, bob, sent, replied
):
    tale = story(ann, bob)
    effects = tale.hears(PingReq(77, bob, ann.node_id, ann.epoch, 500, ()))
    [ping] = sent(effects, Ping, to=ann)
    began = tale.now

    assert [] == replied(tale.until(began + 0.39), Nack)
    assert [77] == [n.seq for n in replied(tale.until(began + 0.41), Nack)]
    assert [77] == [a.seq for a in replied(tale.hears(ack(ping, ann)), Ack)]


def test_a_helper_that_does_not_know_the_target_says_so_at_once(story, ann, replied):
    tale = story(ann)

    effects = tale.hears(PingReq(77, ann, b"y" * 16, 1, 500, ()))

    assert [77] == [nack.seq for nack in replied(effects, Nack)]


def test_probes_for_others_are_bounded(story, ann, bob):
    tale = story(ann, bob)
    for seq in range(1000):
        tale.hears(PingReq(seq, bob, ann.node_id, ann.epoch, 500, ()))

    assert 256 == len(tale.swim._detector._relays)


# --- this node ----------------------------------------------------------------------


@pytest.mark.parametrize("state", [S, D, L])
def test_an_accused_node_refutes_by_raising_its_incarnation(story, ann, state, replied):
    tale = story(ann)

    effects = tale.hears(ping_to(tale.me, ann, tale.me._replace(state=state)))

    [answer] = replied(effects, Ack)
    assert tale.me._replace(incarnation=1) == answer.sender == tale.swim.me
    assert 1 == tale.swim.counters.refutations
    assert 1 == tale.swim.health


def test_a_refutation_goes_round_at_once(story, ann, bob, sent):
    tale = story(ann, bob)
    tale.until(tale.now + 0.7)
    tale.hears(tale.gossip(ann, tale.me._replace(state=S)))

    assert tale.now == tale.swim.deadline()
    assert 2 == len(sent(tale.until(tale.now), Gossip))


def test_an_accusation_already_answered_is_not_answered_by_a_higher_incarnation(
    story, ann
):
    tale = story(ann)
    accusation = tale.me._replace(state=S)
    tale.hears(tale.gossip(ann, accusation))
    tale.hears(tale.gossip(ann, accusation))

    assert 1 == tale.swim.me.incarnation


def test_reports_of_an_earlier_process_of_the_same_id_change_nothing(story, ann):
    tale = story(ann)
    tale.hears(tale.gossip(ann, tale.me._replace(epoch=999, state=D, incarnation=7)))
    tale.hears(tale.gossip(ann, tale.me._replace(epoch=1001, incarnation=7)))

    assert tale.me == tale.swim.me
    assert 1 == tale.swim.counters.conflicts


def test_an_accusation_that_cannot_be_outbid_is_not_answered(story, ann):
    tale = story(ann)
    tale.hears(tale.gossip(ann, tale.me._replace(state=S, incarnation=2**32 - 1)))

    assert 0 == tale.swim.me.incarnation


def test_a_change_of_address_is_announced_under_a_higher_incarnation(story, ann, sent):
    tale = story(ann)
    moved = tale.me._replace(address="tcp://elsewhere:1")

    effects = tale.calls("announce", moved)

    told = moved._replace(incarnation=1)
    assert [Changed(told, A)] == effects
    gossip = sent(tale.until(tale.now + 0.2), Gossip, to=ann)
    assert {told} == {g.sender for g in gossip}


# --- belief -------------------------------------------------------------------------


def test_old_news_do_not_bring_back_the_dead(story, ann, bob):
    tale = story(ann, bob)
    tale.hears(tale.gossip(bob, ann._replace(state=D, incarnation=1)))
    tale.hears(tale.gossip(bob, ann._replace(state=D, incarnation=10)))

    tale.hears(tale.gossip(bob, ann._replace(incarnation=2)))

    assert ann._replace(state=D, incarnation=10) == tale.swim.member(ann.node_id)


def test_a_stale_alive_sends_the_verdict_round_again(story, ann, bob, sent):
    tale = story(ann, bob)
    verdict = ann._replace(state=D, incarnation=3)
    tale.hears(tale.gossip(bob, verdict))
    tale.swim._core.broadcasts.drop(ann.node_id)

    tale.hears(tale.gossip(bob, ann))

    assert ann.node_id in tale.swim._core.broadcasts
    told = sent(tale.until(tale.now + 0.3), Gossip, to=bob)
    assert verdict in [m for gossip in told for m in gossip.updates]


def test_the_dead_come_back_by_their_own_word(story, ann, bob):
    tale = story(ann, bob)
    tale.hears(tale.gossip(bob, ann._replace(state=D)))

    effects = tale.hears(tale.gossip(ann._replace(incarnation=1)))

    assert [Changed(ann._replace(incarnation=1), D)] == effects
    assert 1 == tale.swim.counters.resurrections


def test_a_verdict_in_gossip_is_believed_and_in_a_list_it_is_a_suspicion(
    story, ann, bob
):
    gossiped, listed = story(ann, bob), story(ann, bob)
    verdict = ann._replace(state=D)

    gossiped.hears(gossiped.gossip(bob, verdict))
    listed.hears(PushPull(bob, answer=False, joining=False, members=(verdict,)))

    assert (D, S) == (gossiped.state(ann), listed.state(ann))


def test_a_farewell_in_a_list_is_believed(story, ann, bob):
    tale = story(ann, bob)
    left = ann._replace(state=L)
    tale.hears(PushPull(bob, answer=False, joining=False, members=(left,)))

    assert L == tale.state(ann)


def test_the_dead_of_others_that_we_never_knew_stay_unknown(story, ann, bob):
    tale = story(bob)
    for state in (D, L):
        buried = ann._replace(state=state)
        tale.hears(PushPull(bob, answer=False, joining=False, members=(buried,)))

    assert tale.state(ann) is None


def test_a_newer_process_of_the_same_id_replaces_the_older(story, ann, bob):
    tale = story(ann, bob)
    tale.hears(tale.gossip(bob, ann._replace(state=D, incarnation=9)))
    tale.hears(tale.gossip(bob, ann._replace(epoch=1001)))

    assert ann._replace(epoch=1001) == tale.swim.member(ann.node_id)


def test_a_sender_that_says_it_is_dead_is_not_heard(story, ann, bob):
    tale = story(ann)

    assert [] == tale.hears(tale.gossip(bob._replace(state=S), ann._replace(state=D)))
    assert (A, None) == (tale.state(ann), tale.state(bob))


def test_a_full_table_refuses_newcomers_but_gives_up_its_oldest_dead(
    story, member, ann
):
    others = crowd(member, 3)
    tale = story(ann, *others[:2], max_members=4)
    tale.hears(tale.gossip(ann, others[2]))

    assert tale.state(others[2]) is None
    assert 1 == tale.swim.counters.refused

    tale.hears(tale.gossip(ann, others[0]._replace(state=D)))
    tale.hears(tale.gossip(ann, others[2]))

    assert (None, A) == (tale.state(others[0]), tale.state(others[2]))


def test_the_dead_are_forgotten_after_their_time(story, ann, bob):
    tale = story(ann, bob, forget_after=100.0)
    tale.hears(tale.gossip(bob, ann._replace(state=L)))
    tale.until(tale.now + 90)
    assert L == tale.state(ann)

    tale.until(tale.now + 45)

    assert tale.state(ann) is None
    assert 1 <= tale.swim.counters.forgotten


def test_a_departed_observer_is_forgotten_long_before_one_who_owned_something(
    story, member, ann, bob
):
    looker = member("looker", weight=0)
    tale = story(ann, bob, looker)
    gone = [ann._replace(state=L), looker._replace(state=L)]
    tale.hears(tale.gossip(bob, *gone))
    tale.until(tale.now + 50)
    assert (L, L) == (tale.state(ann), tale.state(looker))

    tale.until(tale.now + 45)

    assert (L, None) == (tale.state(ann), tale.state(looker))


def test_the_list_of_members_is_the_same_object_until_something_changes(
    story, ann, bob
):
    tale = story(ann)
    before = tale.swim.members()
    tale.hears(ping_to(tale.me, ann))
    assert before is tale.swim.members()

    tale.hears(ping_to(tale.me, bob))

    assert (*before, bob) == tale.swim.members()


def test_the_checksum_tells_who_lives_and_not_who_is_suspect_or_was(story, ann, bob):
    tale = story(ann, bob)
    before = tale.swim.checksum
    tale.hears(tale.gossip(bob, ann._replace(state=S)))
    assert before == tale.swim.checksum

    tale.hears(tale.gossip(bob, ann._replace(state=D)))

    assert story(bob).swim.checksum == tale.swim.checksum != before


def test_nodes_that_keep_differing_exchange_lists_less_and_less_often(story, ann, sent):
    tale = story(ann)
    times = []
    for seq in range(1200):
        tale.until(tale.now + 0.1)
        answer = Ack(seq, ann, ann.node_id, 12345, ())
        times += [tale.now] * len(sent(tale.hears(answer), PushPull, to=ann))

    gaps = [round(b - a) for a, b in pairwise(times)]
    assert [1, 2, 4, 8, 16, 30] == gaps[:6]


# --- connections and proof ----------------------------------------------------------


def test_a_lost_connection_is_a_probe_at_once_and_no_verdict(story, ann, bob, sent):
    tale = story(ann, bob)

    effects = tale.calls("connection_lost", ann.address)

    [ping] = sent(effects, Ping, to=ann)
    assert ann.node_id == ping.target
    assert A == tale.state(ann)


def test_whose_connection_is_lost_is_probed_by_all_ways_at_once_and_briefly(
    story, ann, bob, sent
):
    tale = story(ann, bob)

    assert 1 == len(sent(tale.calls("connection_lost", ann.address), PingReq, to=bob))
    assert [] == tale.calls("connection_lost", ann.address)
    tale.until(tale.now + 0.49)
    assert A == tale.state(ann)

    tale.until(tale.now + 0.02)
    assert S == tale.state(ann)
    assert [] == tale.calls("connection_lost", ann.address)


def test_a_connection_lost_during_a_probe_brings_its_end_forward(story, ann, bob, sent):
    tale = story(ann, bob)
    tale.calls("doubt", ann.address)
    tale.until(tale.now + 0.1)

    assert 1 == len(sent(tale.calls("connection_lost", ann.address), PingReq, to=bob))
    tale.until(tale.now + 0.51)

    assert S == tale.state(ann)


def test_doubt_is_a_probe_at_once_then_helpers_and_its_full_time(story, ann, bob, sent):
    tale = story(ann, bob)

    assert [ann.node_id] == [
        ping.target for ping in sent(tale.calls("doubt", ann.address), Ping, to=ann)
    ]
    assert 1 == len(sent(tale.calls("doubt", ann.address), PingReq, to=bob))
    assert [] == tale.calls("doubt", ann.address)
    tale.until(tale.now + 0.99)
    assert A == tale.state(ann)

    tale.until(tale.now + 0.02)
    assert S == tale.state(ann)


NORMAL, UNLINKED = 4.0, 3.5


@pytest.fixture
def accused(story, member, ann):
    """A machine that has ann under a suspicion with all its confirmations."""
    others = crowd(member, 4)
    tale = story(ann, *others)
    names = [Accusation(ann.node_id, 1000, 0, other.node_id) for other in others]
    suspect = ann._replace(state=S)

    def time_to_object():
        tale.hears(tale.gossip(others[0], suspect, accusations=names))
        return tale.swim._belief.deadline() - 100.0

    tale.time_to_object = time_to_object
    return tale


def test_a_confirmed_suspicion_ends_sooner_where_the_connection_is_lost_too(
    accused, ann
):
    assert NORMAL == accused.time_to_object()

    accused.calls("connection_lost", ann.address)

    assert UNLINKED == accused.time_to_object()
    assert 1 == accused.swim.counters.links_lost


def test_a_connection_lost_before_the_suspicion_counts_as_well(accused, ann):
    accused.calls("connection_lost", ann.address)

    assert UNLINKED == accused.time_to_object()


def test_a_request_that_timed_out_says_nothing_about_the_connection(accused, ann):
    accused.calls("doubt", ann.address)

    assert NORMAL == accused.time_to_object()


def test_who_doubts_itself_waits_as_long_as_ever(accused, ann):
    accused.calls("connection_lost", ann.address)
    accused.swim._core.awareness.worse()

    assert NORMAL == accused.time_to_object()


def test_any_word_of_the_suspect_clears_the_evidence_of_the_connection(accused, ann):
    accused.calls("connection_lost", ann.address)
    accused.hears(accused.gossip(ann))

    assert NORMAL == accused.time_to_object()


def test_a_word_of_the_process_before_it_clears_nothing(accused, ann):
    accused.calls("connection_lost", ann.address)
    accused.hears(accused.gossip(ann._replace(epoch=999)))

    assert UNLINKED == accused.time_to_object()


def test_what_others_say_of_the_suspect_clears_nothing(accused, member, ann):
    accused.calls("connection_lost", ann.address)
    accused.hears(accused.gossip(member("m1"), ann))

    assert UNLINKED == accused.time_to_object()


def test_a_connection_made_again_clears_the_evidence(accused, ann):
    accused.time_to_object()
    accused.calls("connection_lost", ann.address)
    accused.calls("connection_made", ann.address)

    assert NORMAL == accused.time_to_object()


def test_a_connection_made_elsewhere_clears_nothing(accused, member, ann):
    accused.calls("connection_lost", ann.address)
    accused.calls("connection_made", member("m1").address)

    assert UNLINKED == accused.time_to_object()


@pytest.mark.parametrize(
    "change", [{"epoch": 1001}, {"address": "tcp://moved:1", "incarnation": 1}]
)
def test_a_link_to_an_earlier_process_or_address_is_no_evidence(
    accused, member, ann, change
):
    accused.calls("connection_lost", ann.address)
    newer = ann._replace(**change)
    accused.hears(accused.gossip(member("m1"), newer))
    accused.hears(accused.gossip(member("m1"), newer._replace(state=S)))

    assert not accused.swim._belief.suspicions.get(ann.node_id).unlinked


def test_an_answer_that_comes_after_the_verdict_is_counted_and_clears_the_evidence(
    story, ann, bob, sent
):
    tale = story(ann, bob)
    [ping] = sent(tale.calls("connection_lost", ann.address), Ping, to=ann)
    tale.until(tale.now + 0.51)
    suspicion = tale.swim._belief.suspicions.get(ann.node_id)
    assert suspicion.unlinked

    tale.hears(ack(ping, bob, subject=ann.node_id))

    assert not suspicion.unlinked
    assert 1 == tale.swim.counters.late_acks
    assert S == tale.state(ann)

    tale.hears(ack(ping, bob, subject=ann.node_id))
    assert 1 == tale.swim.counters.late_acks


def test_an_answer_about_somebody_else_is_not_a_late_one(story, ann, bob, sent):
    tale = story(ann, bob)
    [ping] = sent(tale.calls("connection_lost", ann.address), Ping, to=ann)
    tale.until(tale.now + 0.51)

    tale.hears(ack(ping, bob))

    assert 0 == tale.swim.counters.late_acks


def test_a_second_answer_to_one_probe_is_not_a_late_one(story, ann, bob, sent):
    tale = story(ann, bob)
    [ping] = sent(tale.calls("connection_lost", ann.address), Ping, to=ann)

    tale.hears(ack(ping, ann))
    tale.hears(ack(ping, bob, subject=ann.node_id))

    assert 1 == tale.swim.counters.acks
    assert 0 == tale.swim.counters.late_acks


def test_only_so_many_failed_probes_are_remembered(story, ann, bob):
    tale = story(ann, bob)
    for seq in range(MAX_FAILED + 10):
        probe = Probe(seq, ann.node_id, ann.epoch, 0.0, 0.0)
        tale.swim._detector._probes[seq] = probe
        tale.swim._detector._fail(probe)

    assert MAX_FAILED == len(tale.swim._detector._failed)


def test_a_lost_connection_to_nobody_known_is_nothing(story, ann):
    assert [] == story(ann).calls("connection_lost", "tcp://nobody:1")


def test_proof_of_death_is_a_verdict_that_all_believe(story, ann, bob, sent):
    tale = story(ann, bob)

    effects = tale.calls("proof_of_death", ann.node_id, ann.epoch)

    assert [Changed(ann._replace(state=D), A)] == effects
    told = sent(tale.until(tale.now + 0.3), Gossip, to=bob)
    assert ann._replace(state=D) in [m for gossip in told for m in gossip.updates]


def test_proof_holds_against_words_the_process_spoke_before(story, ann, bob):
    tale = story(ann, bob)
    tale.calls("proof_of_death", ann.node_id, ann.epoch)

    tale.hears(tale.gossip(bob, ann._replace(incarnation=4)))

    assert ann._replace(incarnation=4, state=D) == tale.swim.member(ann.node_id)


def test_proof_holds_for_one_that_others_speak_of_only_later(story, ann, bob):
    tale = story(bob)
    tale.calls("proof_of_death", ann.node_id, ann.epoch)

    tale.hears(tale.gossip(bob, ann))

    assert State.DEAD is tale.swim.member(ann.node_id).state


def test_no_more_proofs_are_kept_than_may(story, ann, bob):
    tale = story(bob)
    for number in range(MAX_PROOFS):
        tale.calls("proof_of_death", b"%016d" % number, 1)
    tale.calls("proof_of_death", ann.node_id, ann.epoch)

    tale.hears(tale.gossip(bob, ann))

    assert State.ALIVE is tale.swim.member(ann.node_id).state


def test_proof_says_nothing_of_the_next_process_of_that_name(story, ann, bob):
    tale = story(bob)
    tale.calls("proof_of_death", ann.node_id, ann.epoch)

    tale.hears(tale.gossip(bob, ann._replace(epoch=ann.epoch + 1)))

    assert State.ALIVE is tale.swim.member(ann.node_id).state


def test_proof_about_another_process_or_this_one_is_ignored(story, ann):
    tale = story(ann)

    assert [] == tale.calls("proof_of_death", ann.node_id, ann.epoch + 1)
    assert [] == tale.calls("proof_of_death", b"y" * 16, 1)
    assert [] == tale.calls("proof_of_death", tale.me.node_id, tale.me.epoch)


# --- addresses used again -----------------------------------------------------------


def successor(member, old):
    return member("new", epoch=old.epoch + 1, address=old.address)


def test_a_second_claim_to_an_address_is_a_question_and_no_verdict(
    story, member, ann, bob, sent
):
    tale = story(ann, bob)

    effects = tale.hears(tale.gossip(bob, successor(member, ann)))

    [question] = sent(effects, Ping, to=ann)
    assert b"" == question.target
    assert A == tale.state(ann)


def test_a_newer_process_that_answers_at_the_address_makes_the_older_dead(
    story, member, ann, bob, sent
):
    tale = story(ann, bob)
    new = successor(member, ann)
    [question] = sent(tale.hears(tale.gossip(bob, new)), Ping, to=ann)

    effects = tale.hears(ack(question, new))

    assert Changed(ann._replace(state=D), A) in effects
    assert A == tale.state(new)
    assert 1 == tale.swim.counters.displaced


def test_an_older_process_that_answers_there_makes_nobody_dead(
    story, member, ann, bob, sent
):
    tale = story(ann, bob)
    new = successor(member, ann)
    [question] = sent(tale.hears(tale.gossip(bob, new)), Ping, to=ann)

    tale.hears(ack(question, ann))

    assert (A, A) == (tale.state(ann), tale.state(new))


def test_an_answer_that_nobody_asked_for_makes_nobody_dead(story, member, ann, bob):
    tale = story(ann, bob)
    new = successor(member, ann)
    tale.hears(tale.gossip(bob, new))

    tale.hears(Ack(1, new, new.node_id, 0, ()))

    assert A == tale.state(ann)


def test_a_process_displaced_once_that_objects_is_left_to_probing(
    story, member, ann, bob, sent
):
    tale = story(ann, bob)
    new = successor(member, ann)
    [question] = sent(tale.hears(tale.gossip(bob, new)), Ping, to=ann)
    tale.hears(ack(question, new))

    effects = tale.hears(tale.gossip(ann._replace(incarnation=1)))
    for again in sent(effects, Ping, to=ann):
        tale.hears(ack(again, new))
    for again in sent(tale.calls("seeds", [ann.address]), Ping, to=ann):
        tale.hears(ack(again, new))

    assert A == tale.state(ann)


def test_an_older_process_said_to_live_at_our_own_address_is_dead(story, member, bob):
    tale = story(bob)
    before = member("before", epoch=999, address=tale.me.address)

    tale.hears(tale.gossip(bob, before))

    assert D == tale.state(before)


# --- healing ------------------------------------------------------------------------


def test_the_dead_are_tried_again_for_ever_and_told_why(story, ann, bob, sent):
    tale = story(ann, gossip_to_dead=1.0)
    verdict = ann._replace(state=D)
    tale.hears(tale.gossip(bob, verdict, bob._replace(state=L)))
    tale.until(tale.now + 5)

    pings = sent(tale.until(tale.now + 600), Ping, to=ann)

    assert 18 <= len(pings) <= 23
    assert all(verdict == ping.updates[0] for ping in pings)


def test_a_dead_member_that_answers_is_asked_for_its_list(story, ann, bob, sent):
    tale = story(ann, gossip_to_dead=1.0)
    tale.hears(tale.gossip(bob, ann._replace(state=D), bob._replace(state=L)))
    ping = first_ping(tale, sent, to=ann)

    effects = tale.hears(ack(ping, ann._replace(incarnation=1), checksum=99))

    assert A == tale.state(ann)
    assert 1 == len(sent(effects, PushPull, to=ann))


def test_the_departed_are_not_tried_again(story, ann, sent):
    tale = story(ann)
    tale.hears(tale.gossip(ann._replace(state=L)))

    effects = tale.until(tale.now + 600)

    assert [] == [e for e in effects if isinstance(e, Send)]


def test_the_recently_dead_are_told_so_that_they_can_object(story, ann, bob, sent):
    tale = story(ann, bob)
    tale.hears(tale.gossip(bob, ann._replace(state=D)))

    told = sent(tale.until(tale.now + 0.5), Gossip, to=ann)

    assert told
    assert {(ann._replace(state=D),)} == {gossip.updates for gossip in told}


def test_whole_lists_are_exchanged_regularly(story, ann, sent):
    tale = story(ann)
    requests = 0
    until = tale.now + 320
    while tale.now < until:
        effects = tale.until(tale.swim.deadline())
        requests += len(sent(effects, PushPull))
        for ping in sent(effects, Ping):
            tale.hears(ack(ping, ann, checksum=tale.swim.checksum))

    assert 10 <= requests <= 11


# --- leaving ------------------------------------------------------------------------


def test_a_leaving_node_says_so_in_three_rounds_to_different_members(
    story, member, sent
):
    tale = story(*crowd(member, 9))

    effects = tale.calls("leave")
    assert not tale.swim.left
    assert Changed(tale.me._replace(state=L), A) == effects[0]
    effects += tale.until(tale.now + 1)

    told = [e.address for e in effects if isinstance(e, Send)]
    assert 9 == len(told) == len(set(told))
    assert {L} == {gossip.sender.state for gossip in sent(effects, Gossip)}
    assert tale.swim.left
    assert tale.swim.deadline() is None


def test_a_node_alone_has_left_at_once(story):
    tale = story()
    tale.calls("leave")

    assert tale.swim.left


def test_a_node_that_leaves_before_it_has_joined_has_left_and_never_joins(member):
    swim = Swim(member("me"), Settings(), random.Random(1))

    assert [] == swim.leave(1.0)
    assert swim.left
    assert [] == swim.join(["ann:1"], 2.0)
    assert swim.left


def test_a_leaving_node_still_answers_and_does_not_object(story, ann, replied):
    tale = story(ann)
    tale.calls("leave")

    effects = tale.hears(ping_to(tale.me, ann, tale.me._replace(state=S)))

    [answer] = replied(effects, Ack)
    assert tale.me._replace(state=L) == answer.sender


def test_a_member_that_says_farewell_has_left(story, ann):
    tale = story(ann)

    effects = tale.hears(tale.gossip(ann._replace(state=L)))

    assert [Changed(ann._replace(state=L), A)] == effects


def test_a_node_that_has_left_is_silent(story, ann):
    tale = story()
    tale.calls("leave")

    assert [] == tale.hears(ping_to(tale.me, ann))
    assert [] == tale.until(NEVER)
    assert [] == tale.calls("connection_lost", ann.address)
    assert [] == tale.calls("seeds", ["tcp://seed"])
