"""The files under the arenas between real processes: kills, forks, races, no room."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshcache.store.files import find_orphans, is_alive, open_sibling

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no flock here"),
]

ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, sys
from pathlib import Path
from meshcache.store.files import *

place = Path(sys.argv[1])
SIZE = 65_536

def own(node_id=None):
    arena = create(place, node_id or os.urandom(16), SIZE)
    arena.memory[:4] = b"here"
    arena.publish()
    return arena

def say(word):
    print(word, flush=True)

def hear():
    return sys.stdin.readline().strip()
"""

OWNER = """
arena = own()
say(arena.path.stem)
hear()
"""

OWNER_OF_MANY = """
arenas = [own() for _ in range(60)]
say(" ".join(arena.path.stem for arena in arenas))
hear()
"""

OWNER_THAT_NEVER_PUBLISHES = """
arena = create(place, os.urandom(16), SIZE)
say(arena.path.name)
hear()
"""

CLAIMER = """
say("ready")
hear()
orphans = find_orphans(place, 100)
say(" ".join(f"{o.node_id.hex()}:{o.claimed_new}" for o in orphans))
hear()
"""

FORKER = """
arena = own()
child = os.fork()
if child == 0:
    parents = arena.path.stem
    arena.abandon_after_fork()
    arena = own()
    say(f"{parents} {arena.path.stem}")
hear()
os._exit(0)
"""

FORKER_OF_A_CHILD_THAT_ENDS = """
arena = own()
child = os.fork()
if child == 0:
    arena.abandon_after_fork()
    os._exit(0)
os.waitpid(child, 0)
arena.memory[5] = 55
say(arena.path.stem)
hear()
"""

FORKER_OF_A_CHILD_THAT_LETS_GO_OF_AN_ORPHAN = """
(orphan,) = find_orphans(place, 1)
child = os.fork()
if child == 0:
    orphan.abandon_after_fork()
    say("ready")
hear()
os._exit(0)
"""

CHURNER = """
say("ready")
hear()
lost = claimed = 0
for turn in range(int(sys.argv[2])):
    arena = own()
    for orphan in find_orphans(place, 3):
        claimed += orphan.memory[:4] == b"here"
        orphan.release(unlink=True)
    found = open_sibling(place, bytes.fromhex(arena.path.stem))
    lost += found is None or not is_alive(place, bytes.fromhex(arena.path.stem))
    if turn % 3:
        arena.retire()
    else:
        arena.abandon_after_fork()  # leaves what a killed process leaves
say(f"{lost} {claimed}")
hear()
"""

# Run in a mount namespace of its own, on a file system of 1 MiB.
SMALL = """
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "x", sys.argv[2]], check=True)

def reason(size):
    try:
        create(place, bytes(16), size)
    except NoArena as no:
        return no.reason.replace(str(place), "").replace("\\n", " ")
    return "none"
"""

TOO_LARGE = """
say(reason(1 << 21))
say(list(place.iterdir()))
arena = create(place, bytes(16), 1 << 19)
arena.publish()
say(reason(1 << 19 | 1))
say([path.name for path in place.iterdir()])
"""

FULL = """
arena = create(place, bytes(16), 1 << 19)
try:
    with (place / "rest").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    say(error.strerror)
for at in range(0, 1 << 19, 4096):
    arena.memory[at] = 1
say("written")
"""

