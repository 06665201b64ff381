"""Whole clusters of membership machines: what they settle on, and at what cost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import median

import pytest

from meshcache.membership.effects import Changed
from meshcache.membership.settings import Settings
from meshcache.model import State
from meshcache.testing import Conditions, InvariantBroken, Invariants, Simulator


def cluster(nodes: int, seed: int = 1, **options) -> Simulator:
    """A cluster that has agreed on its members."""
    made = Simulator(seed, **options)
    made.start(nodes)
    made.advance_until(made.agreed, within=5.0)
    return made


def first_death(simulator: Simulator, index: int) -> float:
    dead = simulator.seats[index].me.node_id
    return min(
        happening.at
        for happening in simulator.history
        if happening.change.member.node_id == dead
        and happening.change.member.state is State.DEAD
    )


# --- joining ------------------------------------------------------------------------


def test_eight_nodes_with_one_seed_agree_within_a_second():
    for seed in range(20):
        simulator = Simulator(seed)
        simulator.start(8)

        assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0


@pytest.mark.slow
def test_nodes_that_start_one_after_another_agree_within_a_second_of_the_last():
    for seed in range(10):
        simulator = Simulator(seed)
        for _ in range(8):
            simulator.start()
            simulator.advance(simulator.rng.uniform(0, 0.4))

        assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_small_clusters_agree_too(nodes):
    simulator = Simulator(3)
    simulator.start(nodes)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0


def test_a_seed_that_starts_last_is_found_soon():
    simulator = Simulator(2)
    simulator.start(3, seeds=(3,))
    simulator.advance(20.0)
    simulator.start(1, seeds=(3,))

    assert simulator.advance_until(simulator.agreed, within=2.5) < 2.5


@pytest.mark.slow
def test_joining_succeeds_when_a_third_of_all_messages_are_lost():
    for seed in range(10):
        simulator = Simulator(seed, conditions=Conditions(loss=0.3))
        simulator.start(8)
        everybody = {seat.me.node_id for seat in simulator.seats}

        simulator.advance_until(
            lambda s=simulator, e=everybody: all(
                {m.node_id for m in seat.swim.members()} == e for seat in s.seats
            ),
            within=10.0,
        )


# --- dying --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "low", "high"), [(5, 5.0, 6.8), (10, 5.2, 6.6)])
def test_a_silent_crash_is_found_as_fast_as_the_model_says(nodes, low, high):
    took = []
    for seed in range(30):
        # The model is SWIM's, which knows of no connections.
        simulator = cluster(nodes, seed, heartbeats=False)
        simulator.advance(simulator.rng.uniform(2, 4))
        crashed_at = simulator.now
        simulator.crash(nodes - 1, silent=True)
        simulator.advance_until(simulator.agreed, within=12.0)
        took.append(first_death(simulator, nodes - 1) - crashed_at)

    assert low <= median(took) <= high


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [8, 24, 64])
def test_a_silent_host_is_known_to_all_as_soon_in_a_large_cluster_as_in_a_small(nodes):
    # A heartbeat and its time-out, a brief probe, the suspicion, two rounds of gossip.
    latest = 0.5 + 1.5 + 0.5 + 3.5 + 0.4
    for seed in range(8):
        simulator = cluster(nodes, seed)
        simulator.advance(simulator.rng.uniform(2, 4) + 2 * nodes)
        simulator.crash(nodes - 1, silent=True)

        assert simulator.advance_until(simulator.agreed, within=latest) <= latest


def test_everybody_hears_of_a_death_soon_after_the_first():
    simulator = cluster(8)
    simulator.crash(5, silent=True)
    simulator.advance_until(simulator.agreed, within=12.0)

    assert simulator.now - first_death(simulator, 5) < 1.0


def test_a_broken_connection_starts_the_search_at_once_but_is_no_verdict():
    simulator = cluster(5)
    simulator.advance(2.0)
    simulator.crash(4)
    simulator.advance(0.4)

    assert State.ALIVE == simulator.believed(0, 4)

    simulator.advance_until(simulator.agreed, within=5.0)


def test_proof_of_death_is_believed_by_all_at_once():
    simulator = cluster(8)
    simulator.crash(6, silent=True)
    seat, dead = simulator.seats[2], simulator.seats[6].me
    effects = seat.machine.proof_of_death(
        dead.node_id, dead.epoch, simulator.now + seat.clock
    )
    simulator._apply(seat, effects)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0


def deaths(simulator: Simulator) -> int:
    return sum(seat.swim.counters.deaths for seat in simulator.seats)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.3, 1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("nodes", [8, 24])
def test_a_paused_member_is_not_declared_dead(nodes, pause):
    for seed in range(10):
        simulator = cluster(nodes, seed)
        simulator.advance(1.0)
        simulator.pause(3, pause)
        simulator.advance(pause + 10.0)

        assert simulator.agreed()
        assert 0 == deaths(simulator)


@pytest.mark.slow
def test_a_busy_member_has_longer_than_one_that_stands_still():
    busy = stopped = 0
    for seed in range(5):
        for misfortune in ("block", "pause"):
            simulator = cluster(24, seed)
            simulator.advance(50.0)
            getattr(simulator, misfortune)(3, 6.4)
            simulator.advance(6.4)
            died = deaths(simulator) > 0
            busy += died and misfortune == "block"
            stopped += died and misfortune == "pause"

    assert (0, 5) == (busy, stopped)


@pytest.mark.slow
def test_a_member_that_came_back_is_not_held_to_its_old_silence():
    for seed in range(5):
        simulator = cluster(24, seed)
        simulator.advance(50.0)
        simulator.pause(3, 3.0)
        simulator.advance(5.0)
        simulator.block(3, 6.4)
        simulator.advance(6.4)

        assert 0 == deaths(simulator)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [8, 24])
def test_lines_that_fail_for_three_seconds_kill_nobody(nodes):
    for seed in range(5):
        simulator = cluster(nodes, seed)
        simulator.advance(50.0)
        for hold in (True, False):
            for index in range(nodes):
                others = set(range(nodes)) - {index}
                simulator.partition((index,), sorted(others), hold=hold)
            simulator.advance(3.0)
            simulator.heal()
            simulator.advance(10.0)

        assert simulator.agreed()
        assert 0 == deaths(simulator)
        assert 0 < sum(seat.swim.counters.links_lost for seat in simulator.seats)


def test_a_node_whose_clock_jumps_accuses_nobody():
    simulator = cluster(8)
    simulator.advance(3.3)
    simulator.jump(2, 3600.0)
    simulator.advance(5.0)

    assert simulator.agreed()
    assert 0 == simulator.seats[2].swim.counters.accusations
    assert 1 == simulator.seats[2].swim.counters.late


# --- leaving and coming back --------------------------------------------------------


@pytest.mark.parametrize("nodes", [2, 8, 32])
def test_a_farewell_is_believed_by_all_within_a_second(nodes):
    simulator = cluster(nodes)
    simulator.leave(nodes - 1)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0
    assert {State.LEFT} == {simulator.believed(i, nodes - 1) for i in range(nodes - 1)}


@pytest.mark.parametrize("silent", [True, False])
def test_a_restart_at_the_same_address_is_a_new_member_and_the_old_one_dead(silent):
    simulator = cluster(6)
    old = simulator.seats[4].me
    simulator.crash(4, silent=silent)
    simulator.restart(4)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0
    assert {State.DEAD} == {
        seat.swim.member(old.node_id).state for seat in simulator.seats
    }


def test_the_seed_itself_can_be_restarted_and_is_found_again():
    simulator = cluster(5)
    simulator.crash(0, silent=True)
    simulator.restart(0)

    assert simulator.advance_until(simulator.agreed, within=20.0) < 17.0


# --- partitions ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_partition_that_outlasts_the_memory_of_the_dead_heals():
    settings = Settings(gossip_to_dead=5.0)
    for seed in range(5):
        simulator = cluster(8, seed, settings=settings)
        simulator.partition(range(4), range(4, 8))
        simulator.advance(90.0)
        assert State.DEAD == simulator.believed(0, 7)
        assert State.DEAD == simulator.believed(7, 0)

        simulator.heal()

        assert simulator.advance_until(simulator.agreed, within=60.0) < 60.0


def test_a_partition_of_nodes_without_seeds_heals_too():
    simulator = Simulator(4, settings=Settings(gossip_to_dead=1.0))
    simulator.start(4)
    simulator.advance_until(simulator.agreed, within=5.0)
    for seat in simulator.seats:
        seat.machine.seeds((), simulator.now + seat.clock)
    simulator.partition((0, 1), (2, 3))
    simulator.advance(60.0)
    assert State.DEAD == simulator.believed(0, 2)

    simulator.heal()

    simulator.advance_until(simulator.agreed, within=90.0)


def test_a_line_that_fails_between_two_members_is_bridged_by_helpers():
    simulator = cluster(6)
    simulator.partition((1,), (2,))
    simulator.advance(60.0)

    assert simulator.agreed()
    assert 0 == sum(seat.swim.counters.deaths for seat in simulator.seats)
    assert 0 < sum(seat.swim.counters.relayed for seat in simulator.seats)


def test_messages_delivered_long_after_they_were_sent_do_no_lasting_harm():
    simulator = cluster(6)
    simulator.partition((0, 1), (2, 3, 4, 5), hold=True)
    simulator.advance(20.0)
    simulator.heal()

    simulator.advance_until(simulator.agreed, within=60.0)


# --- cost ---------------------------------------------------------------------------


def probe_load(nodes: int, periods: int) -> float:
    """Probe messages sent per member and period, once the joining is over."""
    simulator = cluster(nodes)
    simulator.advance(5.0)
    before = Counter()
    after = Counter()
    for traffic in simulator.network.traffic.values():
        before += traffic.messages
    simulator.advance(float(periods))
    for traffic in simulator.network.traffic.values():
        after += traffic.messages
    sent = sum(
        after[kind] - before[kind] for kind in ("Ping", "Ack", "PingReq", "Nack")
    )
    return sent / nodes / periods


@pytest.mark.slow
def test_two_probe_messages_per_member_and_period_however_many_members():
    assert [2.0, 2.0, 2.0] == pytest.approx(
        [probe_load(8, 20), probe_load(32, 20), probe_load(64, 10)], rel=0.1
    )


def test_a_quiet_cluster_sends_no_gossip():
    simulator = cluster(8)
    simulator.advance(5.0)
    before = [seat.swim.counters.updates_sent for seat in simulator.seats]
    simulator.advance(20.0)

    assert before == [seat.swim.counters.updates_sent for seat in simulator.seats]
    assert [0] * 8 == [seat.swim.queued for seat in simulator.seats]


def test_every_frame_of_a_large_cluster_fits_the_control_plane():
    simulator = cluster(64)

    largest = max(
        traffic.octets[kind] / traffic.messages[kind]
        for traffic in simulator.network.traffic.values()
        for kind in traffic.messages
    )
    assert largest < 65_536


# --- identities and addresses -------------------------------------------------------


def test_a_mass_restart_under_the_old_ids_is_not_taken_for_old_news():
    simulator = cluster(10)
    simulator.partition(range(1, 10), (0,))
    simulator.advance(40.0)
    simulator.heal()
    simulator.advance_until(simulator.agreed, within=60.0)
    raised = [m.incarnation for m in simulator.seats[0].swim.members()]
    assert max(raised) > 0
    for index in range(1, 10):
        simulator.crash(index, silent=True)
    simulator.advance(30.0)
    for index in range(1, 10):
        simulator.restart(index, keep_id=True)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0


@pytest.mark.parametrize("keep_id", [False, True])
def test_a_whole_cluster_that_is_restarted_is_whole_again_in_a_second(keep_id):
    simulator = cluster(12)
    for seat in list(simulator.seats):
        simulator.crash(seat.index, silent=True)
    simulator.advance(5.0)
    for seat in list(simulator.seats):
        simulator.restart(seat.index, keep_id=keep_id)

    assert simulator.advance_until(simulator.agreed, within=1.0) < 1.0
    assert 12 == len(simulator.seats[0].swim.members())


def test_another_clusters_node_at_a_reused_address_is_not_heard_and_not_believed():
    simulator = cluster(5)
    simulator.start(3, seeds=(5,), label="another")
    simulator.crash(4, silent=True)
    stranger = simulator.restart(4, seeds=(5,), label="another")

    simulator.advance_until(simulator.agreed, within=30.0)
    simulator.advance(60.0)

    assert simulator.network.refused["cluster"] > 0
    assert State.DEAD == simulator.believed(0, 4) or None is simulator.believed(0, 4)
    ids = {member.node_id for member in stranger.swim.members()}
    assert {simulator.seats[i].me.node_id for i in (4, 5, 6, 7)} == ids


def test_two_clusters_that_name_each_other_as_seeds_do_not_merge():
    simulator = Simulator(1)
    simulator.start(3, seeds=(0, 3))
    simulator.start(3, seeds=(0, 3), label="another")
    simulator.advance(60.0)

    assert simulator.agreed()
    assert [3] * 6 == [len(seat.swim.members()) for seat in simulator.seats]


def test_a_member_that_claims_anothers_address_does_the_other_no_harm():
    simulator = cluster(6)
    honest, liar = simulator.seats[2], simulator.seats[3]
    claim = liar.swim.me._replace(address=honest.address)
    now = simulator.now + liar.clock
    simulator._apply(liar, liar.swim.announce(claim, now))
    simulator.advance(120.0)

    assert {State.ALIVE} == {simulator.believed(i, 2) for i in range(6)}
    assert 0 == sum(
        happening.change.member.state is State.DEAD
        for happening in simulator.history
        if happening.change.member.node_id == honest.me.node_id
    )


# --- time ---------------------------------------------------------------------------


def test_a_laptop_that_sleeps_is_back_soon_after_it_wakes():
    simulator = cluster(8)
    simulator.pause(2, 300.0)
    simulator.advance(299.0)
    assert State.DEAD == simulator.believed(0, 2)
    simulator.jump(2, 3600.0)
    simulator.advance(1.0)

    assert simulator.advance_until(simulator.agreed, within=10.0) < 10.0
    assert 0 == simulator.seats[2].swim.counters.accusations


def test_a_node_that_is_always_late_accuses_nobody():
    simulator = cluster(8)
    simulator.slow(5, 1.5)
    simulator.advance(60.0)

    others = [seat.me.node_id for seat in simulator.seats if seat.index != 5]
    assert simulator.seats[5].swim.counters.late > 0
    assert not [
        happening
        for happening in simulator.history
        if happening.change.member.state is State.DEAD
        and happening.change.member.node_id in others
    ]


def test_a_blocked_member_hears_nothing_but_its_time_goes_on():
    simulator = cluster(8)
    simulator.advance(3.0)
    simulator.block(2, 5.0)
    simulator.advance(4.9)
    blocked = simulator.seats[2].swim

    assert 0 < blocked.counters.failures
    assert 0 == blocked.counters.late
    assert 0 < blocked.health

    simulator.advance_until(simulator.agreed, within=10.0)


@pytest.mark.slow
@pytest.mark.parametrize("one_way", [True, False])
@pytest.mark.parametrize("length", [1.0, 10.0, 60.0, 1000.0])
def test_partitions_of_any_length_merge(length, one_way):
    for seed in range(3):
        simulator = cluster(9, seed)
        simulator.partition(range(4), range(4, 9), one_way=one_way)
        simulator.advance(length)
        simulator.heal()

        assert simulator.advance_until(simulator.agreed, within=45.0) < 45.0


@pytest.mark.slow
def test_a_lossy_direction_is_bridged_and_kills_nobody():
    for seed in range(5):
        simulator = cluster(8, seed)
        simulator.worsen((1,), range(2, 8), Conditions(loss=0.6))
        simulator.advance(120.0)

        assert 0 == sum(seat.swim.counters.deaths for seat in simulator.seats)


# --- the simulator itself -----------------------------------------------------------


def test_other_effects_go_to_the_handler():
    told = []
    simulator = Simulator(1, on_effect=lambda seat, effect, now: told.append(effect))
    simulator.start(2)
    simulator.advance(1.0)

    assert {Changed} == {type(effect) for effect in told}
    assert [h.change for h in simulator.history] == told


def test_what_is_put_off_happens_in_its_time():
    simulator = Simulator(1)
    happened = []
    simulator.after(2.0, lambda: happened.append(("later", simulator.now)))
    simulator.after(1.0, lambda: happened.append(("sooner", simulator.now)))
    simulator.advance(3.0)

    assert [("sooner", 1.0), ("later", 2.0)] == happened


def test_a_machine_that_is_due_for_ever_is_noticed(monkeypatch):
    simulator = cluster(2)
    monkeypatch.setattr(type(simulator.seats[0].swim), "_gossip", lambda self: None)
    simulator.start(1)

    with pytest.raises(InvariantBroken, match="due again and again"):
        simulator.advance(1.0)


def test_waiting_for_what_does_not_come_says_so_with_the_seed():
    simulator = Simulator(42)
    simulator.start(2)

    with pytest.raises(AssertionError, match="seed 42"):
        simulator.advance_until(lambda: False, within=1.0)
    assert 1.0 == simulator.now


def test_the_checkers_notice_what_may_not_happen(member_list):
    me, ann = member_list

    def checked(*steps):
        invariants = Invariants()
        for who in (me, ann):
            invariants.check(who.host, who, (), (who,))
        later = ann._replace(incarnation=3)
        invariants.check("ann", later, (), (later,))
        for before, after in pairwise(steps):
            invariants.check("me", me, before, after)

    alive, raised = (me, ann), (me, ann._replace(incarnation=1))
    dead = (me, ann._replace(state=State.DEAD))
    checked(alive, raised)
    checked(dead, raised)
    checked(alive, dead, (me,))
    for breach in (
        (raised, alive),
        (dead, alive),
        (alive, (me, ann._replace(incarnation=9))),
        (alive, (me, ann._replace(address="elsewhere"))),
        (alive, (ann,)),
        (alive, (me,)),
    ):
        with pytest.raises(InvariantBroken):
            checked((), breach[0], breach[1])
