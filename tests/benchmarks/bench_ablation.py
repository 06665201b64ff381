"""What each part of the read path is worth, on a trace, with an origin of 20 ms.

    python tests/benchmarks/bench_ablation.py [--trace PATH] [--share 32] [--rate 1000]
        [--seconds S] [--rounds N] [--only NAME ...] [--plots DIR] [--quick] [--json]

Four processes of four threads each (cashews: four tasks) read a trace of keys in turn,
through each of `readers.READERS`. A read waits until it is due, so many a second, so
that all readers have the same reads at the same times; who falls behind reads as fast
as it can. A rate of 0 is as fast as each can, the trace again and again. What stands
in the cache expires after `--ttl`.

*Least* is how often the origin has to be called for these reads: once for each key
and ttl in which it is read. A read has *waited* if it took over half of the origin's
time. It is *stale* if what it got was older than the ttl
when it began, by more than a twentieth of it. Processor time is that of all processes,
Redis included.

A trace is one key a line, plain or gzip. Of its keys one in `--share` is read, chosen
by hash, with all its reads: what fits into a run, and as popular as it was. Without
a trace, one of its kind is made: Zipf 0.9 over 1,700 keys, each drawn key read
four times within a hundred reads, as the objects of a request are. Its bursts, popular
keys and least loads are about those of orm-busy-1M with a share of 32.

The readers take turns, round after round, each with new nodes and an empty Redis; all
cores are in use, so nothing is pinned. Medians, and the lowest and highest.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import tempfile
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate, count, islice
from math import exp, log
from pathlib import Path
from random import Random
from statistics import median
from threading import Thread
from typing import Any
from uuid import uuid4
from zlib import crc32

from bench_membership import COLOURS, rect, sheet, text
from fleet import Worker, ask_all, fleet, serve
from readers import ORIGIN, READERS, Origin, Reader, Setting, lacks, needs, versions
from rivals import Absent, port_of, redis_process, shared_memory

PROCESSES = 4
THREADS = 4
SHARE = 32
RATE = 1000.0
SECONDS = 24.0
TTL = 2.0
ROUNDS = 3
QUICK_READERS = ("full", "cachetools", "dogpile, distributed", "cashews, lock")
QUICK = {"rate": 800.0, "seconds": 0.25, "rounds": 1, "ttl": 0.1}
SEED = 20_160_419
ZIPF = 0.9
ZIPF_KEYS = 1_700
BURST = 4
BURST_WITHIN = 100
SLACK = 0.05
START = 0.1
STEPS = 50
"""Latencies are counted in steps of one fiftieth of e: within 2 %."""
LONGEST_TRACE = 10_000_000


# --- the trace -------------------------------------------------------------------


def read_trace(path: Path, share: int) -> list[str]:
    """Return the reads of one in *share* of a trace's keys."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as lines:
        keys = (line.strip() for line in islice(lines, LONGEST_TRACE))
        return [key for key in keys if key and crc32(key.encode()) % share == 0]


