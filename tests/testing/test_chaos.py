"""Random misfortune, then calm: every cluster must settle, and no invariant break."""

from __future__ import annotations

from collections import Counter

import pytest

from meshcache.membership.settings import Settings
from meshcache.testing import (
    Conditions,
    NotSettled,
    Simulator,
    chaos,
    plan,
    run,
    settling_bound,
)
from meshcache.testing.__main__ import main


@pytest.mark.slow
def test_after_any_chaos_the_calm_settles_it_and_no_invariant_breaks():
    seen: Counter[str] = Counter()
    for seed in range(60):
        report = run(seed)
        seen.update(report.transitions)
        seen.update(report.counters)

    # A run in which these never happened would have proved nothing.
    for transition in ("ALIVE -> SUSPECT", "SUSPECT -> DEAD", "SUSPECT -> ALIVE"):
        assert seen[transition] > 500
    assert seen["resurrection"] > 200
    assert seen["ALIVE -> LEFT"] > 50
    for deed in ("refutations", "nacks", "reconnects", "displaced", "late"):
        assert seen[deed] > 10


@pytest.mark.slow
def test_a_larger_cluster_settles_too():
    for seed in range(3):
        assert run(seed, nodes=40).settled_in < 40.0


def test_a_run_is_a_function_of_its_arguments():
    assert run(5, nodes=5, seconds=20.0) == run(5, nodes=5, seconds=20.0)
    assert (
        run(5, nodes=5, seconds=20.0).transcript
        != run(6, nodes=5, seconds=20.0).transcript
    )


def test_the_plan_holds_every_kind_of_misfortune_and_ends_with_the_chaos():
    deeds = [deed for seed in range(20) for deed in plan(seed, 8, 60.0)]

    assert set(chaos.DEEDS) == {deed.what for deed in deeds}
    assert all(0 < deed.at < 60.0 for deed in deeds)
    assert all(deed.at + deed.amount <= 60.0 for deed in deeds)


def test_the_bound_is_made_of_the_settings():
    # A list exchange, two longest suspicions, and 1 + log2 n rounds of gossip.
    assert pytest.approx(30 + 2 * 24 + 0.2 * 4) == settling_bound(Settings(), 8)
    assert pytest.approx(6 + 2 * 6 + 0.1 * 2) == settling_bound(
        Settings(
            push_pull_interval=6.0,
            suspicion_alpha=1.0,
            suspicion_beta=6.0,
            gossip_interval=0.1,
        ),
        2,
    )


def test_a_script_takes_the_place_of_the_chaos():
    def half_goes(simulator: Simulator) -> None:
        simulator.advance(3.0)
        for index in range(3, 6):
            simulator.crash(index, silent=True)

    report = run(1, nodes=6, script=half_goes, conditions=Conditions())

    assert 6 == report.planned == report.nodes
    assert 4.0 < report.settled_in < report.bound


def test_a_failure_says_how_to_see_it_again():
    def never_heal(simulator: Simulator) -> None:
        simulator.advance(2.0)
        simulator.heal = lambda: None
        simulator.partition((0,), (1,))
        simulator.partition((0,), (2,))
        simulator.advance(10.0)

    with pytest.raises(NotSettled, match=r"0 has .* DEAD") as failure:
        run(11, nodes=3, script=never_heal)

    assert ["replay: python -m meshcache.testing --seed 11"] == failure.value.__notes__


def test_the_command_line_runs_many_seeds_or_shows_one(capsys):
    assert 0 == main(["--seeds", "2", "--nodes", "3", "--seconds", "10"])
    assert "2 seeds, 0 failed" in capsys.readouterr().out

    assert 0 == main(["--seed", "1", "--nodes", "3", "--seconds", "10"])
    assert "settled in" in capsys.readouterr().out


def test_the_command_line_tells_which_seed_failed(capsys, monkeypatch):
    monkeypatch.setattr(Simulator, "agreed", lambda self: False)

    assert 1 == main(["--seeds", "1", "--nodes", "3", "--seconds", "10"])
    assert "replay: python -m meshcache.testing --seed 0" in capsys.readouterr().out
