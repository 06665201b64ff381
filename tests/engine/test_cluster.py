"""Several engines over the simulated network: what holds whatever the timing.

Every seed is another interleaving of reads, writes, loads, delays and crashes. The
checks know the truth: a dict that stands for the database behind the cache.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import islice
from typing import Any

import pytest

from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.messages import Item, Status, Verb
from meshcache.config import Config
from meshcache.engine.effects import Complete, RunLoader
from meshcache.engine.engine import Engine
from meshcache.engine.ops import (
    Closed,
    Deliver,
    Drop,
    Forsake,
    GetKeys,
    Got,
    Granted,
    LoaderName,
    LoadKey,
    Raised,
    Register,
    Results,
    RunEnded,
    TimedOut,
    Unreached,
    WriteKeys,
    WriteResults,
)
from meshcache.hashing import key_hash
from meshcache.testing import Conditions, Simulator

NAME = LoaderName("app:load", 1)
REQUEST = 1.0
LOAD = 5.0
SWEEP = 0.25
LATE = 0.05
"""What the way through the network may add to a bound that the engine promises."""

STEADY = Conditions(delay=0.001, jitter=0.004)
ROUGH = Conditions(delay=0.001, jitter=0.01, reorder=0.2, straggle=0.1)
LOSSY = Conditions(delay=0.001, jitter=0.01, loss=0.03, duplicate=0.03, reorder=0.1)


class Cluster:
    """Engines, the applications on them, and the database they all load from."""

    def __init__(self, nodes: int, seed: int, conditions: Conditions = STEADY) -> None:
        self.config = Config(
            cluster="simulated",
            probe_interval=0.5,
            probe_timeout=0.2,
            request_timeout=REQUEST,
            load_timeout=LOAD,
            sweep_interval=SWEEP,
            loader_threads=2,
        )
        self.rng = random.Random(f"{seed} stories")
        self.simulator = Simulator(
            seed,
            conditions=conditions,
            make=self._make,
            membership_of=lambda engine: engine.swim,
            on_effect=self._take,
        )
        self.database: dict[bytes, int] = defaultdict(int)
        self.pending: dict[tuple[int, int], tuple[float, float, Any, Any]] = {}
        self.done: list[tuple[Any, float, float, Any]] = []
        self.later: list[tuple[float, int, Any]] = []
        self.loading: Counter[bytes] = Counter()
        self.most_loading: Counter[bytes] = Counter()
        self.loads = 0
        self.tickets = 0
        self.simulator.start(nodes)
        self.simulator.advance_until(self.agreed, within=10.0)
        for index in range(nodes):
            self.ask(index, Register((NAME,)))
        self.run(1.0)

    def _make(self, me, rng) -> Engine:
        return Engine(me, self.config, rng, now=0.0)

    # --- the application ----------------------------------------------------------

    def engine(self, index: int) -> Engine:
        return self.simulator.seats[index].machine

    def up(self) -> list[int]:
        return [seat.index for seat in self.simulator.running()]

    def ask(
        self, index: int, op: Any, note: Any = None, bound: float = REQUEST
    ) -> None:
        """Put an operation to a node; its ticket must be done within its bound."""
        self.tickets += 1
        seat, now = self.simulator.seats[index], self.simulator.now
        if isinstance(op, GetKeys | LoadKey | WriteKeys):
            life = (index, self.tickets)
            self.pending[life] = (now, now + bound + SWEEP + LATE, op, note)
        effects = seat.machine.request((index, self.tickets), op, now + seat.clock)
        self.simulator._apply(seat, effects)

    def get(self, index: int, key: bytes, note: Any = None) -> None:
        self.ask(index, GetKeys(((key, key_hash(key)),)), note)

    def load(self, index: int, key: bytes, *, named: bool = True) -> None:
        name, version = NAME if named else ("", 0)
        op = LoadKey(key, key_hash(key), name, version, b"", (), LOAD)
        self.ask(index, op, note=self.seen(key), bound=LOAD)

    def write(self, index: int, verb: Verb, key: bytes, note: Any = None) -> None:
        """Change the database, then tell the cache: it is new, or it is no more."""
        self.database[key] += 1
        value = b"%d" % self.database[key]
        item = Item(key, value, NO_EXPIRY, 0)
        self.ask(index, WriteKeys(verb, ((item, key_hash(key)),)), note)

    def seen(self, key: bytes) -> int:
        return self.database[key]

    def owner(self, key: bytes, seen_by: int = 0) -> int:
        member = self.engine(seen_by).ranges.owner(key_hash(key))
        return next(
            seat.index
            for seat in self.simulator.seats
            if seat.me.node_id == member.node_id
        )

    def agreed(self) -> bool:
        epochs = {seat.machine.ranges.table.epoch for seat in self.simulator.running()}
        return self.simulator.agreed() and len(epochs) == 1

    # --- the driver's part --------------------------------------------------------

    def _take(self, seat, effect, now: float) -> None:
        if isinstance(effect, Complete) and effect.ticket is not None:
            asked, by, op, note = self.pending.pop(effect.ticket)
            assert now <= by, f"{op} was answered {now - by} s late"
            self.done.append((op, asked, now, effect.outcome))
            self.completed(effect.ticket[0], op, note, asked, effect.outcome)
            if isinstance(effect.outcome, Granted):
                self._run_here(seat, effect.ticket, op, effect.outcome)
        elif isinstance(effect, RunLoader):
            self._run_there(seat, effect)

    def completed(self, index, op, note, asked, outcome) -> None:
        """Overridden by those who check more."""

    def _run_here(self, seat, ticket, op, granted) -> None:
        """The caller loads under its lease; now and then it fails or is cancelled."""
        began = self._begin(op.key)
        fate = self.rng.random()

        def end() -> None:
            self.loading[op.key] -= 1
            if fate < 0.1:
                self._tell(seat, Drop(granted.lease, ticket, None))
            elif fate < 0.2:
                self._tell(seat, Forsake(ticket))
            else:
                self._tell(seat, Deliver(granted.lease, b"%d" % began, NO_EXPIRY))

        self._after(self.rng.uniform(0.0, 0.3), end)

    def _run_there(self, seat, run) -> None:
        began = self._begin(run.key)

        def end() -> None:
            self.loading[run.key] -= 1
            value = b"%d" % began if self.rng.random() < 0.95 else None
            self._tell(seat, RunEnded(run.flight, value, NO_EXPIRY, None))

        self._after(self.rng.uniform(0.0, 0.3), end)

    def _begin(self, key: bytes) -> int:
        self.loads += 1
        self.loading[key] += 1
        self.most_loading[key] = max(self.most_loading[key], self.loading[key])
        return self.database[key]

    def _tell(self, seat, op) -> None:
        if seat.running and self.simulator.seats[seat.index] is seat:
            effects = seat.machine.request(None, op, self.simulator.now + seat.clock)
            self.simulator._apply(seat, effects)

    def _after(self, seconds: float, act: Any) -> None:
        self.later.append((self.simulator.now + seconds, len(self.later), act))

    def run(self, seconds: float) -> None:
        """Let time pass, with the loaders ending in it."""
        until = self.simulator.now + seconds
        while True:
            due = min(self.later, default=None, key=lambda entry: entry[:2])
            if due is None or due[0] > until:
                break
            self.later.remove(due)
            self.simulator.advance(max(0.0, due[0] - self.simulator.now))
            due[2]()
        self.simulator.advance(max(0.0, until - self.simulator.now))
        self.check_bounds()

    def settle(self) -> None:
        """Let everything end that was promised to."""
        self.run(LOAD + 2.0)
        self.check_bounds()

    def check_bounds(self) -> None:
        now = self.simulator.now
        late = {t: op for t, (_, by, op, _) in self.pending.items() if now > by}
        assert not late, f"not answered in time: {late}"

    def crash(self, index: int) -> None:
        """Kill a process; nobody there waits for an answer any more."""
        self.simulator.crash(index)
        for ticket in [t for t in self.pending if t[0] == index]:
            del self.pending[ticket]

    def restart(self, index: int) -> None:
        self.simulator.restart(index, seeds=self.up())
        self.ask(index, Register((NAME,)))


KEYS = [b"c\0i%x" % number for number in range(8)]


def stir(cluster: Cluster, steps: int, *, crashes: bool = False) -> None:
    """Do something at random, again and again, with little time in between."""
    rng = cluster.rng
    for _ in range(steps):
        index, key = rng.choice(cluster.up()), rng.choice(KEYS)
        act = rng.random()
        if act < 0.3:
            cluster.get(index, key)
        elif act < 0.7:
            cluster.load(index, key, named=rng.random() < 0.5)
        elif act < 0.8:
            cluster.write(index, Verb.SET, key)
        elif act < 0.95:
            cluster.write(index, Verb.DELETE, key)
        elif crashes and len(cluster.up()) > 3:
            cluster.crash(index)
        elif crashes and len(cluster.up()) < len(cluster.simulator.seats):
            down = set(range(len(cluster.simulator.seats))) - set(cluster.up())
            cluster.restart(rng.choice(sorted(down)))
        cluster.run(rng.choice([0.0, 0.001, 0.01, 0.05]))


# --- every ticket ends ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_ticket_ends_once_and_in_time_while_nodes_crash_and_return(seed):
    cluster = Cluster(5, seed, ROUGH)
    stir(cluster, 200, crashes=True)
    cluster.settle()

    assert {} == cluster.pending
    kinds = Counter(type(outcome) for *_, outcome in cluster.done)
    assert 0 == kinds[Raised] == kinds[Closed]
    assert {Results, Got, Granted, WriteResults} <= set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_ticket_ends_once_and_in_time_over_lines_that_lose_and_repeat(seed):
    cluster = Cluster(5, seed, LOSSY)
    stir(cluster, 200)
    cluster.settle()

    assert {} == cluster.pending


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_when_all_is_quiet_nothing_is_left_behind(seed):
    cluster = Cluster(5, seed, ROUGH)
    stir(cluster, 200, crashes=True)
    cluster.settle()
    cluster.run(10.0)

    for index in cluster.up():
        stats = cluster.engine(index).stats()["engine"]
        left = {"flights_open", "waiting", "calls_open", "running"}
        assert dict.fromkeys(left, 0) == {name: stats[name] for name in left}


# --- one load in the whole cluster ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["owner", "caller"])
@pytest.mark.parametrize("seed", range(3))
def test_a_key_that_all_miss_at_once_is_loaded_once(seed, named):
    cluster = Cluster(5, seed, ROUGH)
    cluster.rng.random = lambda: 0.5  # no loader fails, nobody is cancelled
    for key in KEYS:
        for index in cluster.up() * 3:
            cluster.load(index, key, named=named)
            cluster.run(cluster.rng.choice([0.0, 0.001, 0.01]))
    cluster.settle()

    assert dict.fromkeys(KEYS, 1) == dict(cluster.most_loading)
    assert len(KEYS) == cluster.loads
    assert {b"0"} == {
        outcome.value for *_, outcome in cluster.done if isinstance(outcome, Got)
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_load_at_once_only_where_a_lease_has_passed(seed):
    cluster = Cluster(5, seed, STEADY)
    for _ in range(150):
        index, key = cluster.rng.choice(cluster.up()), cluster.rng.choice(KEYS)
        cluster.load(index, key, named=cluster.rng.random() < 0.5)
        cluster.run(cluster.rng.choice([0.0, 0.01]))
    cluster.settle()
    passed = sum(
        cluster.engine(index).stats()["engine"]["leases_passed"]
        for index in cluster.up()
    )

    assert max(cluster.most_loading.values()) <= 1 + passed
    assert sum(n - 1 for n in cluster.most_loading.values()) <= passed


# --- what is read is not older than what was written ------------------------------


class Witness(Cluster):
    """Knows, for each key, the newest version whose write was acknowledged.

    Each key has one writer, which waits for each answer: so the order of the writes
    is known, and a read may be held to it.
    """

    def __init__(self, *args: Any) -> None:
        self.acknowledged: dict[bytes, int] = defaultdict(int)
        self.writing: set[bytes] = set()
        self.near: list[tuple[bytes, int, Any]] = []
        self.read = self.fresh = 0
        super().__init__(*args)

    def seen(self, key: bytes) -> int:
        return self.acknowledged[key]

    def completed(self, index, op, note, asked, outcome) -> None:
        match op, outcome:
            case WriteKeys(_, ((item, _),)), WriteResults((result,)):
                assert not isinstance(result, Unreached), "nobody was to be lost"
                assert result.status in {Status.HIT, Status.MISS}
                self.writing.discard(item.key)
                self.acknowledged[item.key] = int(item.value)
            case GetKeys(((key, _),)), Results((found,)):
                if found is not None:
                    self._not_older(key, note, found)
            case LoadKey(key), Got():
                if index == self.owner(key, index):
                    self._not_older(key, note, outcome)
                self._keep(key, outcome)

    def _not_older(self, key: bytes, newest_at_start: int, got: Got) -> None:
        self.read += 1
        assert int(got.value) >= newest_at_start, (
            f"{key!r}: {got} was read after version {newest_at_start} was acknowledged"
        )
        self._keep(key, got)

    def _keep(self, key: bytes, got: Got) -> None:
        if got.stamp is not None and got.stamp.stands:
            self.near.append((key, int(got.value), got.stamp))

    def step(self) -> None:
        rng, key = self.rng, self.rng.choice(KEYS)
        act = rng.random()
        if act < 0.3:
            self.get(rng.choice(self.up()), key, note=self.seen(key))
        elif act < 0.7:
            self.load(rng.choice(self.up()), key, named=rng.random() < 0.5)
        elif key not in self.writing:
            self.writing.add(key)
            verb = Verb.SET if rng.random() < 0.5 else Verb.DELETE
            self.write(KEYS.index(key) % len(self.up()), verb, key)
        self.run(rng.choice([0.0, 0.001, 0.01, 0.03]))


@pytest.mark.slow
@pytest.mark.parametrize("conditions", [STEADY, ROUGH], ids=["steady", "rough"])
@pytest.mark.parametrize("seed", range(2))
def test_no_read_is_older_than_a_write_acknowledged_before_it(seed, conditions):
    cluster = Witness(5, seed, conditions)
    for _ in range(300):
        cluster.step()
    cluster.settle()

    assert cluster.read > 50
    for key in KEYS:
        # A load that ran into an invalidation must not have brought the old back.
        owner = cluster.engine(cluster.owner(key))
        entry = owner.store.get(key, key_hash(key), cluster.simulator.now)
        assert entry is None or cluster.database[key] == int(entry.value)


@pytest.mark.slow
@pytest.mark.parametrize("conditions", [STEADY, ROUGH], ids=["steady", "rough"])
@pytest.mark.parametrize("seed", range(2))
def test_no_near_copy_stands_once_the_notes_of_later_writes_have_come(seed, conditions):
    cluster = Witness(5, seed, conditions)
    for _ in range(300):
        cluster.step()
    cluster.run(1.0)
    standing = [(k, v) for k, v, stamp in cluster.near if stamp.stands]

    assert len(cluster.near) > 50
    assert [] == [(k, v) for k, v in standing if v != cluster.database[k]]
    assert any(stamp.stands for *_, stamp in cluster.near) or not standing


@pytest.mark.slow
def test_notes_that_are_lost_leave_no_near_copy_standing_for_long():
    cluster = Witness(5, 1, STEADY)
    for _ in range(100):
        cluster.step()
    while cluster.writing:
        cluster.run(0.1)
    copies = [near for near in cluster.near if near[2].stands]
    cluster.simulator.network.conditions = Conditions(delay=0.001, jitter=0.004, loss=1)
    for index, key in enumerate(KEYS):
        owner = cluster.owner(key, index % 5)
        cluster.database[key] += 1
        item = Item(key, b"%d" % cluster.database[key], NO_EXPIRY, 0)
        cluster._tell(
            cluster.simulator.seats[owner],
            WriteKeys(Verb.SET, ((item, key_hash(key)),)),
        )
    cluster.simulator.network.conditions = STEADY
    cluster.run(3.5)

    assert copies
    assert [] == [key for key, _, stamp in copies if stamp.stands]


# --- two tables -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_nodes_that_disagree_about_the_owner_hang_no_key(seed):
    """Two halves that do not hear of each other's members, and one that hears both."""
    cluster = Cluster(5, seed, STEADY)
    left, right = (0, 1), (3, 4)
    cluster.simulator.partition(left, right)
    for _ in range(60):
        cluster.load(cluster.rng.choice(cluster.up()), cluster.rng.choice(KEYS))
        cluster.get(cluster.rng.choice(cluster.up()), cluster.rng.choice(KEYS))
        cluster.write(
            cluster.rng.choice(cluster.up()), Verb.SET, cluster.rng.choice(KEYS)
        )
        cluster.run(0.1)
    cluster.settle()
    assert {} == cluster.pending

    cluster.simulator.heal()
    cluster.simulator.advance_until(cluster.agreed, within=60.0)
    for index, key in enumerate(islice(KEYS, 5)):
        cluster.load(index, key)
    cluster.settle()
    assert {} == cluster.pending


