"""How even, how steady and how fast the partition table is.

For each cluster size: nodes leave and join one after the other, all at random, and
every table on the way is looked at. Ratios are the worst ever seen. Updates are in
CPU time, so that a busy machine does not pass for a slow table. Movement is in
shares: 1.00 is what must move, one node's equal share.

    python tests/benchmarks/bench_placement.py [--swaps N] [--seed N] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import tracemalloc
from statistics import median
from time import perf_counter, process_time
from typing import Any

from meshcache.hashing import PARTITIONS
from meshcache.model import Member, NodeId, State
from meshcache.placement.placement import Placement
from meshcache.placement.table import Table, moved

SIZES = (2, 3, 4, 8, 16, 32, 64)
SWAPS = 50
LOOKUPS = 200_000


def run(swaps: int = SWAPS, seed: int = 1) -> dict[str, Any]:
    """Measure all sizes; the result is plain data, fit for JSON."""
    rng = random.Random(seed)
    table = Placement().update(newcomers(64, rng))
    return {
        "swaps": swaps,
        "seed": seed,
        "sizes": [measure(n, swaps, rng) for n in SIZES],
        "lookup_ns": lookup_ns(table, rng),
        "rank_us": rank_us(table),
        "placement_kib": retained_kib(newcomers(64, rng)),
    }


def measure(nodes: int, swaps: int, rng: random.Random) -> dict[str, float]:
    """Let one of *nodes* leave and another join, *swaps* times."""
    members = newcomers(nodes, rng)
    placement = Placement()
    scratch, table = timed(placement, members)
    share = PARTITIONS / nodes
    full = [fullest(table)]
    steps: dict[str, list[tuple[float, float]]] = {"leave": [], "join": []}
    for _ in range(swaps):
        for kind in ("leave", "join"):
            if kind == "leave":
                members.remove(rng.choice(members))
            else:
                members += newcomers(1, rng)
            before = table
            seconds, table = timed(placement, members)
            steps[kind].append((seconds, len(moved(before, table)) / share))
            full.append(fullest(table))
    result = {"nodes": nodes, "fullest": max(full), "scratch_ms": scratch * 1e3}
    for kind, pairs in steps.items():
        result[f"{kind}_shares"] = max(ratio for _, ratio in pairs)
        result[f"{kind}_ms"] = median(seconds for seconds, _ in pairs) * 1e3
        result[f"{kind}_ms_p99"] = p99([seconds for seconds, _ in pairs]) * 1e3
    return result


def p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def newcomers(n: int, rng: random.Random) -> list[Member]:
    return [
        Member(NodeId(rng.randbytes(16)), 1, 0, State.ALIVE, "", "", "", 1)
        for _ in range(n)
    ]


def timed(placement: Placement, members: list[Member]) -> tuple[float, Table]:
    start = process_time()
    table = placement.update(members)
    return process_time() - start, table


def fullest(table: Table) -> float:
    """Return the greatest number of partitions on one node, by the mean."""
    owners = table.owners.tolist()
    nodes = len(table.members)
    return max(map(owners.count, range(nodes))) * nodes / PARTITIONS


def lookup_ns(table: Table, rng: random.Random) -> float:
    """Return what `owner_of` takes, without the loop around it."""
    hashes = [rng.getrandbits(64) for _ in range(LOOKUPS)]
    owner_of = table.owner_of
    start = perf_counter()
    for hashed in hashes:
        owner_of(hashed)
    called = perf_counter()
    for _ in hashes:
        pass
    empty = perf_counter() - called
    return (called - start - empty) * 1e9 / LOOKUPS


def rank_us(table: Table) -> float:
    start = perf_counter()
    for partition in range(1000):
        table.rank(partition, 3)
    return (perf_counter() - start) * 1e3


def retained_kib(members: list[Member]) -> float:
    """Return what a placement of *members* keeps, its table included."""
    tracemalloc.start()
    placement = Placement()
    placement.update(members)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / 1024


def show(result: dict[str, Any]) -> None:
    print(f"{PARTITIONS} partitions; {result['swaps']} leaves and joins for each size")
    print(
        "        fullest   moved, in shares     update, CPU ms: median (p99)  scratch"
    )
    print("nodes   / mean    leave     join      leave          join              ms")
    for row in result["sizes"]:
        print(
            f"{row['nodes']:5}{row['fullest']:9.3f}"
            f"{row['leave_shares']:9.3f}{row['join_shares']:9.3f}"
            f"{row['leave_ms']:9.1f} ({row['leave_ms_p99']:4.1f})"
            f"{row['join_ms']:8.1f} ({row['join_ms_p99']:4.1f})"
            f"{row['scratch_ms']:10.0f}"
        )
    print(f"lookup, hash to owner  {result['lookup_ns']:6.0f} ns")
    print(f"rank, first 3 of 64    {result['rank_us']:6.1f} us")
    print(f"kept for 64 nodes      {result['placement_kib']:6.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure placement.")
    parser.add_argument("--swaps", type=int, default=SWAPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one swap each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(1 if options.quick else options.swaps, options.seed)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


if __name__ == "__main__":
    main()
