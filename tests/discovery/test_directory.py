"""The same-host directory, with its real locks; the owners live in this process.

A lock belongs to the open file, so two directories here are as apart as two processes.
`die` drops a lock as the kernel does when it ends a process.
"""

import json
import os
import resource
import socket
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.discovery import directory as module
from meshcache.discovery.directory import Directory, Record
from meshcache.errors import ConfigError


def record(n):
    return Record(bytes([n]) * 16, 1_000 + n, f"127.0.0.1:{7000 + n}", 100 + n)


def die(directory):
    directory._let_go()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "meshcache-1" / "default"


@pytest.fixture
def make(place):
    """Return directories of nodes 1, 2, ...; None is one that is not registered."""
    made = []

    def one(n=None, path=place):
        directory = Directory(path)
        made.append(directory)
        if n is not None:
            directory.register(*record(n))
        return directory

    yield one
    for directory in made:
        directory.abandon_after_fork()


@pytest.fixture
def files(place):
    return lambda: sorted(path.name for path in place.iterdir())


def open_descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def test_siblings_find_each_other_and_not_themselves(make):
    one, two, three = make(1), make(2), make(3)

    assert {record(2), record(3)} == set(one.scan().alive)
    assert {record(1), record(3)} == set(two.records())
    assert {"127.0.0.1:7001", "127.0.0.1:7002"} == set(three.addresses())


def test_who_is_not_registered_sees_everybody_and_is_seen_by_nobody(make):
    one, observer = make(1), make()

    assert (record(1),) == observer.scan().alive
    assert () == one.scan().alive


def test_an_address_is_checked_before_anything_is_written(make, place):
    with pytest.raises(ValueError, match="no port"):
        make().register(bytes(16), 1, "127.0.0.1", 1)

    assert not place.exists()


def test_a_file_is_readable_by_its_user_alone(make, place):
    make(1)

    (path,) = place.iterdir()
    assert f"{'01' * 16}.node" == path.name
    assert 0o600 == path.stat().st_mode & 0o777
    assert {
        "node_id": "01" * 16,
        "epoch": 1001,
        "address": "127.0.0.1:7001",
        "pid": 101,
    } == json.loads(path.read_text())


def test_a_released_lock_is_a_death_that_is_told_once(make, files):
    one, two = make(1), make(2)
    one.scan()
    die(two)

    assert ((), (record(2),)) == one.scan()
    assert ((), ()) == one.scan()
    assert [f"{'01' * 16}.node"] == files()


def test_every_sibling_sees_a_death_for_itself(make):
    one, two, three = make(1), make(2), make(3)
    one.scan()
    two.scan()
    die(three)

    assert (record(3),) == one.scan().died
    assert (record(3),) == two.scan().died


def test_a_sibling_that_looks_at_the_same_moment_does_not_hide_a_death(make, place):
    one, two = make(1), make(2)
    one.scan()
    die(two)
    looking = os.open(place / f"{'02' * 16}.node", os.O_RDWR)
    assert module._lock(looking, module.fcntl.LOCK_SH)

    assert (record(2),) == one.scan().died
    os.close(looking)


def test_a_death_is_kept_for_the_next_scan(make):
    one, two = make(1), make(2)
    one.scan()
    die(two)

    assert [] == one.addresses()
    assert (record(2),) == one.scan().died


def test_a_farewell_is_no_death(make, files):
    one, two = make(1), make(2)
    one.scan()
    two.unregister()
    two.unregister()

    assert ((), ()) == one.scan()
    assert [f"{'01' * 16}.node"] == files()


def test_who_died_between_two_looks_is_found_dead_once_and_cleared_away(make, files):
    one = make(1)
    one.scan()
    die(make(2))
    alive, died = one.scan()

    assert ((), [bytes([2]) * 16]) == (alive, [record.node_id for record in died])
    assert [f"{'01' * 16}.node"] == files()
    assert ((), ()) == one.scan()


def test_a_node_may_register_again_after_it_left(make):
    one, two = make(1), make(2)
    two.unregister()
    two.register(*record(3))

    assert (record(3),) == one.scan().alive


def test_a_forked_child_takes_nothing_from_its_parent(make):
    one, two = make(1), make(2)
    one.scan()
    # What a fork copies: the same open file under another number.
    child = Directory(one.path)
    child._fd, child._inode, child._own = os.dup(one._fd), one._inode, one._own

    child.abandon_after_fork()

    assert (record(1),) == two.scan().alive
    child.register(*record(3))
    assert {record(1), record(3)} == set(two.scan().alive)
    child.unregister()


