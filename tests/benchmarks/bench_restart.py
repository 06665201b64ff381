"""How much of a killed owner's range can still be read, with no loader to ask.

    python tests/benchmarks/bench_restart.py [--entries N] [--rounds N]
            [--quick] [--json]

One of two processes fills a cache until so many entries are its own, and is killed
with SIGKILL. The other reads every key at once and again until nothing more comes
back; then a third process starts, as a supervisor would have it, and both read once
more. What is missing was lost: there is no loader. A tenth of the entries has expired
by then and has to be gone. The bar is 99 % of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from statistics import median
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from fleet import Worker, fleet, serve
from rivals import shared_memory

import meshcache

ENTRIES = 100_000
QUICK_ENTRIES = 2_000
ROUNDS = 3
SHORT_TTL = 1.0
SETTLES_WITHIN = 20.0
PAUSE = 0.25
BATCH = 500


class Reader:
    """A node that stores and reads what it is told to."""

    def __init__(self) -> None:
        self.node = meshcache.Node().__enter__()
        self.cache = self.node.cache("restart", ttl=None, near_ttl=0)

    def __call__(self, do: str, **asked: Any) -> Any:
        return getattr(self, do)(**asked)

    def ready(self, peers: int) -> bool:
        self.node.wait_ready(peers=peers, timeout=30)
        return True

    def fill(self, entries: int) -> list[int]:
        """Store entries of this node's own range; return their numbers."""
        mine: list[int] = []
        number = 0
        while len(mine) < entries:
            if self.node.owner("restart", number) == self.node.me:
                # Every tenth expires before anybody reads it again.
                short = len(mine) % 10 == 9
                self.cache.set(number, _value(number), SHORT_TTL if short else None)
                mine.append(number)
            number += 1
        return mine

    def read(self, keys: list[int]) -> dict[str, int]:
        right = wrong = 0
        for at in range(0, len(keys), BATCH):
            found = self.cache.get_many(keys[at : at + BATCH])
            good = sum(value == _value(key) for key, value in found.items())
            right += good
            wrong += len(found) - good
        return {"right": right, "wrong": wrong}


def _value(number: int) -> bytes:
    return number.to_bytes(4, "big") * 25


def one_round(entries: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=shared_memory()) as runtime_dir:
        environ = {
            "MESHCACHE_RUNTIME_DIR": runtime_dir,
            "MESHCACHE_CLUSTER": uuid4().hex,
        }
        with fleet(__file__, 2, environ) as (owner, other):
            owner.ask(do="ready", peers=1)
            other.ask(do="ready", peers=1)
            keys = owner.ask(do="fill", entries=entries)
            lasting = [key for at, key in enumerate(keys) if at % 10 != 9]
            expired = [key for at, key in enumerate(keys) if at % 10 == 9]
            sleep(SHORT_TTL)
            owner.kill()
            killed = monotonic()
            at_once = other.ask(do="read", keys=lasting)
            settled = _settle(other, lasting)
            seconds = monotonic() - killed
            restarted = Worker(__file__, environ)
            try:
                restarted.ask(do="ready", peers=1)
                after = [_settle(each, lasting) for each in (other, restarted)]
                revived = other.ask(do="read", keys=expired)
            finally:
                restarted.close()
    reads = [at_once, settled, *after]
    shares = [100 * read["right"] / len(lasting) for read in reads]
    return {
        "at once %": shares[0],
        "settled %": shares[1],
        "seconds": seconds,
        "after the restart %": shares[2],
        "by the restarted %": shares[3],
        "wrong values": sum(read["wrong"] for read in reads),
        "expired, yet read": revived["right"] + revived["wrong"],
    }


def _settle(worker: Worker, keys: list[int]) -> dict[str, int]:
    """Read until all is there or no more is to be expected."""
    give_up = monotonic() + SETTLES_WITHIN
    read = worker.ask(do="read", keys=keys)
    before = {"right": -1}
    while read["right"] < len(keys) and monotonic() < give_up:
        if before["right"] == read["right"] > 0:
            break
        before = read
        sleep(PAUSE)
        read = worker.ask(do="read", keys=keys)
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ENTRIES}, once")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        serve(Reader)
        return
    entries = QUICK_ENTRIES if asked.quick else asked.entries
    rounds = [one_round(entries) for _ in range(1 if asked.quick else asked.rounds)]
    if asked.json:
        print(json.dumps({"entries": entries, "rounds": rounds}, indent=2))
        return
    print(f"{entries} entries, median and extremes of {len(rounds)} rounds")
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        spread = f"{min(values):9.2f} to {max(values):.2f}"
        print(f"{name:20}{median(values):9.2f}{spread}")


if __name__ == "__main__":
    sys.exit(main())