@pytest.mark.slow
def test_a_table_of_ones_own_costs_no_more_than_a_redirect(monkeypatch):
    """One node goes by a table that nobody shares: it is told so, every time."""
    cluster = Cluster(4, 1, STEADY)
    odd = cluster.engine(0)
    others = [m for m in odd.swim.members() if m.node_id != odd.me.node_id]
    wrong = [others[1], others[2], others[0]]
    tables = odd.ranges.table
    monkeypatch.setattr(
        odd.ranges,
        "table",
        _Shifted(tables, {a.node_id: b for a, b in zip(others, wrong, strict=True)}),
    )
    for key in KEYS:
        cluster.load(0, key)
        cluster.get(0, key)
        cluster.write(0, Verb.SET, key)
    cluster.run(0.9)

    assert {} == cluster.pending
    assert 0 == odd.stats()["engine"]["timeouts"]
    assert TimedOut not in {type(outcome) for *_, outcome in cluster.done}


class _Shifted:
    """A table in which every peer's partitions are another peer's."""

    def __init__(self, table, shift) -> None:
        self.epoch = table.epoch ^ 1
        self.members = table.members
        self._table, self._shift = table, shift

    def partitions_of(self, node_id):
        return self._table.partitions_of(node_id)

    def owner_of(self, hashed: int):
        owner = self._table.owner_of(hashed)
        return self._shift.get(owner.node_id, owner)