def test_a_forked_child_that_lets_go_does_not_keep_its_dead_parent_alive(make):
    one, two = make(1), make(2)
    two.scan()
    child = Directory(one.path)
    child._fd = os.dup(one._fd)
    die(one)

    assert () == two.scan().died
    child.abandon_after_fork()
    assert (record(1),) == two.scan().died


def test_nothing_stays_open_in_the_end(make):
    before = open_descriptors()
    one, two, three = make(1), make(2), make(3)
    for directory in (one, two, three):
        directory.scan()
    die(three)
    one.scan()
    one.unregister()
    two.abandon_after_fork()
    three.abandon_after_fork()

    assert before == open_descriptors()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 4000,
        b'{"node_id": "zz"}',
        b'{"node_id": "01", "epoch": 1, "address": "127.0.0.1:1", "pid": 1}',
        json.dumps(record(9)._asdict() | {"node_id": "09" * 16, "pid": -1}).encode(),
        json.dumps(record(9)._asdict() | {"node_id": "09" * 16, "epoch": "1"}).encode(),
        json.dumps(
            record(9)._asdict() | {"node_id": "09" * 16, "address": "?"}
        ).encode(),
        json.dumps(record(9)._asdict() | {"node_id": "09" * 16, "address": 7}).encode(),
    ],
)
def test_a_torn_file_is_removed_only_when_nobody_holds_it(make, place, files, content):
    one = make(1)
    (place / "torn.node").write_bytes(content)
    held = os.open(place / "torn.node", os.O_RDWR)
    module.fcntl.flock(held, module.fcntl.LOCK_EX)

    assert ((), ()) == one.scan()
    assert "torn.node" in files()
    os.close(held)
    assert ((), ()) == one.scan()
    assert "torn.node" not in files()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_none(content):
    assert module._decode(content) is None


@given(
    st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1), st.integers(0, 99)
)
def test_a_record_reads_back_the_same(node_id, epoch, pid):
    written = Record(node_id, epoch, "[::1]:7946", pid)

    assert written == module._decode(module._encode(written))


def test_what_is_no_file_of_a_node_is_left_alone(make, place, tmp_path, monkeypatch):
    one = make(1)
    target = tmp_path / "target"
    target.write_text("precious")
    (place / "note.txt").write_text("")
    (place / "link.node").symlink_to(target)
    (place / "dangling.node").symlink_to(tmp_path / "gone")
    (place / "folder.node").mkdir()
    os.mkfifo(place / "pipe.node")
    os.mkfifo(place / "pipe.tmp")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(place)  # the path of a socket is at most 107 bytes
        listener.bind("socket.node")
        before = open_descriptors()

        assert ((), ()) == one.scan()

        assert before == open_descriptors()
    assert "precious" == target.read_text()
    assert 8 == len(list(place.iterdir()))


def test_a_link_to_the_file_of_another_cluster_is_not_followed(make, place, tmp_path):
    one = make(1)
    make(2, path=tmp_path / "meshcache-1" / "other")
    name = f"{'02' * 16}.node"
    (place / name).symlink_to(tmp_path / "meshcache-1" / "other" / name)

    assert () == one.scan().alive


def test_a_temporary_file_is_removed_once_its_maker_is_gone(make, place, files):
    one = make(1)
    held = os.open(place / "02.node.7-0.tmp", os.O_RDWR | os.O_CREAT)
    module.fcntl.flock(held, module.fcntl.LOCK_EX)

    one.scan()
    assert "02.node.7-0.tmp" in files()
    os.close(held)
    one.scan()
    assert "02.node.7-0.tmp" not in files()


def temporary(place, n, attempt):
    return place / f"{bytes([n] * 16).hex()}.node.{os.getpid()}-{attempt}.tmp"


def test_registering_tries_another_name_when_the_first_is_taken(make, place):
    one = make(1)
    temporary(place, 2, 0).write_text("")

    make(2)

    assert (record(2),) == one.scan().alive


def test_registering_gives_up_in_the_end(make, place):
    make(1)
    taken = [temporary(place, 2, n) for n in range(module.REGISTER_ATTEMPTS)]
    for path in taken:
        path.write_text("")
    before = open_descriptors()

    with pytest.raises(BlockingIOError, match="locked by others"):
        make(2)

    assert before == open_descriptors()


