from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.envelope import (
    MARK,
    MAX_COST_MS,
    Envelope,
    Kind,
    tag_hash,
    tags_of,
    unwrap,
)
from meshcache.codec.fields import MAX_TAGS
from meshcache.codec.values import MsgpackCodec
from meshcache.errors import SerializationError

words = st.integers(0, 2**64 - 1)
envelopes = st.builds(
    Envelope,
    body=st.binary(max_size=40) | st.binary(max_size=40).map(lambda b: MARK + b),
    keep_ms=words,
    cost_ms=st.integers(0, MAX_COST_MS),
    tags=st.lists(words, max_size=MAX_TAGS).map(tuple),
    kind=st.sampled_from(Kind),
)


@given(envelopes)
def test_what_is_wrapped_comes_back_the_same(envelope):
    assert envelope == unwrap(envelope.wrap())


@given(envelopes)
def test_tags_are_read_without_the_rest(envelope):
    assert envelope.tags == tags_of(envelope.wrap())


@given(st.binary())
def test_what_says_nothing_is_stored_as_it_is_unless_it_looks_like_an_envelope(body):
    stored = Envelope(body).wrap()

    assert (stored == body) is not body.startswith(MARK)
    assert Envelope(body) == unwrap(stored)


@given(st.binary())
def test_any_bytes_are_an_envelope_or_refused(stored):
    try:
        unwrap(MARK + stored)
    except SerializationError:
        assert () == tags_of(MARK + stored)


def test_msgpack_never_begins_like_an_envelope():
    codec = MsgpackCodec()

    with pytest.raises(SerializationError):
        codec.decode(MARK)


def test_a_cost_beyond_the_field_is_the_most_it_holds():
    assert MAX_COST_MS == unwrap(Envelope(b"", cost_ms=2**40).wrap()).cost_ms


def test_a_part_of_a_cache_shares_its_tags_and_another_cache_does_not():
    assert tag_hash("users", "red") == tag_hash("users|app:load|1", "red")
    assert tag_hash("users", "red") != tag_hash("user", "red")
    assert tag_hash("users", "red") != tag_hash("users", "blue")


def test_a_kind_of_later_versions_is_refused_and_falls_with_its_tags():
    stored = bytearray(Envelope(b"v", tags=(7,)).wrap())
    stored[1] = len(Kind)

    with pytest.raises(SerializationError):
        unwrap(bytes(stored))
    assert (7,) == tags_of(bytes(stored))


def test_any_text_is_a_tag():
    assert tag_hash("c", "\ud800") != tag_hash("c", "\ud801")
