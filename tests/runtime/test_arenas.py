"""The files behind the host lane: made, seen by siblings, taken over, removed."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import pytest

from meshcache.clock import NEVER
from meshcache.config import Config
from meshcache.hashing import key_hash, partition_of
from meshcache.model import Member, NodeId, State
from meshcache.runtime import arenas
from meshcache.runtime.arenas import GRACE, Arenas
from meshcache.store.arena import Arena
from meshcache.store.layout import SEALED, Layout
from meshcache.store.record import Entry
from meshcache.store.view import View

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock here")

SIZE = 262_144
KEY = b"c\0k"
HASHED = key_hash(KEY)
ENTRY = Entry(b"v", 7, NEVER)


class Process:
    """A node's arenas, and what it has stored, as its runtime has them."""

    def __init__(self, place: Any, number: int, **settings: Any) -> None:
        self.now = 100.0
        self.config = Config(
            cluster="test",
            runtime_dir=place,
            **({"max_bytes": SIZE, "arena_dir": place} | settings),
        )
        self.node_id = NodeId(bytes([number]) * 16)
        self.proofs: list[tuple[NodeId, int]] = []
        self.arenas = Arenas(
            self.config,
            lambda: self.now,
            died=lambda *proof: self.proofs.append(proof),
        )
        self.store: Arena | None = None

    def begins(self, *, publish: bool = True) -> Process:
        memory = self.arenas.create(self.node_id)
        if memory is not None:
            self.store = Arena(
                memory,
                Layout.for_bytes(SIZE),
                node_id=self.node_id,
                epoch=5,
                host=self.arenas.host,
                max_value_bytes=1000,
            )
            self.store.grant(partition_of(HASHED))
            self.store.put(KEY, HASHED, b"v", version=7, expires=NEVER, now=0.0)
        if publish:
            self.arenas.publish()
        return self

    def member(self, epoch: int = 5) -> Member:
        return Member(self.node_id, epoch, 0, State.ALIVE, "h:1", "h:2", "h", 1)

    def dies(self) -> None:
        """Leave what a killed process leaves: a file whose lock is free."""
        self.arenas.abandon_after_fork()


@pytest.fixture
def processes(tmp_path, monkeypatch):
    monkeypatch.setattr(arenas, "_told", set())
    made = []

    def make(**settings):
        made.append(Process(tmp_path, len(made) + 1, **settings))
        return made[-1]

    yield make
    for process in made:
        process.arenas.close()


def files(place):
    return sorted(path.suffix for path in place.rglob("*") if path.is_file())


# --- one's own --------------------------------------------------------------------


def test_an_arena_is_seen_when_it_is_published_and_gone_when_it_is_closed(
    processes, tmp_path
):
    one = processes().begins(publish=False)
    assert [".tmp"] == files(tmp_path)
    assert one.arenas.shared
    one.arenas.publish()
    assert [".arena"] == files(tmp_path)
    one.arenas.close()

    assert [] == files(tmp_path)
    assert not one.arenas.shared


def test_an_arena_that_is_never_published_is_removed_too(processes, tmp_path):
    processes().begins(publish=False).arenas.close()

    assert [] == files(tmp_path)


@pytest.mark.parametrize("setting", [{"observer": True}, {"host_lane": False}])
def test_who_needs_none_makes_none(processes, tmp_path, setting):
    one = processes(**setting).begins()

    assert None is one.store
    assert not one.arenas.shared
    assert [] == files(tmp_path)


def test_where_there_is_no_room_it_is_said_once_and_done_without(
    processes, tmp_path, caplog
):
    (tmp_path / "file").touch()
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        one = processes(arena_dir=tmp_path / "file").begins()
        assert None is one.store
        assert not one.arenas.shared

    (record,) = caplog.records
    assert "no shared memory for this node" in record.getMessage()


def test_an_arena_whose_directory_has_gone_is_private_from_then_on(
    processes, tmp_path, caplog
):
    one = processes().begins(publish=False)
    one.arenas.path.rename(tmp_path / "moved")
    one.arenas.publish()

    assert not one.arenas.shared
    assert ENTRY == one.store.get(KEY, HASHED, 0.0)
    assert 1 == len(caplog.records)


# --- siblings' --------------------------------------------------------------------


def test_a_sibling_is_read(processes):
    one, two = processes().begins(), processes().begins()
    view = one.arenas.lane(two.member())

    assert ENTRY == view.get(KEY, HASHED, 0.0)


def test_an_observer_reads_siblings(processes):
    one, eye = processes().begins(), processes(observer=True).begins()

    assert ENTRY == eye.arenas.lane(one.member()).get(KEY, HASHED, 0.0)


def test_a_lane_of_another_epoch_is_refused(processes):
    one, two = processes().begins(), processes().begins()

    assert None is one.arenas.lane(two.member(epoch=6))


def test_a_member_without_an_arena_here_has_no_lane(processes):
    one, two = processes().begins(), processes()

    assert None is one.arenas.lane(two.member())


def test_who_wants_no_host_lane_reads_none(processes):
    one, two = processes(host_lane=False).begins(), processes().begins()

    assert None is one.arenas.lane(two.member())


def test_a_file_of_another_boot_is_not_read(processes, caplog):
    caplog.set_level(logging.INFO)
    one, two = processes().begins(), processes().begins()
    one.arenas.host += 1

    assert None is one.arenas.lane(two.member())
    assert "of another boot" in caplog.text


