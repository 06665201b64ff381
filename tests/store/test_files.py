"""The files under the arenas, with their real locks; the owners live in this process.

A lock belongs to the open file, so two files here are as apart as two processes.
`die` drops a lock as the kernel does when it ends a process.
"""

import os
import resource
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from meshcache.store import files as module
from meshcache.store.files import (
    NoArena,
    arena_directory,
    create,
    find_orphans,
    is_alive,
    open_sibling,
)

pytestmark = pytest.mark.skipif(not module.SUPPORTED, reason="no flock here")

SIZE = 8192


def node(n):
    return bytes([n]) * 16


def die(arena):
    arena._hold.end(unlink=False)


def is_free(fd):
    return module.lock(fd, shared=True)


def open_descriptors():
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def limited(what, soft):
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@contextmanager
def all_but(spare):
    """Use up every descriptor but *spare*."""
    taken = []
    with limited(resource.RLIMIT_NOFILE, 256):
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        try:
            yield
        finally:
            for fd in taken:
                os.close(fd)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "meshcache-1" / "default"


@pytest.fixture
def names(place):
    return lambda: sorted(path.name for path in place.iterdir())


@pytest.fixture
def make(place):
    """Return the published arenas of nodes 1, 2, ...; none holds its lock after."""
    made = []

    def one(n, *, published=True):
        arena = create(place, node(n), SIZE)
        made.append(arena)
        if published:
            arena.publish()
        return arena

    yield one
    for arena in made:
        die(arena)


@pytest.fixture
def claim(place):
    claimed = []

    def some(limit=100):
        claimed.extend(found := find_orphans(place, limit))
        return found

    yield some
    for orphan in claimed:
        orphan.release(unlink=False)


# --- where they lie -------------------------------------------------------------------


def test_arenas_lie_where_they_were_told_to_and_else_where_nodes_meet():
    uid = os.geteuid()

    told = arena_directory("a/b", "/arenas", "/run", {})
    met = arena_directory("a/b", None, "/run", {})

    assert f"/arenas/meshcache-{uid}/a%2fb" == str(told)
    assert f"/run/meshcache-{uid}/a%2fb" == str(met)


def test_arenas_lie_in_memory_by_default_where_there_is_such_a_place(tmp_path):
    base = "/dev/shm"
    if sys.platform != "linux" or not os.access(base, os.W_OK | os.X_OK):
        base = str(tmp_path)

    path = arena_directory("c", None, None, {"XDG_RUNTIME_DIR": str(tmp_path)})

    assert f"{base}/meshcache-{os.geteuid()}/c" == str(path)


# --- an owner's life ------------------------------------------------------------------


def test_an_arena_is_not_seen_before_it_is_published(make, place):
    arena = make(1, published=False)
    before = (open_sibling(place, node(1)), is_alive(place, node(1)))
    arena.publish()

    assert (None, False) == before
    assert is_alive(place, node(1))
    assert open_sibling(place, node(1)) is not None
    assert place / f"{'01' * 16}.arena" == arena.path


def test_owner_and_reader_have_one_memory(make, place):
    arena = make(1)
    memory = open_sibling(place, node(1))
    arena.memory[5] = 55
    memory[6] = 66

    assert (55, 66) == (memory[5], arena.memory[6])
    assert SIZE == len(memory) == len(arena.memory)


def test_an_arena_starts_empty_and_with_room_behind_every_byte(make):
    arena = make(1)
    found = arena.path.stat()

    assert bytes(SIZE) == arena.memory[:]
    assert SIZE == found.st_size <= found.st_blocks * 512


@pytest.mark.parametrize("umask", [0, 0o777])
def test_an_arena_is_its_users_alone_whatever_the_umask(make, place, umask):
    module.secure(place)
    before = os.umask(umask)
    try:
        arena = make(1)
    finally:
        os.umask(before)

    assert 0o100600 == arena.path.stat().st_mode


def test_a_retired_arena_is_gone_and_its_memory_stays(make, place, names):
    arena = make(1)
    reader = open_sibling(place, node(1))
    arena.retire()
    arena.retire()
    arena.memory[0] = 9

    assert [] == names()
    assert not is_alive(place, node(1))
    assert 9 == reader[0]


