"""The host lane between real processes: shared reads, kills, restarts, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="no flock here"),
]

ENTRIES = 2000
SETTINGS = {"max_bytes": "4MB"}


@pytest.fixture
def started(agents, tmp_path):
    """Start agents whose arenas lie in a directory of this test's own."""
    place = tmp_path / "arenas"
    place.mkdir()

    def start(count, others=(), **settings):
        spawned = agents.spawn(count)
        for agent in spawned:
            agent.tell("start", arena_dir=str(place), **(SETTINGS | settings))
        for agent in spawned:
            agent.answer()
        agents.agree([*others, *spawned], within=20)
        return spawned

    start.place = place
    return start


def files(place: Path) -> list[str]:
    return sorted(path.suffix for path in place.rglob("*") if path.is_file())


def requests(agent) -> int:
    """How many reads a node has answered to peers."""
    engine = agent.ask("stats")["engine"]
    return engine["served_hits"] + engine["served_misses"]


def tiers(agent) -> dict[str, int]:
    return agent.ask("stats")["reads"]


def fill(agent) -> None:
    left = agent.ask("fill", ENTRIES)

    assert 0 == left


def kept(agent) -> int:
    return agent.ask("count_kept", ENTRIES)


@pytest.fixture(scope="module", autouse=True)
def long_dead(standing, tmp_path_factory):
    """Return where an arena was claimed before the first test: its time takes long."""
    place = tmp_path_factory.mktemp("long-dead")
    cluster = standing.start(2, arena_dir=str(place), **SETTINGS)
    cluster[1].kill()
    standing.agree(cluster[:1], within=20)
    end = time.monotonic() + 10
    while files(place) != [".arena", ".orphan"]:
        assert time.monotonic() < end
        time.sleep(0.02)
    return place


def test_siblings_read_each_other_without_a_message(started):
    one, two, three = started(3)
    fill(one)
    before = tiers(two)

    assert ENTRIES == kept(two)
    after = tiers(two)
    assert after["peer"] == before["peer"]
    # Written elsewhere, so near has none of it yet.
    assert ENTRIES == after["host"] - before["host"]
    assert 0 == requests(one) == requests(three)


def test_a_write_is_seen_by_all_when_its_call_has_returned(started):
    """By near cache and lane alike, a thousand times in a row, whoever owns the key."""
    one, two, three = started(3)
    readers = [one, two, three]
    for turn in range(1000):
        key = f"key {turn % 7}"
        writer = readers[turn % 3]
        if turn % 5 == 4:
            writer.ask("do", "delete", key)
            wanted = None
        else:
            writer.ask("do", "set", key, turn)
            wanted = turn
        for reader in readers:
            assert wanted == reader.ask("do", "get", key)
            assert wanted == reader.ask("do", "get", key)
    for reader in readers:
        assert tiers(reader)["near"] > 500


def test_what_a_killed_process_held_is_still_there(started, agents):
    cluster = started(3)
    fill(cluster[0])
    cluster[1].kill()
    agents.agree([cluster[0], cluster[2]], within=20)

    for agent in (cluster[0], cluster[2]):
        assert kept(agent) >= 0.99 * ENTRIES
    assert not agents.loads()


def test_a_process_that_comes_back_finds_what_was_there(started):
    cluster = started(3)
    fill(cluster[0])
    cluster[1].kill()
    (again,) = started(1, others=[cluster[0], cluster[2]])

    assert kept(again) >= 0.99 * ENTRIES


def test_entries_survive_when_all_are_killed_and_started_again(started):
    cluster = started(3)
    fill(cluster[0])
    for agent in cluster:
        agent.kill()
    for agent in started(3):
        assert kept(agent) >= 0.99 * ENTRIES


def test_who_leaves_hands_over_what_he_held(started, agents):
    cluster = started(3)
    fill(cluster[0])
    cluster[1].ask("stop")
    agents.agree([cluster[0], cluster[2]], within=20)

    assert ENTRIES == kept(cluster[0]) == kept(cluster[2])


