"""Processes that read an arena while its owner writes over it as fast as it can."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow]

HAMMER = Path(__file__).parents[1] / "benchmarks" / "hammer.py"


def hammer():
    spec = importlib.util.spec_from_file_location("arena_hammer", HAMMER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.hammer


def test_no_reader_ever_sees_a_wrong_a_torn_or_an_older_value(tmp_path):
    found = hammer()(tmp_path, seconds=3.0)
    reads, writer = found["reads"], found["writer"]

    assert 0 == reads["wrong"]
    assert 0 == reads["backwards"]
    assert 10_000 < reads["hits"] <= reads["done"]

    # It went round both rings, and moved and replaced what was being read.
    assert writer["puts"] > 10_000
    assert min(writer["promoted"], writer["reinserted"], writer["superseded"]) > 100
    assert 0 == writer["resets"]
