"""Which report wins: the truth table, and that the order of hearing does not matter."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from meshcache.membership.rules import accuses, supersedes
from meshcache.model import Member, NodeId, State

A, S, D, L = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


def report(epoch: int, incarnation: int, state: State) -> Member:
    return Member(NodeId(b"x" * 16), epoch, incarnation, state, "a", "b", "h", 1)


REPORTS = [report(*facts) for facts in product((1, 2), (0, 1), State)]


def greatest(reports):
    known = reports[0]
    for heard in reports[1:]:
        if supersedes(heard, known):
            known = heard
    return known


def test_at_one_epoch_and_incarnation_the_worse_news_win():
    wins = {
        (new, known): supersedes(report(1, 5, new), report(1, 5, known))
        for new, known in product(State, State)
    }

    assert {
        (A, A): False, (A, S): False, (A, D): False, (A, L): False,
        (S, A): True, (S, S): False, (S, D): False, (S, L): False,
        (D, A): True, (D, S): True, (D, D): False, (D, L): False,
        (L, A): True, (L, S): True, (L, D): True, (L, L): False,
    } == wins  # fmt: skip


def test_a_higher_incarnation_wins_whatever_the_states():
    for new, known in product(State, State):
        assert supersedes(report(1, 6, new), report(1, 5, known))
        assert not supersedes(report(1, 5, new), report(1, 6, known))


def test_a_newer_process_wins_whatever_incarnation_and_state():
    for new, known in product(State, State):
        assert supersedes(report(2, 0, new), report(1, 9, known))
        assert not supersedes(report(1, 9, new), report(2, 0, known))


def test_superseding_is_a_strict_total_order():
    for one, other in product(REPORTS, REPORTS):
        wins = [supersedes(one, other), supersedes(other, one)]

        assert wins.count(True) == (one != other)

    for one, other, third in product(REPORTS, REPORTS, REPORTS):
        if supersedes(one, other) and supersedes(other, third):
            assert supersedes(one, third)


def test_only_bad_news_of_the_same_process_that_are_not_older_accuse():
    assert accuses(report(1, 5, S), report(1, 5, A))
    assert accuses(report(1, 6, D), report(1, 5, A))
    assert accuses(report(1, 5, D), report(1, 5, S))
    assert not accuses(report(1, 4, D), report(1, 5, A))
    assert not accuses(report(2, 0, D), report(1, 5, A))
    assert not accuses(report(1, 5, A), report(1, 5, A))
    assert not accuses(report(1, 5, L), report(1, 5, L))


reports = st.sampled_from(REPORTS)


@given(st.lists(reports, min_size=1), st.randoms(use_true_random=False))
def test_what_is_believed_does_not_depend_on_order_or_repetition(heard, rng):
    again = heard + rng.choices(heard, k=len(heard))
    rng.shuffle(again)

    assert greatest(heard) == greatest(again)


@given(st.lists(reports, min_size=1), st.lists(reports, min_size=1))
def test_two_beliefs_merge_to_the_belief_in_all_of_it(some, others):
    merged = greatest([greatest(some), greatest(others)])

    assert greatest(some + others) == merged
    assert greatest([greatest(others), greatest(some)]) == merged
