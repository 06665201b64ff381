from __future__ import annotations

import random
from itertools import pairwise

from meshcache.membership.seeds import MAX_SEEDS, Seeds


def contacts(seeds: Seeds, until: float, *, alone: bool, answers=False) -> list[float]:
    times = []
    while (at := seeds.deadline()) is not None and at <= until:
        for address in seeds.due(at, alone=alone):
            times.append(at)
            if answers:
                seeds.answered(address, at)
    return times


def gaps(times: list[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(times)]


def test_a_silent_seed_is_asked_less_and_less_often_and_for_ever():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a"], 0.0)

    between = gaps(contacts(seeds, 600.0, alone=False))

    expected = [0.25, 0.5, 1, 2, 4, 8] + [15] * 40
    assert 40 <= len(between)
    for want, gap in zip(expected, between, strict=False):
        assert 0.9 * want <= gap <= 1.1 * want


def test_a_node_that_is_alone_keeps_asking_every_second():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a"], 0.0)

    assert max(gaps(contacts(seeds, 60.0, alone=True))) <= 1.1


def test_a_seed_that_answers_is_asked_again_after_the_interval_for_ever():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a"], 0.0)

    between = gaps(contacts(seeds, 600.0, alone=False, answers=True))

    assert 36 <= len(between)
    assert all(13.5 <= gap <= 16.5 for gap in between)


def test_new_seeds_are_due_at_once_and_known_ones_keep_their_time():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a"], 0.0)
    seeds.due(0.0, alone=False)
    seeds.answered("a", 0.0)
    seeds.replace(["a", "b"], 5.0)

    assert ["b"] == seeds.due(5.0, alone=False)


def test_seeds_that_discovery_no_longer_names_are_dropped():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a"], 0.0)
    seeds.replace([], 1.0)

    assert seeds.deadline() is None


def test_seeds_are_bounded_and_counted_once():
    seeds = Seeds(15.0, random.Random(1))
    seeds.replace(["a", "a", *map(str, range(1000))], 0.0)

    assert MAX_SEEDS == len(seeds.due(0.0, alone=True))