def test_a_retired_arena_drops_its_lock_though_its_memory_is_in_use(make):
    arena = make(1)
    looking = os.open(arena.path, os.O_RDWR)
    held = not is_free(looking)
    memory = arena.memory
    arena.retire()

    assert held
    assert is_free(looking)
    assert SIZE == len(memory)
    os.close(looking)


def test_an_arena_may_retire_before_it_is_published(make, names):
    make(1, published=False).retire()

    assert [] == names()


def test_what_somebody_put_in_its_place_is_not_removed(make, names):
    arena = make(1)
    arena.path.unlink()
    arena.path.write_bytes(b"another's")
    arena.retire()

    assert [f"{'01' * 16}.arena"] == names()


def test_an_arena_that_was_removed_retires_in_peace(make, place):
    arena = make(1)
    rmtree(place)
    arena.retire()

    assert not place.exists()


def test_an_arena_removed_before_it_is_published_is_none(make, place):
    arena = make(1, published=False)
    rmtree(place)

    with pytest.raises(NoArena, match=r"\.tmp: No such file"):
        arena.publish()

    assert bytes(SIZE) == arena.memory[:]


def test_two_files_of_one_node_do_not_meet_before_they_are_published(make, names):
    make(1, published=False)
    make(1, published=False)

    assert 2 == len(names())


# --- no arena, and nothing left behind ------------------------------------------------


def test_no_room_is_a_reason_that_says_what_to_do(place, names):
    with (
        limited(resource.RLIMIT_FSIZE, SIZE - 1),
        pytest.raises(NoArena, match=r"no room for 8KiB .*shm-size.*arena_dir=") as no,
    ):
        create(place, node(1), SIZE)

    assert str(place) in no.value.reason
    assert [] == names()


def test_no_right_to_write_is_a_reason():
    with pytest.raises(NoArena, match=r"not writable .*set arena_dir="):
        create(Path("/sys/meshcache-1/default"), node(1), SIZE)


@pytest.mark.parametrize("spare", [0, 1])
def test_no_descriptors_is_a_reason(place, names, spare):
    module.secure(place)
    with all_but(spare), pytest.raises(NoArena, match="Too many open files"):
        create(place, node(1), SIZE)

    assert [] == names()


def test_no_directory_is_a_reason(tmp_path):
    with pytest.raises(NoArena, match=r"^arena_dir=.*no such directory"):
        create(tmp_path / "gone" / "meshcache-1" / "default", node(1), SIZE)


def test_a_directory_open_to_others_is_a_reason(place, names):
    module.secure(place)
    place.chmod(0o770)

    with pytest.raises(NoArena, match=r"others may enter it .*set arena_dir="):
        create(place, node(1), SIZE)

    assert [] == names()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_a_reason_and_nothing_there_is_read(
    make, place
):
    die(make(1))
    os.chown(place, 12_345, -1)

    with pytest.raises(NoArena, match="belongs to user 12345"):
        create(place, node(2), SIZE)

    assert open_sibling(place, node(1)) is None
    assert [] == find_orphans(place, 1)


def test_locks_that_do_not_keep_ourselves_out_are_no_locks(tmp_path):
    # A file without a lock looks to a second descriptor as any file on NFS does.
    path = tmp_path / "file"
    path.touch(0o600)

    with pytest.raises(OSError, match="locks do not belong to open files"):
        module._check_lock(path)


def test_what_fails_leaves_no_descriptor_behind(make, place):
    die(make(1))
    (place / f"{'01' * 16}.arena").chmod(0o644)
    (place / f"{'02' * 16}.arena").touch(0o600)
    before = open_descriptors()
    with (
        limited(resource.RLIMIT_FSIZE, SIZE - 1),
        pytest.raises(NoArena),
    ):
        create(place, node(3), SIZE)
    for n in (1, 2, 3):
        open_sibling(place, node(n))
        is_alive(place, node(n))
    find_orphans(place, 3)

    assert before == open_descriptors()


def test_memory_takes_no_descriptor_once_it_is_dropped(make, place):
    make(1)
    before = open_descriptors()
    memory = open_sibling(place, node(1))
    during = open_descriptors()
    memory.close()

    assert before + (sys.version_info < (3, 13)) == during
    assert before == open_descriptors()


# --- what is no arena of ours ---------------------------------------------------------


def empty(path):
    os.truncate(path, 0)


def holes(path):
    os.truncate(path, 0)
    os.truncate(path, 1 << 20)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def directory(path):
    path.unlink()
    path.mkdir(0o700)