@pytest.mark.parametrize("swept_when", ["before the lock", "after the lock"])
def test_a_sweep_in_the_midst_of_registering_costs_only_a_name(
    make, place, files, monkeypatch, swept_when
):
    sweeper = make(1)
    lock = module._lock
    turns = []

    def lock_with_a_sweep_beside_it(fd, kind):
        if kind == module.fcntl.LOCK_EX and not turns:
            turns.append(fd)
            if swept_when == "after the lock":
                locked = lock(fd, kind)
                sweeper.records()
                return locked
            sweeper.records()
        return lock(fd, kind)

    monkeypatch.setattr(module, "_lock", lock_with_a_sweep_beside_it)
    make(2)

    assert turns
    assert [f"{'01' * 16}.node", f"{'02' * 16}.node"] == files()
    assert ((record(2),), ()) == sweeper.scan()


def test_a_sweep_that_holds_the_lock_meanwhile_costs_only_a_name(
    make, place, monkeypatch
):
    observer = make()
    lock = module._lock
    sweeps = []

    def lock_that_a_sweep_was_first_to_take(fd, kind):
        if kind == module.fcntl.LOCK_EX and not sweeps:
            sweeps.append(os.open(temporary(place, 2, 0), os.O_RDWR))
            assert lock(sweeps[0], module.fcntl.LOCK_SH)
        return lock(fd, kind)

    monkeypatch.setattr(module, "_lock", lock_that_a_sweep_was_first_to_take)
    make(2)
    os.close(sweeps[0])

    assert ((record(2),), ()) == observer.scan()


def test_registering_that_cannot_write_leaves_nothing(place, make):
    directory = make()
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            directory.register(*record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [] == list(place.iterdir())
    assert before == open_descriptors()
    directory.register(*record(1))


def test_registering_under_a_name_that_is_taken_leaves_nothing(place, make, files):
    make(2)
    (place / f"{'01' * 16}.node").mkdir()
    before = open_descriptors()

    with pytest.raises(OSError, match="Is a directory"):
        make(1)

    assert [f"{'01' * 16}.node", f"{'02' * 16}.node"] == files()
    assert before == open_descriptors()


def test_a_file_that_somebody_removed_comes_back(make, place):
    one, two = make(1), make(2)
    one.scan()
    (place / f"{'02' * 16}.node").unlink()

    two.scan()

    assert ((record(2),), ()) == one.scan()


def test_a_directory_that_somebody_removed_comes_back(make, place):
    one, two = make(1), make(2)
    one.scan()
    for path in place.iterdir():
        path.unlink()
    place.rmdir()

    for directory in (two, one, two, one):
        directory.scan()

    assert (record(1),) == two.scan().alive
    assert ((record(2),), ()) == one.scan()


def test_coming_back_is_tried_again_after_it_failed(make, place):
    one, two = make(1), make(2)
    path = place / f"{'02' * 16}.node"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        two.scan()
    path.rmdir()

    two.scan()

    assert (record(2),) == one.scan().alive


def test_a_directory_is_checked_before_it_is_believed(make, place):
    one = make(1)
    place.chmod(0o755)

    with pytest.raises(ConfigError, match="others may enter"):
        one.scan()
    with pytest.raises(ConfigError, match="others may enter"):
        make().register(*record(2))


def test_too_many_files_cost_bounded_time(make, place, monkeypatch):
    monkeypatch.setattr(module, "FILES_MAX", 3)
    one = make(1)
    for n in range(2, 8):
        make(n)

    for _ in range(5):
        one.scan()

    assert 0 < len(one.scan().alive) <= 3


def test_running_out_of_descriptors_is_an_error_and_no_death(make, place):
    one = make(1)
    make(2)
    make(3)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(place, os.O_RDONLY)
    os.close(spare)
    # One number is left: enough to list the directory and for one of two siblings.
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            one.scan()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert ({record(2), record(3)}, ()) == (set(one.records()), one.scan().died)


def test_a_system_without_locks_has_no_directory_and_says_why(place):
    directory = Directory(place, supported=False)

    directory.register(*record(1))

    assert "no flock" in directory.reason
    assert ((), ()) == directory.scan()
    assert [] == directory.addresses()
    assert not place.exists()
    directory.unregister()
    directory.abandon_after_fork()


def test_here_there_are_locks(make):
    assert make().reason is None


@pytest.mark.slow
def test_a_scan_of_eight_files_takes_well_under_a_millisecond(make):
    siblings = [make(n) for n in range(9)]
    siblings[0].scan()

    best = min(_timed(siblings[0].scan) for _ in range(200))

    assert best < 0.001


def _timed(call):
    start = perf_counter()
    call()
    return perf_counter() - start
