"""Whole clusters of membership machines: what they settle on, and at what cost."""

from __future__ import annotations

import random
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
        simulator = cluster(nodes, seed)
        simulator.advance(simulator.rng.uniform(2, 4))
        crashed_at = simulator.now
        simulator.crash(nodes - 1, silent=True)
        simulator.advance_until(simulator.agreed, within=12.0)
        took.append(first_death(simulator, nodes - 1) - crashed_at)

    assert low <= median(took) <= high


def test_everybody_hears_of_a_death_soon_after_the_first():
    simulator = cluster(8)
    simulator.crash(5, silent=True)
    simulator.advance_until(simulator.agreed, within=12.0)

    assert simulator.now - first_death(simulator, 5) < 1.0


def test_a_broken_connection_starts_the_search_at_once_but_is_no_verdict():
    simulator = cluster(5)
    simulator.advance(2.0)
    simulator.crash(4)
    simulator.advance(0.9)

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


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.3, 1.0, 2.0])
def test_a_paused_member_is_not_declared_dead(pause):
    for seed in range(10):
        simulator = cluster(8, seed)
        simulator.advance(1.0)
        simulator.pause(3, pause)
        simulator.advance(pause + 10.0)

        assert simulator.agreed()
        assert 0 == sum(seat.swim.counters.deaths for seat in simulator.seats)


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


# --- chaos --------------------------------------------------------------------------


class Chaos:
    """Minutes in which everything goes wrong, and then a calm that must settle it."""

    SEEDS = (0, 1, 2)
    NODES = 8

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"chaos {seed}")
        bad = Conditions(loss=0.05, duplicate=0.05, reorder=0.1, jitter=0.01)
        self.simulator = Simulator(seed, conditions=bad)
        self.simulator.start(self.NODES, seeds=self.SEEDS)

    def rage(self, seconds: float) -> None:
        deeds = [self.crash, self.restart, self.pause, self.jump, self.split]
        deeds += [self.heal, self.heal, self.leave, self.crash, self.restart]
        while self.simulator.now < seconds:
            self.simulator.advance(self.rng.uniform(0.1, 6.0))
            self.rng.choice(deeds)(self.rng.randrange(self.NODES))

    def calm_down(self) -> float:
        simulator = self.simulator
        if not any(simulator.seats[index].running for index in self.SEEDS):
            simulator.restart(0, seeds=self.SEEDS)
        simulator.heal()
        simulator.network.conditions = Conditions()
        settings = Settings()
        _, longest = settings.suspicion_bounds(self.NODES)
        bound = settings.push_pull_interval + 2 * longest + settings.seed_interval
        return simulator.advance_until(simulator.agreed, within=bound, every=0.5)

    def may_go(self, index: int) -> bool:
        seat = self.simulator.seats[index]
        return seat.running and len(self.simulator.running()) > 3

    def crash(self, index: int) -> None:
        if self.may_go(index):
            self.simulator.crash(index, silent=self.rng.random() < 0.5)

    def leave(self, index: int) -> None:
        if self.may_go(index) and not self.simulator.seats[index].paused_until:
            self.simulator.leave(index)

    def restart(self, index: int) -> None:
        if not self.simulator.seats[index].running:
            self.simulator.restart(index, seeds=self.SEEDS)

    def pause(self, index: int) -> None:
        if self.simulator.seats[index].running:
            self.simulator.pause(index, self.rng.uniform(0.1, 20.0))

    def jump(self, index: int) -> None:
        if self.simulator.seats[index].running:
            self.simulator.jump(index, self.rng.uniform(0.1, 60.0))

    def split(self, index: int) -> None:
        order = list(range(self.NODES))
        self.rng.shuffle(order)
        self.simulator.partition(
            order[:index],
            order[index:],
            one_way=self.rng.random() < 0.5,
            hold=self.rng.random() < 0.5,
        )

    def heal(self, index: int) -> None:
        self.simulator.heal()


@pytest.mark.slow
def test_after_any_chaos_the_calm_settles_it_and_no_invariant_breaks():
    seen: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for seed in range(30):
        chaos = Chaos(seed)
        chaos.rage(90.0)
        chaos.calm_down()
        seen += chaos.simulator.invariants.seen
        for seat in chaos.simulator.seats:
            done.update(seat.swim.counters.as_dict())

    # A run in which these never happened would have proved nothing.
    for transition in ("ALIVE -> SUSPECT", "SUSPECT -> DEAD", "SUSPECT -> ALIVE"):
        assert seen[transition] > 100
    assert seen["resurrection"] > 50
    assert seen["ALIVE -> LEFT"] > 50
    for deed in ("refutations", "nacks", "reconnects", "displaced", "late"):
        assert done[deed] > 0


def test_the_same_seed_gives_the_same_transcript_and_another_does_not():
    def transcript(seed):
        chaos = Chaos(seed)
        chaos.rage(15.0)
        return chaos.simulator.transcript

    assert transcript(5) == transcript(5) != transcript(6)


# --- the simulator itself -----------------------------------------------------------


def test_other_effects_go_to_the_handler():
    told = []
    simulator = Simulator(1, on_effect=lambda seat, effect, now: told.append(effect))
    simulator.start(2)
    simulator.advance(1.0)

    assert {Changed} == {type(effect) for effect in told}
    assert [h.change for h in simulator.history] == told


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
        invariants.check("ann", ann._replace(incarnation=3), (), (ann,))
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
