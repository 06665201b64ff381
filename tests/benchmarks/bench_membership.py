"""Membership by the numbers: the papers' tables, measured in the simulator.

Everything is in virtual time, so the figures do not depend on the machine; the same
seeds give the same tables. The papers are SWIM (Das et al., DSN 2002) and Lifeguard
(arXiv 1707.00788v2). `docs/explanation/membership.md` holds the results of a full run
and says what was modelled.

    python tests/benchmarks/bench_membership.py [--quick] [--json] [--only NAME]
        [--plots docs/explanation/membership]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from math import ceil, log10
from pathlib import Path
from statistics import mean, median
from time import process_time
from typing import Any

from meshcache.membership.settings import Settings
from meshcache.model import State
from meshcache.testing import Simulator

PLAIN: dict[str, Any] = {"max_health": 0, "suspicion_beta": 1.0, "buddy": False}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "SWIM": PLAIN,
    "LHA-Probe": PLAIN | {"max_health": 8},
    "LHA-Suspicion": PLAIN | {"suspicion_beta": 6.0},
    "Buddy": PLAIN | {"buddy": True},
    "Lifeguard": {},
}
"""The machine with parts of Lifeguard switched off (tables IV, V and VI)."""

ALPHA_BETA = ((4, 6), (2, 6), (5, 2), (4, 2), (2, 2), (4, 4), (5, 4), (2, 4))
"""The rows of table VII but (5, 6), which is Lifeguard above."""

PAPER: dict[str, Any] = {
    "first_detection_periods": 1.58,
    "load": 2.0,
    "false_positives": {
        "SWIM": (100.0, 100.0),
        "LHA-Probe": (67.72, 32.88),
        "LHA-Suspicion": (3.00, 6.71),
        "Buddy": (94.08, 44.57),
        "Lifeguard": (1.53, 1.89),
    },
    "detection": {
        "SWIM": (12.44, 12.90),
        "LHA-Probe": (12.42, 12.90),
        "LHA-Suspicion": (12.42, 12.89),
        "Buddy": (12.45, 12.92),
        "Lifeguard": (12.45, 12.91),
    },
    "messages": {
        "SWIM": (100.0, 100.0),
        "LHA-Probe": (98.46, 90.03),
        "LHA-Suspicion": (111.31, 106.52),
        "Buddy": (100.07, 99.01),
        "Lifeguard": (110.59, 97.97),
    },
    "alpha_beta": {
        (2, 2): (53.14, 98.37, 31.15),
        (2, 4): (54.10, 43.64, 22.47),
        (2, 6): (54.34, 24.16, 13.65),
        (4, 2): (82.96, 37.72, 20.29),
        (4, 4): (83.04, 8.04, 9.50),
        (4, 6): (83.12, 3.18, 4.83),
        (5, 2): (99.76, 26.61, 15.38),
        (5, 4): (99.52, 5.43, 5.05),
        (5, 6): (100.08, 1.53, 1.89),
    },
}
"""What was published: percentages of SWIM's, or seconds (median first, median full)."""

CELLS = ((8, 16.384, 0.064), (16, 32.768, 1.024), (32, 16.384, 0.064))
"""C members at a time are blocked for D seconds, then free for I seconds; 3 of the
paper's 432 combinations, all of them among those that hurt."""

CELL_SECONDS = 60.0
"""The paper has 120 s and ten runs of each."""

Log = Callable[[str], None]


def quiet(_: str) -> None:
    """Say nothing."""


def run(*, quick: bool = False, only: str | None = None, log: Log = quiet) -> dict:
    """Measure everything; the result is plain data, fit for JSON."""
    parts: dict[str, Callable[[], Any]] = {
        "limits": limits,
        "swim": lambda: swim_figures(quick=quick, log=log),
        "detection": lambda: detection_by_size(quick=quick, log=log),
        "lifeguard": lambda: lifeguard(quick=quick, log=log),
        "alpha_beta": lambda: alpha_beta(quick=quick, log=log),
    }
    result: dict[str, Any] = {}
    for name, part in parts.items():
        if only is None or name == only:
            began = process_time()
            result[name] = part()
            log(f"{name}: {process_time() - began:.0f} s CPU")
    return result


