"""Engines on one host, through random joins, farewells and kills: nothing old is read.

Each seed is a schedule of its own: who comes, goes and dies when, how long the mail
takes, who writes and reads what. After every single input of every engine, what any
process would get at that moment from its near cache or from an arena is held against
what has been written by then.
"""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from meshcache.codec.messages import Status, Verb
from meshcache.engine.ops import Results, Unreached, WriteResult, WriteResults
from meshcache.hashing import key_hash, partition_of

NAMES: Final = [f"n{number}" for number in range(40)]
MOST: Final = 4
KEYS: Final = 8
STEPS: Final = 120
TELLING: Final = (44, 51, 57, 71, 74, 75, 142, 192)
"""Seeds that have found something: an arena asked that was not the last holder's, two
newcomers that opened the same partition, a last holder that forgot it was the last."""


class Ledger:
    """What has been written, by key: numbers that only grow, and when each was done."""

    def __init__(self) -> None:
        self.floor: dict[bytes, int] = {}
        self.open: dict[bytes, int] = {}
        self.next = 0

    def begin(self, key: bytes) -> int:
        self.next += 1
        self.open[key] = self.next
        return self.next

    def end(self, key: bytes, *, done: bool) -> None:
        number = self.open.pop(key)
        if done:
            self.floor[key] = number

    def is_old(self, key: bytes, value: bytes | None) -> bool:
        """Whether *value* was read after something newer had been written."""
        return value is not None and int(value) < self.floor.get(key, 0)


class Schedule:
    """One seed's story."""

    def __init__(self, host: type, seed: int) -> None:
        self.rng = random.Random(seed)
        delay = self.rng.choice([0.0, 0.002, 0.02])
        self.host = host(seed, delay=delay, directory=False)
        self.host.after = self.check
        self.ledger = Ledger()
        self.keys = [b"c\0i%x" % number for number in range(KEYS)]
        self.names = iter(NAMES)
        self.unclaimed: set[str] = set()
        self.unrest = self.rng.choice([0.05, 0.1, 0.3])

    @property
    def running(self) -> list[str]:
        """Those who take part and are not about to leave."""
        return [
            name
            for name, seat in self.host.nodes.items()
            if seat.runs and not seat.engine._core.leaving
        ]

    # --- what happens -------------------------------------------------------------

    def run(self) -> None:
        self.starts()
        for _ in range(STEPS):
            if self.rng.random() < self.unrest:
                self.moves()
            else:
                self.uses()
            self.host.passes(self.rng.choice([0.0, 0.001, 0.01, 0.03]))
        self.host.settles()
        self.check()

    def moves(self) -> None:
        running = self.running
        act = self.rng.choice(["start", "start", "leave", "crash"])
        if act == "start":
            for _ in range(self.rng.randint(1, MOST)):
                if len(self.running) < MOST:
                    self.starts()
        elif len(running) > 1:
            name = self.rng.choice(running)
            (self.host.leaves if act == "leave" else self.crashes)(name)

    def starts(self) -> None:
        orphans = [self.claims(name) for name in list(self.unclaimed)]
        self.host.starts(next(self.names), orphans=orphans)

    def claims(self, name: str) -> Any:
        self.unclaimed.discard(name)
        return self.host.claim(name)

    def crashes(self, name: str) -> None:
        host = self.host
        host.crashes(name)
        self.unclaimed.add(name)
        member = host.nodes[name].me
        for other in self.running:
            at = self.rng.random() * 0.05
            host.later(at, lambda other=other: self.hears_of_death(other, name, member))

    def hears_of_death(self, other: str, name: str, member: Any) -> None:
        """What a node does when the directory tells it: bury, and claim the arena."""
        host = self.host
        if not host.nodes[other].runs:
            return
        proof = host[other].proof_of_death(member.node_id, member.epoch, host.now)
        host._do(other, proof)
        if name in self.unclaimed:
            self.claims(name)

    def uses(self) -> None:
        name, key = self.rng.choice(self.running), self.rng.choice(self.keys)
        act = self.rng.random()
        if act < 0.5:
            self.reads_lane(name, key)
        elif act < 0.6:
            self.gets(name, key)
        elif key not in self.ledger.open:
            self.writes(name, key, Verb.DELETE if act > 0.95 else Verb.SET)

    def reads_lane(self, name: str, key: bytes) -> None:
        seat = self.host.nodes[name]
        if seat.kept(key, self.host.now) is None:
            seat.lane(key, self.host.now)

    def gets(self, name: str, key: bytes) -> None:
        floor = self.ledger.floor.get(key, 0)

        def done(outcome: Any) -> None:
            if isinstance(outcome, Results) and (got := outcome.found[0]) is not None:
                assert int(got.value) >= floor, "an old value was brought"

        self.host.gets(name, key, done)

    def writes(self, name: str, key: bytes, verb: Verb) -> None:
        number = self.ledger.begin(key)
        result = self.host.direct(name, verb, key, b"%d" % number)
        if result is not None:
            assert result.status in {Status.HIT, Status.MISS}
            self.ledger.end(key, done=True)
            return

        def done(outcome: Any) -> None:
            result = outcome.results[0] if isinstance(outcome, WriteResults) else None
            if isinstance(result, WriteResult):
                self.ledger.end(key, done=True)
            elif isinstance(result, Unreached) and not result.unknown:
                self.ledger.end(key, done=False)
            else:
                self.retires(key)

        self.host.writes(name, verb, key, b"%d" % number, done=done)

    def retires(self, key: bytes) -> None:
        """A write may come to pass yet, at any time: nothing is known of this key."""
        self.keys.remove(key)
        self.keys.append(b"c\0i%x" % (1000 + self.ledger.next))

    # --- what must hold -----------------------------------------------------------

    def check(self) -> None:
        now = self.host.now
        for name, seat in self.host.nodes.items():
            if not seat.runs:
                continue
            for key in self.keys:
                kept = seat.kept(key, now)
                tenure = seat.engine.ranges.tenures[partition_of(key_hash(key))]
                entry = tenure.get and tenure.get(key, key_hash(key), now)
                for where, value in (("near", kept), ("lane", entry and entry.value)):
                    assert not self.ledger.is_old(key, value), (
                        f"{name} reads {value!r} of {key!r} by its {where}, but "
                        f"{self.ledger.floor[key]} was written (t={now:.6f})"
                    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(2), *TELLING])
def test_no_schedule_brings_an_old_value(host, seed):
    Schedule(host, seed).run()
