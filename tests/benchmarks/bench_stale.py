"""Whether any process of a host ever reads what another has already replaced.

    python tests/benchmarks/bench_stale.py [--writes N] [--quick] [--json]

Four processes write and read the same few keys at random, with the near cache on, and
record each operation with its times; `meshcache.testing.history` judges the records.
The bar is no stale read. `not linearizable` counts keys whose reads went back and
forth while a write was under way, which a cache may; it is printed to be known.

Before that the checker has to find a stale read that was planted in the same records.
Exits 1 if it does not, or if there is any other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from array import array
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any
from uuid import uuid4

from fleet import ask_all, fleet, serve
from rivals import shared_memory

import meshcache
from meshcache.testing.history import Read, Write, not_linearizable, stale_reads

PROCESSES = 4
KEYS = 512
WRITES = 1_000_000
QUICK_WRITES = 4_000
READS_PER_WRITE = 3
PER_PROCESS = 1 << 40


# --- a worker ----------------------------------------------------------------


class Recorder:
    """Makes random operations on shared keys, and a record of each."""

    def __init__(self) -> None:
        self.node = meshcache.Node().__enter__()
        self.cache = self.node.cache("stale", ttl=None)
        self.near = 0

    def __call__(self, do: str, **asked: Any) -> Any:
        return getattr(self, do)(**asked)

    def ready(self, peers: int) -> bool:
        self.node.wait_ready(peers=peers, timeout=30)
        return True

    def run(self, writes: int, whose: dict[str, int], path: str) -> dict[str, Any]:
        me = whose[str(self.node.me.node_id.hex())]
        rng = Random(me)
        get, put, clock = self.cache.get, self.cache.set, monotonic
        # Whole numbers of nanoseconds would do as well; doubles hold them for a year.
        kinds, numbers, times = array("q"), array("q"), array("d")
        for at in range(1, writes + 1):
            key, number = rng.randrange(KEYS), me * PER_PROCESS + at
            start = clock()
            put(key, number)
            times.extend((start, clock()))
            kinds.append(-1 - key)
            numbers.append(number)
            for other in (key, *rng.choices(range(KEYS), k=READS_PER_WRITE - 1)):
                start = clock()
                found = get(other)
                end = clock()
                if found is not None:
                    times.extend((start, end))
                    kinds.append(other)
                    numbers.append(found)
        with Path(path).with_suffix(f".{me}").open("wb") as out:
            for column in (kinds, numbers, times):
                column.tofile(out)
        return {"count": len(kinds), "near": self.cache.region.tally.as_dict()["near"]}

    def who(self) -> str:
        return self.node.me.node_id.hex()


# --- the judgement -----------------------------------------------------------


def read_records(path: Path, count: int) -> tuple[list[Write], list[Read]]:
    kinds, numbers, times = array("q"), array("q"), array("d")
    with path.open("rb") as records:
        kinds.fromfile(records, count)
        numbers.fromfile(records, count)
        times.fromfile(records, 2 * count)
    writes, reads = [], []
    for at, (kind, number) in enumerate(zip(kinds, numbers, strict=True)):
        span = times[2 * at], times[2 * at + 1]
        if kind < 0:
            writes.append(Write(-1 - kind, number, *span))
        else:
            reads.append(Read(kind, number, *span))
    return writes, reads


def planted(writes: list[Write]) -> Read:
    """Return a read of some key's first value after the last write of all ended."""
    first = min(writes, key=lambda write: write.end)
    others = (w.end for w in writes if w.key == first.key and w.start > first.end)
    late = max(others) + 1
    return Read(first.key, first.number, late, late + 1)


def run(writes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=shared_memory()) as runtime_dir:
        environ = {
            "MESHCACHE_RUNTIME_DIR": runtime_dir,
            "MESHCACHE_CLUSTER": uuid4().hex,
        }
        path = Path(runtime_dir) / "records"
        all_writes: list[Write] = []
        all_reads: list[Read] = []
        with fleet(__file__, PROCESSES, environ) as workers:
            ask_all(workers, do="ready", peers=PROCESSES - 1)
            whose = {name: at for at, name in enumerate(ask_all(workers, do="who"))}
            started = monotonic()
            done = ask_all(
                workers,
                do="run",
                writes=writes // PROCESSES,
                whose=whose,
                path=str(path),
            )
            seconds = monotonic() - started
        for at, each in enumerate(done):
            some = read_records(path.with_suffix(f".{at}"), each["count"])
            all_writes += some[0]
            all_reads += some[1]
    found = stale_reads(all_writes, all_reads)
    plant = planted(all_writes)
    return {
        "seconds": seconds,
        "writes": len(all_writes),
        "reads": len(all_reads),
        "near hits": sum(each["near"] for each in done),
        "planted noticed": [plant]
        == [s.read for s in stale_reads(all_writes, [plant])],
        "stale": len(found),
        "examples": [str(stale) for stale in found[:5]],
        "not linearizable": len(not_linearizable(all_writes, all_reads)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--writes", type=int, default=WRITES)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_WRITES} writes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        serve(Recorder)
        return 0
    result = run(QUICK_WRITES if asked.quick else asked.writes)
    if asked.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result.items():
            print(f"{name:18}{value}")
    return 0 if result["planted noticed"] and not result["stale"] else 1


if __name__ == "__main__":
    sys.exit(main())
