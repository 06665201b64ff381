from __future__ import annotations

import random
from itertools import pairwise

from meshcache.membership.probe import Probe, Relay, Targets
from meshcache.model import NodeId

IDS = [NodeId(bytes([i]) * 16) for i in range(8)]


def targets(seed: int, count: int = 8) -> Targets:
    made = Targets(random.Random(seed))
    for node_id in IDS[:count]:
        made.add(node_id)
    return made


def test_every_member_has_its_turn_in_each_pass():
    order = targets(1)
    order.next()
    while order._at < len(order):
        order.next()

    for _ in range(5):
        assert sorted(IDS) == sorted(order.next() for _ in IDS)


def test_two_probes_of_one_member_are_at_most_2n_minus_1_periods_apart():
    for seed in range(20):
        order = targets(seed)
        turns = [order.next() for _ in range(200)]
        for node_id in IDS:
            at = [i for i, one in enumerate(turns) if one == node_id]

            assert all(later - sooner <= 15 for sooner, later in pairwise(at))


def test_a_newcomer_may_come_anywhere_in_the_order():
    places = set()
    for seed in range(60):
        order = targets(seed, 7)
        order.add(IDS[7])
        places.add(order._ids.index(IDS[7]))

    assert set(range(8)) == places


def test_a_member_taken_out_during_a_pass_costs_nobody_a_turn():
    order = targets(3)
    while order._at != 4:
        order.next()
    seen = order._ids[:4]
    left = order._ids[4:]
    order.remove(seen[0])

    assert left == [order.next() for _ in left]


def test_nobody_to_probe():
    assert Targets(random.Random(0)).next() is None


def probe() -> Probe:
    made = Probe(7, IDS[0], 1, indirect_at=10.5, ends_at=11.0)
    made.helpers += IDS[1:4]
    return made


def test_silent_helpers_speak_against_the_one_who_asks():
    asked = probe()

    assert 3 == asked.blame()

    asked.nack(IDS[1])
    asked.nack(IDS[2])

    assert 1 == asked.blame()

    asked.nack(IDS[3])

    assert 0 == asked.blame()


def test_a_probe_without_helpers_speaks_against_the_one_who_asks():
    assert 1 == Probe(7, IDS[0], 1, 10.5, 11.0).blame()


def test_a_nack_counts_once_and_only_from_a_helper():
    asked = probe()

    assert [True, False, False] == [asked.nack(i) for i in (IDS[1], IDS[1], IDS[6])]


def test_a_helper_says_that_it_heard_nothing_at_four_fifths_of_its_budget():
    assert 10.4 == Relay("way", 1, IDS[0], now=10.0, budget=0.5).deadline