def readable_by_others(path):
    path.chmod(0o640)


def given_away(path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12_345, -1)


UNFIT = [empty, holes, link, pipe, directory, readable_by_others, given_away]


@pytest.mark.parametrize("suffix", [".arena", ".orphan"])
@pytest.mark.parametrize("spoil", UNFIT)
def test_what_is_no_arena_of_ours_is_passed_over(make, place, names, spoil, suffix):
    arena = make(1)
    die(arena)
    path = arena.path.rename(arena.path.with_suffix(suffix))
    spoil(path)
    before = names()

    assert open_sibling(place, node(1)) is None
    assert not is_alive(place, node(1))
    assert [] == find_orphans(place, 1)
    assert before == names()


def test_a_pipe_whose_lock_is_held_is_no_owner_that_lives(place):
    module.secure(place)
    path = place / f"{'01' * 16}.arena"
    os.mkfifo(path, 0o600)
    fd = os.open(path, os.O_RDWR)
    held = module.lock(fd, shared=False)
    alive = is_alive(place, node(1))
    os.close(fd)

    assert (True, False) == (held, alive)


def test_what_is_absent_is_nothing(place):
    assert open_sibling(place, node(1)) is None
    assert not is_alive(place, node(1))
    assert [] == find_orphans(place, 1)
    assert not place.exists()


def test_files_of_others_in_the_directory_are_not_touched(make, place, names):
    make(1)
    others = [f"{'01' * 16}.node", f"{'02' * 16}.node.7-0.tmp", "x.arena", "y.tmp"]
    for name in others:
        (place / name).touch(0o600)

    assert [] == find_orphans(place, 1)
    assert sorted([f"{'01' * 16}.arena", *others]) == names()


def test_a_full_directory_costs_bounded_work(place):
    module.secure(place)
    for n in range(module.FILES_MAX + 5):
        (place / f"{n:032x}.arena").touch(0o600)

    assert module.FILES_MAX == len(module._names(place))


# --- orphans --------------------------------------------------------------------------


def test_the_arena_of_a_dead_owner_is_claimed_with_all_that_is_in_it(
    make, place, claim
):
    arena = make(1)
    arena.memory[:4] = b"left"
    die(arena)
    alive = is_alive(place, node(1))

    (orphan,) = claim()

    assert not alive
    assert (node(1), True) == (orphan.node_id, orphan.claimed_new)
    assert b"left" == orphan.memory[:4]
    assert SIZE == len(orphan.memory)


def test_an_owner_that_lives_keeps_its_own(make, claim, names):
    make(1)
    make(2)

    assert [] == claim()
    assert [f"{'01' * 16}.arena", f"{'02' * 16}.arena"] == names()


def test_an_orphan_is_claimed_once(make, claim):
    die(make(1))

    assert (1, 0) == (len(claim()), len(claim()))


def test_an_owner_is_not_taken_for_alive_while_its_arena_is_claimed(make, place, claim):
    die(make(1))
    claim()

    assert not is_alive(place, node(1))


def test_a_claimed_arena_can_still_be_read_by_siblings(make, place, claim):
    die(make(1))
    (orphan,) = claim()
    orphan.memory[3] = 33

    assert 33 == open_sibling(place, node(1))[3]


def test_an_orphan_that_was_let_go_is_claimed_again_and_not_as_new(make, claim):
    die(make(1))
    (first,) = claim()
    first.release(unlink=False)
    first.release(unlink=True)

    (second,) = claim()

    assert (True, False) == (first.claimed_new, second.claimed_new)
    assert node(1) == second.node_id


def test_an_orphan_that_was_adopted_is_gone(make, place, claim, names):
    die(make(1))
    (orphan,) = claim()
    orphan.release(unlink=True)

    assert [] == names()
    assert [] == claim()
    assert open_sibling(place, node(1)) is None


def test_no_more_are_claimed_than_were_asked_for(make, claim):
    for n in range(1, 6):
        die(make(n))

    assert [0, 2, 3, 0] == [len(claim(limit)) for limit in (0, 2, 9, 9)]


