from __future__ import annotations

import gzip
from collections import Counter
from itertools import islice

from airports.stream import Request, catalogue, from_trace, read_trace, zipf
from hypothesis import given
from hypothesis import strategies as st

CODES = ["CDG", "GVA", "JFK", "NRT", "ZRH"]
CATALOGUE = catalogue(CODES, ["CH", "FR"])


def test_catalogue_has_no_request_twice():
    assert len(CATALOGUE) == len({request.key for request in CATALOGUE})


def test_catalogue_is_the_same_in_every_process():
    assert CATALOGUE == catalogue(list(CODES), ["CH", "FR"])


def test_equal_requests_have_one_key_and_others_have_another():
    assert Request("within", ("CDG", 100)).key == Request("within", ("CDG", 100)).key
    assert Request("within", ("CDG", 100)).key != Request("nearest", ("CDG", 100)).key


def test_slot_asks_the_same_each_time_it_begins():
    assert [*islice(zipf(CATALOGUE, 2), 500)] == [*islice(zipf(CATALOGUE, 2), 500)]


def test_slots_ask_the_same_things_in_different_orders():
    first, second = (list(islice(zipf(CATALOGUE, slot), 5000)) for slot in (0, 1))

    assert first != second
    assert set(first) == set(second)


def test_popular_requests_come_in_the_proportion_that_zipf_says():
    seen = Counter(islice(zipf(CATALOGUE, 0), 20_000))

    assert 1.7 < seen[CATALOGUE[0]] / seen[CATALOGUE[1]] < 2.2


def test_trace_is_read_packed_or_plain_and_blank_lines_are_left_out(tmp_path):
    plain, packed = tmp_path / "keys.txt", tmp_path / "keys.txt.gz"
    plain.write_text("a\nb b\n\na\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    assert ["a", "b b", "a"] == read_trace(plain)
    assert ["a", "b b", "a"] == read_trace(packed)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=60), st.integers(0, 3))
def test_distinct_trace_keys_are_distinct_requests_in_every_slot(keys, slot):
    once_round = list(islice(from_trace(keys, CODES, slot, 4), len(keys)))
    start = len(keys) * slot // 4
    asked = dict(zip(keys[start:] + keys[:start], once_round, strict=True))

    assert len(set(keys)) == len(set(once_round)) == len(asked)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=60))
def test_a_trace_key_means_the_same_request_to_every_slot(keys):
    once_round = [
        Counter(islice(from_trace(keys, CODES, slot, 4), len(keys)))
        for slot in range(4)
    ]

    assert [once_round[0]] * 4 == once_round


def test_trace_begins_again_at_its_end():
    assert 2 * [*islice(from_trace(["a", "b"], CODES, 1, 2), 2)] == [
        *islice(from_trace(["a", "b"], CODES, 1, 2), 4)
    ]
