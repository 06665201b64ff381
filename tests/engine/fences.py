"""Invalidations that run into loads: a cluster in one thread, from one seed.

A schedule is two to five engines, some of them on one host, and up to three keys. At
every step one thing happens, drawn from the seed: a message arrives, a load is asked
for, a loader reads the truth, its value is handed in, somebody writes, time passes, a
node comes, goes or dies, a message is lost, a line breaks. Mail is in order on each
line and in no order between two, so every interleaving of messages may come up.

**The truth.** Each key has an origin: a number that only grows. A loader reads it at
some moment between its grant and its delivery. Whoever writes moves the origin first
and then tells the cache. So a number tells when it was read.

**The rule.** A write that has *returned success* ends all numbers below its own: what
is asked for afterwards does not bring one. Who asked before may get one.

1. A get, a look into an arena of this host and what an arena holds obey this at once,
   wherever they are. So do near copies and loads on the owner's host, and those of the
   writer itself.
2. On another host, a near copy, or a load that joins one under way, may be old until
   the owner's note has arrived, and for `SILENCE` if the note was lost or there was no
   line to send it on (docs/explanation/consistency.md, "Notes").
3. So it may while its process and the owner have different tables, unless whom it
   takes for the owner is on its own host: a seal ends what is near in all processes.
   And from another host, when an owner lost the partition and got it back and its
   process heard of neither, until it hears of that by a note, as in rule 2.
4. A write that failed ends nothing. If it was done all the same, its answer lost, or
   was done while a node of another host held the partition too, or took it for its
   host's, it holds on the host where it was done: from then on no arena there has
   anything older.
5. A clear, or an invalidation of tags, ends what it was to end if every arena that
   still had some of it was told. A node of another host that the caller has not met is
   not told. What
   bears a tag is not near any more where that was told, on whatever host; where it was
   not, it stays near for its time.
6. A set, add or incr whose outcome is not known may come to pass at any time, so its
   own number is not judged. While such a write is under way nobody else writes that
   key: two writers race for reasons of their own.

In the end all lines are mended, all news told, and all that waits is let happen. Then
rules 2 and 3 excuse nothing any more, nor does rule 5 but for tags.
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from msgpack import packb, unpackb

from meshcache.codec.envelope import Envelope, tags_of, unwrap
from meshcache.codec.fields import NO_EXPIRY
from meshcache.codec.mail import Reply, Send
from meshcache.codec.messages import (
    Clear,
    Gossip,
    Invalidate,
    Item,
    LoaderName,
    Loaders,
    PushPull,
    Status,
    Untag,
    Verb,
    Write,
    Written,
)
from meshcache.config import Config
from meshcache.engine import handover
from meshcache.engine.effects import Complete, Retabled, RunLoader
from meshcache.engine.engine import Engine
from meshcache.engine.ops import (
    ClearCache,
    Deliver,
    Drop,
    Failure,
    Forsake,
    GetKeys,
    Got,
    Granted,
    InvalidateTags,
    LoadKey,
    LoadKeys,
    Lot,
    Moved,
    Register,
    Results,
    RunEnded,
    Tier,
    Unreached,
    WriteKeys,
    WriteResult,
    WriteResults,
    Wrote,
)
from meshcache.engine.owner import moves
from meshcache.engine.readers import SILENCE
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.model import Member, NodeId, State
from meshcache.store.arena import private
from meshcache.store.generations import Stamp
from meshcache.store.record import Entry
from meshcache.store.view import View

handover.HELPING = 1  # type: ignore[misc]
"""Entries arrive slowly, so that something happens meanwhile."""

START: Final = 1000.0
STEPS: Final = (40, 140)
MOST: Final = 5
KEYS: Final = [b"c\0i%x" % number for number in range(40)]
LOADERS: Final = (LoaderName("loads", 1),)
QUIET: Final = {"probe_interval": 60, "gossip_interval": 60, "push_pull_interval": 3600}
"""Membership says next to nothing: the news are the schedule's."""

CONFIGS: Final = [
    Config(
        cluster="fences",
        max_bytes="256KiB",
        near_entries=0,
        request_timeout=seconds,
        **QUIET,  # type: ignore[arg-type]
    )
    for seconds in (0.4, 2.0)
]
NEAR_TTL: Final = 30.0
SLOW_NEWS: Final = 1 / 4
"""How often news of a member make others wait for them."""

GRACE: Final = 10.0
"""Seconds for which the arena of a dead process is kept once it is claimed."""

SLACK: Final = 0.01
MOST_TURNS: Final = 4000

MEMBER: Final = re.compile(
    r"Member\(.*?(incarnation=\d+, state=<State[^>]*>), address='(\w+):1'.*?weight=\d\)"
)
REPLAY: Final = "replay: python tests/engine/small_world.py"

WITNESS: Final = Member(
    node_id=NodeId(b"witness".ljust(16, b".")),
    epoch=1,
    incarnation=0,
    state=State.LEFT,
    address="witness:1",
    data_address="witness:2",
    host="elsewhere",
    weight=0,
)
"""One who has left and carries the news of members."""


class StaleError(AssertionError):
    """Somebody got, or has, what was ended before he asked."""


class Deed(NamedTuple):
    """A kind of write.

    Attributes:
        carries: whether it brings a value of its own.
        ends: the answers upon which what was there before is gone.
    """

    verb: Verb
    often: int
    ttl_ms: int = NO_EXPIRY
    carries: bool = False
    ends: tuple[Status, ...] = (Status.HIT,)


MOVES: Final = (
    "come",
    "come",
    "come",
    "leave",
    "crash",
    "accuse",
    "suspect",
    "suspect",
    "split",
)
"""What befalls members: by their own will, by death, or by what others think."""

DEEDS: Final = {
    "delete": Deed(Verb.DELETE, 10, ends=(Status.HIT, Status.MISS)),
    "set": Deed(Verb.SET, 4, carries=True),
    "set to last no time": Deed(Verb.SET, 1, ttl_ms=0),
    "add": Deed(Verb.ADD, 1, carries=True),
    "incr": Deed(Verb.INCR, 1, carries=True),
    "touch": Deed(Verb.TOUCH, 1, ends=()),
    "touch to last no time": Deed(Verb.TOUCH, 1, ttl_ms=0),
    "clear": Deed(Verb.DELETE, 2),
    "invalidation of a tag": Deed(Verb.DELETE, 3),
}
TAGS: Final = DEEDS["invalidation of a tag"]
MANY: Final = (DEEDS["clear"], TAGS)
"""What is told to every member, and ends many keys."""


