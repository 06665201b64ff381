"""Seconds as the application gives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.errors import ConfigError
from meshcache.times import (
    MAX_LOAD_TIMEOUT,
    MAX_TTL,
    checked_timeout,
    checked_ttl,
)


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.binary()))
def test_a_ttl_is_within_bounds_or_refused(ttl):
    number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if number and 0 <= ttl <= MAX_TTL:
        assert ttl == checked_ttl(ttl, "ttl")
    else:
        with pytest.raises(ConfigError, match="ttl="):
            checked_ttl(ttl, "ttl")


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.binary()))
def test_a_load_timeout_is_within_bounds_or_refused(timeout):
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if number and 0 < timeout <= MAX_LOAD_TIMEOUT:
        assert timeout == checked_timeout(timeout)
    else:
        with pytest.raises(ConfigError, match="load_timeout="):
            checked_timeout(timeout)


def test_no_load_timeout_is_the_node_s():
    assert 0 == checked_timeout(None)