def test_a_newcomer_sees_the_living_and_the_dead_apart(processes):
    one, two = processes().begins(), processes().begins()
    two.dies()
    three = processes().begins()
    living, dead = three.arenas.neighbours()

    assert [one.node_id] == [view.node_id for view in living]
    assert [two.node_id] == [view.node_id for view in dead]


def test_who_has_come_is_told_once(processes):
    one = processes().begins()
    assert [] == one.arenas.newcomers()
    two = processes().begins()
    assert [two.node_id] == [view.node_id for view in one.arenas.newcomers()]
    assert [] == one.arenas.newcomers()
    three = processes().begins()

    assert [three.node_id] == [view.node_id for view in one.arenas.newcomers()]


def test_of_two_newcomers_both_see_the_dead(processes):
    processes().begins().dies()
    one, two = processes().begins(), processes().begins()
    _, first = one.arenas.neighbours()
    _, second = two.arenas.neighbours()

    assert first[0].node_id == second[0].node_id
    assert ENTRY == second[0].peek(KEY, HASHED, 0.0)


def test_one_without_an_arena_has_no_neighbours(processes, tmp_path):
    one = processes().begins()
    one.dies()
    eye = processes(observer=True).begins()

    assert ([], []) == eye.arenas.neighbours()
    assert [".arena"] == files(tmp_path)


def test_who_can_meet_nobody_shares_nothing(processes):
    """Two of them would each take the other's range."""
    assert not processes(directory=False).begins().arenas.shared
    assert processes(directory=False, seeds=["127.0.0.1:7946"]).begins().arenas.shared


def test_who_looks_for_newcomers_seals_what_the_dead_have_left(processes):
    one, two = processes().begins(), processes().begins()
    living, _ = two.arenas.neighbours()
    one.dies()
    assert not living[0].sealed(partition_of(HASHED))
    two.now += 1.0
    two.arenas.look()

    assert living[0].sealed(partition_of(HASHED))
    # Its lock was free: nobody has to wonder any more.
    assert [(one.node_id, 5)] == two.proofs


def test_one_without_an_arena_seals_what_the_dead_have_left_too(processes):
    one, eye = processes().begins(), processes(observer=True).begins()
    view = eye.arenas.lane(one.member())
    one.dies()
    eye.arenas.bury()

    assert view.sealed(partition_of(HASHED))


def test_clusters_of_one_name_and_two_secrets_do_not_see_each_other(processes):
    secrets = (None, "one secret of a cluster", "another secret of it")
    one, two, three = (processes(secret=secret).begins() for secret in secrets)

    for process in (one, two, three):
        assert ([], []) == process.arenas.neighbours()
    three.dies()
    two.arenas.bury()
    again = processes(secret=secrets[2]).begins()
    living, dead = again.arenas.neighbours()
    assert [] == living
    assert [bytes(three.node_id)] == [view.node_id for view in dead]


# --- the dead's -------------------------------------------------------------------


def test_what_the_dead_have_left_is_sealed_and_kept_for_a_while(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    view = one.arenas.lane(two.member())
    two.dies()
    assert ENTRY == view.get(KEY, HASHED, 0.0)
    one.arenas.bury()

    assert SEALED == view.state
    assert view.sealed(partition_of(HASHED))
    assert None is view.get(KEY, HASHED, 0.0)
    assert ENTRY == view.peek(KEY, HASHED, 0.0)
    assert [".arena", ".orphan"] == files(tmp_path)


def test_what_was_claimed_is_removed_after_its_grace(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    two.dies()
    one.arenas.bury()
    one.now += GRACE - 0.1
    one.arenas.bury()
    assert [".arena", ".orphan"] == files(tmp_path)
    one.now += 0.1
    one.arenas.bury()

    assert [".arena"] == files(tmp_path)


def test_what_was_claimed_goes_with_its_claimer(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    two.dies()
    one.arenas.bury()
    one.arenas.close()

    assert [] == files(tmp_path)


def test_what_a_claimer_has_left_that_died_too_is_removed(processes, tmp_path):
    one, two, three = (processes().begins() for _ in range(3))
    two.dies()
    one.arenas.bury()
    one.dies()
    three.arenas.bury()

    assert [".arena", ".orphan"] == files(tmp_path)
    assert not (three.arenas.path / f"{two.node_id.hex()}.orphan").exists()


def test_the_living_are_not_buried(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    one.arenas.bury()

    assert [".arena", ".arena"] == files(tmp_path)
    assert not one.arenas.lane(two.member()).sealed(partition_of(HASHED))


def test_an_orphan_of_no_sense_is_removed(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    two.store._memory[:8] = bytes(8)
    two.dies()
    one.arenas.bury()

    assert [".arena"] == files(tmp_path)


# --- forks ------------------------------------------------------------------------


def test_a_child_lets_go_of_what_is_its_parents_and_leaves_it(processes, tmp_path):
    one, two = processes().begins(), processes().begins()
    two.dies()
    one.arenas.bury()
    held = os.dup(one.arenas._own._hold.fd)
    one.arenas.abandon_after_fork()
    one.arenas.close()
    os.close(held)

    assert [".arena", ".orphan"] == files(tmp_path)


def test_a_view_outlives_its_file(processes):
    one, two = processes().begins(), processes().begins()
    view = one.arenas.lane(two.member())
    two.arenas.close()

    assert isinstance(view, View)
    assert ENTRY == view.get(KEY, HASHED, 0.0)