# --- settings -----------------------------------------------------------------------


def limits() -> list[dict[str, Any]]:
    """What the formulas make of a cluster's size."""
    settings = Settings()
    rows = []
    for n in (2, 3, 4, 5, 10, 32, 64, 100, 128, 1000):
        shortest, longest = settings.suspicion_bounds(n)
        needed = settings.confirmations(n)
        span = (longest - shortest) if needed else 0.0
        steps = [
            (shortest + span) - (span * log10(c + 1) / log10(needed + 1) if c else 0)
            for c in range(needed + 1)
        ]
        rows.append(
            {
                "n": n,
                "retransmit": settings.retransmit_limit(n),
                "needed": needed,
                "timeouts": [round(step, 1) for step in steps],
                "push_pull": settings.push_pull_every(n),
                "probe_gap": 2 * n - 1,
            }
        )
    return rows


# --- SWIM, sections 3 and 5 ---------------------------------------------------------


def swim_figures(*, quick: bool, log: Log) -> list[dict[str, float]]:
    """Load, bytes and first detection by the number of members."""
    rows = []
    for n in (8, 16) if quick else (8, 32, 128, 1000):
        simulator = settled(n)
        row = {"n": n} | load(simulator, seconds=60.0 if n <= 128 else 30.0)
        trials = 30 if quick else 300 if n < 100 else 100
        row |= first_detection(simulator, trials)
        log(f"n={n}: {row}")
        rows.append(row)
    return rows


def settled(n: int, seed: int = 1, **settings: Any) -> Simulator:
    """A cluster that has agreed and whose news have died down."""
    # Without heartbeats: the papers' members have no connections that could be lost.
    simulator = Simulator(seed, settings=Settings(**settings), heartbeats=False)
    simulator.start(n)
    simulator.advance_until(simulator.agreed, within=30.0, every=1.0)
    simulator.advance_until(
        lambda: not any(swim.queued for swim in simulator.machines),
        within=60.0,
        every=1.0,
    )
    return simulator


def sent(simulator: Simulator) -> dict[str, int]:
    """How many messages of each kind have been sent, and how many bytes in all."""
    total: dict[str, int] = {"octets": 0, "messages": 0}
    for traffic in simulator.network.traffic.values():
        for kind, count in traffic.messages.items():
            total[kind] = total.get(kind, 0) + count
            total["messages"] += count
        total["octets"] += sum(traffic.octets.values())
    return total


def load(simulator: Simulator, seconds: float) -> dict[str, float]:
    """Messages per member and period, and bytes per member and second, at rest."""
    before = sent(simulator)
    asked = -sum(swim.counters.seed_contacts for swim in simulator.machines)
    simulator.advance(seconds)
    after = sent(simulator)
    share = len(simulator.running()) * seconds
    asked += sum(swim.counters.seed_contacts for swim in simulator.machines)
    probes = sum(
        after.get(kind, 0) - before.get(kind, 0)
        for kind in ("Ping", "Ack", "PingReq", "Nack")
    )
    octets = after["octets"] - before["octets"]
    return {
        "probe_messages": round((probes - 2 * asked) / share, 3),
        "seed_messages": round(2 * asked / share, 3),
        "octets": round(octets / share, 1),
    }


