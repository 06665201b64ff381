"""What an entry takes of memory, everything counted, beside Redis and memcached.

    python tests/benchmarks/bench_memory.py [--entries N] [--quick] [--json]

Each system gets the same entries, 16-byte keys and 100-byte values, in a process of
its own and nothing else. Its memory is the proportional set size of that process and
the swap it uses (`/proc/PID/smaps`; elsewhere than on Linux nothing is measured). Of
our arena the whole file counts, whether it was touched or not. `growth` is what came
on top of the process as it was when it had started, for meshcache without its arena;
`total` is all of it, the Python interpreter and its packages included. Both are by
the entries that can be read back. Near entries are off: they would count twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

from fleet import fleet
from holder import VALUE, keys
from rivals import Absent, memcached_process, redis_process, shared_memory

HOLDER = Path(__file__).with_name("holder.py")
ENTRIES = 1_000_000
QUICK_ENTRIES = 20_000
# 152 bytes of log, where key and value have 28 beside them and are padded, and 17 of
# index: just so much that all entries find room.
ROOM_PER_ENTRY = 169
FIXED_ROOM = 1 << 20


def memory_of(pid: int, apart: str | None = None) -> int:
    """Return the bytes that a process has to itself, and its share of the rest.

    What it maps of the files below *apart* is left out.
    """
    total = 0
    counts = True
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0]:
            counts = apart is None or not words[-1].startswith(apart)
        elif counts and words[0] in {"Pss:", "SwapPss:"}:
            total += 1024 * int(words[1])
    return total


def files_in(directory: str) -> int:
    """Return the bytes that are taken, in memory, by the files of a directory."""
    found = (path.stat() for path in Path(directory).rglob("*") if path.is_file())
    return sum(512 * stat.st_blocks for stat in found)


Measured = tuple[int, int, int]
"""Bytes before, bytes after, and the entries that can be read back."""


def ours(stack: ExitStack, entries: int) -> Measured:
    room = FIXED_ROOM + ROOM_PER_ENTRY * entries
    directory = stack.enter_context(tempfile.TemporaryDirectory(dir=shared_memory()))
    environ = {
        "MESHCACHE_RUNTIME_DIR": directory,
        "MESHCACHE_CLUSTER": uuid4().hex,
        "MESHCACHE_MAX_BYTES": str(room),
        "MESHCACHE_NEAR_ENTRIES": "0",
    }
    (worker,) = stack.enter_context(fleet(str(HOLDER), 1, environ))
    worker.ask(entries=0, read=True)
    before = memory_of(worker.process.pid, directory)
    worker.ask(entries=entries, read=False)
    after = memory_of(worker.process.pid, directory) + files_in(directory)
    return before, after, worker.ask(entries=entries, read=True)


def redis(stack: ExitStack, entries: int) -> Measured:
    pid, client = stack.enter_context(redis_process())
    before = memory_of(pid)
    for some in keys(entries):
        client.mset(dict.fromkeys(some, VALUE))
    return before, memory_of(pid), client.dbsize()


def memcached(stack: ExitStack, entries: int) -> Measured:
    room = max(64, entries * 300 >> 20)
    pid, client = stack.enter_context(memcached_process("-m", str(room)))
    before = memory_of(pid)
    for some in keys(entries):
        client.set_many(dict.fromkeys(some, VALUE))
    client.get("absent")
    return before, memory_of(pid), int(client.stats()[b"curr_items"])


SYSTEMS: dict[str, Callable[[ExitStack, int], Measured]] = {
    "meshcache": ours,
    "redis": redis,
    "memcached": memcached,
}


def run(entries: int) -> dict[str, Any]:
    systems: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, measure in SYSTEMS.items():
        with ExitStack() as stack:
            try:
                before, after, kept = measure(stack, entries)
            except (Absent, FileNotFoundError) as error:
                skipped[name] = str(error)
                continue
        systems[name] = {
            "entries": kept,
            "growth per entry": (after - before) / max(1, kept),
            "total per entry": after / max(1, kept),
            "total MB": after / 2**20,
        }
    return {"entries": entries, "systems": systems, "skipped": skipped}


def show(result: dict[str, Any]) -> None:
    print(f"{'bytes':12}{'kept':>10}{'growth/entry':>14}{'total/entry':>14}{'MB':>8}")
    for name, row in result["systems"].items():
        print(
            f"{name:12}{row['entries']:10}{row['growth per entry']:14.1f}"
            f"{row['total per entry']:14.1f}{row['total MB']:8.1f}"
        )
    for name, why in result["skipped"].items():
        print(f"without {name}: {why}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ENTRIES} entries")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = run(QUICK_ENTRIES if asked.quick else asked.entries)
    print(json.dumps(result, indent=2)) if asked.json else show(result)


if __name__ == "__main__":
    sys.exit(main())
