"""Four processes that read and write the same keys, as workers of one application do.

    python tests/benchmarks/bench_zipf.py [--seconds S] [--keys N] [--quick] [--json]

Each process draws keys from Zipf 0.99 and reads 99 % or 95 % of the time; the rest are
writes of 200 bytes. All goes through plain `get` and `set`, as the other systems offer
them: redis-py and pymemcache to one server each, on loopback. meshcache has near
caches of 1 % of the keys. Everything is stored before the clock starts.

The systems take turns, a slice of each, round after round, and a slice runs in all
four processes at once: all cores are in use, servers included, so nothing is pinned.
The ratio is meshcache's operations a second by the other's within a round: the median
of those, and the lowest and highest. Bars: 15 and 8 times (redis-py, pymemcache) at
99 % reads, 6 and 4 times at 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from bisect import bisect
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from random import Random
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

from fleet import Worker, ask_all, fleet, serve
from rivals import (
    Absent,
    memcached_process,
    port_of,
    redis_process,
    shared_memory,
)

import meshcache

PROCESSES = 4
KEYS = 1_000_000
QUICK_KEYS = 4_000
SECONDS = 10.0
QUICK_SECONDS = 0.7
ROUNDS = 7
READS = (0.99, 0.95)
EXPONENT = 0.99
VALUE = bytes(200)
BATCH = 1000
# Operations that are drawn before a slice, and gone through again if time is left.
DRAWN = 200_000
QUICK_DRAWN = 20_000
CLOCK_EVERY = 32
BYTES_PER_KEY = 500
LEAST_BYTES = 32 << 20


# --- a worker ----------------------------------------------------------------


class Client:
    """A process that asks each of the systems."""

    def __init__(self) -> None:
        self.get: dict[str, Callable[[str], Any]] = {}
        self.set: dict[str, Callable[[str, bytes], Any]] = {}
        self.many: dict[str, Callable[[dict[str, bytes]], Any]] = {}
        self.misses = 0
        self.drawn: list[str] = []
        self.number = 0
        self.node = meshcache.Node().__enter__()

    def __call__(self, do: str, **asked: Any) -> Any:
        return getattr(self, do)(**asked)

    def open(self, systems: dict[str, int], keys: int, drawn: int, number: int) -> bool:
        self.number = number
        self.node.wait_ready(peers=PROCESSES - 1, timeout=60)
        cache = self.node.cache("zipf", ttl=None, codec="bytes")
        self._offer("meshcache", cache.get, cache.set, cache.set_many)
        if "redis-py" in systems:
            from redis import Redis

            redis = Redis(port=systems["redis-py"])
            self._offer("redis-py", redis.get, redis.set, redis.mset)
        if "pymemcache" in systems:
            from pymemcache.client.base import Client as Memcached

            client = Memcached(("127.0.0.1", systems["pymemcache"]), no_delay=True)

            def put(key: str, value: bytes) -> None:
                client.set(key, value, noreply=False)

            self._offer("pymemcache", client.get, put, client.set_many)
        self._draw(keys, drawn)
        return True

    def _offer(self, name: str, get: Any, put: Any, many: Any) -> None:
        self.get[name], self.set[name], self.many[name] = get, put, many

    def _draw(self, keys: int, drawn: int) -> None:
        weights = list(accumulate(rank**-EXPONENT for rank in range(1, keys + 1)))
        rng = Random(self.number)
        total = weights[-1]
        ranks = [bisect(weights, rng.random() * total) for _ in range(drawn)]
        # Names from numbers, so that popular keys are not neighbours.
        self.drawn = [f"key:{rank * 7919 % keys}" for rank in ranks]

    def load(self, system: str, keys: int) -> int:
        mine = range(self.number, keys, PROCESSES)
        for at in range(0, len(mine), BATCH):
            some = mine[at : at + BATCH]
            self.many[system]({f"key:{number}": VALUE for number in some})
        return len(mine)

    def run(self, system: str, reads: float, seconds: float) -> dict[str, float]:
        get, put, keys = self.get[system], self.set[system], self.drawn
        rng = Random(os.urandom(8))
        writes = [rng.random() >= reads for _ in range(len(keys))]
        at = rng.randrange(len(keys))
        done = misses = 0
        start = now = perf_counter()
        end = start + seconds
        while now < end:
            for _ in range(CLOCK_EVERY):
                if writes[at]:
                    put(keys[at], VALUE)
                elif get(keys[at]) is None:
                    misses += 1
                at = at + 1 if at + 1 < len(keys) else 0
            done += CLOCK_EVERY
            now = perf_counter()
        return {"rate": done / (now - start), "missed": misses / done}


# --- the rounds --------------------------------------------------------------


def servers(stack: ExitStack) -> tuple[dict[str, int], dict[str, str]]:
    """Start what there is; return its ports, and why the rest is not there."""
    found, skipped = {"meshcache": 0}, {}
    try:
        _, client = stack.enter_context(redis_process(pinned=False))
        found["redis-py"] = port_of(client)
    except Absent as error:
        skipped["redis-py"] = str(error)
    try:
        room = ("-m", "1024")
        _, client = stack.enter_context(memcached_process(*room, pinned=False))
        found["pymemcache"] = port_of(client)
    except Absent as error:
        skipped["pymemcache"] = str(error)
    return found, skipped


def compete(
    workers: list[Worker], systems: list[str], reads: float, rounds: int, slice_: float
) -> dict[str, dict[str, float]]:
    rates: dict[str, list[float]] = {name: [] for name in systems}
    missed: dict[str, list[float]] = {name: [] for name in systems}
    for system in systems:
        ask_all(workers, do="run", system=system, reads=reads, seconds=slice_ / 2)
    for number in range(rounds):
        at = number % len(systems)
        for system in systems[at:] + systems[:at]:
            done = ask_all(
                workers, do="run", system=system, reads=reads, seconds=slice_
            )
            rates[system].append(sum(each["rate"] for each in done))
            missed[system].append(sum(each["missed"] for each in done) / len(done))
    rows = {}
    for system in systems:
        pairs = zip(rates["meshcache"], rates[system], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        rows[system] = {
            "per second": median(rates[system]),
            "missed": median(missed[system]),
            "ratio": median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    return rows


def run(keys: int, seconds: float, drawn: int, rounds: int = ROUNDS) -> dict[str, Any]:
    with ExitStack() as stack:
        environ = {
            "MESHCACHE_RUNTIME_DIR": stack.enter_context(
                tempfile.TemporaryDirectory(dir=shared_memory())
            ),
            "MESHCACHE_CLUSTER": uuid4().hex,
            "MESHCACHE_MAX_BYTES": str(
                max(LEAST_BYTES, BYTES_PER_KEY * keys // PROCESSES)
            ),
            "MESHCACHE_NEAR_ENTRIES": str(max(1, keys // 100)),
        }
        systems, skipped = servers(stack)
        workers = list(stack.enter_context(fleet(__file__, PROCESSES, environ)))
        for number, worker in enumerate(workers):
            worker.tell(
                do="open", systems=systems, keys=keys, drawn=drawn, number=number
            )
        for worker in workers:
            worker.hear()
        for system in systems:
            ask_all(workers, do="load", system=system, keys=keys)
        series = {
            f"{reads:.0%} reads": compete(
                workers, list(systems), reads, rounds, seconds / rounds
            )
            for reads in READS
        }
    return {"keys": keys, "rounds": rounds, "series": series, "skipped": skipped}


def show(result: dict[str, Any]) -> None:
    print(f"{result['keys']} keys, {PROCESSES} processes, {result['rounds']} rounds")
    for name, rows in result["series"].items():
        print(name)
        for system, row in rows.items():
            line = f"  {system:14}{row['per second']:12.0f} a second"
            line += f"{row['missed']:8.1%} missed"
            if system != "meshcache":
                spread = f"{row['ratio_low']:.1f} to {row['ratio_high']:.1f}"
                line += f"   meshcache does {row['ratio']:.1f} times as many ({spread})"
            print(line)
    for name, why in result["skipped"].items():
        print(f"without {name}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a system")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KEYS} keys")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        serve(Client)
        return
    if asked.quick:
        result = run(QUICK_KEYS, QUICK_SECONDS, QUICK_DRAWN)
    else:
        result = run(asked.keys, asked.seconds, DRAWN)
    print(json.dumps(result, indent=2)) if asked.json else show(result)


if __name__ == "__main__":
    sys.exit(main())