READ_ONLY = """
own(bytes(16)).abandon_after_fork()
subprocess.run(["mount", "-o", "remount,ro", sys.argv[2]], check=True)
say(reason(4096))
say(open_sibling(place, bytes(16)), )
say(find_orphans(place, 1))
say(is_alive(place, bytes(16)))
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


@pytest.fixture
def on_a_small_disk(place, tmp_path):
    """Run code where there is 1 MiB of room, and return the lines it says."""
    base = [shutil.which("unshare"), "--mount"]
    if os.geteuid() != 0 or base[0] is None:
        pytest.skip("only root can mount a small file system")
    trial = subprocess.run([*base, "mount", "-t", "tmpfs", "x", tmp_path], check=False)
    if trial.returncode:
        pytest.skip("no mount namespaces here")

    def run(code):
        found = subprocess.run(
            [*base, sys.executable, "-c", PRELUDE + SMALL + code, place, tmp_path],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert 0 == found.returncode, found.stderr
        return found.stdout.splitlines()

    return run


def heard(process):
    return process.stdout.readline().strip()


def tell(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)


def test_a_killed_owner_leaves_an_orphan_with_all_that_was_in_it(place, start):
    owner = start(OWNER)
    node_id = bytes.fromhex(heard(owner))
    memory = open_sibling(place, node_id)
    before = (is_alive(place, node_id), find_orphans(place, 1))

    kill(owner)
    (orphan,) = find_orphans(place, 1)

    assert (True, []) == before
    assert not is_alive(place, node_id)
    assert (node_id, True) == (orphan.node_id, orphan.claimed_new)
    assert b"here" == orphan.memory[:4] == memory[:4]
    orphan.release(unlink=True)
    assert [] == list(place.iterdir())


def test_a_stopped_owner_is_alive(place, start):
    owner = start(OWNER)
    node_id = bytes.fromhex(heard(owner))
    owner.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, owner.pid, os.WSTOPPED | os.WNOWAIT)

    assert is_alive(place, node_id)
    assert [] == find_orphans(place, 1)


def test_each_orphan_is_claimed_by_exactly_one_of_those_who_race(start):
    owner = start(OWNER_OF_MANY)
    dead = sorted(f"{node_id}:True" for node_id in heard(owner).split())
    claimers = [start(CLAIMER) for _ in range(5)]
    assert {"ready"} == {heard(claimer) for claimer in claimers}
    kill(owner)
    for claimer in claimers:
        tell(claimer)

    claims = [heard(claimer).split() for claimer in claimers]

    assert dead == sorted(claim for some in claims for claim in some)


def test_what_a_killed_claimer_held_is_claimed_again(place, start):
    owner, claimer = start(OWNER), start(CLAIMER)
    node_id = heard(owner)
    assert "ready" == heard(claimer)
    kill(owner)
    tell(claimer)
    assert f"{node_id}:True" == heard(claimer)
    before = find_orphans(place, 1)

    kill(claimer)
    (orphan,) = find_orphans(place, 1)

    assert [] == before
    assert (node_id, False) == (orphan.node_id.hex(), orphan.claimed_new)
    orphan.release(unlink=True)


def test_what_a_killed_owner_had_not_published_is_swept(place, start):
    owner = start(OWNER_THAT_NEVER_PUBLISHES)
    name = heard(owner)
    living = (find_orphans(place, 1), [path.name for path in place.iterdir()])

    kill(owner)
    dead = (find_orphans(place, 1), list(place.iterdir()))

    assert ([], [name]) == living
    assert ([], []) == dead


def test_a_forked_child_that_ends_leaves_its_parents_arena_alive(place, start):
    parent = start(FORKER_OF_A_CHILD_THAT_ENDS)
    node_id = bytes.fromhex(heard(parent))

    assert is_alive(place, node_id)
    assert 55 == open_sibling(place, node_id)[5]
    assert [] == find_orphans(place, 1)


def test_a_forked_child_outlives_its_parent_and_does_not_keep_it_alive(place, start):
    parent = start(FORKER)
    ids = [bytes.fromhex(text) for text in heard(parent).split()]
    before = [is_alive(place, node_id) for node_id in ids]

    kill(parent)
    after = [is_alive(place, node_id) for node_id in ids]
    (orphan,) = find_orphans(place, 9)

    assert ([True, True], [False, True]) == (before, after)
    assert ids[0] == orphan.node_id
    orphan.release(unlink=True)
    tell(parent)  # the child reads the same pipe, and ends


def test_a_forked_child_does_not_keep_what_its_parent_claimed(place, start):
    owner = start(OWNER)
    node_id = heard(owner)
    kill(owner)
    parent = start(FORKER_OF_A_CHILD_THAT_LETS_GO_OF_AN_ORPHAN)
    assert "ready" == heard(parent)
    before = find_orphans(place, 1)

    kill(parent)
    (orphan,) = find_orphans(place, 1)

    assert [] == before
    assert node_id == orphan.node_id.hex()
    orphan.release(unlink=True)
    tell(parent)  # the child reads the same pipe, and ends


def test_owners_that_come_and_go_never_lose_a_file_to_each_other(place, start):
    turns, crowd = 120, 4
    processes = [start(CHURNER, turns) for _ in range(crowd)]
    assert {"ready"} == {heard(process) for process in processes}
    for process in processes:
        tell(process)

    answers = [tuple(map(int, heard(process).split())) for process in processes]

    rest = find_orphans(place, 1000)
    assert {0} == {lost for lost, _ in answers}
    assert crowd * turns // 3 == sum(n for _, n in answers) + len(rest)
    for orphan in rest:
        orphan.release(unlink=True)
    assert [] == list(place.iterdir())


def test_no_room_is_no_arena_and_leaves_nothing(on_a_small_disk):
    too_large, before, no_rest, after = on_a_small_disk(TOO_LARGE)

    assert too_large.startswith(": no room for 2MiB (No space left on device)")
    assert "[]" == before
    assert "no room for 524289 (No space left" in no_rest
    assert f"['{'00' * 16}.arena']" == after


def test_an_arena_can_be_written_to_the_end_when_the_disk_is_full(on_a_small_disk):
    assert ["No space left on device", "written"] == on_a_small_disk(FULL)


def test_nothing_is_made_or_claimed_where_nothing_can_be_written(on_a_small_disk):
    reason, memory, orphans, alive = on_a_small_disk(READ_ONLY)

    assert reason.startswith(": not writable (Read-only file system); set arena_dir=")
    assert ("None", "[]", "False") == (memory, orphans, alive)


def test_one_host_has_one_number_and_another_clock_another(start):
    say = "say(host_identity())"
    here = {heard(start(say)), heard(start(say))}
    unshare = shutil.which("unshare")
    found = subprocess.run(
        [unshare or "false", "--time", sys.executable, "-c", PRELUDE + say, "."],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert 1 == len(here)
    if found.returncode:
        pytest.skip("no time namespaces here")
    assert found.stdout.strip() not in {*here, "0"}
