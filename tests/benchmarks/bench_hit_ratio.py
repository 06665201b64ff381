"""Hit ratios of near and of the memory store beside LRU, over traces of keys.

    python tests/benchmarks/bench_hit_ratio.py
    python tests/benchmarks/bench_hit_ratio.py --trace web07.txt.gz --share 0.01 0.1

Each key is asked for in turn and stored when it is missing. A size is a share of the
trace's distinct keys. The generated traces are always run: plain Zipf, Zipf whose
popular keys shift ten times, and Zipf with scans of keys that come once. The store
gets the bytes that so many of its entries take.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random

from meshcache.hashing import PARTITIONS, bucket_of, key_hash
from meshcache.model import MISSING
from meshcache.store.generations import Generations, Tenure
from meshcache.store.memory import ENTRY_BYTES, MemoryStore
from meshcache.store.near import Near

SEED = 20_130_703
SHARES = (0.01, 0.1)
VALUE_BYTES = 100

Trace = Sequence[Hashable]


def zipf(requests: int, keys: int, *, shifts: int = 0, scan: int = 0) -> list[str]:
    """Return a Zipf(0.99) trace; *shifts* and *scan* as in the module docstring."""
    rng = Random(SEED)
    weights = list(accumulate(1 / rank**0.99 for rank in range(1, keys + 1)))
    draws = rng.choices(range(keys), cum_weights=weights, k=requests)
    if shifts:
        span = -(-requests // shifts)
        offset = keys // 10
        return [str((key + at // span * offset) % keys) for at, key in enumerate(draws)]
    trace = [str(key) for key in draws]
    if scan:
        for number, at in enumerate(range(0, requests, 10 * scan)):
            trace[at : at + scan] = [f"scan-{number}-{i}" for i in range(scan)]
    return trace


def read_trace(path: Path) -> list[str]:
    """Return the keys of a trace, one a line, plain or gzip."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [line.rstrip("\n") for line in lines]


def lru(trace: Trace, size: int) -> int:
    """Return the hits of the reference: least recently used, as functools does it."""
    kept: OrderedDict[Hashable, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in kept:
            hits += 1
            kept.move_to_end(key)
            continue
        if len(kept) >= size:
            kept.popitem(last=False)
        kept[key] = None
    return hits


def near(trace: Trace, size: int) -> int:
    """Return the hits of a near cache bounded by entries."""
    cache = Near(size, size * VALUE_BYTES)
    stamp = Tenure(Generations().table).stamp(bucket_of(0))
    hits = 0
    for key in trace:
        if cache.get(key, 0.0) is not MISSING:
            hits += 1
            continue
        cache.put(key, key, expires=1.0, stamp=stamp, weight=VALUE_BYTES, now=0.0)
    return hits


def memory(trace: Trace, size: int) -> int:
    """Return the hits of a memory store that has room for *size* entries."""
    full = {key: b"trace\0" + str(key).encode() for key in set(trace)}
    mean_key = sum(map(len, full.values())) / len(full)
    store = _store_with_room(int(size * (ENTRY_BYTES + VALUE_BYTES + mean_key)))
    value = bytes(VALUE_BYTES)
    hits = 0
    for version, key in enumerate(trace):
        name = full[key]
        hashed = key_hash(name)
        if store.get(name, hashed, 0.0) is not None:
            hits += 1
            continue
        store.put(name, hashed, value, version=version, expires=1.0, now=0.0)
    return hits


def _store_with_room(room: int) -> MemoryStore:
    # The store's own tables grow with it, so the right total is found by trying.
    total = room + 2_000_000
    for _ in range(8):
        store = MemoryStore(total, VALUE_BYTES)
        total = room + store.stats()["bytes"]
    for partition in range(PARTITIONS):
        store.grant(partition, 1)
    return store


POLICIES: dict[str, Callable[[Trace, int], int]] = {
    "lru": lru,
    "near": near,
    "memory": memory,
}


def run(
    traces: Sequence[Path] = (),
    *,
    shares: Sequence[float] = SHARES,
    requests: int = 300_000,
    keys: int = 50_000,
) -> dict[str, dict[str, float]]:
    """Return hit ratios in percent by "trace share" and policy."""
    everything: dict[str, Trace] = {
        "zipf": zipf(requests, keys),
        "zipf-shift": zipf(requests, keys, shifts=10),
        "zipf-scan": zipf(requests, keys, scan=max(1, keys // 50)),
    }
    everything |= {path.name.split(".")[0]: read_trace(path) for path in traces}
    return {
        f"{name} {share:.1%}": {
            policy: 100 * count(trace, max(1, round(distinct * share))) / len(trace)
            for policy, count in POLICIES.items()
        }
        for name, trace in everything.items()
        for distinct in [len(set(trace))]
        for share in shares
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", type=Path, nargs="*", default=[])
    parser.add_argument("--share", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    started = time.monotonic()
    less = 10 if asked.quick else 1
    rows = run(
        asked.trace,
        shares=asked.share,
        requests=asked.requests // less,
        keys=asked.keys // less,
    )
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'hit ratio %':24}" + "".join(f"{policy:>9}" for policy in POLICIES))
    for name, row in rows.items():
        print(f"{name:24}" + "".join(f"{ratio:9.1f}" for ratio in row.values()))
    print(f"seed {SEED}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
