"""Chaos, then calm: a cluster is ill-treated at random, and must agree afterwards.

    report = run(seed=7)
    report = run(seed=7, nodes=40, settings=Settings(probe_interval=0.5))
    report = run(seed=7, script=my_script)

`run` is a pure function: the seed decides the size of the cluster, the state of its
network and every misfortune, and the same arguments give the same report. A run fails
when an invariant breaks, or when the calm does not settle it within `settling_bound`;
the error says how to see it again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from typing import Final, NamedTuple, final

from meshcache.membership.settings import Settings
from meshcache.model import State
from meshcache.testing.simulator import MakeMachine, Seat, Simulator
from meshcache.transport.memory import Conditions

__all__ = ["DEEDS", "Deed", "NotSettled", "Report", "plan", "run", "settling_bound"]

SEEDS: Final = (0, 1, 2)
"""The nodes that all others know by address."""

FEWEST: Final = 3
"""Nodes that are left running, whatever happens to the others."""

DEEDS: Final[dict[str, int]] = {
    "crash": 4,
    "restart": 5,
    "leave": 1,
    "newcomer": 1,
    "pause": 2,
    "block": 2,
    "slow": 2,
    "jump": 1,
    "split": 3,
    "worsen": 2,
    "heal": 4,
}
"""What may befall a cluster, and how often in proportion."""

_PAUSE_BETWEEN: Final = (0.1, 6.0)
_MOST_NODES: Final = 12
_SETTLED_EVERY: Final = 0.25


class NotSettled(AssertionError):
    """The calm has lasted as long as it may, and the nodes still do not agree."""


class Deed(NamedTuple):
    """One misfortune: when, what, whom it befalls, and how long or far it goes.

    `some` are the nodes on one side of it, where it has sides. `odd` makes it the
    less usual kind: a crash that nobody notices, a restart under the old id, a cut in
    one direction only.
    """

    at: float
    what: str
    node: int
    amount: float
    some: tuple[int, ...] = ()
    odd: bool = False
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one run. Times in virtual seconds, traffic as sent."""

    seed: int
    planned: int
    """How many nodes were started at first."""
    nodes: int
    seconds: float
    settled_in: float
    bound: float
    steps: int
    messages: int
    octets: int
    transcript: str
    transitions: Counter[str]
    counters: Counter[str]


Script = Callable[[Simulator], None]


def settling_bound(settings: Settings, nodes: int) -> float:
    """Return for how long a calm may last until all agree.

    The steps that may have to follow one another: an exchange of lists brings what one
    side does not know; a false suspicion runs its whole length; so does the true one of
    a member that had died unseen, or was found only after it; and the news goes round,
    doubling with each round of gossip.
    """
    _, longest = settings.suspicion_bounds(nodes)
    rounds = ceil(log2(max(2, nodes))) + 1
    exchange = settings.push_pull_every(nodes)
    return exchange + 2 * longest + settings.gossip_interval * rounds


def plan(seed: int, nodes: int, seconds: float) -> list[Deed]:
    """Return the misfortunes that *seed* has in store."""
    rng = random.Random(f"{seed} deeds")
    names, weights = list(DEEDS), list(DEEDS.values())
    deeds = []
    at = rng.uniform(*_PAUSE_BETWEEN)
    while at < seconds:
        order = list(range(nodes))
        rng.shuffle(order)
        deeds.append(
            Deed(
                at=at,
                what=rng.choices(names, weights)[0],
                node=order[0],
                amount=min(rng.expovariate(1 / 8.0), seconds - at),
                some=tuple(order[: rng.randint(1, nodes - 1)]),
                odd=rng.random() < 1 / 2,
                hold=rng.random() < 1 / 2,
            )
        )
        at += rng.uniform(*_PAUSE_BETWEEN)
    return deeds


def run(
    seed: int,
    *,
    nodes: int | None = None,
    seconds: float = 60.0,
    settings: Settings | None = None,
    conditions: Conditions | None = None,
    script: Script | None = None,
    make: MakeMachine | None = None,
) -> Report:
    """Ill-treat a cluster for *seconds* of virtual time and see it settle.

    Args:
        seed: decides everything that is not given.
        nodes: how many to start; by default 3 to 12.
        seconds: how long the chaos lasts; a script decides for itself.
        settings: what the machines obey.
        conditions: the state of the network while the chaos lasts.
        script: takes the place of the chaos.
        make: builds another machine than `Swim`; see `Simulator`.

    Raises:
        InvariantBroken: a machine did what no machine may do.
        NotSettled: the nodes do not agree within `settling_bound`.
    """
    rng = random.Random(f"{seed} weather")
    count = rng.randint(FEWEST, _MOST_NODES)
    weather = _weather(rng)
    settings = settings or Settings()
    simulator = Simulator(
        seed, settings=settings, conditions=conditions or weather, make=make
    )
    try:
        simulator.start(nodes or count, seeds=SEEDS)
        if script is None:
            _rage(simulator, plan(seed, nodes or count, seconds), seconds)
        else:
            script(simulator)
        return _calm(simulator, settings, nodes or count)
    except AssertionError as failure:
        failure.add_note(f"replay: python -m meshcache.testing --seed {seed}")
        raise