def test_a_rolling_restart_loses_nothing(started, agents):
    cluster = started(3)
    fill(cluster[0])
    for turn in range(3):
        cluster[turn].ask("stop")
        others = [agent for agent in cluster if agent is not cluster[turn]]
        agents.agree(others, within=20)
        (cluster[turn],) = started(1, others)

    assert ENTRIES == kept(cluster[0])


def test_an_end_leaves_no_file(started):
    cluster = started(3)
    assert [".arena"] * 3 == files(started.place)
    for agent in cluster:
        assert 0 == agent.end()

    assert [] == files(started.place)


def test_a_kill_leaves_a_file_that_a_later_start_removes(started):
    (one,) = started(1)
    one.kill()
    assert [".arena"] == files(started.place)
    (two,) = started(1)
    assert [".arena", ".orphan"] == files(started.place)
    assert 0 == two.end()

    assert [] == files(started.place)


def test_a_claimed_arena_is_removed_when_all_have_had_their_time(long_dead, eventually):
    eventually(lambda: [".arena"] == files(long_dead), within=15)


def test_a_forked_child_has_an_arena_of_its_own_and_its_parents_stays(started, agents):
    (parent,) = started(1)
    parent.ask("do", "set", "mine", 1)
    (arena,) = started.place.rglob("*.arena")
    (child,) = parent.ask("fork", 1)
    try:
        assert "error" not in child
        parent.ask("ready", 1, 10.0)
        names = {path.stem for path in started.place.rglob("*.arena")}
        assert {arena.stem, child["node_id"]} == names
        assert 1 == parent.ask("do", "get", "mine")
    finally:
        os.kill(child["pid"], signal.SIGKILL)

    assert arena.exists()
    assert 0 == parent.end()


def test_without_the_lane_all_goes_by_message_and_no_file_is_made(started):
    one, two = started(2, host_lane=False)
    fill(one)

    assert [] == files(started.place)
    assert ENTRIES == kept(two)
    assert 0 < tiers(two)["peer"]


def test_one_that_does_not_want_the_lane_gets_along_with_one_that_does(started, agents):
    (one,) = started(1)
    two = agents.spawn(1)[0]
    two.ask("start", host_lane=False, **SETTINGS)
    agents.agree([one, two])
    fill(one)

    assert [".arena"] == files(started.place)
    assert ENTRIES == kept(one) == kept(two)


@pytest.fixture
def tiny(tmp_path):
    """A tmpfs of 1 MiB, as a container's /dev/shm may be small."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_place_too_small_costs_the_lane_and_one_warning(tiny, agents):
    spawned = agents.spawn(2)
    for agent in spawned:
        agent.ask("keep_logs")
        agent.ask("start", arena_dir=str(tiny), max_bytes="64MB")
    agents.agree(spawned)
    fill(spawned[0])

    assert ENTRIES == kept(spawned[1])
    assert [] == files(tiny)
    for agent in spawned:
        told = [line for line in agent.ask("logs") if "shared memory" in line]
        assert 1 == len(told)
        assert "no room" in told[0]


def test_who_stands_still_is_read_all_the_same(started):
    one, two = started(2)
    fill(one)
    with two.stopped():
        began = time.monotonic()
        assert ENTRIES == kept(one)
        assert time.monotonic() - began < 2


def test_a_stopped_owner_that_comes_back_reads_what_was_written_meanwhile(
    started, eventually
):
    one, two = started(2)
    keys = [f"key {number}" for number in range(40)]
    for key in keys:
        assert one.ask("do", "set", key, "old") is None
    theirs = two.ask("owned", keys)

    with two.stopped():
        eventually(lambda: one.ask("try_set", theirs, "new") == len(theirs), 30)

    assert theirs
    eventually(lambda: len(one.ask("about")["alive"]) == 2, 20)
    for _ in range(5):
        time.sleep(0.3)
        for agent in (one, two):
            read = [agent.ask("do", "get", key) for key in keys]

            assert ["new" if key in theirs else "old" for key in keys] == read
