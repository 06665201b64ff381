import random

import pytest

from meshcache.hashing import PARTITIONS
from meshcache.placement.choices import Choices
from meshcache.placement.score import score

A = b"\x0a" * 16
B = b"\x0b" * 16
C = b"\x0c" * 16


def differences(before, after):
    pairs = zip(before, after, strict=True)
    return [(old, new) for old, new in pairs if old != new]


def choices_of(*nodes):
    choices = Choices()
    choices.change(frozenset(nodes))
    return choices


def test_a_score_is_the_same_in_every_process_and_version():
    assert [score(A, 0), score(A, 1), score(B, 16_383)] == [
        1_891_839_035_937_181_350,
        13_453_019_262_578_438_523,
        1_919_839_755_084_078_574,
    ]


def test_a_score_of_zero_is_enough_where_nobody_else_is(monkeypatch):
    monkeypatch.setattr("meshcache.placement.choices.score", lambda _node, _p: 0)

    assert [B] * PARTITIONS == choices_of(B).first


def test_the_first_choice_has_the_highest_score():
    nodes = [A, B, C]

    best = [max(nodes, key=lambda n: score(n, p)) for p in range(PARTITIONS)]

    assert best == choices_of(*nodes).first


def test_a_newcomer_takes_only_for_itself():
    choices = choices_of(A, B)
    before = choices.first.copy()

    choices.change(frozenset({A, B, C}))

    changed = {new for _, new in differences(before, choices.first)}
    assert {C} == changed


def test_only_the_partitions_of_a_leaver_choose_again():
    choices = choices_of(A, B, C)
    before = choices.first.copy()

    choices.change(frozenset({A, B}))

    changed = {old for old, _ in differences(before, choices.first)}
    assert {C} == changed


def test_comings_and_goings_at_once_end_as_if_from_nothing():
    ids = [random.Random(7).randbytes(16) for _ in range(9)]
    choices = choices_of(*ids[:6])

    choices.change(frozenset(ids[3:]))

    assert choices_of(*ids[3:]).first == choices.first


def test_when_all_go_nobody_is_chosen_and_the_next_is_chosen_by_all():
    choices = choices_of(A)

    choices.change(frozenset())
    assert {b""} == set(choices.first)

    choices.change(frozenset({B}))
    assert {B} == set(choices.first)


@pytest.mark.parametrize(("sitting", "coming"), [(A, B), (B, A)])
def test_of_equal_scores_the_smaller_id_wins_whoever_came_first(sitting, coming):
    choices = choices_of(sitting)
    choices._best = [score(coming, p) for p in range(PARTITIONS)]

    choices.change(frozenset({sitting, coming}))

    assert {min(sitting, coming)} == set(choices.first)
