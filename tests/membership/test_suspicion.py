from __future__ import annotations

import pytest

from meshcache.membership.settings import Settings
from meshcache.membership.suspicion import Suspicion, Suspicions
from meshcache.model import NodeId

ACCUSERS = [NodeId(bytes([i]) * 16) for i in range(6)]


def timeouts(live: int) -> list[float]:
    """The time-outs with no, one, two ... confirmations, to a tenth of a second."""
    settings = Settings()
    needed = settings.confirmations(live)
    suspicion = Suspicion(0.0, *settings.suspicion_bounds(live), needed)
    suspicion.confirm(ACCUSERS[0])
    found = [round(suspicion.deadline(), 1)]
    for accuser in ACCUSERS[1 : needed + 1]:
        suspicion.confirm(accuser)
        found.append(round(suspicion.deadline(), 1))
    return found


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        (2, [4.0]),
        (3, [4.0]),
        (4, [24.0, 11.4, 4.0]),
        (5, [24.0, 14.0, 8.2, 4.0]),
        (10, [24.0, 14.0, 8.2, 4.0]),
        (32, [36.1, 21.1, 12.3, 6.0]),
        (100, [48.0, 28.0, 16.3, 8.0]),
        (1000, [72.0, 42.0, 24.5, 12.0]),
    ],
)
def test_time_to_object_is_that_of_the_published_table(live, expected):
    assert expected == timeouts(live)


def test_the_same_accuser_counts_once():
    suspicion = Suspicion(0.0, 4.0, 24.0, 3)

    news = [suspicion.confirm(ACCUSERS[0]) for _ in range(3)]

    assert [True, False, False] == news
    assert 24.0 == suspicion.deadline()


def test_accusers_beyond_those_needed_are_not_passed_on():
    suspicion = Suspicion(0.0, 4.0, 24.0, 3)

    assert [True] * 4 + [False] * 2 == [suspicion.confirm(a) for a in ACCUSERS]


def test_fewer_possible_accusers_shorten_a_suspicion_under_way():
    suspicions = Suspicions()
    suspicions.start(ACCUSERS[5], Suspicion(10.0, 4.0, 24.0, 3))
    suspicions.confirm(ACCUSERS[5], ACCUSERS[0])

    assert 34.0 == suspicions.deadline()

    suspicions.require(0)

    assert 14.0 == suspicions.deadline()


def test_postponing_grants_time_and_never_takes_any():
    suspicions = Suspicions()
    suspicions.start(ACCUSERS[5], Suspicion(10.0, 4.0, 4.0, 0))

    suspicions.postpone(12.0)
    assert 14.0 == suspicions.deadline()

    suspicions.postpone(15.0)
    assert 15.0 == suspicions.deadline()
    assert [] == suspicions.due(14.9)
    assert [ACCUSERS[5]] == suspicions.due(15.0)


def test_nobody_under_suspicion_means_no_deadline():
    suspicions = Suspicions()
    suspicions.start(ACCUSERS[0], Suspicion(0.0, 4.0, 24.0, 3))
    suspicions.end(ACCUSERS[0])

    assert suspicions.deadline() is None
    assert 0 == len(suspicions)


# --- the accuser's own link -----------------------------------------------------------


def unlinked(live: int, confirmations: int, *, well: bool = True) -> float:
    """The time-out of a suspect to which the connection is lost."""
    settings = Settings()
    suspicion = Suspicion(
        0.0,
        *settings.suspicion_bounds(live),
        settings.confirmations(live),
        settings.suspicion_unlinked,
    )
    suspicion.unlinked = True
    for accuser in ACCUSERS[: confirmations + 1]:
        suspicion.confirm(accuser)
    return round(suspicion.deadline(well=well), 1)


@pytest.mark.parametrize("live", [5, 10, 32, 1000])
def test_a_lost_link_takes_the_size_of_the_cluster_out_of_a_confirmed_suspicion(live):
    assert 3.5 == unlinked(live, confirmations=3)


@pytest.mark.parametrize(
    ("confirmations", "expected"), [(0, 48.0), (1, 28.0), (2, 16.3), (3, 3.5)]
)
def test_a_lost_link_hastens_nothing_that_is_not_fully_confirmed(
    confirmations, expected
):
    assert expected == unlinked(100, confirmations)


def test_who_is_not_well_does_not_trust_a_lost_link():
    assert 8.0 == unlinked(100, confirmations=3, well=False)


@pytest.mark.parametrize("live", [2, 3])
def test_where_nobody_can_confirm_a_lost_link_hastens_nothing(live):
    assert 4.0 == unlinked(live, confirmations=0)


def test_a_lost_link_never_makes_a_suspicion_longer():
    suspicion = Suspicion(0.0, 1.0, 6.0, 1, 3.5)
    suspicion.unlinked = True
    suspicion.confirm(ACCUSERS[0])
    suspicion.confirm(ACCUSERS[1])

    assert 1.0 == suspicion.deadline(well=True)


def test_deadlines_follow_the_link_and_the_health_of_this_node():
    suspicions = Suspicions()
    suspicions.start(ACCUSERS[5], Suspicion(10.0, 8.0, 48.0, 1, 3.5))
    suspicions.confirm(ACCUSERS[5], ACCUSERS[0])
    suspicions.confirm(ACCUSERS[5], ACCUSERS[1])
    assert 18.0 == suspicions.deadline(well=True)

    suspicions.unlink(ACCUSERS[5], lost=True)
    assert 13.5 == suspicions.deadline(well=True)
    assert 18.0 == suspicions.deadline(well=False)
    assert [] == suspicions.due(13.5, well=False)
    assert [ACCUSERS[5]] == suspicions.due(13.5, well=True)

    suspicions.unlink(ACCUSERS[5], lost=False)
    assert 18.0 == suspicions.deadline(well=True)
