from __future__ import annotations

from dataclasses import replace

import pytest
from launcher.promises import broken, check
from launcher.summary import Summary

GOOD = Summary(
    nodes=4,
    seconds=20.0,
    trace=None,
    requests=1000,
    distinct_keys=120,
    loads_before_kill=120,
    loads=120,
    slowest_read_s=0.2,
    slowest_load_s=0.05,
    converged_s=1.0,
    detected_s=2.0,
    requests_while_down=50,
    partitions_moved=4096,
    partitions_orphaned=0,
    bystanders_moved=0,
    rejoined_s=1.0,
)


def names(run):
    return [promise.name for promise in broken(check(run))]


def test_good_run_breaks_no_promise():
    assert [] == names(GOOD)


def test_run_without_a_kill_is_not_asked_about_one():
    run = replace(
        GOOD, kill=False, detected_s=None, partitions_moved=None, rejoined_s=None
    )

    assert [] == names(run)
    assert len(check(run)) == len(check(GOOD)) - 3


def test_loads_after_the_kill_break_no_promise():
    assert [] == names(replace(GOOD, loads=180))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"converged_s": None}, "all 4 processes agree on one table"),
        ({"converged_s": 20.1}, "all 4 processes agree on one table"),
        ({"loads_before_kill": 121}, "every key is loaded once"),
        ({"loads_before_kill": 119}, "every key is loaded once"),
        ({"loads_before_kill": None}, "every key is loaded once"),
        ({"not_once": ["a x2", "b x0"]}, "every key is loaded once"),
        ({"loads_before_kill": 0, "distinct_keys": 0}, "every key is loaded once"),
        ({"failed": 1}, "every answer comes, and is right"),
        ({"wrong": 1}, "every answer comes, and is right"),
        ({"requests": 0}, "every answer comes, and is right"),
        ({"slowest_read_s": 1.6}, "no read outlasts a time-out and a load"),
        ({"detected_s": None}, "a killed process is noticed by all"),
        ({"detected_s": 15.1}, "a killed process is noticed by all"),
        ({"partitions_moved": None}, "its hash ranges are owned again"),
        ({"partitions_moved": 0}, "its hash ranges are owned again"),
        ({"partitions_orphaned": 1}, "its hash ranges are owned again"),
        ({"rejoined_s": None}, "started again, it rejoins"),
        ({"rejoined_s": 10.1}, "started again, it rejoins"),
        ({"crashed": ["w1"]}, "every process leaves when told"),
        ({"forced": ["w1"]}, "every process leaves when told"),
        ({"left_behind": [4711]}, "every process leaves when told"),
    ],
)
def test_broken_promise_is_named(change, name):
    assert [name] == names(replace(GOOD, **change))


def test_broken_promise_says_which_keys_and_which_process():
    run = replace(GOOD, not_once=["within:CDG:100 x2"], crashed=["w3"])
    details = " ".join(promise.detail for promise in broken(check(run)))

    assert "within:CDG:100 x2" in details
    assert "w3 ended by itself" in details