def made_trace(reads: int) -> list[str]:
    """Return a trace of the kind that the module docstring says."""
    rng = Random(SEED)
    weights = list(accumulate(rank**-ZIPF for rank in range(1, ZIPF_KEYS + 1)))
    drawn = rng.choices(range(ZIPF_KEYS), cum_weights=weights, k=-(-reads // BURST))
    placed = [
        (at * BURST + rng.random() * BURST_WITHIN, key)
        for at, key in enumerate(drawn)
        for _ in range(BURST)
    ]
    return [str(key) for _, key in sorted(placed)][:reads]


def least_loads(keys: Sequence[str], rate: float, ttl: float) -> int:
    """Return how often the origin has to be called if nothing older is given."""
    fresh_until: dict[str, float] = {}
    loads = 0
    for at, key in enumerate(keys):
        now = at / rate
        if now >= fresh_until.get(key, 0.0):
            loads += 1
            fresh_until[key] = now + ORIGIN + ttl
    return loads


def together(keys: Sequence[str], rate: float) -> float:
    """Return the share of reads that come while a load begun before may still run."""
    last: dict[str, float] = {}
    found = 0
    for at, key in enumerate(keys):
        now = at / rate
        found += now - last.get(key, -ORIGIN) < ORIGIN
        last[key] = now
    return found / len(keys)


# --- a worker --------------------------------------------------------------------


class Run:
    """The reads of one process, by all its threads or tasks."""

    def __init__(self, keys: list[str], dues: tuple[float, float, float, float]):
        self.keys = keys
        # Of this process's n-th read: first + n * step, and none begins after the end.
        self.first, self.step, self.end, self.ttl = dues
        self.numbers = count()
        self.latencies = array("d")
        self.errors: Counter[str] = Counter()
        self.stale = self.late = self.reads = 0
        self.oldest = 0.0
        self.ended = self.first

    def due(self) -> Iterator[tuple[str, float]]:
        """Yield keys and when they are due, for one thread."""
        keys = self.keys
        for number in self.numbers:
            at = self.first + number * self.step
            if at >= self.end or (not self.step and time.monotonic() >= self.end):
                return
            yield keys[number % len(keys)], at

    def follow(self, read: Any) -> None:
        mine = array("d")
        ages: list[float] = []
        for key, due in self.due():
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            began = time.monotonic()
            try:
                ages.append(began - read(key)["made"])
            except Exception as error:  # noqa: BLE001 - a cache that fails is a result
                self.errors[type(error).__name__] += 1
            mine.append(time.monotonic() - began)
            self.late += began - due > ORIGIN
        self._add(mine, ages)

    async def afollow(self, read: Any) -> None:
        mine = array("d")
        ages: list[float] = []
        for key, due in self.due():
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            began = time.monotonic()
            try:
                ages.append(began - (await read(key))["made"])
            except Exception as error:  # noqa: BLE001 - a cache that fails is a result
                self.errors[type(error).__name__] += 1
            mine.append(time.monotonic() - began)
            self.late += began - due > ORIGIN
        self._add(mine, ages)

    def _add(self, latencies: array[float], ages: list[float]) -> None:
        limit = self.ttl * (1 + SLACK)
        self.latencies.extend(latencies)
        self.reads += len(latencies)
        self.stale += sum(age > limit for age in ages)
        self.oldest = max(self.oldest, max(ages, default=0.0))
        self.ended = time.monotonic()

    def go(self, reader: Reader) -> None:
        if reader.aread is not None:
            asyncio.run(self._tasks(reader.aread))
            return
        threads = [
            Thread(target=self.follow, args=(reader.read,)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def _tasks(self, read: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(THREADS):
                group.create_task(self.afollow(read))


class Replayer:
    """A process that replays its part of the trace through one reader after another."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.number = 0
        self.node: Any = Reader(Origin())

    def __call__(self, do: str, **asked: Any) -> Any:
        return getattr(self, do)(**asked)

    def trace(self, path: str, number: int) -> int:
        self.number = number
        self.keys = Path(path).read_text().split("\n")[number::PROCESSES]
        return len(self.keys)

    def open(self, reader: str, setting: list[Any]) -> bool:
        self.node = READERS[reader](Origin(), Setting(*setting))
        return True

    def run(self, rate: float, begin: float, seconds: float, ttl: float) -> Any:
        end = begin + seconds
        dues = (begin, 0.0, end, ttl)
        if rate:
            dues = (begin + self.number / rate, PROCESSES / rate, end, ttl)
        time.sleep(max(0.0, begin - time.monotonic()))
        run, used = Run(self.keys, dues), time.process_time()
        run.go(self.node)
        steps = Counter(round(log(max(x, 1e-9)) * STEPS) for x in run.latencies)
        return {
            "cpu": time.process_time() - used,
            "reads": run.reads,
            "calls": self.node.origin.calls(),
            "stale": run.stale,
            "oldest": run.oldest,
            "late": run.late,
            "errors": run.errors,
            "ended": run.ended - begin,
            "steps": list(steps.items()),
        }

    def close(self) -> bool:
        self.node.stop()
        self.node = Reader(Origin())
        return True


# --- the rounds ------------------------------------------------------------------


def turn(
    workers: Sequence[Worker], reader: str, setting: Setting, asked: dict[str, float]
) -> dict[str, Any]:
    """Return what one reader made of the trace."""
    ask_all(workers, do="open", reader=reader, setting=list(setting))
    answers = ask_all(workers, do="run", begin=time.monotonic() + START, **asked)
    ask_all(workers, do="close")
    return summed(answers)


def summed(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what all processes did."""
    reads = sum(answer["reads"] for answer in answers)
    errors: Counter[str] = Counter()
    steps: Counter[int] = Counter()
    for answer in answers:
        errors.update(answer["errors"])
        steps.update(dict(answer["steps"]))
    return {
        "reads": reads,
        "per second": reads / max(answer["ended"] for answer in answers),
        "calls": sum(answer["calls"] for answer in answers),
        "cpu": sum(answer["cpu"] for answer in answers),
        "stale": sum(answer["stale"] for answer in answers) / max(1, reads),
        "oldest": max(answer["oldest"] for answer in answers),
        "late": sum(answer["late"] for answer in answers) / max(1, reads),
        "errors": dict(errors),
        "waited": share_above(steps, ORIGIN / 2),
        "p50": quantile(steps, 0.5),
        "p99": quantile(steps, 0.99),
        "p99.9": quantile(steps, 0.999),
    }


def quantile(steps: Counter[int], share: float) -> float:
    """Return a quantile of what was counted in steps, in milliseconds."""
    if not steps:
        return 0.0
    order = sorted(steps)
    sums = list(accumulate(steps[step] for step in order))
    at = bisect_right(sums, share * (sums[-1] - 1))
    return 1000 * exp(order[at] / STEPS)


def share_above(steps: Counter[int], seconds: float) -> float:
    """Return the share of what was counted in steps that is longer than so."""
    longer = sum(n for step, n in steps.items() if exp(step / STEPS) > seconds)
    return longer / max(1, steps.total())


def with_redis(
    client: Any, workers: Sequence[Worker], reader: str, *rest: Any
) -> dict[str, Any]:
    """Take a turn, with Redis empty before; its processor time counts."""

    def used() -> float:
        info = client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    if "redis" not in needs(reader):
        return turn(workers, reader, *rest)
    client.flushall()
    before = used()
    row = turn(workers, reader, *rest)
    row["cpu"] += used() - before
    return row


def medians(rounds: list[dict[str, Any]], least: int) -> dict[str, Any]:
    """Return the middle of all rounds, and the spread of what matters most."""
    row: dict[str, Any] = {
        name: median(each[name] for each in rounds)
        for name in rounds[0]
        if name != "errors"
    }
    row["cpu_us"] = median(1e6 * each["cpu"] / max(1, each["reads"]) for each in rounds)
    row["times"] = row["calls"] / least if least else None
    row["errors"] = dict(sum((Counter(r["errors"]) for r in rounds), Counter()))
    for name in ("per second", "calls", "waited", "p50", "p99", "p99.9"):
        found = [each[name] for each in rounds]
        row[f"{name} spread"] = [min(found), max(found)]
    return row


def run(keys: list[str], wanted: Sequence[str], asked: dict[str, float]) -> Any:
    rounds = int(asked.pop("rounds"))
    skipped = {name: why for name in wanted if (why := lacks(name))}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=shared_memory()))
        path = Path(folder, "trace")
        path.write_text("\n".join(keys))
        port, client = 0, None
        try:
            _, client = stack.enter_context(redis_process(pinned=False))
            port = port_of(client)
        except Absent as error:
            skipped |= {n: str(error) for n in wanted if "redis" in needs(n)}
        names = [name for name in wanted if name not in skipped]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(rounds):
            at = number * 5 % len(names)
            with fleet(__file__, PROCESSES, {}) as workers:
                for each, worker in enumerate(workers):
                    worker.ask(do="trace", path=str(path), number=each)
                for name in names[at:] + names[:at]:
                    cluster = uuid4().hex
                    setting = Setting(
                        cluster, folder, PROCESSES - 1, port, asked["ttl"]
                    )
                    row = with_redis(client, workers, name, setting, asked)
                    found[name].append(row)
                    print(name, row, file=sys.stderr, flush=True)
    rate = asked["rate"]
    due = keys[: int(rate * asked["seconds"])]
    least = least_loads(due, rate, asked["ttl"]) if rate else 0
    return {
        "trace": {
            "reads": len(due) or len(keys),
            "keys": len(set(due or keys)),
            "together": together(due, rate) if due else None,
            "least": least,
        },
        "asked": asked | {"processes": PROCESSES, "threads": THREADS},
        "rounds": rounds,
        "rows": {name: medians(rows, least) for name, rows in found.items()},
        "versions": versions(),
        "skipped": skipped,
    }


# --- what is shown ---------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))
    heads = ("reads/s", "calls", "of least", "waited", "p50 ms", "p99 ms", "p99.9 ms")
    heads = ("", *heads, "stale", "oldest s", "us cpu", "late", "errors")
    print("| " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * (len(heads) - 1))
    for name, row in result["rows"].items():
        slow, waited = row["p99 spread"], [100 * x for x in row["waited spread"]]
        cells = [
            name,
            f"{row['per second']:.0f}",
            f"{row['calls']:.0f}",
            "" if row["times"] is None else f"{row['times']:.2f}",
            f"{row['waited']:.1%} ({waited[0]:.0f}-{waited[1]:.0f})",
            f"{row['p50']:.3g}",
            f"{row['p99']:.3g} ({slow[0]:.0f}-{slow[1]:.0f})",
            f"{row['p99.9']:.3g}",
            f"{row['stale']:.1%}",
            f"{row['oldest']:.1f}",
            f"{row['cpu_us']:.0f}",
            f"{row['late']:.1%}",
            str(sum(row["errors"].values())),
        ]
        print("| " + " | ".join(cells) + " |")


def bars(title: str, rows: dict[str, float], unit: str, *, long: bool = False) -> str:
    """Return a small SVG, a bar for each row; *long* is a logarithmic scale."""
    width, left, top, high = 640, 170, 46, 22
    most = max(rows.values())
    least = min(rows.values()) / 2

    def length(value: float) -> float:
        share = log(value / least) / log(most / least) if long else value / most
        return share * (width - left - 90)

    parts = [text(20, 24, title, more='font-size="14"')]
    for at, (label, value) in enumerate(rows.items()):
        y = top + high * at
        colour = COLOURS[1 if needs(label) else 0]
        parts.append(text(left - 8, y + 12, label, anchor="end"))
        parts.append(rect(left, y, length(value), 15, colour))
        words = f"{value:.3g} {unit}"
        parts.append(text(left + length(value) + 6, y + 12, words))
    return sheet(width, top + high * len(rows) + 6, parts)


def pictures(result: dict[str, Any]) -> dict[str, str]:
    """Return the plots, by file name."""
    rows = result["rows"]
    if not result["asked"]["rate"]:
        fast = {name: row["per second"] / 1000 for name, row in rows.items()}
        title = "Reads a second, as fast as they go (thousands, log scale)"
        return {"speed.svg": bars(title, fast, "k", long=True)}
    calls = {name: row["times"] for name, row in rows.items()}
    waited = {name: 100 * row["waited"] for name, row in rows.items()}
    waits = {name: row["p99"] for name, row in rows.items()}
    costs = {name: row["cpu_us"] for name, row in rows.items()}
    return {
        "calls.svg": bars("Calls of the origin, as a multiple of the least", calls, ""),
        "p99.svg": bars(
            "99th percentile of a read (log scale)", waits, "ms", long=True
        ),
        "waited.svg": bars("Reads that waited for the origin", waited, "%"),
        "cpu.svg": bars("Processor time of a read", costs, "us"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--share", type=int, default=SHARE)
    parser.add_argument("--rate", type=float, default=RATE, help="0: flat out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a reader")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--ttl", type=float, default=TTL)
    parser.add_argument("--only", nargs="*", choices=list(READERS), metavar="READER")
    parser.add_argument("--plots", type=Path, help="write SVG files to this folder")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(Replayer)
        return
    asked = {name: getattr(options, name) for name in QUICK}
    if options.quick:
        asked = dict(QUICK)
        options.only = options.only or list(QUICK_READERS)
    reads = int((asked["rate"] or RATE) * asked["seconds"])
    if options.trace is None:
        keys = made_trace(reads)
    else:
        keys = read_trace(options.trace, options.share)
    result = run(keys, options.only or list(READERS), asked)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures(result).items():
            (options.plots / name).write_text(picture)
    print(json.dumps(result, indent=2)) if options.json else show(result)


if __name__ == "__main__":
    main()
