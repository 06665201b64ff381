"""The hash is part of the protocol: nodes that disagree on it share nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.hashing import (
    BUCKETS,
    PARTITIONS,
    bucket_of,
    key_hash,
    partition_of,
    set_hash,
)

KEYS = {
    b"": 0x2D06800538D394C2,
    b"users\0i2a": 0x1C53D15C284F1F1B,
    b"users\0sAnn": 0x767B7485643A7D98,
    b"\0" * 100: 0x801FEDC74CCD608C,
    bytes(range(256)): 0x9408A4433B952D71,
}
PLACES = {
    0x0000000000000000: (0, 0),
    0x0003FFFFFFFFFFFF: (0, 4095),
    0x0004000000000000: (1, 0),
    0x0004000000001001: (1, 1),
    0xFFFFFFFFFFFFFFFF: (16_383, 4095),
}
SETS = {
    (): 0x2D06800538D394C2,
    (b"a",): 0x554A69A533E8B32A,
    (b"a", b"b"): 0x96C5AA548BCF8A34,
    (b"ab", b""): 0x00BAFE6EC59D196F,
}


@pytest.mark.parametrize(("key", "expected"), KEYS.items())
def test_a_key_hashes_as_it_always_has(key, expected):
    assert expected == key_hash(key)


@pytest.mark.parametrize(("hashed", "expected"), PLACES.items())
def test_partition_and_bucket_are_the_two_ends_of_the_hash(hashed, expected):
    assert expected == (partition_of(hashed), bucket_of(hashed))


@pytest.mark.parametrize(("items", "expected"), SETS.items())
def test_a_set_hashes_as_it_always_has(items, expected):
    assert expected == set_hash(list(items))


@given(st.integers(0, 2**64 - 1))
def test_every_hash_has_a_partition_and_a_bucket(hashed):
    assert 0 <= partition_of(hashed) < PARTITIONS
    assert 0 <= bucket_of(hashed) < BUCKETS


@given(st.lists(st.binary(max_size=8)), st.randoms(use_true_random=False))
def test_a_set_has_no_order(items, rng):
    shuffled = list(items)
    rng.shuffle(shuffled)

    assert set_hash(items) == set_hash(shuffled)


def test_items_of_a_set_do_not_run_into_each_other():
    assert set_hash([b"ab", b"c"]) != set_hash([b"a", b"bc"])
    assert set_hash([b"abc"]) != set_hash([b"ab", b"c"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_every_process_computes_the_same(seed):
    program = (
        "from meshcache.hashing import key_hash, set_hash\n"
        f"print([key_hash(key) for key in {list(KEYS)!r}])\n"
        f"print([set_hash(list(items)) for items in {list(SETS)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    assert f"{list(KEYS.values())}\n{list(SETS.values())}\n" == done.stdout
