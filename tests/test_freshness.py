"""How old a value is, by the rules and nothing else: no node, no clock."""

from __future__ import annotations

from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.envelope import Envelope
from meshcache.errors import ConfigError
from meshcache.freshness import (
    EARLIEST,
    PLAIN,
    Age,
    Freshness,
    Recipe,
    checked_early,
    checked_seconds,
)
from meshcache.model import UNSET

BOTH = Freshness(stale=10.0, stale_if_error=60.0)
ENDS = 1000.0  # when its ttl is over


def found(freshness, cost=0.0):
    """What such a reader stores, and when it is dead."""
    envelope = Envelope(b"", freshness.keep_ms, int(cost * 1000))
    return envelope, ENDS + freshness.keep_ms / 1000


def age(freshness, now, chance=1.0, cost=0.0):
    return freshness.age(*found(freshness, cost), now, chance)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0.0, Age.FRESH),
        (999.999, Age.FRESH),
        (1000.0, Age.STALE),
        (1009.999, Age.STALE),
        (1010.0, Age.LATE),
        (1059.999, Age.LATE),
        (1060.0, Age.GONE),
    ],
)
def test_a_value_is_fresh_then_stale_then_late_then_gone(now, expected):
    assert expected is age(BOTH, now)


def test_without_windows_a_value_is_fresh_or_gone():
    assert Age.FRESH is age(PLAIN, 999.999)
    assert Age.GONE is age(PLAIN, 1000.0)
    assert 0 == PLAIN.keep_ms


def test_a_value_is_kept_for_the_longer_of_the_two_windows():
    assert 60_000 == BOTH.keep_ms
    assert 70_000 == Freshness(stale=70.0, stale_if_error=60.0).keep_ms


def test_a_reader_goes_by_windows_of_its_own():
    """One that stored for a minute beyond the ttl does not speak for all readers."""
    envelope, expires = found(BOTH)

    assert Age.GONE is PLAIN.age(envelope, expires, ENDS + 1, 1.0)
    assert Age.STALE is Freshness(stale=2.0).age(envelope, expires, ENDS + 1, 1.0)


def test_what_never_expires_is_fresh_for_ever():
    assert Age.FRESH is BOTH.age(Envelope(b""), inf, 1e12, EARLIEST)


# --- early refreshes -------------------------------------------------------------


def test_a_value_is_early_when_the_drawn_head_start_reaches_its_end():
    eager = Freshness(early=1.0)
    chance = exp(-3)  # a head start of three times the cost

    assert Age.FRESH is age(eager, ENDS - 6.1, chance, cost=2.0)
    assert Age.EARLY is age(eager, ENDS - 5.9, chance, cost=2.0)


def test_a_greater_beta_is_earlier():
    chance = exp(-1)

    assert Age.FRESH is age(Freshness(early=1.0), ENDS - 3.0, chance, cost=2.0)
    assert Age.EARLY is age(Freshness(early=2.0), ENDS - 3.0, chance, cost=2.0)


@given(st.floats(0, 1), st.floats(0, ENDS, exclude_max=True))
def test_without_beta_or_without_a_cost_nothing_is_early(chance, now):
    assert Age.FRESH is age(PLAIN, now, chance, cost=5.0)
    assert Age.FRESH is age(Freshness(early=1.0), now, chance, cost=0.0)


@given(st.floats(0, 1), st.floats(0, 20))
def test_nothing_is_early_that_the_earliest_chance_leaves_alone(chance, before):
    """So a reader that asks with it knows who need not draw."""
    eager = Freshness(early=1.0)
    if age(eager, ENDS - before, EARLIEST, cost=2.0) is Age.FRESH:
        assert Age.FRESH is age(eager, ENDS - before, chance, cost=2.0)


def test_near_it_may_stay_until_head_starts_are_drawn():
    eager = Freshness(early=1.0)
    envelope, expires = found(eager, cost=2.0)

    assert ENDS - 16.0 == eager.near_until(envelope, expires, 0.0)
    assert ENDS - 9.5 == eager.near_until(envelope, expires, ENDS - 10.0)
    assert ENDS == eager.near_until(envelope, expires, ENDS - 0.25)
    assert ENDS == BOTH.near_until(*found(BOTH, cost=2.0), 0.0)


# --- recipes ---------------------------------------------------------------------


def test_a_recipe_gives_none_a_ttl_of_its_own():
    recipe = Recipe(ttl=60.0, none_ttl=5.0)

    assert 60.0 == recipe.ttl_of("value")
    assert 5.0 == recipe.ttl_of(None)
    assert 60.0 == Recipe(ttl=60.0).ttl_of(None)


def test_falsy_values_are_values_like_any_other():
    recipe = Recipe(ttl=60.0, none_ttl=0)

    assert [60.0] * 4 == [recipe.ttl_of(value) for value in (0, "", [], False)]


def test_a_ttl_may_be_made_of_the_value():
    recipe = Recipe(ttl=lambda token: token["life"], none_ttl=UNSET)

    assert 7 == recipe.ttl_of({"life": 7})


def test_what_cache_if_refuses_is_not_stored():
    recipe = Recipe(ttl=60.0, none_ttl=5.0, cache_if=bool)

    assert [0, 0, 60.0] == [recipe.ttl_of(value) for value in (None, [], [1])]


def test_errors_are_remembered_by_class_and_only_with_a_time_to_live():
    recipe = Recipe(errors=(LookupError,), error_ttl=5.0)

    assert recipe.remembers(KeyError("k"))
    assert not recipe.remembers(ValueError("v"))
    assert not recipe._replace(error_ttl=0.0).remembers(KeyError("k"))


@pytest.mark.parametrize("seconds", [None, -1, "5", True, inf])
def test_a_window_is_a_number_of_seconds(seconds):
    with pytest.raises(ConfigError, match="stale"):
        checked_seconds(seconds, "stale")


@pytest.mark.parametrize("early", [None, -1, "1", True, 1001])
def test_beta_is_a_number_within_bounds(early):
    with pytest.raises(ConfigError, match="early"):
        checked_early(early)
