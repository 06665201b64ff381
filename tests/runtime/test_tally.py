"""Counting from many threads."""

from __future__ import annotations

import gc
import weakref

from meshcache.runtime.tally import OTHERS, TIERS, Tally


def test_each_counter_counts_for_itself():
    tally = Tally()
    for times, tier in enumerate(TIERS, 1):
        for _ in range(times):
            tally.at(tier)
    tally.near()
    tally.load()
    tally.raised()
    tally.stale()

    expected = {tier: n for n, tier in enumerate(TIERS, 1)} | dict.fromkeys(OTHERS, 1)
    assert expected | {"near": 2} == tally.as_dict()


def test_every_counter_can_be_called():
    tally = Tally()
    for name in (*TIERS, *OTHERS):
        getattr(tally, name)()

    assert dict.fromkeys((*TIERS, *OTHERS), 1) == tally.as_dict()


def test_a_reset_counts_from_nothing_and_a_reader_goes_on():
    tally = Tally()
    read = tally.reader()
    tally.near()
    tally.reset()
    tally.near()
    tally.near()

    assert 2 == tally.as_dict()["near"]
    assert 3 == read()["near"]


def test_a_reader_outlives_its_tally_and_does_not_keep_it():
    tally = Tally()
    read, gone = tally.reader(), weakref.ref(tally)
    tally.miss()
    del tally
    gc.collect()

    assert None is gone()
    assert 1 == read()["miss"]


def test_no_count_is_lost_among_threads(together):
    tally = Tally()

    together(4, lambda _: [tally.near() for _ in range(5000)])

    assert 20_000 == tally.as_dict()["near"]
