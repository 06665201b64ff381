"""The same-host directory between real processes: kills, forks and races."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshcache.discovery.directory import Directory

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, sys
from pathlib import Path
from meshcache.discovery.directory import Directory

place = Path(sys.argv[1])

def register():
    directory = Directory(place)
    directory.register(os.urandom(16), 1, "127.0.0.1:7946", os.getpid())
    return directory

def say(word):
    print(word, flush=True)

def hear():
    return sys.stdin.readline().strip()
"""

OWNER = """
directory = register()
say("ready")
hear()
"""

FORKER = """
directory = register()
child = os.fork()
if child == 0:
    directory.abandon_after_fork()
    directory = register()
    say(f"{os.getppid()} {os.getpid()}")
hear()
os._exit(0)
"""

FORKER_OF_A_CHILD_THAT_ENDS = """
directory = register()
child = os.fork()
if child == 0:
    directory.abandon_after_fork()
    os._exit(0)
os.waitpid(child, 0)
say("ready")
hear()
"""

STARTER = """
say("ready")
hear()
directory = register()
peers = int(sys.argv[2]) - 1
for _ in range(20_000):
    scan = directory.scan()
    assert not scan.died, scan
    if len(scan.alive) == peers:
        break
say(f"{len(scan.alive)} {sorted(path.name for path in place.iterdir())}")
hear()
"""

CHURNER = """
say("ready")
hear()
lost = 0
for turn in range(int(sys.argv[2])):
    directory = register()
    directory.records()
    path = place / (directory._own.node_id.hex() + ".node")
    lost += not path.exists() or path.stat().st_ino != os.fstat(directory._fd).st_ino
    if turn % 3:
        directory.unregister()
    else:
        directory.abandon_after_fork()  # leaves what a killed process leaves
say(f"lost {lost}")
hear()
"""


@pytest.fixture
def place(tmp_path):
    return tmp_path / "meshcache-1" / "default"


@pytest.fixture
def start(place):
    """Start processes that are told and asked line by line; none outlives the test."""
    started = []

    def one(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, place, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        started.append(process)
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate(timeout=10)


def heard(process):
    return process.stdout.readline().strip()


def tell(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)


def pids(records):
    return {record.pid for record in records}


def test_a_killed_process_has_died_at_the_next_scan(place, start):
    directory = Directory(place)
    owner, other = start(OWNER), start(OWNER)
    assert ["ready", "ready"] == [heard(owner), heard(other)]
    assert {owner.pid, other.pid} == pids(directory.scan().alive)

    kill(owner)
    scan = directory.scan()

    assert ({other.pid}, {owner.pid}) == (pids(scan.alive), pids(scan.died))
    assert 1 == len(list(place.iterdir()))


def test_a_stopped_process_is_alive(place, start):
    directory = Directory(place)
    owner = start(OWNER)
    assert "ready" == heard(owner)
    directory.scan()

    owner.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT)
    scan = directory.scan()

    assert ({owner.pid}, set()) == (pids(scan.alive), pids(scan.died))


def test_a_process_that_ends_without_a_farewell_has_died(place, start):
    directory = Directory(place)
    owner = start(OWNER)
    assert "ready" == heard(owner)
    directory.scan()

    tell(owner)
    owner.wait(timeout=10)

    assert {owner.pid} == pids(directory.scan().died)


def test_a_forked_child_that_ends_leaves_its_parent_alive(place, start):
    directory = Directory(place)
    parent = start(FORKER_OF_A_CHILD_THAT_ENDS)
    assert "ready" == heard(parent)

    scan = directory.scan()

    assert ({parent.pid}, set()) == (pids(scan.alive), pids(scan.died))


def test_a_forked_child_outlives_its_parent_and_does_not_keep_it_alive(place, start):
    directory = Directory(place)
    parent = start(FORKER)
    parent_pid, child_pid = map(int, heard(parent).split())
    assert {parent_pid, child_pid} == pids(directory.scan().alive)

    kill(parent)
    scan = directory.scan()

    assert ({child_pid}, {parent_pid}) == (pids(scan.alive), pids(scan.died))
    tell(parent)  # the child reads the same pipe, and ends


def test_processes_that_start_at_once_all_find_each_other(place, start):
    for _ in range(3):
        processes = [start(STARTER, 6) for _ in range(6)]
        assert {"ready"} == {heard(process) for process in processes}
        for process in processes:
            tell(process)

        answers = {heard(process) for process in processes}

        assert 1 == len(answers), answers
        assert answers.pop().startswith("5 ")
        for process in processes:
            kill(process)
        # Or those who start next would find them dead.
        assert 6 == len(Directory(place).scan().died)


def test_sweeping_processes_never_remove_the_file_of_one_that_lives(place, start):
    processes = [start(CHURNER, 300) for _ in range(4)]
    assert {"ready"} == {heard(process) for process in processes}
    for process in processes:
        tell(process)

    answers = [heard(process) for process in processes]

    assert ["lost 0"] * 4 == answers
    Directory(place).scan()
    assert [] == list(place.iterdir())