def _weather(rng: random.Random) -> Conditions:
    """Return a network between good and wretched."""
    badness = rng.random()
    return Conditions(
        delay=0.0002 + 0.02 * badness * rng.random(),
        jitter=0.05 * badness * rng.random(),
        loss=0.15 * badness * rng.random(),
        duplicate=0.1 * badness * rng.random(),
        reorder=0.2 * badness * rng.random(),
    )


def _rage(simulator: Simulator, deeds: list[Deed], seconds: float) -> None:
    stage = _Stage(simulator)
    for deed in deeds:
        simulator.advance(deed.at - simulator.now)
        stage.perform(deed)
    simulator.advance(seconds - simulator.now)


def _calm(simulator: Simulator, settings: Settings, planned: int) -> Report:
    """Mend everything, wait until all agree, and sum up."""
    known = [seat for seat in simulator.seats if seat.index in SEEDS]
    if not any(seat.running for seat in known):
        simulator.restart(SEEDS[0], seeds=SEEDS)
    simulator.heal()
    simulator.network.conditions = Conditions()
    for seat in simulator.running():
        simulator.slow(seat.index, 0.0)
    bound = settling_bound(settings, len(simulator.seats))
    try:
        settled = simulator.advance_until(
            simulator.agreed, within=bound, every=_SETTLED_EVERY
        )
    except AssertionError as failure:
        raise NotSettled(f"{failure}: {_differences(simulator)}") from None
    return _report(simulator, planned, settled, bound)


def _differences(simulator: Simulator) -> str:
    """Say who believes what it should not, for a person to look into."""
    wrong = []
    for seat in simulator.running():
        assert seat.swim is not None
        believed = {member.node_id: member for member in seat.swim.members()}
        for other in simulator.running():
            member = believed.pop(other.me.node_id, None)
            if member is None or member.state is not State.ALIVE:
                state = "unknown" if member is None else member.state.name
                wrong.append(f"{seat.name} has {other.name} {state}")
        wrong += [
            f"{seat.name} has the late {member.name} {member.state.name}"
            for member in believed.values()
            if member.state <= State.SUSPECT
        ]
    return "; ".join(wrong[:10])


def _report(simulator: Simulator, planned: int, settled: float, bound: float) -> Report:
    counters: Counter[str] = Counter()
    for swim in simulator.machines:
        counters.update(swim.counters.as_dict())
    traffic = simulator.network.traffic.values()
    return Report(
        seed=simulator.seed,
        planned=planned,
        nodes=len(simulator.seats),
        seconds=simulator.now,
        settled_in=settled,
        bound=bound,
        steps=simulator.steps,
        messages=sum(sum(one.messages.values()) for one in traffic),
        octets=sum(sum(one.octets.values()) for one in traffic),
        transcript=simulator.transcript,
        transitions=simulator.invariants.seen,
        counters=counters,
    )


@final
class _Stage:
    """Performs deeds, as far as they make sense when their time has come."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def perform(self, deed: Deed) -> None:
        seat = self._simulator.seats[deed.node]
        method: Callable[[Deed, Seat], None] = getattr(self, f"_{deed.what}")
        method(deed, seat)

    def _crash(self, deed: Deed, seat: Seat) -> None:
        if self._may_go(seat):
            self._simulator.crash(deed.node, silent=deed.odd)

    def _restart(self, deed: Deed, seat: Seat) -> None:
        down = [s.index for s in self._simulator.seats if not s.running]
        if down:
            index = down[seat.index % len(down)]
            self._simulator.restart(index, seeds=SEEDS, keep_id=deed.odd)

    def _leave(self, deed: Deed, seat: Seat) -> None:
        if self._may_go(seat) and not seat.paused_until:
            self._simulator.leave(deed.node)

    def _newcomer(self, deed: Deed, seat: Seat) -> None:
        del deed, seat
        if len(self._simulator.seats) < 2 * _MOST_NODES:
            self._simulator.start(seeds=SEEDS)

    def _pause(self, deed: Deed, seat: Seat) -> None:
        if seat.running:
            self._simulator.pause(deed.node, deed.amount)

    def _block(self, deed: Deed, seat: Seat) -> None:
        if seat.running:
            self._simulator.block(deed.node, deed.amount)

    def _slow(self, deed: Deed, seat: Seat) -> None:
        if seat.running:
            self._simulator.slow(deed.node, deed.amount / 8)

    def _jump(self, deed: Deed, seat: Seat) -> None:
        if seat.running:
            self._simulator.jump(deed.node, 8 * deed.amount)

    def _split(self, deed: Deed, seat: Seat) -> None:
        del seat
        others = set(range(len(self._simulator.seats))) - set(deed.some)
        self._simulator.partition(
            deed.some, sorted(others), one_way=deed.odd, hold=deed.hold
        )

    def _worsen(self, deed: Deed, seat: Seat) -> None:
        loss = min(1.0, deed.amount / 8)
        self._simulator.worsen(deed.some, [seat.index], Conditions(loss=loss))

    def _heal(self, deed: Deed, seat: Seat) -> None:
        del deed, seat
        self._simulator.heal()

    def _may_go(self, seat: Seat) -> bool:
        return seat.running and len(self._simulator.running()) > FEWEST