@dataclass(slots=True, eq=False)
class Ending:
    """A write under way: what it is to end, and what has come of it.

    `done_at` has the processes that did it, and with each how much of its mail every
    other one must have had to know of it; None as long as its readers are not told.
    """

    key: bytes
    deed: str
    number: int
    writer: str
    serial: int
    done_at: dict[str, dict[str, int] | None] = field(default_factory=dict)
    contested: bool = False
    over: float | None = None


class Kept(NamedTuple):
    """What a process holds decoded."""

    value: bytes
    expires: float
    stamp: Stamp


@dataclass(slots=True, eq=False)
class Errand:
    """A loader that was granted to a caller, or given to a pool, and what it read."""

    key: bytes
    lease: int
    ticket: int | None
    stamp: Stamp | None
    owner: object
    value: bytes | None = None


@dataclass(slots=True, eq=False)
class Line:
    """What one process says to another over one connection, in one direction."""

    source: str
    target: str
    kind: str
    mail: deque[tuple[int, Any, int]] = field(default_factory=deque)
    sent: int = 0
    arrived: int = 0
    lost_notes: list[int] = field(default_factory=list)
    stalled: bool = False
    cut: bool = False


class Process:
    """An engine, and what its application does."""

    def __init__(self, name: str, host: str, engine: Engine, memory: Any) -> None:
        self.name = name
        self.host = host
        self.engine = engine
        self.view = View(memory, 1)
        self.me = engine.me
        self.runs = True
        self.leaves = False
        self.claimed: float | None = None
        self.retabled = 0.0
        self.opened: dict[int, float] = {}
        self.due = 0.0
        self.near: dict[bytes, Kept] = {}
        self.errands: list[Errand] = []
        self.waits: dict[int, Callable[[Any], None]] = {}
        self.loads: set[int] = set()

    def holds(self, partition: int) -> bool:
        return self.engine.store.granted(partition)

    def notes_opened(self, partitions: Iterable[int], now: float) -> None:
        """Take note of when it came to hold what it holds."""
        for partition in partitions:
            if not self.holds(partition):
                self.opened.pop(partition, None)
            else:
                self.opened.setdefault(partition, now)

    def is_orphan(self, now: float) -> bool:
        """Whether its arena is there without it."""
        gone = self.claimed is not None and now - self.claimed > GRACE
        return not self.runs and not self.leaves and not gone

    def kept(self, key: bytes, now: float) -> Kept | None:
        kept = self.near.get(key)
        if kept is None or kept.expires <= now or not kept.stamp.stands:
            return None
        return kept

    def keep(
        self,
        key: bytes,
        value: bytes,
        stamp: Stamp | None,
        now: float,
        version: int = 0,
    ) -> None:
        """Keep what was read near; with its *version*, if from an arena."""
        tags = tags_of(value)
        if tags and stamp is not None:
            stamp = stamp.tagged(tags, version)
        if stamp is not None:
            self.near[key] = Kept(value, now + NEAR_TTL, stamp)


def number_of(value: bytes) -> int:
    number: int = unpackb(unwrap(value).body)
    return number


