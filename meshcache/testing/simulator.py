"""A whole cluster in one thread, under a virtual clock, from one seed.

    cluster = Simulator(seed=7)
    cluster.start(8)
    cluster.advance(2.0)
    cluster.crash(3)
    cluster.advance_until(lambda: cluster.agreed(), within=30.0)

It drives machines of the shape `receive`, `tick`, `deadline` over a `MemoryNetwork`, so
the codec is exercised too. `make` builds them: by default `Swim`, but any machine of
that shape will do; effects other than `Send` and `Reply` go to `on_effect`. Every node
has a clock of its own that starts anywhere, because no machine may read another's.
After every input the invariants are checked. The same seed gives the same `transcript`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple, Protocol, final

from meshcache.clock import NEVER
from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Reply, Route, Send
from meshcache.membership.effects import Changed
from meshcache.membership.machine import Swim
from meshcache.membership.settings import Settings
from meshcache.model import Member, NodeId, State
from meshcache.testing.invariants import InvariantBroken, Invariants
from meshcache.transport.memory import Arrival, Conditions, Lost, MemoryNetwork

__all__ = ["Happening", "Machine", "MakeMachine", "Seat", "Simulator"]

_EPOCH_NS: Final = 1_700_000_000_000_000_000
_CLOCK_SPREAD: Final = 1e6
_MOST_TICKS_AT_ONCE: Final = 100
_ROUNDING: Final = 1e-9
"""What a sum of two times may be short of, and a tick before its time does nothing."""


class Machine(Protocol):
    """What the simulator can drive. `Swim` and the engine are of this shape."""

    def join(self, seeds: Iterable[str], now: float) -> Sequence[Any]:
        """Start."""
        ...

    def receive(self, message: Any, route: Route, now: float) -> Sequence[Any]:
        """Take in a message."""
        ...

    def tick(self, now: float) -> Sequence[Any]:
        """Do what is due."""
        ...

    def deadline(self) -> float | None:
        """Return when something is due."""
        ...

    def connection_lost(self, address: str, now: float) -> Sequence[Any]:
        """Take note of a lost connection."""
        ...

    def connection_made(self, address: str, now: float) -> Sequence[Any]:
        """Take note of a connection that was lost and is there again."""
        ...

    def leave(self, now: float) -> Sequence[Any]:
        """Say farewell."""
        ...

    @property
    def left(self) -> bool:
        """Whether it has been said, and the process may stop."""
        ...


@final
@dataclass(slots=True, eq=False)
class Seat:
    """A place in the cluster, and the process that has it at present."""

    index: int
    life: int
    """Counts the processes of a simulation; no two have the same."""
    name: str
    address: str
    data_address: str
    host: str
    label: str
    me: Member
    machine: Machine
    swim: Swim | None
    """The membership machine, whose list the invariants are checked on."""
    clock: float
    running: bool = True
    paused_until: float = 0.0
    blocked_until: float = 0.0
    lag: float = 0.0
    ticked_at: float = -1.0
    ticks: int = 0
    due_at: float = NEVER
    listed: tuple[Member, ...] = ()


class Happening(NamedTuple):
    """A `Changed`, with the time and the index of the node that told it."""

    at: float
    observer: int
    change: Changed


MakeMachine = Callable[[Member, random.Random], Machine]
OnEffect = Callable[[Seat, Any, float], None]
Action = Callable[[], None]


@final
class Simulator:
    """Nodes, their network and their time. Confined to one thread."""

    def __init__(
        self,
        seed: int,
        *,
        settings: Settings | None = None,
        conditions: Conditions | None = None,
        make: MakeMachine | None = None,
        membership_of: Callable[[Any], Swim | None] | None = None,
        on_effect: OnEffect | None = None,
        label: str = "simulated",
        heartbeats: bool = True,
    ) -> None:
        self.seed = seed
        self.now = 0.0
        self.rng = random.Random(seed)
        self.network = MemoryNetwork(
            random.Random(f"{seed} network"), conditions, heartbeats=heartbeats
        )
        self.seats: list[Seat] = []
        self.history: list[Happening] = []
        self.invariants = Invariants()
        self.steps = 0
        self._settings = settings or Settings()
        self._make = make or self._make_swim
        self._membership_of = membership_of or _swim_of
        self._on_effect = on_effect
        self._label = label
        self._codecs: dict[str, FrameCodec] = {}
        self._due: list[tuple[float, int, Seat | Action]] = []
        self._order = 0
        self._lives = 0
        self.machines: list[Swim] = []
        """All that ever took part, those that have crashed among them."""

    # --- who takes part ---------------------------------------------------------

    def start(
        self,
        count: int = 1,
        *,
        seeds: Sequence[int] = (0,),
        weight: int = 1,
        hosts: int = 0,
        label: str | None = None,
    ) -> list[Seat]:
        """Start *count* more nodes, which know the nodes *seeds* by address.

        They are spread over *hosts* hosts, or have one each. Those of another *label*
        are another cluster's.
        """
        begun = []
        for _ in range(count):
            index = len(self.seats)
            host = f"host-{index % hosts if hosts else index}"
            seat = self._seat(index, host, weight, label or self._label)
            self.seats.append(seat)
            self._join(seat, seeds)
            begun.append(seat)
        return begun

    def crash(self, index: int, *, silent: bool = False) -> None:
        """Kill a node: its connections break, or nobody notices if *silent*."""
        seat = self.seats[index]
        self.network.crash(seat.name, self.now, silent=silent)
        seat.running = False
        seat.paused_until = seat.blocked_until = 0.0

    def restart(
        self,
        index: int,
        *,
        seeds: Sequence[int] = (0,),
        label: str | None = None,
        keep_id: bool = False,
    ) -> Seat:
        """Start a new process at the addresses of one that has crashed or left.

        With a *label*, it is another cluster's. With *keep_id*, it goes by the id of
        the one before it, and only its epoch is newer.
        """
        old = self.seats[index]
        assert not old.running
        node_id = old.me.node_id if keep_id else None
        seat = self._seat(index, old.host, old.me.weight, label or old.label, node_id)
        self.seats[index] = seat
        self._join(seat, seeds)
        return seat

    def leave(self, index: int) -> None:
        """Let a node say farewell; it stops when it has."""
        seat = self.seats[index]
        self._apply(seat, seat.machine.leave(self._local(seat)))

    # --- what befalls them ------------------------------------------------------

    def pause(self, index: int, seconds: float) -> None:
        """Stop a node for a while, as SIGSTOP does. Messages wait for it."""
        seat = self.seats[index]
        self.network.pause(seat.name, self.now)
        seat.paused_until = max(seat.paused_until, self.now + seconds)
        self._schedule(seat, seat.paused_until)

    def block(self, index: int, seconds: float) -> None:
        """Let all that a node sends and all that comes to it wait for a while.

        Its time goes on, and it acts on what it does not hear: the anomaly of the
        Lifeguard paper (section V).
        """
        seat = self.seats[index]
        self.network.block(seat.name)
        seat.blocked_until = max(seat.blocked_until, self.now + seconds)
        self.after(seconds, lambda: self._unblock(seat))

    def slow(self, index: int, seconds: float) -> None:
        """Let a node be so much late with all that it does; 0 for no more."""
        seat = self.seats[index]
        seat.lag = seconds
        self.network.slow(seat.name, seconds)

    def jump(self, index: int, seconds: float) -> None:
        """Move a node's clock forward at once, as a suspended machine's does."""
        assert seconds >= 0
        seat = self.seats[index]
        seat.clock += seconds
        self._plan(seat)

    def partition(
        self,
        some: Iterable[int],
        others: Iterable[int],
        *,
        one_way: bool = False,
        hold: bool = False,
    ) -> None:
        """Let nothing through from *some* to *others*, nor back unless *one_way*."""
        far = [self.seats[index].name for index in others]
        for index in some:
            near = self.seats[index].name
            for name in far:
                self.network.cut(near, name, self.now, hold=hold)
                if not one_way:
                    self.network.cut(name, near, self.now, hold=hold)

    def worsen(
        self, some: Iterable[int], others: Iterable[int], conditions: Conditions
    ) -> None:
        """Let what goes from *some* to *others* travel under *conditions*; one way."""
        far = [self.seats[index].name for index in others]
        for index in some:
            for name in far:
                self.network.between(self.seats[index].name, name, conditions)

    def heal(self) -> None:
        """Mend every line: all that `partition` and `worsen` have done."""
        self.network.heal(self.now)

    # --- time -------------------------------------------------------------------

    def after(self, seconds: float, action: Action) -> None:
        """Call *action* when so much time has passed."""
        self._order += 1
        heappush(self._due, (self.now + seconds, self._order, action))

    def advance(self, seconds: float) -> None:
        """Let so much time pass.

        Raises:
            InvariantBroken: with the seed and the time to look at.
        """
        self._run_to(self.now + seconds)

    def advance_until(
        self, condition: Callable[[], bool], *, within: float, every: float = 0.05
    ) -> float:
        """Let time pass until *condition* holds; return how much it took.

        Raises:
            AssertionError: it did not hold *within* so many seconds.
        """
        began, limit = self.now, self.now + within
        while not condition():
            if self.now >= limit:
                raise AssertionError(
                    f"not so within {within} s (seed {self.seed}, t={self.now:.2f})"
                )
            self._run_to(min(self.now + every, limit))
        return self.now - began

    # --- what came of it --------------------------------------------------------

    def running(self) -> list[Seat]:
        """Return the nodes that are up, paused ones among them."""
        return [seat for seat in self.seats if seat.running]

    def believed(self, observer: int, subject: int) -> State | None:
        """Return what one node believes of another's present or last process."""
        swim = self._swim(self.seats[observer])
        member = swim.member(self.seats[subject].me.node_id)
        return None if member is None else member.state

    def agreed(self) -> bool:
        """Return whether every node has the running ones alive and suspects nobody."""
        clusters: dict[str, set[tuple[Any, ...]]] = {}
        for seat in self.running():
            clusters.setdefault(seat.label, set()).add(seat.me[:2])
        return all(
            clusters[seat.label]
            == {m[:2] for m in members if m.state <= State.SUSPECT}
            == {m[:2] for m in members if m.state is State.ALIVE}
            for seat in self.running()
            for members in (self._swim(seat).members(),)
        )

    @property
    def transcript(self) -> str:
        """A hash of all that has happened: equal for equal seeds and commands."""
        return self.network.transcript

    # --- inside -----------------------------------------------------------------

    def _make_swim(self, me: Member, rng: random.Random) -> Swim:
        return Swim(me, self._settings, rng)

    def _seat(
        self,
        index: int,
        host: str,
        weight: int,
        label: str,
        node_id: NodeId | None = None,
    ) -> Seat:
        self._lives += 1
        rng = random.Random(f"{self.seed} node {index} life {self._lives}")
        me = Member(
            node_id=node_id or NodeId(rng.randbytes(16)),
            epoch=_EPOCH_NS + int(self.now * 1e9) + self._lives,
            incarnation=0,
            state=State.ALIVE,
            address=f"sim://{index}/control",
            data_address=f"sim://{index}/data",
            host=host,
            weight=weight,
        )
        machine = self._make(me, rng)
        swim = self._membership_of(machine)
        if swim is not None:
            self.machines.append(swim)
        return Seat(
            index=index,
            life=self._lives,
            name=str(index),
            address=me.address,
            data_address=me.data_address,
            host=host,
            label=label,
            me=me,
            machine=machine,
            swim=swim,
            clock=rng.uniform(0, _CLOCK_SPREAD) - self.now,
        )

    def _join(self, seat: Seat, seeds: Sequence[int]) -> None:
        codec = self._codecs.setdefault(seat.label, FrameCodec(seat.label))
        self.network.attach(seat.name, codec, seat.address, seat.data_address)
        addresses = [f"sim://{index}/control" for index in seeds]
        self._apply(seat, seat.machine.join(addresses, self._local(seat)))

    def _local(self, seat: Seat) -> float:
        return self.now + seat.clock

    def _swim(self, seat: Seat) -> Swim:
        assert seat.swim is not None
        return seat.swim

    def _run_to(self, until: float) -> None:
        while (at := self._next()) <= until:
            self.now = max(self.now, at)
            self._step(at)
        self.now = until

    def _next(self) -> float:
        frames = self.network.deadline()
        soonest = NEVER if frames is None else frames
        return min(soonest, self._due[0][0]) if self._due else soonest

    def _step(self, at: float) -> None:
        self.steps += 1
        if self.network.deadline() == at:
            self._deliver()
            return
        _, _, due = heappop(self._due)
        if not isinstance(due, Seat):
            due()
        elif due.due_at == at and due.running:
            due.due_at = NEVER
            self._wake(due)

    def _deliver(self) -> None:
        event = self.network.deliver(self.now)
        if event is None:
            return
        seat = self.seats[int(event.owner)]
        now = self._local(seat)
        if isinstance(event, Arrival):
            effects = seat.machine.receive(event.message, event.route, now)
        elif isinstance(event, Lost):
            effects = seat.machine.connection_lost(event.address, now)
        else:
            effects = seat.machine.connection_made(event.address, now)
        self._apply(seat, effects)

    def _wake(self, seat: Seat) -> None:
        if seat.paused_until > self.now:
            self._schedule(seat, seat.paused_until)
            return
        if seat.paused_until:
            seat.paused_until = 0.0
            if not seat.blocked_until:
                self.network.resume(seat.name, self.now)
            if self.rng.random() < 1 / 2:
                # A process that wakes may look at its mail or at the clock first.
                self._plan(seat)
                return
        self._notice_haste(seat)
        self._apply(seat, seat.machine.tick(self._local(seat)))

    def _notice_haste(self, seat: Seat) -> None:
        """Fail for a machine whose deadline stays where it is, tick after tick."""
        seat.ticks = seat.ticks + 1 if seat.ticked_at == self.now else 0
        seat.ticked_at = self.now
        if seat.ticks > _MOST_TICKS_AT_ONCE:
            raise InvariantBroken(f"{seat.name} is due again and again")

    def _unblock(self, seat: Seat) -> None:
        if seat.running and self.now >= seat.blocked_until > 0.0:
            seat.blocked_until = 0.0
            if not seat.paused_until:
                self.network.resume(seat.name, self.now)

    def _apply(self, seat: Seat, effects: Sequence[Any]) -> None:
        network, now = self.network, self.now
        for effect in effects:
            if isinstance(effect, Send):
                network.send(seat.name, effect.address, effect.message, now)
            elif isinstance(effect, Reply):
                network.reply(seat.name, effect.route, effect.message, now)
            else:
                self._tell(seat, effect)
        self._check(seat)
        if seat.machine.left:
            self.crash(seat.index)
        elif seat.running:
            self._plan(seat)

    def _tell(self, seat: Seat, effect: Any) -> None:
        if isinstance(effect, Changed):
            self.history.append(Happening(self.now, seat.index, effect))
        if self._on_effect is not None:
            self._on_effect(seat, effect, self.now)

    def _check(self, seat: Seat) -> None:
        swim = seat.swim
        if swim is None:
            return
        listed = swim.members()
        if listed is seat.listed:
            return
        try:
            observer = f"{seat.name}/{seat.me.name}/{seat.life}"
            self.invariants.check(observer, swim.me, seat.listed, listed)
            self.invariants.check_bounds(observer, swim.queued, len(listed))
        except InvariantBroken as broken:
            broken.add_note(f"seed {self.seed}, t={self.now:.6f}")
            raise
        seat.listed = listed

    def _plan(self, seat: Seat) -> None:
        deadline = seat.machine.deadline()
        if deadline is None:
            return
        at = max(self.now, deadline - seat.clock + _ROUNDING) + seat.lag
        if at < seat.due_at:
            self._schedule(seat, at)

    def _schedule(self, seat: Seat, at: float) -> None:
        seat.due_at = at
        self._order += 1
        if at < NEVER:
            heappush(self._due, (at, self._order, seat))


def _swim_of(machine: Any) -> Swim | None:
    return machine if isinstance(machine, Swim) else None
