"""Times, limits and keys of a region, which need no node."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.envelope import Kind, unwrap
from meshcache.codec.fields import MAX_TAGS, NO_EXPIRY
from meshcache.codec.values import codec
from meshcache.config import Config
from meshcache.engine.ops import Failure
from meshcache.errors import ConfigError, ValueTooLarge
from meshcache.freshness import Freshness, Recipe
from meshcache.model import UNSET
from meshcache.region import MAX_KEY, Region
from meshcache.times import MAX_TTL

SECONDS = st.one_of(
    st.floats(0, MAX_TTL, exclude_min=True), st.integers(1, int(MAX_TTL))
)


def region(name="users", **options):
    options = {"ttl": 300.0, "near_ttl": None, "jitter": 0.0} | options
    options = {"copy": False, "home": None} | options
    return Region(name, codec=options.pop("codec", codec("msgpack")), **options)


@given(SECONDS, st.floats(0, 1))
def test_jitter_only_shortens_and_never_beyond_its_share(ttl, jitter):
    ms = region(jitter=jitter).ttl_ms(ttl)

    assert max(1, math.floor(ttl * (1 - jitter) * 1000 - 1e-6)) <= ms
    assert ms <= max(1, ttl * 1000)


@given(SECONDS)
def test_a_ttl_is_kept_to_the_millisecond_without_jitter(ttl):
    assert max(1, int(ttl * 1000)) == region().ttl_ms(ttl)


def test_a_ttl_of_its_own_beats_the_region_s():
    assert 300_000 == region().ttl_ms(UNSET)
    assert 5_000 == region().ttl_ms(5)
    assert 0 == region().ttl_ms(0)
    assert NO_EXPIRY == region().ttl_ms(None)
    assert NO_EXPIRY == region(ttl=None).ttl_ms(UNSET)
    assert 0 == region(ttl=0.0).ttl_ms(UNSET)


def test_a_part_is_a_region_of_its_own_within_the_whole():
    whole = region(ttl=7.0, jitter=0.5)
    part = whole.part("load|1")

    assert "users|load|1" == part.name
    assert (7.0, 0.5) == (part.ttl, part.jitter)
    assert whole.codec is part.codec
    assert whole.id != part.id


def test_a_part_s_name_is_bounded():
    with pytest.raises(ConfigError, match="pass a shorter name="):
        region("a" * 500).part("é" * 300)


def test_only_regions_of_one_name_and_options_share_what_is_near():
    class Own:
        name = "msgpack"

        def encode(self, value):
            return b""

        def decode(self, data):
            return None

    others = [
        region(),
        region("user"),
        region(codec=codec("json")),
        region(near_ttl=5.0),
        region(codec=Own()),
        region(codec=Own()),
    ]

    assert region().id is region(ttl=5.0, jitter=0.5).id
    assert len(others) == len({other.id for other in others})


def test_a_key_has_a_limit_without_a_node_too():
    head = len(region().full(None, b"x" * 1000)[0]) - 1000

    assert region().full(None, b"x" * (MAX_KEY - head))
    with pytest.raises(ValueTooLarge):
        region().full(None, b"x" * (MAX_KEY - head + 1))


@pytest.mark.parametrize("key", [1, "1", 2**70, ""])
def test_plain_keys_are_their_own_near_keys(key):
    assert key is region().near_key(key)


@pytest.mark.parametrize("key", [True, 1.0, None, b"1", (1,), [1]])
def test_all_other_keys_are_near_by_their_encoding(key):
    assert bytes is type(region().near_key(key))


# --- what is stored ---------------------------------------------------------------


def test_a_value_with_nothing_to_say_is_stored_as_its_codec_made_it():
    plain = region()

    assert (b"v", 5_000) == plain.sealed(b"v", 5)
    assert plain.codec.encode("v") == plain.brewed("v", Recipe(), 3.0).value
    assert b"\xc1v" == unwrap(plain.sealed(b"\xc1v", 5).value).body


def test_a_window_is_added_to_a_ttl_that_ends():
    kept = region(freshness=Freshness(stale=30))
    stored, ttl_ms = kept.sealed(b"v", 5)

    assert (35_000, 30_000) == (ttl_ms, unwrap(stored).keep_ms)
    assert (b"v", 0) == kept.sealed(b"v", 0)
    assert (b"v", NO_EXPIRY) == kept.sealed(b"v", None)
    assert NO_EXPIRY == kept.sealed(b"v", None, tags=(1,)).ttl_ms


def test_what_a_load_took_is_noted_where_it_can_be_early():
    eager = region(freshness=Freshness(early=1))

    assert 3_000 == unwrap(eager.brewed("v", Recipe(), 3.0).value).cost_ms


def test_a_remembered_error_has_the_tags_of_the_value_and_a_ttl_of_its_own():
    kept = region(freshness=Freshness(stale=30))
    recipe = Recipe(error_ttl=5, tags=(1, 2))
    stored, ttl_ms = kept.remembered(Failure("app:Oops", "no", "", b""), recipe)
    envelope = unwrap(stored)

    assert 5_000 == ttl_ms
    assert (0, (1, 2), Kind.ERROR) == (envelope.keep_ms, *envelope[3:])


def test_tags_count_once_in_any_order_and_are_those_of_the_whole_cache():
    tags = region().tag_hashes(("b", "a", "b"))

    assert 2 == len(tags)
    assert tags == region().tag_hashes(iter(("a", "b")))
    assert tags == region().part("f|1").tag_hashes(["a", "b"])
    assert region().tag_hashes("ab") == region().tag_hashes(["ab"])
    assert MAX_TAGS == len(region().tag_hashes(map(str, range(MAX_TAGS))))


@pytest.mark.parametrize(
    ("near_ttl", "settings", "seconds"),
    [
        (None, {}, 5.0),
        (9.0, {}, 5.0),
        (2.0, {}, 2.0),
        (2.0, {"near_entries": 0}, 0.0),
        (2.0, {"near_bytes": 0}, 0.0),
    ],
)
def test_nothing_stays_near_for_longer_than_the_node_lets_it(
    near_ttl, settings, seconds
):
    config = Config(cluster="c", near_ttl=5.0, **settings)

    assert seconds == region(near_ttl=near_ttl)._near_seconds(config)
