from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.clock import NEVER
from meshcache.store.log import Ring
from meshcache.store.record import PAD, Entry, encode, extent, pad

START = 64


def make(size=512):
    """Return a ring in the middle of a memory, and that memory."""
    memory = mmap.mmap(-1, START + size + 64)
    metas = memoryview(memory)[START - 8 :].cast("Q")
    return Ring(memory, metas, START - 8, 1, size), memory


def record(size):
    """Return an entry of exactly *size* bytes, a multiple of 8."""
    return encode(1, b"k", Entry(bytes(size - 29), 1, NEVER))


def test_entries_are_read_at_the_tail_in_the_order_of_appending():
    ring, _ = make()
    offsets = [ring.append(record(size), size) for size in (40, 64, 48)]

    assert [1, 6, 14] == offsets
    for offset, size in zip(offsets, (40, 64, 48), strict=True):
        at, meta, length = ring.oldest()

        assert (offset, size) == (at, length)
        assert size == extent(meta)

        ring.tail += length

    assert 0 == ring.used


def test_what_does_not_fit_at_the_end_goes_to_the_start_behind_a_pad():
    ring, _ = make(256)
    ring.append(record(200), 200)
    ring.tail += 200

    assert 1 == ring.append(record(64), 64)

    offset, meta, size = ring.oldest()

    assert (26, 56) == (offset, size)
    assert meta & PAD

    ring.tail += size

    assert (1, 64) == ring.oldest()[::2]


def test_an_empty_ring_takes_an_entry_as_large_as_itself():
    ring, _ = make(256)
    ring.append(record(64), 64)

    assert not ring.fits(256)

    ring.tail += 64

    assert ring.fits(256)
    assert 1 == ring.append(record(256), 256)


@pytest.mark.parametrize("meta", [0, pad(0), pad(4), pad(1 << 20)])
def test_a_length_that_makes_no_sense_is_noticed(meta):
    ring, memory = make(256)
    ring.append(record(64), 64)
    ring.append(record(64), 64)
    word = meta if isinstance(meta, bytes) else (0xFFFF << 16).to_bytes(8, "little")
    memory[START : START + 8] = word

    assert 0 == ring.oldest()[2]


@given(st.lists(st.integers(4, 30).map(lambda units: 8 * units), max_size=60))
def test_nothing_is_written_outside_the_ring_or_over_what_is_in_it(sizes):
    ring, memory = make(256)
    kept = []
    for size in sizes:
        while not ring.fits(size):
            _, meta, length = ring.oldest()
            ring.tail += length
            if not meta & PAD:
                kept.pop(0)
        data = record(size)
        offset = ring.append(data, size)
        kept.append((offset, data))

        assert ring.used <= 256
        for offset, data in kept:
            at = START - 8 + 8 * offset

            assert data == memory[at : at + len(data)]

    assert bytes(START) == memory[:START]
    assert bytes(64) == memory[START + 256 :]
