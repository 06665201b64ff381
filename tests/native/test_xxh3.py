"""The hash against the package's: a bit of difference would orphan every entry."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from meshcache.hashing import key_hash

NOISE = Random(1).randbytes(101_000)
BLOCK, STRIPE = 1024, 64


@pytest.fixture(scope="module")
def xxh3(compiled):
    return compiled.xxh3


@pytest.mark.parametrize("data", [NOISE, bytes(2000), b"\xff" * 2000])
def test_every_length_has_the_hash_of_the_package(xxh3, data):
    expected = [xxh3_64_intdigest(data[:size]) for size in range(1600)]

    assert expected == [xxh3(data[:size]) for size in range(1600)]


def test_lengths_about_stripes_and_blocks_have_the_hash_of_the_package(xxh3):
    wholes = [BLOCK * n for n in (1, 2, 3, 8, 64, 98)]
    wholes += [BLOCK * 4 + STRIPE * n for n in range(17)]
    sizes = [whole + more for whole in wholes for more in (-1, 0, 1)] + [100_000]

    for size in sizes:
        assert xxh3_64_intdigest(NOISE[:size]) == xxh3(NOISE[:size]), size


def test_it_does_not_matter_where_the_bytes_lie(xxh3):
    for start in range(9):
        for size in (1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1025):
            piece = memoryview(NOISE)[start : start + size]

            assert xxh3_64_intdigest(piece) == xxh3(piece)


@given(st.binary(max_size=600))
def test_any_bytes_have_the_hash_of_the_package(xxh3, data):
    assert xxh3_64_intdigest(data) == xxh3(data)
    assert key_hash(data) == xxh3(data)


@pytest.mark.parametrize("wrong", ["text", None, 1, [1]])
def test_what_has_no_bytes_is_refused(xxh3, wrong):
    with pytest.raises(TypeError):
        xxh3(wrong)


def test_the_bytes_are_let_go_of(xxh3):
    data = bytearray(b"abcdef")
    xxh3(data)
    with pytest.raises(BufferError):
        xxh3(memoryview(data)[::2])
    data.append(1)

    assert xxh3_64_intdigest(data) == xxh3(data)
