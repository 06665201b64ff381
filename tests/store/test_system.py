"""What arenas need of the operating system."""

import os
import sys

import pytest

from meshcache.store import system
from meshcache.store.system import host_identity, is_reserved, lock, map_shared, reserve

pytestmark = pytest.mark.skipif(not system.SUPPORTED, reason="no flock here")

SIZE = 8192


@pytest.fixture
def fresh(tmp_path):
    """Return descriptors of one file, each opened for itself."""
    path = tmp_path / "file"
    opened = []

    def one():
        opened.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return opened[-1]

    yield one
    for fd in opened:
        os.close(fd)


def test_a_host_has_one_number_that_fits_in_a_header():
    number = host_identity()

    assert number == host_identity()
    assert 0 <= number < 2**64


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells boots apart")
def test_linux_always_knows_its_boot():
    assert 0 != host_identity()


def test_one_has_the_exclusive_lock_and_many_have_the_shared(fresh):
    one, two, three = fresh(), fresh(), fresh()

    assert lock(one, shared=False)
    assert not lock(two, shared=True)
    assert lock(one, shared=True)
    assert lock(two, shared=True)
    assert not lock(three, shared=False)


def test_a_reserved_file_has_room_behind_every_byte(fresh):
    fd = fresh()
    reserve(fd, SIZE)

    assert SIZE == os.fstat(fd).st_size
    assert is_reserved(os.fstat(fd))


def test_a_file_that_is_merely_long_is_not_reserved(fresh):
    fd = fresh()
    os.ftruncate(fd, SIZE)

    assert not is_reserved(os.fstat(fd))


def test_two_maps_of_a_file_are_one_memory(fresh):
    reserve(fresh(), SIZE)
    one, two = map_shared(fresh(), SIZE), map_shared(fresh(), SIZE)
    one[7] = 77

    assert 77 == two[7]


def test_memory_outlives_the_descriptor_it_was_mapped_through(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    reserve(fd, SIZE)
    memory = map_shared(fd, SIZE)
    os.close(fd)
    (tmp_path / "file").unlink()
    memory[0] = 1

    assert 1 == memory[0]
