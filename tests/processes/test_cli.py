"""The command line against nodes that it started itself, as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "meshcache")


@pytest.fixture(scope="module")
def cluster():
    return uuid4().hex


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MESHCACHE_")}
    return clean | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "MESHCACHE_RUNTIME_DIR": str(tmp_path_factory.mktemp("run")),
    }


def start(cluster, environment):
    return subprocess.Popen(
        [*COMMAND, "node", "--cluster", cluster, "--max-bytes", "8MB"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(process, wanted):
    """Return the lines up to the one that has *wanted* in it."""
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if wanted in line:
            break
    return lines


@pytest.fixture(scope="module")
def nodes(cluster, environment):
    """Two nodes that know each other, ended by their process ids."""
    started = [start(cluster, environment) for _ in range(2)]
    try:
        for process in started:
            read_until(process, "ready, nodes alive: 2")
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def meshcache(nodes, cluster, environment):
    def run(command, *line):
        return subprocess.run(
            [*COMMAND, command, "--cluster", cluster, *line],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def test_status_shows_each_node_and_its_share(meshcache):
    table, data = meshcache("status"), meshcache("status", "--json")

    assert 0 == table.returncode, table.stderr
    members = json.loads(data.stdout)["members"]
    assert ["alive", "alive"] == [m["state"] for m in members if m["role"] == "node"]
    assert 1 == pytest.approx(sum(m["share"] for m in members))
    assert 16384 == sum(m["partitions"] for m in members)
    for member in members:
        assert member["name"] in table.stdout
        assert member["address"] in table.stdout


def test_value_is_set_read_explained_and_deleted(meshcache):
    assert 0 == meshcache("set", "users", "7", "Ada", "--ttl", "1m").returncode
    assert "Ada\n" == meshcache("get", "users", "7").stdout
    facts = json.loads(meshcache("explain", "users", "7", "--json").stdout)
    assert "host" == facts["tier"]
    assert 0 < facts["ttl"] <= 60
    assert facts["owner"]
    assert 0 == meshcache("delete", "users", "7").returncode

    assert 1 == meshcache("get", "users", "7").returncode
    assert 1 == meshcache("delete", "users", "7").returncode
    gone = json.loads(meshcache("explain", "users", "7", "--json").stdout)
    assert ("fill", None) == (gone["tier"], gone["ttl"])


def test_literals_keep_their_types(meshcache):
    line = ("--literal", "users", "(1, 'x')")

    assert 0 == meshcache("set", *line, "{'a': b'1'}", "--ttl", "none").returncode
    assert "{'a': b'1'}\n" == meshcache("get", *line).stdout
    assert 1 == meshcache("get", "users", "(1, 'x')").returncode


def test_value_that_would_not_come_back_the_same_is_one_line_and_exits_with_1(
    meshcache,
):
    result = meshcache("set", "--literal", "users", "7", "...")

    assert 1 == result.returncode
    assert result.stderr.startswith("Error: ")
    assert 1 == result.stderr.count("\n")


def test_key_of_another_codec_is_read_with_it(meshcache):
    line = ("--codec", "bytes", "--literal", "pages", "'a'")

    assert 0 == meshcache("set", *line, r"b'\xff'").returncode
    assert "b'\\xff'\n" == meshcache("get", *line).stdout


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_node_says_who_comes_and_goes_and_leaves_when_told(
    nodes, cluster, environment, ending
):
    third = start(cluster, environment)
    try:
        said = read_until(third, "ready, nodes alive: 3")
        read_until(nodes[0], "ready, nodes alive: 3")
        third.send_signal(ending)
        last, _ = third.communicate(timeout=20)
        heard = read_until(nodes[0], "ready, nodes alive: 2")
    finally:
        third.kill()
        third.communicate()
    name = said[0].split()[1]

    assert cluster in said[0]
    assert 2 == sum("is alive" in line for line in said)
    assert 0 == third.returncode
    assert last.endswith("left the cluster\n")
    assert any(f"node {name}" in line and "is left" in line for line in heard)