def test_an_orphan_that_vanishes_while_it_is_claimed_is_none(make, place):
    arena = make(1)
    die(arena)
    hold = module._Hold(arena.path, os.open(arena.path, os.O_RDWR))
    arena.path.unlink()
    (place / arena.path.name).write_bytes(b"another's")
    arena.path.chmod(0o600)

    assert not hold.is_named()
    with pytest.raises(FileNotFoundError, match="replaced"):
        module._map(arena.path, hold.identity)
    hold.end(unlink=True)
    assert arena.path.exists()


def test_what_was_never_published_is_swept_once_its_maker_is_dead(make, claim, names):
    dead, living = make(1, published=False), make(2, published=False)
    die(dead)

    assert [] == claim()
    assert [living.path.name] == names()


def test_who_cannot_be_asked_counts_as_alive(make, place):
    make(1)
    die(make(2))
    with all_but(0):
        alive = [is_alive(place, node(n)) for n in (1, 2)]
        memory = open_sibling(place, node(1))
        orphans = find_orphans(place, 1)

    assert [True, True] == alive
    assert (None, []) == (memory, orphans)


# --- forks ----------------------------------------------------------------------------


def test_a_child_that_lets_go_leaves_its_parents_lock_and_file(make, place):
    parent = make(1)
    inherited = os.dup(parent._hold.fd)  # what a fork does to a descriptor
    parent.abandon_after_fork()
    parent.abandon_after_fork()
    parent.retire()

    assert is_alive(place, node(1))
    assert not hasattr(parent, "memory")
    os.close(inherited)
    assert not is_alive(place, node(1))


def test_a_child_that_lets_go_of_an_orphan_leaves_it_claimed(make, claim):
    die(make(1))
    (orphan,) = claim()
    inherited = os.dup(orphan._hold.fd)
    orphan.abandon_after_fork()
    orphan.release(unlink=True)

    assert [] == claim()
    os.close(inherited)
    assert [False] == [again.claimed_new for again in claim()]


# --- all of it together ---------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """Nodes that start, publish, retire, die and are claimed, in any order."""

    fresh = Bundle("fresh")
    owned = Bundle("owned")
    claimed = Bundle("claimed")

    def __init__(self):
        super().__init__()
        self.base = mkdtemp()
        self.place = Path(self.base) / "meshcache-1" / "default"
        self.alive, self.dead, self.held, self.seen = set(), set(), set(), set()
        self.open = []

    @rule(target=fresh)
    def start(self):
        arena = create(self.place, node(len(self.seen)), 4096)
        arena.memory[0] = len(self.seen)
        self.seen.add(node(len(self.seen)))
        self.open.append(arena._hold)
        return arena

    @rule(target=owned, arena=consumes(fresh))
    def publish(self, arena):
        arena.publish()
        self.alive.add(bytes.fromhex(arena.path.stem))
        return arena

    @rule(arena=consumes(fresh))
    def die_unseen(self, arena):
        die(arena)

    @rule(arena=consumes(owned))
    def die(self, arena):
        die(arena)
        self.alive.remove(bytes.fromhex(arena.path.stem))
        self.dead.add(bytes.fromhex(arena.path.stem))

    @rule(arena=consumes(owned))
    def retire(self, arena):
        arena.retire()
        self.alive.remove(bytes.fromhex(arena.path.stem))

    @rule(target=claimed, limit=st.integers(0, 3))
    def claim(self, limit):
        found = find_orphans(self.place, limit)
        assert min(limit, len(self.dead)) == len(found)
        for orphan in found:
            assert orphan.node_id[0] == orphan.memory[0]
            self.dead.remove(orphan.node_id)
            self.held.add(orphan.node_id)
            self.open.append(orphan._hold)
        return multiple(*found)

    @rule(orphan=consumes(claimed), unlink=st.booleans())
    def release(self, orphan, unlink):
        orphan.release(unlink=unlink)
        self.held.remove(orphan.node_id)
        if not unlink:
            self.dead.add(orphan.node_id)

    @invariant()
    def the_living_and_no_others_are_alive(self):
        assert self.alive == {n for n in self.seen if is_alive(self.place, n)}

    @invariant()
    def whatever_was_not_removed_can_be_read(self):
        readable = {n for n in self.seen if open_sibling(self.place, n) is not None}
        assert self.alive | self.dead | self.held == readable

    def teardown(self):
        for hold in self.open:
            with suppress(OSError):
                hold.end(unlink=False)
        rmtree(self.base)


TestLives = pytest.mark.slow(Lives.TestCase)
TestLives.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