class Schedule:
    """One seed's story."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.tell = tell
        self.rng = random.Random(seed)
        self.now = START
        self.config = self.rng.choice(CONFIGS)
        self.happened: Counter[str] = Counter()
        self.all: dict[str, Process] = {}
        self.seen: dict[str, set[str]] = {}
        self.running: list[Process] = []
        self.lines: dict[tuple[str, str, str], Line] = {}
        self.busy: list[Line] = []
        self.plans: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.keys = self.rng.sample(KEYS, self.rng.choice([1, 1, 2, 3]))
        self.hashes = {key: key_hash(key) for key in self.keys}
        self.parts = {partition_of(hashed) for hashed in self.hashes.values()}
        self.truth = dict.fromkeys(self.keys, 256)
        self.endings: dict[bytes, list[Ending]] = {key: [] for key in self.keys}
        self.open: dict[int, Ending] = {}
        self.writes: dict[tuple[str, int], list[Ending]] = {}
        self.floors: dict[tuple[str, bytes], int] = {}
        self.loose: set[tuple[bytes, int]] = set()
        self.hosts = [f"h{n}" for n in range(self.rng.choice([1, 2, 2, 3]))]
        self.unrest = self.rng.choice([0.0, 0.02, 0.05, 0.15])
        self.losses = self.rng.choice([0.0, 0.0, 0.02])
        self.pools = self.rng.random() < 1 / 2
        tagged = self.rng.random() < 1 / 2
        self.tags = {
            key: (1000, number) if tagged else ()
            for number, key in enumerate(self.keys, 1001)
        }
        self.sending: list[Ending] = []

    # --- one seed -----------------------------------------------------------------

    def run(self) -> Counter[str]:
        try:
            self.starts()
            for step in range(self.rng.randint(*STEPS)):
                self.step()
                if step % 16 == 0:
                    self.check()
            self.calms()
        except AssertionError as failure:
            failure.add_note(f"{REPLAY} {self.seed}")
            raise
        for process in self.all.values():
            counters = process.engine._core.counters
            self.happened["fenced"] += counters.fenced
            self.happened["leases passed"] += counters.leases_passed
            self.happened["joined"] += counters.joined
            self.happened["run by the owner"] += counters.runs
        self.happened["schedules"] += 1
        return self.happened

    def starts(self) -> None:
        members = []
        for _ in range(self.rng.randint(2, MOST)):
            process = self.seats()
            members.append(process.me)
        for process in self.running:
            others = tuple(m for m in members if m is not process.me)
            gossip = Gossip(WITNESS, others)
            self.does(process, process.engine.receive(gossip, None, self.now))
        if self.pools:
            for process in self.running:
                self.introduces_loaders(process)
        self.ticks()

    def step(self) -> None:
        draw = self.rng.random()
        if draw < 0.55 and self.busy:
            self.delivers(self.rng.choice(self.busy))
        elif draw < 0.70:
            self.asks()
        elif draw < 0.84:
            self.loads_on()
        elif draw < 0.93:
            self.writes_something()
        elif draw < 0.945:
            self.waits_a_while()
        elif self.rng.random() < self.losses / 0.05:
            self.misfortune()
        elif self.rng.random() < self.unrest / 0.05:
            self.moves()
        self.passes(self.rng.choice((0.0, 0.0, 0.001, 0.003, 0.02)))

    def says(self, *words: Any) -> None:
        if self.tell is not None:
            text = MEMBER.sub(r"\2 \1", " ".join(map(str, words)))
            self.tell(f"{self.now - START:8.3f}  {text}")

    # --- who takes part -----------------------------------------------------------

    def seats(self) -> Process:
        """Start a process, which knows nobody yet but the arenas of its host."""
        name, host = f"n{len(self.all)}", self.rng.choice(self.hosts)
        orphans = [
            self.claims(process)
            for process in self.all.values()
            if process.host == host and process.is_orphan(self.now)
        ]
        me = Member(
            node_id=NodeId(f"{name}/{self.seed}".encode().ljust(16, b".")),
            epoch=int(self.now * 1e6),
            incarnation=0,
            state=State.ALIVE,
            address=f"{name}:1",
            data_address=f"{name}:2",
            host=host,
            weight=1,
        )
        memory = private(self.config.max_bytes)
        engine = Engine(
            me,
            self.config,
            random.Random(self.rng.random()),
            self.now,
            memory=memory,
            host=1,
            open_lane=lambda member: self.lane(host, member),
            look=lambda: self.looks(host, name),
            expecting=True,
        )
        living = self.looks(host, name)
        process = self.all[name] = Process(name, host, engine, memory)
        self.running.append(process)
        engine.ranges.neighbours(living, orphans)
        self.says(name, "starts on", host)
        self.does(process, engine.join((), self.now))
        return process

    def lane(self, host: str, member: Member) -> View | None:
        other = self.all.get(member.address[:-2])
        if other is None or other.host != host:
            return None
        if not other.runs and not other.is_orphan(self.now):
            return None
        return other.view

    def looks(self, host: str, name: str) -> list[View]:
        """Return the arenas on a host that *name* has not seen yet."""
        seen = self.seen.setdefault(name, {name})
        found = [p for p in self.running if p.host == host and p.name not in seen]
        seen.update(process.name for process in found)
        return [process.view for process in found]

    def introduces_loaders(self, process: Process) -> None:
        process.engine.request(None, Register(LOADERS), self.now)
        note = Loaders(process.me.node_id, process.me.epoch, LOADERS)
        for other in self.running:
            if other is not process:
                other.engine.receive(note, (process.name, "reply"), self.now)

    def moves(self) -> None:
        """Let somebody come, go, die or be taken for dead."""
        act = self.rng.choice(MOVES)
        some = self.rng.choice(self.running)
        if act == "come" and len(self.running) < MOST:
            self.comes()
        elif act in {"leave", "crash"}:
            staying = [process for process in self.running if not process.leaves]
            # The latest every other time, so that what it took goes back.
            last = self.rng.random() < 1 / 2
            if len(staying) > 1:
                one = staying[-1] if last else self.rng.choice(staying)
                self.ends(one, farewell=act == "leave")
        elif act == "accuse":
            self.accuses(some, State.DEAD)
        elif act == "suspect":
            self.accuses(some, State.SUSPECT)
        elif act == "split":
            self.splits()

    def comes(self) -> None:
        introducer = self.rng.choice(self.running)
        process = self.seats()
        if self.rng.random() < SLOW_NEWS:
            self.happened["slow joins"] += 1
            self.later(1.5, lambda: self.introduces(process, introducer))
        else:
            self.introduces(process, introducer)
        self.happened["joins"] += 1

    def introduces(self, process: Process, introducer: Process) -> None:
        """Have a newcomer meet those whom the introducer knows, and these it."""
        if not process.runs or process.leaves:
            return
        gossip = Gossip(introducer.engine.me, introducer.engine.members())
        self.does(process, process.engine.receive(gossip, None, self.now))
        for other in self.running:
            if other is not process:
                self.tells(process, other, ())
        if self.pools:
            self.introduces_loaders(process)

    def tells(
        self, source: Process, target: Process, members: Iterable[Member]
    ) -> None:
        gossip = Gossip(source.engine.me, tuple(members))
        self.posts(source.name, target.name, "control", gossip)
        line = self.line(source.name, target.name, "control")
        if line in self.busy and self.rng.random() < SLOW_NEWS:
            self.stalls(line, 0.5)

    def ends(self, process: Process, *, farewell: bool) -> None:
        self.says(process.name, "leaves" if farewell else "is killed")
        self.happened["leaves" if farewell else "deaths"] += 1
        if farewell:
            process.leaves = True
            self.tries_to_leave(process)
        else:
            self.stops(process)
            member = process.me
            for other in self.running:
                self.later(0.05, lambda other=other: self.hears_of_death(other, member))

    def tries_to_leave(self, process: Process) -> None:
        if not process.runs:
            return
        self.does(process, process.engine.leave(self.now))
        if not process.engine._core.leaving:
            self.later(0.01, lambda: self.tries_to_leave(process))
            return
        for other in self.running:
            if other is not process:
                self.tells(process, other, ())
        self.later(0.1, lambda: self.stops(process))

    def stops(self, process: Process) -> None:
        if not process.runs:
            return
        process.runs = False
        self.running.remove(process)
        process.errands.clear()
        process.waits.clear()
        process.loads.clear()
        for line in self.lines.values():
            if line.target == process.name:
                self.empties(line)
        for ending in list(self.open.values()):
            if ending.writer == process.name:
                self.is_over(ending, None)
        for other in self.running:
            self.later(0.05, lambda other=other: self.loses(other, process))

    def loses(self, other: Process, process: Process) -> None:
        if other.runs:
            address = process.me.data_address
            self.does(other, other.engine.connection_lost(address, self.now))
            other.engine.route_lost((process.name, "reply"))

    def claims(self, process: Process) -> View:
        """Seal what a dead process has left, as whoever finds its lock free does."""
        if process.claimed is None:
            process.claimed = self.now
            process.view.seal_all(self.now)
        return process.view

    def hears_of_death(self, other: Process, member: Member) -> None:
        if not other.runs:
            return
        dead = self.all[member.address[:-2]]
        self.says(other.name, "hears that", dead.name, "is dead")
        proof = other.engine.proof_of_death(member.node_id, member.epoch, self.now)
        self.does(other, proof)
        if other.host == dead.host and dead.is_orphan(self.now):
            self.claims(dead)

    def accuses(self, accused: Process, state: State) -> None:
        """Have some take a living process for dead or suspect, and it hear of it."""
        record = accused.engine.me._replace(state=state)
        self.says(accused.name, "is taken for", state.name)
        self.happened["accusations"] += 1
        for other in self.running:
            if other is not accused and self.rng.random() < 0.7:
                gossip = Gossip(WITNESS, (record,))
                self.posts(WITNESS.host, other.name, "control", gossip)
        self.later(0.5, lambda: self.objects(accused, record))

    def objects(self, accused: Process, record: Member) -> None:
        if not accused.runs or accused.leaves:
            return
        gossip = Gossip(WITNESS, (record,))
        self.does(accused, accused.engine.receive(gossip, None, self.now))
        for other in self.running:
            if other is not accused:
                self.tells(accused, other, ())

    # --- mail ---------------------------------------------------------------------

    def line(self, source: str, target: str, kind: str) -> Line:
        found = self.lines.get((source, target, kind))
        if found is None:
            found = self.lines[source, target, kind] = Line(source, target, kind)
        return found

    def posts(self, source: str, target: str, kind: str, message: Any) -> None:
        to = self.all.get(target)
        if to is None:
            return
        line = self.line(source, target, kind)
        line.sent += 1
        if line.cut or not to.runs:
            self.drops(line, line.sent, message)
            return
        if not line.mail and not line.stalled:
            self.busy.append(line)
        line.mail.append((line.sent, message, 0))

    def drops(self, line: Line, number: int, message: Any) -> None:
        self.says("lost:", line.source, "->", line.target, message)
        line.arrived = number
        if type(message) is Invalidate:
            line.lost_notes.append(number)

    def empties(self, line: Line) -> None:
        while line.mail:
            number, message, _ = line.mail.popleft()
            self.drops(line, number, message)
        if line in self.busy:
            self.busy.remove(line)

    def delivers(self, line: Line) -> None:
        number, message, _ = line.mail.popleft()
        if not line.mail:
            self.busy.remove(line)
        target = self.all[line.target]
        self.says(f"{line.source} -> {line.target} ({line.kind}):", message)
        if line.kind == "wire-reply":
            self.answers_thread(target, message)
        else:
            self.receives(line, target, message)
        line.arrived = max(line.arrived, number)

    def receives(self, line: Line, target: Process, message: Any) -> None:
        back = {"ask": "reply", "wire": "wire-reply"}.get(line.kind, "control")
        route = (line.source, back)
        if line.kind == "reply":
            route = (line.source, "ask")
        self.does(target, target.engine.receive(message, route, self.now))

    def does(self, process: Process, effects: Iterable[Any]) -> None:
        """Do what an engine wants done."""
        name = process.name
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self.sends(name, effect)
            elif kind is Reply:
                if effect.route is not None:
                    self.replies(process, effect)
            elif kind is Complete:
                done = process.waits.pop(effect.ticket, None)
                if done is not None:
                    done(effect.outcome)
            elif kind is Retabled:
                process.retabled = self.now
            elif kind is RunLoader:
                self.sets_out(process, effect.key, effect.flight, None, None)
        process.due = process.engine.deadline() or float("inf")

    def sends(self, name: str, effect: Send) -> None:
        target, _, plane = effect.address.partition(":")
        if plane == "2":
            self.posts(name, target, "ask", effect.message)
            if type(effect.message) in {Write, Clear, Untag}:
                self.notes_write(name, effect.message)
        elif not isinstance(effect.message, Gossip | PushPull):
            self.posts(name, target, "control", effect.message)

    def replies(self, process: Process, effect: Reply) -> None:
        target, kind = effect.route
        message = effect.message
        if kind == "control" and isinstance(message, Gossip | PushPull):
            return
        self.posts(process.name, target, kind, message)
        if type(message) is Written:
            for ending in self.writes.get((target, message.rid), ()):
                self.was_done(ending, process, message.results[0].status)

    # --- time ---------------------------------------------------------------------

    def later(self, within: float, action: Callable[[], None]) -> None:
        self.serial += 1
        at = self.now + self.rng.random() * within
        heappush(self.plans, (at, self.serial, action))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        while self.plans and self.plans[0][0] <= self.now:
            heappop(self.plans)[2]()
        self.ticks()

    def ticks(self) -> None:
        for process in list(self.running):
            if process.due <= self.now and process.runs:
                self.does(process, process.engine.tick(self.now))
                process.notes_opened(self.parts, self.now)

    def waits_a_while(self) -> None:
        if self.rng.random() < 1 / 8:
            for _ in range(4):
                self.passes(0.9)
        else:
            self.passes(self.rng.choice((0.05, 0.1, 0.3)))

    # --- misfortunes --------------------------------------------------------------

    def misfortune(self) -> None:
        if not self.busy:
            return
        line = self.rng.choice(self.busy)
        act = self.rng.choice(("lose", "repeat", "stall", "stall"))
        if act == "lose" and line.kind in {"ask", "reply"}:
            number, message, _ = line.mail.popleft()
            if not line.mail:
                self.busy.remove(line)
            self.drops(line, number, message)
            self.happened["messages lost"] += 1
        elif act == "repeat" and line.kind in {"ask", "reply"}:
            number, message, _ = line.mail[0]
            if type(message) is not Write or message.verb is Verb.DELETE:
                line.mail.appendleft((number, message, 0))
                self.happened["messages repeated"] += 1
        elif act == "stall":
            self.stalls(line, 2.0)
            self.happened["lines stalled"] += 1

    def stalls(self, line: Line, within: float) -> None:
        self.busy.remove(line)
        line.stalled = True
        self.later(within, lambda: self.flows(line))

    def flows(self, line: Line) -> None:
        line.stalled = False
        if line.mail and line not in self.busy:
            self.busy.append(line)

    def splits(self) -> None:
        """Cut some processes off from the others, for a while."""
        some = {p.name for p in self.running if self.rng.random() < 1 / 2}
        pairs = [
            (a, b)
            for a in self.running
            for b in self.running
            if (a.name in some) != (b.name in some) and a.host != b.host
        ]
        if not pairs:
            return
        self.happened["splits"] += 1
        self.says("split:", *sorted({a.name for a, _ in pairs if a.name in some}))
        for a, b in pairs:
            for kind in ("ask", "reply", "control"):
                line = self.line(a.name, b.name, kind)
                self.empties(line)
                line.cut = True
            self.later(0.5, lambda a=a, b=b: self.loses(a, b))
            if self.rng.random() < 1 / 2:
                dead = b.engine.me._replace(state=State.DEAD)
                gossip = Gossip(WITNESS, (dead,))
                self.posts(WITNESS.host, a.name, "control", gossip)
        self.later(3.0, self.heals)

    def heals(self) -> None:
        self.says("healed")
        for line in list(self.lines.values()):
            if line.cut:
                line.cut = False
                a, b = self.all[line.source], self.all[line.target]
                if a.runs and b.runs and line.kind == "ask":
                    # Whoever had not noticed yet does now.
                    self.loses(a, b)
                    made = a.engine.connection_made(b.me.data_address, self.now)
                    self.does(a, made)
        self.reconciles()

    def reconciles(self) -> None:
        """Have everybody hear of all others how they are."""
        for process in list(self.running):
            if process.leaves:
                continue
            for other in self.all.values():
                if other is process:
                    continue
                believed = process.engine.swim.member(other.me.node_id)
                if not other.runs:
                    if believed is not None and believed.state <= State.SUSPECT:
                        self.hears_of_death(process, other.me)
                elif other.leaves:
                    self.tells(other, process, ())
                elif believed is None or believed.state is not State.ALIVE:
                    if believed is not None:
                        gossip = Gossip(WITNESS, (believed,))
                        effects = other.engine.receive(gossip, None, self.now)
                        self.does(other, effects)
                    self.tells(other, process, ())

    # --- what applications do -----------------------------------------------------

    def value(self, key: bytes, number: int) -> bytes:
        """Return what is stored of a number: in an envelope, if the key has tags."""
        return Envelope(packb(number), tags=self.tags[key]).wrap()

    def ticket(self) -> int:
        self.serial += 1
        return self.serial

    def someone(self) -> Process | None:
        process = self.rng.choice(self.running)
        return None if process.leaves else process

    def asks(self) -> None:
        """Have a process read a key, as `Region` does: near, host, peer, fill."""
        process, key = self.someone(), self.rng.choice(self.keys)
        if process is None:
            return
        kept = process.kept(key, self.now)
        if kept is not None:
            self.judges(kept.value, self.floor(key, process), key, process, "near")
            if self.rng.random() < 0.7:
                return
        found = self.looks_into_arena(process, key)
        if found is not None and self.rng.random() < 0.7:
            return
        draw = self.rng.random()
        if draw < 0.25:
            self.gets(process, key)
        elif draw < 0.4:
            self.loads_many(process)
        else:
            refresh = found is not None and self.rng.random() < 1 / 2
            self.loads(process, key, found.version if found and refresh else 0)

    def looks_into_arena(self, process: Process, key: bytes) -> Entry | None:
        hashed = self.hashes[key]
        tenure = process.engine.ranges.tenures[partition_of(hashed)]
        if tenure.get is None:
            return None
        stamp = tenure.stamp(bucket_of(hashed))
        found = tenure.get(key, hashed, self.now)
        if found is None:
            return None
        self.judges(found.value, self.floor(key), key, process, "host")
        process.keep(key, found.value, stamp, self.now, found.version)
        return found

    def requests(self, process: Process, op: Any, done: Callable[[Any], None]) -> int:
        ticket = self.ticket()
        process.waits[ticket] = done
        self.does(process, process.engine.request(ticket, op, self.now))
        return ticket

    def gets(self, process: Process, key: bytes) -> None:
        floor = self.floor(key)
        self.says(process.name, "gets", key, "above", floor)

        def done(outcome: Any) -> None:
            if isinstance(outcome, Results) and (got := outcome.found[0]) is not None:
                self.judges(got.value, floor, key, process, "get")
                process.keep(key, got.value, got.stamp, self.now)

        self.requests(process, GetKeys(((key, self.hashes[key]),)), done)

    def loads(self, process: Process, key: bytes, than: int = 0) -> None:
        """Have a key loaded, or what is stored of it, of version *than*, refreshed."""
        floor = self.floor(key, process)
        self.says(process.name, "loads", key, "above", floor, "than", than)
        self.happened["refreshes"] += than > 0
        loader = "loads" if self.pools and self.rng.random() < 0.7 else ""
        timeout = self.rng.choice((0.4, 1.0, 30.0))
        hashed, tags = self.hashes[key], self.tags[key]
        op = LoadKey(key, hashed, loader, 1, b"", (), timeout, than, tags)
        ticket = self.serial + 1

        def done(outcome: Any) -> None:
            process.loads.discard(ticket)
            self.is_told(process, key, floor, ticket, outcome)
            if isinstance(outcome, Got) and outcome.tier in {Tier.HOST, Tier.PEER}:
                assert outcome.version > than, "a refresh brought what was there"

        process.loads.add(ticket)
        assert ticket == self.requests(process, op, done)

    def loads_many(self, process: Process) -> None:
        """Have all keys loaded at once, as `get_or_load_many` does."""
        floors = {key: self.floor(key, process) for key in self.keys}
        self.says(process.name, "loads many above", floors)
        self.happened["loads of many"] += 1
        tags = tuple(sorted({tag for key in self.keys for tag in self.tags[key]}))
        timeout = self.rng.choice((0.4, 1.0, 30.0))
        op = LoadKeys(tuple(self.hashes.items()), timeout, (), tags)
        ticket = self.serial + 1

        def done(outcome: Any) -> None:
            if isinstance(outcome, Lot):
                for key, told in zip(self.keys, outcome.outcomes, strict=True):
                    self.is_told(process, key, floors[key], ticket, told)

        assert ticket == self.requests(process, op, done)

    def is_told(
        self, process: Process, key: bytes, floor: int, ticket: int, outcome: Any
    ) -> None:
        """Take what came of a load."""
        if isinstance(outcome, Got):
            self.judges(outcome.value, floor, key, process, outcome.tier.value)
            process.keep(key, outcome.value, outcome.stamp, self.now)
        elif isinstance(outcome, Granted):
            self.sets_out(process, key, outcome.lease, ticket, outcome.stamp)

    def sets_out(
        self,
        process: Process,
        key: bytes,
        lease: int,
        ticket: int | None,
        stamp: Stamp | None,
    ) -> None:
        """Begin to run a loader: by a lease, or for the pool, without a ticket."""
        owner = process.engine.ranges.owner(self.hashes[key])
        process.errands.append(Errand(key, lease, ticket, stamp, owner))

    def loads_on(self) -> None:
        """Let a loader go on: read the truth, hand it in, or come to nothing."""
        able = [p for p in self.running if p.errands]
        if not able:
            return
        process = self.rng.choice(able)
        if process.loads and self.rng.random() < 0.03:
            forsaken = self.rng.choice(sorted(process.loads))
            process.waits.pop(forsaken, None)
            process.loads.discard(forsaken)
            self.requests_nothing(process, Forsake(forsaken))
        errand = self.rng.choice(process.errands)
        if errand.value is None:
            errand.value = self.value(errand.key, self.truth[errand.key])
            self.says(process.name, "reads", self.truth[errand.key], "of", errand.key)
            return
        process.errands.remove(errand)
        draw = self.rng.random()
        if draw < 0.05:
            self.fails(process, errand, Failure("Oops", "", "", b""))
        elif draw < 0.10:
            self.fails(process, errand, None)
        else:
            self.hands_in(process, errand)

    def hands_in(self, process: Process, errand: Errand) -> None:
        value = errand.value
        assert value is not None
        ttl_ms = self.rng.choice((NO_EXPIRY, NO_EXPIRY, 5000))
        owner = process.engine.ranges.owner(self.hashes[errand.key])
        self.happened["owner changed during a load"] += owner != errand.owner
        self.says(process.name, "hands in", number_of(value), "of", errand.key)
        if errand.ticket is None:
            op: Any = RunEnded(errand.lease, value, ttl_ms, None)
        else:
            op = Deliver(errand.lease, value, ttl_ms)
        self.requests_nothing(process, op)
        if errand.ticket is not None:
            process.keep(errand.key, value, errand.stamp, self.now)

    def fails(self, process: Process, errand: Errand, failure: Failure | None) -> None:
        if errand.ticket is None:
            op: Any = RunEnded(errand.lease, None, 0, failure)
        else:
            op = Drop(errand.lease, errand.ticket, failure)
        self.requests_nothing(process, op)

    def requests_nothing(self, process: Process, op: Any) -> None:
        self.does(process, process.engine.request(None, op, self.now))

    # --- writes -------------------------------------------------------------------

    def writes_something(self) -> None:
        process, key = self.someone(), self.rng.choice(self.keys)
        name = self.rng.choices(list(DEEDS), [d.often for d in DEEDS.values()])[0]
        if process is None or (DEEDS[name] is TAGS and not self.tags[key]):
            return
        many = DEEDS[name] in MANY
        rivals = [e for e in self.open.values() if many or e.key == key]
        carrying = any(DEEDS[e.deed].carries for e in rivals)
        if carrying or (rivals and DEEDS[name].carries):
            return
        if DEEDS[name] in MANY:
            self.ends_many(process, name)
        else:
            self.writes_key(process, key, name)

    def begins(self, process: Process, key: bytes, deed: str) -> Ending:
        """Move the origin: all that was read of it so far is about to be ended."""
        if deed == "incr":
            self.truth[key] += 1
        elif deed != "touch":
            self.truth[key] = (self.truth[key] >> 8) + 1 << 8
        self.serial += 1
        ending = Ending(key, deed, self.truth[key], process.name, self.serial)
        self.open[self.serial] = ending
        self.says(process.name, f"begins to {deed}", key, "at", ending.number)
        return ending

    def writes_key(self, process: Process, key: bytes, name: str) -> None:
        deed, hashed = DEEDS[name], self.hashes[key]
        before = self.truth[key]
        ending = self.begins(process, key, name)
        value = self.value(key, before if name == "incr" else ending.number)
        delta = 1 if name == "incr" else ending.serial
        item = Item(key, value if deed.carries else b"", deed.ttl_ms, delta)
        partition = partition_of(hashed)
        here = process.holds(partition) and self.rng.random() < 1 / 2
        if here and self.writes_here(process, deed.verb, item, ending):
            return
        if self.rng.random() < 1 / 3 and self.writes_to_sibling(
            process, deed.verb, item, ending
        ):
            return
        self.asks_to_write(process, deed.verb, item, ending)

    def writes_here(
        self, process: Process, verb: Verb, item: Item, ending: Ending
    ) -> bool:
        """Write on a thread of the owner itself; False if that cannot be done."""
        hashed = self.hashes[ending.key]
        result = process.engine.owner.direct(verb, item, hashed, self.now)
        if result is None:
            return False
        self.was_done(ending, process, result.status)
        if moves(verb, result):
            if process.name in ending.done_at:
                ending.done_at[process.name] = None
            self.later(0.01, lambda: self.moved(process, ending))
        self.is_over(ending, result)
        return True

    def moved(self, process: Process, ending: Ending) -> None:
        """Have the engine tell readers what a thread has written."""
        if process.runs and not process.leaves:
            self.requests_nothing(process, Moved(bucket_of(self.hashes[ending.key])))
            if process.name in ending.done_at:
                ending.done_at[process.name] = self.mail_of(process)

    def writes_to_sibling(
        self, process: Process, verb: Verb, item: Item, ending: Ending
    ) -> bool:
        """Ask the owner on this host on a connection of the thread's own."""
        sibling = process.engine.ranges.sibling(self.hashes[ending.key])
        if sibling is None:
            return False
        table = process.engine.ranges.table.epoch
        message = Write(ending.serial, sibling.epoch, table, 0, 1000, verb, (item,))
        self.writes[process.name, ending.serial] = [ending]
        target = sibling.address[:-2]
        self.posts(process.name, target, "wire", message)
        process.waits[-ending.serial] = lambda found: self.has_written(
            process, verb, item, ending, found
        )
        limit = self.config.request_timeout

        def silent() -> None:
            if process.waits.pop(-ending.serial, None) is not None:
                self.has_written(process, verb, item, ending, None)

        heappush(self.plans, (self.now + limit, self.ticket(), silent))
        return True

    def answers_thread(self, process: Process, message: Any) -> None:
        done = process.waits.pop(-message.rid, None)
        if done is not None:
            done(message.results[0] if type(message) is Written else False)

    def has_written(
        self, process: Process, verb: Verb, item: Item, ending: Ending, found: Any
    ) -> None:
        if process.runs and process.engine.is_loading(ending.key):
            self.requests_nothing(process, Wrote(ending.key))
        if found is None:
            self.is_over(ending, None)
        elif found is False or found.status is Status.NOT_OWNER:
            self.asks_to_write(process, verb, item, ending)
        else:
            self.is_over(ending, WriteResult(found.status, found.value))

    def asks_to_write(
        self, process: Process, verb: Verb, item: Item, ending: Ending
    ) -> None:
        def done(outcome: Any) -> None:
            result = outcome.results[0] if isinstance(outcome, WriteResults) else None
            if isinstance(result, WriteResult) and not ending.done_at:
                self.was_done(ending, process, result.status)
            self.is_over(ending, result)

        if not process.runs or process.leaves:
            self.is_over(ending, None)
            return
        op = WriteKeys(verb, ((item, self.hashes[ending.key]),))
        self.requests(process, op, done)

    def ends_many(self, process: Process, name: str) -> None:
        """Have all members forget the cache, or what bears a tag."""
        if DEEDS[name] is TAGS:
            tag = self.rng.choice(self.tags[self.rng.choice(self.keys)])
            op: Any = InvalidateTags((tag,))
            keys = [key for key, tags in self.tags.items() if tag in tags]
        else:
            op, keys = ClearCache("c"), self.keys
        endings = [self.begins(process, key, name) for key in keys]

        def done(outcome: Any) -> None:
            fine = isinstance(outcome, WriteResults) and not any(
                isinstance(r, Unreached) for r in outcome.results
            )
            for ending in endings:
                ending.contested = self.remains(ending)
                self.is_over(ending, WriteResult(Status.HIT, b"") if fine else None)

        for ending in endings:
            self.was_done(ending, process, Status.HIT)
        self.sending = endings
        self.requests(process, op, done)
        self.sending = []

    def remains(self, ending: Ending) -> bool:
        """Whether what a clear was to end may be left on another host, untold."""
        host = self.all[ending.writer].host
        hashed = self.hashes[ending.key]
        return any(
            process.name not in ending.done_at
            and process.host != host
            and (
                process.holds(partition_of(hashed))
                or process.engine.store.peek(ending.key, hashed, self.now)
            )
            for process in self.all.values()
        )

    def notes_write(self, name: str, message: Any) -> None:
        """Take note which writes a request belongs to."""
        if type(message) is not Write:
            self.writes[name, message.rid] = self.sending
            return
        item = message.items[0]
        self.writes[name, message.rid] = [
            ending
            for ending in self.open.values()
            if ending.serial == item.delta
            or (ending.deed == "incr" and ending.key == item.key)
        ]

    def was_done(self, ending: Ending, process: Process, status: Status) -> None:
        """Take note that a write was done by *process* just now."""
        deed = DEEDS[ending.deed]
        many = deed in MANY
        if process.name in ending.done_at or not (many or status in deed.ends):
            return
        self.says(process.name, f"does the {ending.deed} of", ending.key)
        self.counts_loads(ending)
        ending.done_at[process.name] = self.mail_of(process)
        if not many:
            self.is_done(ending, process)

    def mail_of(self, process: Process) -> dict[str, int]:
        """Return how much *process* has said to each of its readers."""
        readers = process.engine._core.readers._readers
        return {
            name: self.line(process.name, name, "reply").sent for name, _ in readers
        }

    def is_done(self, ending: Ending, process: Process) -> None:
        ending.contested = any(
            other.host != process.host and self.claims_key(other, ending.key)
            for other in self.all.values()
        )
        if ending.deed != "incr":
            at = process.host, ending.key
            self.floors[at] = max(self.floors.get(at, 0), ending.number)

    def claims_key(self, process: Process, key: bytes) -> bool:
        """Whether *process* holds a key, or takes it for one of its host's."""
        hashed = self.hashes[key]
        owner = process.engine.ranges.owner(hashed)
        ours = owner is not None and owner.host == process.host
        return process.holds(partition_of(hashed)) or (process.runs and ours)

    def counts_loads(self, ending: Ending) -> None:
        for process in self.running:
            for errand in process.errands:
                if errand.key == ending.key:
                    self.happened["writes during a load"] += 1
                    if errand.value is not None:
                        self.happened["writes after its loader has read"] += 1

    def is_over(self, ending: Ending, result: Any) -> None:
        """Take note of what the writer was told."""
        if self.open.pop(ending.serial, None) is None:
            return
        deed = DEEDS[ending.deed]
        known = isinstance(result, WriteResult)
        self.says(f"the {ending.deed} of", ending.key, "is over:", result)
        if deed.carries and not known:
            unknown = not isinstance(result, Unreached) or result.unknown
            if unknown:
                self.loose.add((ending.key, ending.number >> 8))
                self.happened["writes of unknown outcome"] += 1
        if not known or result.status not in deed.ends:
            self.happened["writes that failed"] += not known
            return
        if ending.deed == "incr":
            ending.number = min(ending.number, unpackb(result.number))
        if ending.contested:
            self.happened["writes contested"] += 1
            return
        ending.over = self.now
        self.endings[ending.key].append(ending)
        self.happened["writes"] += 1
        self.happened["clears and tags"] += deed in MANY

    # --- what must hold -----------------------------------------------------------

    def floor(
        self,
        key: bytes,
        reader: Process | None = None,
        *,
        last: bool = False,
    ) -> int:
        """Return the least number that whoever asks now may get."""
        return max(
            (
                ending.number
                for ending in self.endings[key]
                if reader is None
                or not (
                    self.is_untold(ending, reader, last=last)
                    or self.is_unheard(ending, reader)
                    or (not last and self.is_excused(ending, reader))
                )
            ),
            default=0,
        )

    def is_untold(self, ending: Ending, reader: Process, *, last: bool) -> bool:
        """Whether *reader* was not told of what was told to every member: rule 5."""
        whats = (TAGS,) if last else MANY
        return DEEDS[ending.deed] in whats and reader.name not in ending.done_at

    def is_unheard(self, ending: Ending, reader: Process) -> bool:
        """Whether another host's node did it, and *reader* has yet to hear of that.

        From whom it takes for the owner, who has got the partition back.
        """
        owner = reader.engine.ranges.owner(self.hashes[ending.key])
        other = None if owner is None else self.all.get(owner.address[:-2])
        if other is None or other.host == reader.host or ending.over is None:
            return False
        if other.name in ending.done_at or reader.retabled > ending.over:
            return False
        partition = partition_of(self.hashes[ending.key])
        return self.now < other.opened.get(partition, START) + SILENCE + SLACK

    def is_excused(self, ending: Ending, reader: Process) -> bool:
        """Whether *reader* cannot know yet that something has ended: rules 2 and 3.

        It has it near, or joins a load.
        """
        if DEEDS[ending.deed] is TAGS:
            return False
        hashed = self.hashes[ending.key]
        owner = reader.engine.ranges.owner(hashed)
        other = None if owner is None else self.all.get(owner.address[:-2])
        if other is not None and other.host == reader.host:
            return False
        if other is None or not self.agree(other, reader, ending.key):
            return True
        notes = ending.done_at.get(other.name)
        if notes is not None:
            if ending.writer == reader.name:
                return False
            number = notes.get(reader.name)
            line = self.line(other.name, reader.name, "reply")
            if number is not None and line.arrived >= number not in line.lost_notes:
                return False
        assert ending.over is not None
        return self.now < ending.over + SILENCE + SLACK

    def agree(self, owner: Process, reader: Process, key: bytes) -> bool:
        """Whether *owner* is what *reader* takes it for."""
        tables = {p.engine.ranges.table.epoch for p in (owner, reader)}
        holds = owner.holds(partition_of(self.hashes[key]))
        return owner.runs and holds and len(tables) == 1

    def judges(
        self, value: bytes, floor: int, key: bytes, process: Process, where: str
    ) -> None:
        number = number_of(value)
        self.happened["reads"] += 1
        if number < floor and (key, number >> 8) not in self.loose:
            raise StaleError(
                f"{process.name} got {number} of {key!r} from its {where} at "
                f"{self.now - START:.3f}, and {floor} had ended all before it"
            )

    def check(self) -> None:
        for process in self.running:
            for key, hashed in self.hashes.items():
                floor = max(self.floor(key), self.floors.get((process.host, key), 0))
                found = process.engine.store.peek(key, hashed, self.now)
                if found is not None and process.holds(partition_of(hashed)):
                    self.judges(found.value, floor, key, process, "store")
                tenure = process.engine.ranges.tenures[partition_of(hashed)]
                entry = tenure.get and tenure.get(key, hashed, self.now)
                if entry:
                    self.judges(entry.value, self.floor(key), key, process, "host")
                kept = process.kept(key, self.now)
                if kept is not None:
                    floor = self.floor(key, process)
                    self.judges(kept.value, floor, key, process, "near")

    # --- the end ------------------------------------------------------------------

    def calms(self) -> None:
        """Mend everything, let all that waits happen, and look what is left."""
        self.says("calm")
        for line in list(self.lines.values()):
            line.cut = False
            self.flows(line)
        turns = 0
        while self.goes_on(turns):
            turns += 1
            assert turns < MOST_TURNS, "it does not calm down"
        self.check()
        for _ in range(5):
            self.passes(SILENCE / 3)
            while self.busy:
                self.delivers(self.busy[0])
        for process in self.running:
            for key in self.keys:
                kept = process.kept(key, self.now)
                if kept is not None:
                    floor = self.floor(key, process, last=True)
                    self.judges(kept.value, floor, key, process, "near")
        self.check()

    def goes_on(self, turn: int) -> bool:
        """Let one more thing happen; False if nothing is left to happen."""
        if self.busy:
            self.delivers(self.rng.choice(self.busy))
        elif any(process.errands for process in self.running):
            self.loads_on()
        elif self.is_calm():
            return False
        else:
            if turn % 8 == 0:
                self.reconciles()
            self.passes(0.05)
        self.passes(0.0005)
        return True

    def is_calm(self) -> bool:
        running = self.running
        ids = {process.me.node_id for process in running}
        return (
            not self.open
            and not self.plans
            and all(
                not process.leaves
                and process.engine.settled
                and ids
                == {member.node_id for member in process.engine.ranges.table.members}
                for process in running
            )
        )


def run(seed: int) -> Counter[str]:
    """Run one schedule and return what happened in it, counted."""
    return Schedule(seed).run()


def main(arguments: list[str]) -> int:
    """Replay the one seed that is given, or run all from the first to the second."""
    first, *rest = map(int, arguments)
    if not rest:
        print(Schedule(first, print).run())
        return 0
    happened: Counter[str] = Counter()
    failures = 0
    for seed in range(first, rest[0]):
        try:
            happened += run(seed)
        except AssertionError as failure:
            failures += 1
            print(seed, failure)
    for what, count in sorted(happened.items()):
        print(f"{count:8} {what}")
    return min(failures, 1)
