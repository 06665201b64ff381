"""Sizes, durations, counts and flags as people write them."""

from datetime import timedelta
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.config import units


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (1000, 1000),
        ("1000", 1000),
        ("1_000", 1000),
        ("64MB", 64_000_000),
        ("64 mb", 64_000_000),
        ("1GiB", 2**30),
        ("1.5KiB", 1536),
        ("0B", 0),
        (" 2TB ", 2 * 10**12),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_size_is_bytes_with_or_without_a_unit(written, expected):
    found = units.size(written)

    assert expected == found


@pytest.mark.parametrize(
    "written", ["", "MB", "64M", "1 2", "-1", "1.2B", "1e3", 1.5, True, None, "9" * 99]
)
def test_what_is_no_size_is_refused(written):
    with pytest.raises(ValueError, match="not a size"):
        units.size(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (2, 2.0),
        (0.25, 0.25),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("35ms", 0.035),
        ("2s", 2.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        (timedelta(minutes=2), 120.0),
        (10**400, inf),
    ],
)
def test_a_duration_is_seconds_with_or_without_a_unit(written, expected):
    found = units.seconds(written)

    assert expected == found


@pytest.mark.parametrize("written", ["", "s", "5 minutes", "1us", True, None, [1]])
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(ValueError, match="not a duration"):
        units.seconds(written)


def test_a_nan_stays_one_for_the_bounds_to_refuse():
    found = units.seconds(nan)

    assert isnan(found)


@pytest.mark.parametrize(
    ("written", "expected"), [(8, 8), ("8", 8), ("10_000", 10_000)]
)
def test_a_count_is_a_whole_number(written, expected):
    found = units.count(written)

    assert expected == found


@pytest.mark.parametrize("written", ["", "8.0", 8.0, True, None, "9" * 5000])
def test_what_is_no_count_is_refused(written):
    with pytest.raises(ValueError, match="not a whole number"):
        units.count(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [(True, True), (False, False), ("Yes", True), (" on ", True), ("0", False)],
)
def test_a_flag_is_yes_or_no(written, expected):
    found = units.flag(written)

    assert expected is found


@pytest.mark.parametrize("written", ["", "maybe", 1, None])
def test_what_is_neither_yes_nor_no_is_refused(written):
    with pytest.raises(ValueError, match="neither yes nor no"):
        units.flag(written)


def test_only_a_string_is_text():
    with pytest.raises(ValueError, match="not a string"):
        units.text(b"name")


@given(st.integers(0, 2**60))
def test_a_size_that_was_shown_reads_back_the_same(value):
    found = units.size(units.show_size(value))

    assert value == found


@given(st.integers(0, 10**9))
def test_a_duration_that_was_shown_reads_back_the_same(millis):
    found = units.seconds(units.show_seconds(millis / 1000))

    assert millis / 1000 == found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (64_000_000, "64MB"),
        (65_536, "64KiB"),
        (2**30, "1GiB"),
        (1001, "1001"),
        (0, "0"),
    ],
)
def test_a_size_is_shown_in_its_largest_whole_unit(value, expected):
    found = units.show_size(value)

    assert expected == found


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "500ms"), (30.0, "30s"), (90.0, "90s"), (300.0, "5m"), (1.25, "1.25s")],
)
def test_a_duration_is_shown_in_its_largest_whole_unit(value, expected):
    found = units.show_seconds(value)

    assert expected == found