def first_detection(simulator: Simulator, trials: int) -> dict[str, float]:
    """Periods until somebody begins the probe that will fail, as the paper counts."""
    n = len(simulator.seats)
    at_once = max(1, n // 32)
    waits: list[float] = []
    while len(waits) < trials:
        simulator.advance(simulator.rng.uniform(0.0, 1.0))
        chosen = simulator.rng.sample(range(1, n), at_once)
        for index in chosen:
            simulator.crash(index, silent=True)
        crashed, known = simulator.now, len(simulator.history)
        simulator.advance(12.0)
        gone = {simulator.seats[index].me.node_id for index in chosen}
        first: dict[bytes, float] = {}
        for at, _, (member, _) in simulator.history[known:]:
            if member.node_id in gone and member.state is State.SUSPECT:
                first.setdefault(member.node_id, at - crashed)
        waits += list(first.values())
        for index in chosen:
            simulator.restart(index, seeds=(0,))
        simulator.advance(20.0)
    periods = [max(1, ceil(wait - 1.0)) for wait in waits]
    return {
        "first_detection_periods": round(mean(periods), 2),
        "first_suspicion_s": round(mean(waits), 2),
        "trials": len(waits),
    }


# --- how long until a crash is known ------------------------------------------------

MODEL = {
    (2, 4): 5.5,
    (3, 4): 5.6,
    (5, 4): 5.6,
    (10, 4): 5.9,
    (32, 4): 7.8,
    (100, 4): 9.7,
    (128, 4): 10.1,
    (5, 2): 4.7,
    (10, 2): 4.9,
    (32, 2): 5.3,
    (100, 2): 6.0,
}
"""Medians of a Monte-Carlo model of the same rules, by size and alpha: seconds until
the first member takes a crashed one for dead."""


def detection_by_size(*, quick: bool, log: Log) -> list[dict[str, float]]:
    """Median and 99th percentile of the first verdict, by size and alpha."""
    rows = []
    for (n, alpha), expected in MODEL.items():
        if quick and n > 10:
            continue
        trials = 20 if quick else 60 if n < 100 else 40
        waits = crashes(n, alpha, trials)
        row = {
            "n": n,
            "alpha": alpha,
            "trials": len(waits),
            "median": round(median(waits), 2),
            "p99": round(quantile(waits, 0.99), 2),
            "model": expected,
        }
        log(str(row))
        rows.append(row)
    return rows


def crashes(n: int, alpha: float, trials: int) -> list[float]:
    """Crash members one after the other, in clusters of *n*; seconds to a verdict."""
    simulator = settled(n, suspicion_alpha=alpha)
    waits = []
    for _ in range(trials):
        simulator.advance(simulator.rng.uniform(0.0, 2.0))
        index = simulator.rng.randrange(1, n)
        gone = simulator.seats[index].me.node_id
        simulator.crash(index, silent=True)
        began, known = simulator.now, len(simulator.history)
        simulator.advance_until(simulator.agreed, within=90.0, every=0.25)
        waits.append(
            min(
                at
                for at, _, (member, _) in simulator.history[known:]
                if member.node_id == gone and member.state is State.DEAD
            )
            - began
        )
        simulator.restart(index, seeds=(0,))
        simulator.advance_until(simulator.agreed, within=30.0, every=0.25)
        # A prober that saw a member die is unsure of itself for a while.
        simulator.advance_until(lambda: well(simulator), within=120.0, every=1.0)
    return waits


def well(simulator: Simulator) -> bool:
    """Whether all nodes trust themselves."""
    return all(seat.swim and seat.swim.health == 0 for seat in simulator.running())


def quantile(values: list[float], part: float) -> float:
    """The value below which *part* of all lie, to the nearest one."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# --- Lifeguard, section V -----------------------------------------------------------


def anomaly(settings: dict[str, Any], cell: tuple[int, float, float], n: int) -> dict:
    """Block C members for D seconds, free them for I, again and again."""
    count, blocked, free = cell
    simulator = settled(n, **settings)
    simulator.history.clear()
    before = sent(simulator)
    bad = set(simulator.rng.sample(range(1, n), count))
    end = simulator.now + CELL_SECONDS
    while simulator.now < end:
        for index in sorted(bad):
            simulator.block(index, blocked)
        simulator.advance(blocked + free)
    after = sent(simulator)
    who = {seat.me.node_id: seat.index for seat in simulator.seats}
    wrong = [
        observer
        for _, observer, (member, _) in simulator.history
        if member.state is State.DEAD and who[member.node_id] not in bad
    ]
    return {
        "fp": len(wrong),
        "fp_healthy": sum(observer not in bad for observer in wrong),
        "messages": after["messages"] - before["messages"],
        "octets": after["octets"] - before["octets"],
    }


def threshold(settings: dict[str, Any], n: int, seeds: int, count: int = 16) -> dict:
    """Block members once, for good; when do healthy ones take each for dead?"""
    first, full = [], []
    for seed in range(seeds):
        simulator = settled(n, seed, **settings)
        simulator.advance(simulator.rng.uniform(0.0, 1.0))
        simulator.history.clear()
        bad = set(simulator.rng.sample(range(1, n), count))
        began = simulator.now
        for index in sorted(bad):
            simulator.block(index, 32.768)
        simulator.advance(30.0)
        told: dict[bytes, dict[int, float]] = {
            simulator.seats[index].me.node_id: {} for index in bad
        }
        for at, observer, (member, _) in simulator.history:
            known = member.node_id in told and observer not in bad
            if known and member.state is State.DEAD:
                told[member.node_id].setdefault(observer, at - began)
        for times in told.values():
            if len(times) == n - count:
                first.append(min(times.values()))
                full.append(max(times.values()))
    return {
        "samples": len(first),
        "of": seeds * count,
        "first_median": round(median(first), 2),
        "first_p99": round(quantile(first, 0.99), 2),
        "full_median": round(median(full), 2),
        "full_p99": round(quantile(full, 0.99), 2),
    }


def measure(settings: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """One row of the Lifeguard tables."""
    n, cells = (16, CELLS[1:2]) if quick else (128, CELLS)
    row: dict[str, Any] = {"fp": 0, "fp_healthy": 0, "messages": 0, "octets": 0}
    for cell in cells:
        for key, value in anomaly(settings, _scaled(cell, n), n).items():
            row[key] += value
    return row | threshold(settings, n, seeds=1 if quick else 3, count=n // 8)


def _scaled(cell: tuple[int, float, float], n: int) -> tuple[int, float, float]:
    return max(1, cell[0] * n // 128), cell[1], cell[2]


def lifeguard(*, quick: bool, log: Log) -> dict[str, dict[str, Any]]:
    """Tables IV, V and VI: each part of Lifeguard alone and all together, alpha 5."""
    rows = {}
    for name, settings in CONFIGURATIONS.items():
        rows[name] = measure({"suspicion_alpha": 5.0} | settings, quick=quick)
        log(f"{name}: {rows[name]}")
    return rows


def alpha_beta(*, quick: bool, log: Log) -> dict[str, dict[str, Any]]:
    """Table VII: all of Lifeguard, with other lengths of suspicion."""
    rows = {}
    pairs = ALPHA_BETA[:2] if quick else ALPHA_BETA
    for alpha, beta in pairs:
        settings = {"suspicion_alpha": float(alpha), "suspicion_beta": float(beta)}
        rows[f"{alpha},{beta}"] = measure(settings, quick=quick)
        log(f"{alpha},{beta}: {rows[f'{alpha},{beta}']}")
    return rows


# --- pictures -----------------------------------------------------------------------


def text(
    x: float, y: float, words: str, *, anchor: str = "start", more: str = ""
) -> str:
    """Return one line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{words}</text>'


def rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return one rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}"/>'
    )


