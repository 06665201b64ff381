"""The demo, run as a user runs it: processes, a kill, a summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "demos" / "launch.py"
TIERS = {"near", "host", "peer", "fill", "local"}


@pytest.fixture
def environment(tmp_path):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path)}


def run(environment, *options):
    return subprocess.run(
        [sys.executable, LAUNCH, *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_demo_keeps_its_promises_through_a_kill(environment):
    ended = run(environment, "--nodes", "3", "--seconds", "8", "--json")

    assert 0 == ended.returncode, ended.stderr
    summary = json.loads(ended.stdout)
    assert 3 == summary["nodes"]
    assert summary["loads_before_kill"] == summary["distinct_keys"] > 0
    assert summary["requests"] == sum(summary["hits"].values())
    assert set(summary["hits"]) == TIERS
    assert set(summary["latency_us"]) <= TIERS
    assert 0 < summary["converged_s"] < 20
    assert 0 < summary["detected_s"] < 15
    assert 0 < summary["rejoined_s"] < 10
    assert summary["requests_while_down"] > 0
    assert [] == summary["left_behind"]


def test_demo_replays_a_trace(environment, tmp_path):
    trace = tmp_path / "keys.txt"
    trace.write_text("".join(f"key {n * n % 91}\n" for n in range(1000)))
    ended = run(
        environment,
        *("--nodes", "2", "--seconds", "3", "--no-kill", "--json"),
        *("--trace", str(trace)),
    )

    assert 0 == ended.returncode, ended.stderr
    summary = json.loads(ended.stdout)
    assert len({n * n % 91 for n in range(1000)}) == summary["distinct_keys"]
    assert summary["loads"] == summary["distinct_keys"]
    assert summary["detected_s"] is None


def test_demo_without_a_terminal_prints_lines_and_a_verdict(environment):
    ended = run(environment, "--nodes", "2", "--seconds", "2", "--no-kill")

    assert 0 == ended.returncode, ended.stderr
    assert "2 members agree on one table" in ended.stdout
    assert "every key is loaded once" in ended.stdout
    assert "\x1b" not in ended.stdout


def test_interrupted_demo_ends_every_process(environment):
    with subprocess.Popen(
        [sys.executable, LAUNCH, "--nodes", "2", "--seconds", "60"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        for line in demo.stdout:
            if "agree on one table" in line:
                break
        workers = children(demo.pid)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)

    assert 2 == len(workers)
    assert 130 == demo.returncode
    assert "every process has been ended" in errors
    assert not any(runs(pid) for pid in workers)


def test_killed_demo_leaves_no_worker(environment):
    with subprocess.Popen(
        [sys.executable, LAUNCH, "--nodes", "2", "--seconds", "60"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as demo:
        for line in demo.stdout:
            if "agree on one table" in line:
                break
        workers = children(demo.pid)
        demo.kill()
    deadline = time.monotonic() + 15
    while any(runs(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert 2 == len(workers)
    assert not any(runs(pid) for pid in workers)


def test_quickstart_works_each_second_out_once_in_two_processes(environment):
    both = [
        subprocess.Popen(
            [sys.executable, ROOT / "demos" / "quickstart.py", "6"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [quickstart_of(process.communicate(timeout=30)[0]) for process in both]
    # The first seconds may pass before the two have met.
    shared = sorted(told[0].keys() & told[1].keys())[3:]

    assert [0, 0] == [process.returncode for process in both]
    assert shared
    assert [told[0][second] for second in shared] == [
        told[1][second] for second in shared
    ]


def quickstart_of(printed):
    lines = (line.split() for line in printed.splitlines() if "worked out" in line)
    return {int(words[0]): int(words[6]) for words in lines}


def children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(word) for word in listed.stdout.split()]


def runs(pid):
    # A zombie answers signals but runs no more.
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")
