"""Hit ratios of near and of the arena beside their peers', over traces of keys.

    python tests/benchmarks/bench_hit_ratio.py [--traces DIR] [--quick] [--json]
    python tests/benchmarks/bench_hit_ratio.py --trace web07.txt.gz --share 0.01 0.1

Each key is asked for in turn and stored when it is missing. A size is a share of the
trace's distinct keys. The generated traces are always run: plain Zipf, Zipf whose
popular keys shift ten times, and Zipf with scans of keys that come once. The arena's
logs get the bytes that so many of its entries take.

Rows of fewer than 500 entries are printed and not judged: some peers exceed a small
capacity by much. The bars of near are a mean above every peer's, and no row more than
9 points below the best; of the arena no row more than 1 point below libCacheSim's
S3-FIFO. Of a few dozen entries libCacheSim's W-TinyLFU and S3-FIFO keep none, as
their window or small queue rounds to nothing. A peer that is not installed is left
out, and the output says why.
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
from statistics import mean
from typing import Any

from meshcache.hashing import PARTITIONS, bucket_of, key_hash
from meshcache.model import MISSING
from meshcache.store.generations import Generations, Tenure
from meshcache.store.near import Near

SEED = 20_130_703
SHARES = (0.001, 0.01, 0.1)
VALUE_BYTES = 100
ENTRY_BYTES = 28  # What the arena adds to a key and its value; both padded to 8.
JUDGED_FROM = 500
WORST = -9.0
ARENA_WORST = -1.0
ARENA_PEERS = ("libcachesim S3-FIFO", "libcachesim LRU", "warp-cache")
ARENA_BAR = ("libcachesim S3-FIFO",)

Trace = Sequence[Hashable]
Count = Callable[[Trace, int], int]
"""Returns the hits of a trace in a cache of so many entries."""


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
    shelf = cache.shelf("trace")
    hits = 0
    for key in trace:
        if cache.get(key, 0.0, shelf) is not MISSING:
            hits += 1
            continue
        cache.put(
            key,
            key,
            expires=1.0,
            stamp=stamp,
            weight=VALUE_BYTES,
            now=0.0,
            shelf=shelf,
        )
    return hits


def arena(trace: Trace, size: int) -> int:
    """Return the hits of an arena whose logs have room for *size* entries."""
    full = {key: b"trace\0" + str(key).encode() for key in set(trace)}
    each = mean(
        len(name) + ENTRY_BYTES + VALUE_BYTES + 7 & ~7 for name in full.values()
    )
    store = _arena_with_room(int(size * each))
    value = bytes(VALUE_BYTES)
    hits = 0
    for version, key in enumerate(trace, start=1):
        name = full[key]
        hashed = key_hash(name)
        if store.get(name, hashed, 0.0) is not None:
            hits += 1
            continue
        store.put(name, hashed, value, version=version, expires=1.0, now=0.0)
    return hits


def _arena_with_room(room: int) -> Any:
    import mmap

    from meshcache.store.arena import Arena
    from meshcache.store.layout import SLOT_BYTES, SMALL_SHARE, UNIT, WAYS, Layout

    # By hand, as the tables of a small one would leave no room in `for_bytes`.
    small = max(1024, int(room * SMALL_SHARE)) // UNIT * UNIT
    main = max(1024, room - small) // UNIT * UNIT
    layout = Layout(room // (WAYS * SLOT_BYTES) | 1, small, main)
    store = Arena(
        mmap.mmap(-1, layout.total),
        layout,
        node_id=bytes(16),
        epoch=1,
        host=1,
        max_value_bytes=VALUE_BYTES,
    )
    for partition in range(PARTITIONS):
        store.grant(partition)
    return store


# --- peers: each function returns its `Count`, or raises ImportError ----------


def warp() -> Count:
    from warp_cache import cache

    def count(trace: Trace, size: int) -> int:
        asked = cache(max_size=size)(lambda key: key)
        for key in trace:
            asked(key)
        hits: int = asked.cache_info().hits
        return hits

    return count


def moka() -> Count:
    from moka_py import Moka

    def count(trace: Trace, size: int) -> int:
        kept = Moka(size)
        hits = 0
        for key in trace:
            if kept.get(key) is None:
                kept.set(key, key)
            else:
                hits += 1
        return hits

    return count


def theine() -> Count:
    from theine import Cache

    def count(trace: Trace, size: int) -> int:
        kept = Cache(size)
        hits = 0
        for key in trace:
            if kept.get(key)[1]:
                hits += 1
            else:
                kept.set(key, key)
        kept.close()
        return hits

    return count


def s3fifo() -> Count:
    from s3fifo import Cache

    def count(trace: Trace, size: int) -> int:
        kept = Cache(size)
        hits = 0
        for key in trace:
            if kept.get(key) is None:
                kept.put(key, key)
            else:
                hits += 1
        return hits

    return count


def simulated(policy: str) -> Count:
    import libcachesim

    make = getattr(libcachesim, policy)

    def count(trace: Trace, size: int) -> int:
        # Below ten it aborts the process: a tenth of it is the small queue.
        kept = make(max(size, 10), hashpower=max(10, size.bit_length() + 1))
        numbers: dict[Hashable, int] = {}
        request = libcachesim.Request(obj_size=1, op=libcachesim.ReqOp.OP_GET)
        hits = 0
        for key in trace:
            request.obj_id = numbers.setdefault(key, len(numbers) + 1)
            hits += kept.get(request)
        return hits

    return count


def _arena_if_there() -> Count:
    import meshcache.store.arena  # noqa: F401 - not all trees have one

    return arena


MAKERS: dict[str, Callable[[], Count]] = {
    "near": lambda: near,
    "arena": _arena_if_there,
    "lru": lambda: lru,
    "theine": theine,
    "moka-py": moka,
    "warp-cache": warp,
    "s3fifo-cache": s3fifo,
    "libcachesim S3-FIFO": lambda: simulated("S3FIFO"),
    "libcachesim W-TinyLFU": lambda: simulated("WTinyLFU"),
    "libcachesim LRU": lambda: simulated("LRU"),
}
OURS = ("near", "arena")


def policies(wanted: Sequence[str] = ()) -> tuple[dict[str, Count], dict[str, str]]:
    """Return what there is to compare, and why the rest is not there."""
    found: dict[str, Count] = {}
    skipped: dict[str, str] = {}
    for name, make in MAKERS.items():
        if wanted and name not in wanted:
            continue
        try:
            found[name] = make()
        except ImportError as error:
            skipped[name] = str(error)
    return found, skipped


def traces_of(paths: Sequence[Path], requests: int, keys: int) -> dict[str, Trace]:
    everything: dict[str, Trace] = {
        "zipf": zipf(requests, keys),
        "zipf-shift": zipf(requests, keys, shifts=10),
        "zipf-scan": zipf(requests, keys, scan=max(1, keys // 50)),
    }
    return everything | {path.name.split(".")[0]: read_trace(path) for path in paths}


def run(
    paths: Sequence[Path] = (),
    *,
    shares: Sequence[float] = SHARES,
    requests: int = 300_000,
    keys: int = 50_000,
    wanted: Sequence[str] = (),
) -> dict[str, Any]:
    """Return hit ratios in percent by "trace share" and policy, and how we stand."""
    counts, skipped = policies(wanted)
    rows: dict[str, dict[str, float]] = {}
    judged: list[str] = []
    for name, trace in traces_of(paths, requests, keys).items():
        distinct = len(set(trace))
        for share in shares:
            size = max(1, round(distinct * share))
            row = f"{name} {share:.1%}"
            rows[row] = {
                policy: 100 * count(trace, size) / len(trace)
                for policy, count in counts.items()
            }
            if size >= JUDGED_FROM:
                judged.append(row)
    return {
        "rows": rows,
        "judged": judged,
        "means": _means(rows, judged, counts),
        "verdicts": _verdicts(rows, judged),
        "skipped": skipped,
    }


def _means(
    rows: dict[str, dict[str, float]], judged: list[str], counts: dict[str, Count]
) -> dict[str, float]:
    if not judged:
        return {}
    return {policy: mean(rows[row][policy] for row in judged) for policy in counts}


def _verdicts(rows: dict[str, dict[str, float]], judged: list[str]) -> dict[str, Any]:
    """Return how far ours are above the best mean, and their worst rows."""
    found: dict[str, Any] = {}
    for policy in OURS:
        if not judged or policy not in rows[judged[0]]:
            continue
        present = [p for p in rows[judged[0]] if p not in OURS]
        among = present if policy == "near" else ARENA_PEERS
        bar = present if policy == "near" else ARENA_BAR
        peers = [peer for peer in present if peer in among]
        rivals = [peer for peer in present if peer in bar]
        if not rivals:
            continue
        leads = [
            (rows[row][policy] - max(rows[row][peer] for peer in rivals), row)
            for row in judged
        ]
        best = max(mean(rows[row][peer] for row in judged) for peer in peers)
        found[policy] = {
            "mean above the best mean": mean(rows[r][policy] for r in judged) - best,
            "worst row": min(leads)[1],
            "points there": min(leads)[0],
            "allowed": WORST if policy == "near" else ARENA_WORST,
        }
    return found


def show(result: dict[str, Any]) -> None:
    rows = result["rows"]
    names = list(next(iter(rows.values())))
    print(f"{'hit ratio %':24}" + "".join(f"{_short(n):>10}" for n in names))
    for row, ratios in rows.items():
        mark = "" if row in result["judged"] else " *"
        print(f"{row + mark:24}" + "".join(f"{ratios[n]:10.1f}" for n in names))
    if result["means"]:
        means = result["means"]
        print(f"{'mean':24}" + "".join(f"{means[n]:10.1f}" for n in names))
    print(f"* fewer than {JUDGED_FROM} entries, not judged")
    for policy, verdict in result["verdicts"].items():
        facts = (
            f"{k} {v:+.1f}" if isinstance(v, float) else f"{k} {v}"
            for k, v in verdict.items()
        )
        print(f"{policy}: " + ", ".join(facts))
    for name, why in result["skipped"].items():
        print(f"without {name}: {why}")


def _short(name: str) -> str:
    return name.replace("libcachesim ", "sim ")[:9]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", type=Path, nargs="*", default=[])
    parser.add_argument("--traces", type=Path, help="a directory of .txt.gz traces")
    parser.add_argument("--share", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--only", nargs="*", default=[], metavar="POLICY")
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--keys", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    started = time.monotonic()
    less = 10 if asked.quick else 1
    found = sorted(asked.traces.glob("*.txt.gz")) if asked.traces else []
    result = run(
        [*asked.trace, *found],
        shares=asked.share,
        requests=asked.requests // less,
        keys=asked.keys // less,
        wanted=asked.only,
    )
    if asked.json:
        print(json.dumps(result, indent=2))
        return
    show(result)
    print(f"seed {SEED}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
