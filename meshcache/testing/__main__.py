"""Chaos from the command line: many seeds in a row, or one seed again.

python -m meshcache.testing --seeds 500
python -m meshcache.testing --seed 7
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from time import process_time

from meshcache.testing.chaos import Report, plan, run

_SHOWN_EVERY = 50


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return 1 if a seed failed."""
    parser = argparse.ArgumentParser(
        prog="python -m meshcache.testing",
        description="Chaos, then calm: does a simulated cluster settle?",
    )
    parser.add_argument("--seed", type=int, help="run this one seed and show it all")
    parser.add_argument("--seeds", type=int, default=20, help="run so many seeds")
    parser.add_argument("--first", type=int, default=0, help="begin with this seed")
    parser.add_argument("--nodes", type=int, help="start so many nodes (3 to 12)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        _show(asked.seed, asked.nodes, asked.seconds)
        return 0
    seeds = range(asked.first, asked.first + asked.seeds)
    return _run_all(seeds, asked.nodes, asked.seconds)


def _show(seed: int, nodes: int | None, seconds: float) -> None:
    """Run one seed; its failure, if there is one, comes with a traceback."""
    report = run(seed, nodes=nodes, seconds=seconds)
    for deed in plan(seed, nodes or report.planned, seconds):
        _say(f"{deed.at:8.2f}  {deed.what:8}  {deed}")
    _say(_line(report))
    for title, counter in (
        ("transitions", report.transitions),
        ("counters", report.counters),
    ):
        _say(f"{title}: " + ", ".join(f"{k} {n}" for k, n in counter.most_common()))


def _run_all(seeds: range, nodes: int | None, seconds: float) -> int:
    began, failed = process_time(), []
    reports: list[Report] = []
    for seed in seeds:
        try:
            reports.append(run(seed, nodes=nodes, seconds=seconds))
        except AssertionError as failure:
            failed.append(seed)
            notes = "; ".join(getattr(failure, "__notes__", ()))
            _say(f"seed {seed}: {type(failure).__name__}: {failure} ({notes})")
        if (seed - seeds.start + 1) % _SHOWN_EVERY == 0:
            _say(f"{seed - seeds.start + 1} seeds, {len(failed)} failed")
    _summarise(reports)
    _say(
        f"{len(seeds)} seeds, {len(failed)} failed, {process_time() - began:.0f} s CPU"
    )
    return 1 if failed else 0


def _summarise(reports: list[Report]) -> None:
    if not reports:
        return
    slowest = max(reports, key=lambda report: report.settled_in / report.bound)
    _say(f"the nearest to its bound: {_line(slowest)}")
    seen: Counter[str] = Counter()
    for report in reports:
        seen.update(report.transitions)
        seen.update(report.counters)
    _say(", ".join(f"{name} {count}" for name, count in seen.most_common()))


def _line(report: Report) -> str:
    return (
        f"seed {report.seed}: {report.nodes} nodes, {report.seconds:.0f} s, settled in "
        f"{report.settled_in:.2f} s of {report.bound:.1f} s, {report.messages} messages"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