def sheet(width: int, height: int, parts: Iterable[str]) -> str:
    """Return a picture of *parts* on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#444">'
    )
    return "\n".join([head, rect(0, 0, width, height, "#fff"), *parts, "</svg>", ""])


COLOURS = ("#1f6feb", "#d1622b", "#2a9d5c", "#8957c4")


def plot(title: str, up: str, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Return a small SVG: lines over the number of members, which is logarithmic."""
    width, left, right, low, top = 640, 60, 610, 330, 110
    points = [point for line in lines.values() for point in line]
    xs = sorted({x for x, _ in points})
    most = 1.1 * max(y for _, y in points)
    span = log10(xs[-1] / xs[0])

    def at(x: float, y: float) -> tuple[float, float]:
        across = log10(x / xs[0]) / span * (right - left)
        return left + across, low - y / most * (low - top)

    parts = [text(20, 24, title, more='font-size="14"'), text(left, top - 8, up)]
    parts.append(text(right, low + 36, "members", anchor="end"))
    for step in range(5):
        y = at(xs[0], most * step / 4)[1]
        parts.append(f'<path d="M{left} {y:.0f}H{right}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, f"{most * step / 4:.3g}", anchor="end"))
    parts += [text(at(x, 0)[0], low + 18, f"{x:g}", anchor="middle") for x in xs]
    for row, (name, line) in enumerate(lines.items()):
        colour = COLOURS[row]
        where = [at(x, y) for x, y in sorted(line)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in where)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}"/>')
        parts += [rect(x - 3, y - 3, 6, 6, colour) for x, y in where]
        parts.append(rect(20 + 300 * (row % 2), 40 + 18 * (row // 2), 10, 10, colour))
        parts.append(text(36 + 300 * (row % 2), 49 + 18 * (row // 2), name))
    return sheet(width, low + 50, parts)


def bars(title: str, rows: dict[str, dict[str, float]]) -> str:
    """Return a small SVG: percentages side by side, on a logarithmic scale."""
    width, left, top, high, least = 640, 120, 70, 38, 0.01
    most = max(100.0, *(value for row in rows.values() for value in row.values()))

    def long(value: float) -> float:
        share = log10(max(value, least) / least) / log10(most / least)
        return share * (width - left - 90)

    parts = [text(20, 24, title, more='font-size="14"')]
    for index, name in enumerate(next(iter(rows.values()))):
        parts.append(rect(20 + 130 * index, 38, 10, 10, COLOURS[index]))
        parts.append(text(36 + 130 * index, 47, name))
    for row, (label, cells) in enumerate(rows.items()):
        y = top + high * row
        parts.append(text(left - 8, y + 17, label, anchor="end"))
        for index, value in enumerate(cells.values()):
            below = y + 14 * index
            parts.append(rect(left, below, long(value), 11, COLOURS[index]))
            words = f"{value:.3g} %"
            parts.append(text(left + long(value) + 6, below + 10, words))
    return sheet(width, top + high * len(rows) + 10, parts)


def pictures(result: dict[str, Any]) -> dict[str, str]:
    """Return the plots that *result* has the numbers for, by file name."""
    made = {}
    if "swim" in result:
        rows = result["swim"]
        made["load.svg"] = plot(
            "Probe messages sent per member and period",
            "messages",
            {
                "meshcache": [(r["n"], r["probe_messages"]) for r in rows],
                "SWIM, Fig. 2": [(rows[0]["n"], 2.0), (55, 2.0)],
            },
        )
        made["bytes.svg"] = plot(
            "Bytes sent per member and second, at rest",
            "bytes/s",
            {"meshcache": [(r["n"], r["octets"]) for r in rows]},
        )
        made["first-detection.svg"] = plot(
            "Periods until the first failing probe begins (mean)",
            "periods",
            {
                "meshcache": [(r["n"], r["first_detection_periods"]) for r in rows],
                "e/(e-1), SWIM": [(rows[0]["n"], 1.58), (rows[-1]["n"], 1.58)],
            },
        )
    if "detection" in result:
        lines: dict[str, list[tuple[float, float]]] = {}
        for r in result["detection"]:
            lines.setdefault(f"alpha {r['alpha']}", []).append((r["n"], r["median"]))
            lines.setdefault(f"alpha {r['alpha']}, model", []).append(
                (r["n"], r["model"])
            )
        made["detection.svg"] = plot(
            "From a silent crash to the first verdict (median)",
            "seconds",
            lines,
        )
    if "lifeguard" in result:
        rows = result["lifeguard"]
        base = max(1, rows["SWIM"]["fp"])
        made["false-positives.svg"] = bars(
            "False deaths, as a percentage of plain SWIM's (log scale)",
            {
                name: {
                    "paper": PAPER["false_positives"][name][0],
                    "meshcache": 100 * row["fp"] / base,
                }
                for name, row in rows.items()
            },
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--plots", type=Path, help="write SVG files to this folder")
    asked = parser.parse_args()
    result = run(
        quick=asked.quick,
        only=asked.only,
        log=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if asked.plots:
        asked.plots.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures(result).items():
            (asked.plots / name).write_text(picture)
    print(json.dumps(result, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
