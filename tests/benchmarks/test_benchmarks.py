"""Every benchmark runs, quickly, and prints what it measured as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
BENCHMARKS = sorted(HERE.glob("bench_*.py"))


@cache
def run(benchmark):
    return subprocess.run(
        [sys.executable, benchmark, "--quick", "--json"],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_budget_is_of_something_that_is_measured():
    ended = run(HERE / "bench_reads.py")
    series = json.loads(ended.stdout)["series"]
    budgets = tomllib.loads(HERE.joinpath("budgets.toml").read_text())

    assert {"near_hit", "host_hit"} < set(budgets)
    for budget in budgets.values():
        assert budget["reference"] in series[budget["series"]]
        assert 0 < budget["tolerance"] < 1


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmark_runs_quickly_and_prints_json(benchmark):
    ended = run(benchmark)

    assert 0 == ended.returncode, ended.stderr
    assert json.loads(ended.stdout)
