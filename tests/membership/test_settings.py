from __future__ import annotations

import pytest

from meshcache.errors import ConfigError
from meshcache.membership.awareness import Awareness
from meshcache.membership.settings import Settings


@pytest.mark.parametrize(
    ("live", "limit"),
    [(2, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)],
)
def test_news_are_sent_four_times_per_decimal_digit_of_members(live, limit):
    assert limit == Settings().retransmit_limit(live)


@pytest.mark.parametrize(
    ("live", "seconds"), [(2, 30), (32, 30), (33, 60), (64, 60), (100, 90), (1000, 180)]
)
def test_whole_lists_are_exchanged_less_often_in_large_clusters(live, seconds):
    assert seconds == Settings().push_pull_every(live)


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe_timeout": 1.0},
        {"probe_timeout": 0.0},
        {"suspicion_alpha": 0},
        {"suspicion_beta": 0.5},
        {"max_updates": 0},
        {"max_updates": 91},
        {"gossip_fanout": 0},
        {"indirect_probes": -1},
        {"seed_interval": 0},
    ],
)
def test_a_setting_out_of_its_bounds_is_refused(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)


def test_health_stays_between_well_and_the_limit():
    awareness = Awareness(8)
    awareness.better()
    assert 1.0 == awareness.stretch(1.0)

    awareness.worse(20)
    assert 9.0 == awareness.stretch(1.0)

    awareness.better()
    assert 4.0 == awareness.stretch(0.5)
