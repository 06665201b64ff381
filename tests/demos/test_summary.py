from __future__ import annotations

import json

from launcher.latency import Histogram
from launcher.summary import TIERS, Summary, hits, latency_us, not_once

LATENCY = {"near": Histogram({3: 90, 5: 10}), "fill": Histogram({300: 4})}


def test_hits_name_every_tier_and_add_up_to_the_reads():
    counted = hits(LATENCY)

    assert list(TIERS) == list(counted)
    assert 104 == sum(counted.values())


def test_latency_is_told_of_the_tiers_that_answered():
    assert ["near", "fill"] == list(latency_us(LATENCY))
    assert {"p50", "p99"} == set(latency_us(LATENCY)["near"])


def test_key_loaded_twice_or_never_is_named_with_its_count():
    loads = {"a": 1, "b": 2}

    assert ["b x2", "c x0"] == not_once(loads, ["a", "b", "c"])


def test_key_loaded_though_nobody_asked_once_is_no_fault():
    assert [] == not_once({"a": 1}, [])


def test_summary_as_json_has_what_readers_rely_on():
    summary = Summary(4, 20.0, None, converged_s=1.23456)
    values = json.loads(json.dumps(summary.as_json()))

    assert 1.235 == values["converged_s"]
    assert {
        "nodes",
        "requests",
        "distinct_keys",
        "loads_before_kill",
        "loads",
        "hits",
        "latency_us",
        "converged_s",
        "detected_s",
        "rejoined_s",
    } <= set(values)
