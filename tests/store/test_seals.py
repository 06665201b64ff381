"""Seals: what others may conclude from one, and when it shows."""

from __future__ import annotations

import pytest

from meshcache.clock import NEVER
from meshcache.hashing import key_hash, partition_of
from meshcache.store.arena import Arena, private
from meshcache.store.generations import Generations
from meshcache.store.layout import OPEN, SEALED, Layout
from meshcache.store.view import View

SIZE = 262_144
KEY = b"c\0k"
HASHED = key_hash(KEY)
PARTITION = partition_of(HASHED)
OTHER = PARTITION + 1


@pytest.fixture
def memory():
    return private(SIZE)


@pytest.fixture
def arena(memory):
    arena = Arena(
        memory,
        Layout.for_bytes(SIZE),
        node_id=b"n" * 16,
        epoch=1,
        host=1,
        max_value_bytes=1000,
    )
    arena.grant(PARTITION)
    arena.put(KEY, HASHED, b"v", version=1, expires=NEVER, now=0.0)
    return arena


@pytest.fixture
def view(memory, arena):
    return View(memory, 1)


def test_a_seal_shows_what_time_it_was_made(arena, view):
    arena.give_up([PARTITION], 12.34)

    assert view.sealed(PARTITION)
    assert 1234 == view.sealed_at(PARTITION) == arena.sealed_at(PARTITION)
    assert 0 == view.sealed_at(OTHER)
    assert OPEN == view.state


@pytest.mark.parametrize("end", ["give_up", "seal_all"])
def test_a_seal_shows_only_when_every_near_entry_has_ended(
    arena, view, monkeypatch, end
):
    arena.grant(OTHER)
    before, seen = list(view.generations), []
    bump_all = Generations.bump_all

    def watched(generations):
        seen.append((view.sealed(PARTITION), view.get(KEY, HASHED, 0.0)))
        bump_all(generations)

    monkeypatch.setattr(Generations, "bump_all", watched)
    if end == "give_up":
        arena.give_up([PARTITION, OTHER], 1.0)
    else:
        arena.seal_all(1.0)

    # Nothing can be read by then, and yet nobody else may open.
    assert [(False, None)] == seen
    assert view.sealed(PARTITION)
    assert view.sealed(OTHER)
    assert not set(zip(before, view.generations, strict=True)) & {
        (number, number) for number in before
    }


def test_an_owner_that_has_ended_gives_up_nothing_more(arena, view):
    arena.seal_all(1.0)
    arena.give_up([PARTITION], 2.0)

    assert SEALED == view.state


def test_a_partition_that_was_never_held_is_free_at_any_moment(arena, view, memory):
    arena.give_up([PARTITION], 1.0)
    memoryview(memory).cast("Q")[9] = 3

    assert not view.sealed(PARTITION)
    assert view.sealed(OTHER)
    assert not view.ever_held(OTHER)


def test_a_grant_that_is_forgone_leaves_everything_as_it_was(arena, view):
    arena.give_up([PARTITION], 1.0)
    before = view.peek(KEY, HASHED, 0.0)
    tenure = arena.grant(PARTITION)
    assert None is view.peek(KEY, HASHED, 0.0)
    arena.forgo(PARTITION, tenure)

    assert view.sealed(PARTITION)
    assert 100 == view.sealed_at(PARTITION)
    assert None is not before
    assert before == view.peek(KEY, HASHED, 0.0)


def test_a_first_grant_that_is_forgone_was_never_one(arena, view):
    arena.forgo(OTHER, arena.grant(OTHER))

    assert not view.ever_held(OTHER)
    assert not arena.granted(OTHER)


def test_forgoing_does_not_let_the_numbers_of_tenures_come_round(arena):
    """However often it is tried, an old entry does not revive."""
    arena.give_up([PARTITION], 1.0)
    for _ in range(200):
        arena.forgo(PARTITION, arena.grant(PARTITION))
    arena.grant(PARTITION)

    assert None is arena.get(KEY, HASHED, 0.0)


def test_what_is_reopened_has_what_it_had_and_nothing_near_of_it_stands(arena, view):
    before = list(view.generations)
    arena.give_up([PARTITION], 1.0)
    assert None is view.get(KEY, HASHED, 0.0)
    arena.reopen(PARTITION, arena.grant(PARTITION))

    assert arena.granted(PARTITION)
    assert b"v" == view.get(KEY, HASHED, 0.0).value
    assert arena.put(KEY, HASHED, b"w", version=2, expires=NEVER, now=0.0)
    assert not any(map(int.__eq__, before, view.generations))
