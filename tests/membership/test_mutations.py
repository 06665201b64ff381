"""Would anybody notice if a rule were broken? Each is broken in turn, and must be.

A mutation replaces one function or number of the machine while a few short simulations
run; one of them has to fail. A mutation that nothing catches is a rule that nothing
guards. As a script, this file prints which check caught what:

    python tests/membership/test_mutations.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from meshcache.membership import belief, broadcast, core, detector, machine, probe
from meshcache.membership.settings import Settings
from meshcache.membership.suspicion import Suspicion
from meshcache.model import State
from meshcache.testing import Conditions, Simulator, run

Check = Callable[[], None]


def cluster(nodes: int, seed: int = 1, **options: Any) -> Simulator:
    made = Simulator(seed, **options)
    made.start(nodes)
    made.advance_until(made.agreed, within=5.0)
    made.advance(2.0)
    return made


def total(simulator: Simulator, counter: str) -> int:
    return sum(getattr(swim.counters, counter) for swim in simulator.machines)


# --- what has to hold ---------------------------------------------------------------


def joining() -> None:
    """Eight nodes agree in a second, and news go round as often as they should."""
    simulator = Simulator(4)
    simulator.start(8)
    simulator.advance_until(simulator.agreed, within=1.0)
    simulator.advance(20.0)
    assert not any(swim.queued for swim in simulator.machines)
    sent = total(simulator, "updates_sent")
    assert sent == 8 * 8 * Settings().retransmit_limit(8)


def silent_crash() -> None:
    """A death is found within the model's time, and told to all within a second."""
    for seed in range(4):
        simulator = cluster(10, seed)
        began = simulator.now
        simulator.crash(9, silent=True)
        simulator.advance_until(simulator.agreed, within=9.5)
        assert simulator.now - began > Settings().suspicion_bounds(10)[0]
        assert 1.5 > simulator.now - min(
            h.at for h in simulator.history if h.change.member.state is State.DEAD
        )


def every_member_in_turn() -> None:
    """No member waits for a probe for longer than 2n - 1 periods."""
    simulator = cluster(6)
    sent: dict[tuple[str, str], list[float]] = {}
    carry = simulator.network.send

    def watch(owner: str, address: str, message: Any, now: float) -> None:
        if type(message).__name__ == "Ping" and message.target:
            sent.setdefault((owner, address), []).append(now)
        carry(owner, address, message, now)

    simulator.network.send = watch  # type: ignore[method-assign]
    simulator.advance(60.0)
    gaps = [b - a for times in sent.values() for a, b in pairwise(times)]
    assert len(sent) == 30
    assert max(gaps) < (2 * 5 - 1) + 0.5


def cut_line() -> None:
    """A line that fails between two members is bridged by helpers."""
    simulator = cluster(6)
    simulator.partition((1,), (2,))
    simulator.advance(40.0)
    assert simulator.agreed()
    assert total(simulator, "suspicions") == 0
    assert total(simulator, "relayed") > 0


def pauses() -> None:
    """A member that stops for a while costs nobody its life."""
    for seed in range(3):
        simulator = cluster(8, seed)
        simulator.pause(3, 3.0)
        simulator.advance(12.0)
        assert simulator.agreed()
        assert total(simulator, "deaths") == 0
        assert simulator.seats[3].swim.counters.accusations == 0


def blocked_member() -> None:
    """A member that hears nothing trusts itself less, and brings down nobody."""
    for seed in range(2):
        simulator = cluster(24, seed)
        simulator.block(5, 20.0)
        simulator.advance(20.0)
        victim = simulator.seats[5].swim
        assert victim.health == Settings().max_health
        assert victim.counters.accusations <= 5
        simulator.advance(15.0)
        others = {seat.me.node_id for seat in simulator.seats} - {victim.me.node_id}
        assert not [
            h
            for h in simulator.history
            if h.change.member.state is State.DEAD and h.change.member.node_id in others
        ]
        assert simulator.agreed()
        simulator.advance(60.0)
        assert victim.health == 0


def silent_helpers_and_target() -> None:
    """When a target is dead, helpers say so, and the prober does not blame itself."""
    simulator = cluster(10)
    simulator.crash(9, silent=True)
    simulator.advance(12.0)
    assert total(simulator, "nacks") > 0
    assert all(seat.swim.health == 0 for seat in simulator.running())


def one_accuser() -> None:
    """A suspicion that nobody confirms lasts long; one that all confirm does not."""
    shortest, longest = Settings().suspicion_bounds(5)
    one = Suspicion(0.0, shortest, longest, 3)
    assert one.confirm("a")
    assert not one.confirm("a")
    assert one.deadline() == longest
    for name in "bcd":
        assert one.confirm(name)
    assert one.deadline() == shortest
    assert not one.confirm("e")


def lost_link() -> None:
    """A lost link hastens what is confirmed, for who is well, and nothing else."""
    shortest, longest = Settings().suspicion_bounds(100)
    one = Suspicion(0.0, shortest, longest, 3, 3.5)
    one.unlinked = True
    assert one.confirm("a")
    assert one.deadline(well=True) == longest
    assert all(one.confirm(name) for name in "bcd")
    assert (one.deadline(well=True), one.deadline(well=False)) == (3.5, shortest)
    alone = Suspicion(0.0, shortest, longest, 0, 3.5)
    alone.unlinked = True
    assert alone.deadline(well=True) == shortest


def silent_host() -> None:
    """A silent host is known in the same time, however large the cluster."""
    for seed in range(4):
        simulator = cluster(24, seed)
        simulator.advance(48.0)
        simulator.crash(23, silent=True)
        simulator.advance_until(simulator.agreed, within=5.9)


def busy_member() -> None:
    """One whose links hold, or are there again, has all the time there is."""
    for paused in (0.0, 3.0):
        simulator = cluster(24, 2)
        simulator.advance(48.0)
        simulator.pause(3, paused)
        simulator.advance(paused + 2.0)
        simulator.block(3, 6.4)
        simulator.advance(6.4)
        assert total(simulator, "suspicions") > 0
        assert total(simulator, "deaths") == 0


def outage() -> None:
    """When all accuse all, twice, no more news wait than there is reason for."""
    simulator = cluster(24)
    simulator.advance(48.0)
    for _ in range(2):
        for index in range(24):
            simulator.partition((index,), sorted(set(range(24)) - {index}))
        simulator.advance(3.0)
        simulator.heal()
        simulator.advance(10.0)
    assert total(simulator, "deaths") == 0


def unwell() -> None:
    """Nodes that doubt themselves do not trust what their links say."""
    simulator = cluster(24, 2, settings=Settings(max_health=1))
    simulator.advance(48.0)
    simulator.crash(23, silent=True)
    for _ in range(60):
        for swim in simulator.machines:
            swim._core.awareness.worse()
        simulator.advance(0.1)
    assert total(simulator, "deaths") == 0


def lossy() -> None:
    """Suspicions in a bad network are answered, so that nobody dies of them."""
    for seed in range(3):
        simulator = Simulator(seed, conditions=Conditions(loss=0.25))
        simulator.start(10)
        simulator.advance(90.0)
        assert total(simulator, "refutations") > 0
        assert total(simulator, "deaths") == 0


def wrongly_buried() -> None:
    """One that all took for dead is back soon after it can speak again."""
    simulator = cluster(8)
    simulator.partition((7,), range(7))
    simulator.advance(40.0)
    assert {State.DEAD} == {simulator.believed(i, 7) for i in range(7)}
    simulator.heal()
    simulator.advance_until(simulator.agreed, within=20.0)


def long_split_without_seeds() -> None:
    """Halves that have long buried each other find together without any seed."""
    simulator = cluster(6, settings=Settings(gossip_to_dead=1.0))
    for seat in simulator.seats:
        seat.machine.seeds((), simulator.now + seat.clock)
    simulator.partition(range(3), range(3, 6))
    simulator.advance(60.0)
    assert State.DEAD == simulator.believed(0, 4)
    simulator.heal()
    simulator.advance_until(simulator.agreed, within=90.0)


def restart() -> None:
    """A new process at an old address buries its forerunner at once."""
    for seed in range(3):
        simulator = cluster(6, seed)
        simulator.crash(4, silent=True)
        simulator.restart(4)
        simulator.advance_until(simulator.agreed, within=1.0)


def farewell() -> None:
    """A departure is known to all in a second and is no death."""
    simulator = cluster(16)
    simulator.leave(15)
    simulator.advance_until(simulator.agreed, within=1.0)
    assert total(simulator, "deaths") == 0


def lost_connection() -> None:
    """A broken connection is looked into at once, and is no verdict."""
    for seed in range(3):
        simulator = cluster(5, seed)
        probes = total(simulator, "probes")
        simulator.crash(4)
        simulator.advance(0.01)
        assert total(simulator, "probes") >= probes + 3
        assert State.ALIVE == simulator.believed(0, 4)
        simulator.advance_until(simulator.agreed, within=6.5)


def waking_late() -> None:
    """A node that was asleep while answers came accuses nobody."""
    for seed in range(8):
        simulator = cluster(8, seed, conditions=Conditions(delay=0.15))
        simulator.advance(0.2 * seed)
        simulator.pause(2, 2.0)
        simulator.advance(5.0)
        assert simulator.seats[2].swim.counters.accusations == 0
        before = simulator.seats[3].swim.counters.accusations
        simulator.jump(3, 3600.0)
        simulator.advance(5.0)
        assert simulator.seats[3].swim.counters.accusations == before


def claimed_address() -> None:
    """Whoever claims another's address is not taken for alive on the other's word."""
    simulator = cluster(6)
    honest, liar = simulator.seats[2], simulator.seats[3]
    claim = liar.swim.me._replace(address=honest.address)
    liar.swim.announce(claim, simulator.now + liar.clock)
    simulator.advance(5.0)
    simulator.crash(3, silent=True)
    simulator.advance_until(simulator.agreed, within=60.0)


def suspect_without_news() -> None:
    """A suspect hears of it when it is next spoken to, though the news are long old."""
    patient = Settings(suspicion_alpha=20.0, suspicion_unlinked=20.0)
    simulator = cluster(8, settings=patient)
    simulator.partition((7,), range(7))
    simulator.advance(12.0)
    assert {State.SUSPECT} == {simulator.believed(i, 7) for i in range(7)}
    simulator.heal()
    simulator.advance_until(simulator.agreed, within=5.0)


def lists_differ() -> None:
    """One that has heard of nobody gets the list though it asks for nothing."""
    simulator = Simulator(3, settings=Settings(push_pull_interval=600.0))
    simulator.start(8)
    simulator.advance_until(simulator.agreed, within=5.0)
    simulator.advance(10.0)
    stranger = simulator.start(1, seeds=())[0]
    simulator.start(1, seeds=(8,))
    simulator.seats[9].machine.seeds(("sim://0/control",), simulator.now)
    simulator.advance_until(simulator.agreed, within=10.0)
    assert stranger.swim.counters.suspicions == 0


def chaos() -> None:
    """No seed breaks an invariant or fails to settle."""
    for seed in range(40, 56):
        run(seed)


CHECKS: tuple[Check, ...] = (
    one_accuser,
    lost_link,
    joining,
    farewell,
    lost_connection,
    pauses,
    suspect_without_news,
    restart,
    cut_line,
    claimed_address,
    silent_helpers_and_target,
    every_member_in_turn,
    wrongly_buried,
    lists_differ,
    long_split_without_seeds,
    silent_crash,
    unwell,
    waking_late,
    blocked_member,
    busy_member,
    silent_host,
    lossy,
    outage,
    chaos,
)
"""The cheap ones first, for one of them notices most; `pauses` before those that an
endless argument between two nodes would make long."""


# --- ways to break it ---------------------------------------------------------------


class Mutation(NamedTuple):
    """A rule in words, and what takes the place of the code that keeps it."""

    rule: str
    owner: Any
    name: str
    instead: Any
    also: tuple[tuple[Any, str, Any], ...] = ()


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _supersedes_by_state(new: Any, known: Any) -> bool:
    return (new.epoch, new.state) > (known.epoch, known.state)


def _supersedes_always(new: Any, known: Any) -> bool:
    return new != known


def _supersedes_without_epoch(new: Any, known: Any) -> bool:
    return new[2:4] > known[2:4]


def _supersedes_good_news(new: Any, known: Any) -> bool:
    return (new.epoch, new.incarnation, -new.state) > (
        known.epoch,
        known.incarnation,
        -known.state,
    )


def _refute_without_raising(self: Any, heard: Any) -> None:
    self.say_of_myself(self._core.roster.me)


def _refute_without_blame(self: Any, heard: Any) -> None:
    me = self._core.roster.me
    self.say_of_myself(me._replace(incarnation=heard.incarnation + 1))


def _random_target(self: Any) -> Any:
    return self._rng.choice(self._ids) if self._ids else None


def _draw_for_ever(self: Any, room: int, limit: int) -> Any:
    return _DRAW(self, room, 10**9)


def _draw_once(self: Any, room: int, limit: int) -> Any:
    return _DRAW(self, room, 1)


_DRAW = broadcast.Queue.draw


def _raise_others(self: Any, member: Any) -> None:
    if member.state is State.SUSPECT:
        member = member._replace(incarnation=member.incarnation + 1)
    _ACCEPT(self, member)


_ACCEPT = belief.Belief.accept


def _count_everybody(self: Any, accuser: Any) -> bool:
    self.accusers.append(accuser)
    return True


def _hasten_unconfirmed(self: Any, *, well: bool) -> float:
    return self._shortest_unlinked if self.unlinked else _TIMEOUT(self, well=well)


def _hasten_alone(self: Any, *, well: bool) -> float:
    hasten = self.unlinked and well and self.needed == 0
    return self._shortest_unlinked if hasten else _TIMEOUT(self, well=well)


_TIMEOUT = Suspicion._timeout


def _dead_at_once(self: Any, node_id: Any, epoch: int) -> None:
    record = self._core.roster.get(node_id)
    if record is not None and record.live:
        self.accept(record.member._replace(state=State.DEAD))


def _ping_without_name(self: Any, ping: Any, route: Any) -> None:
    self._core.acknowledge(route, ping.seq, ping.target or self.me.node_id, ())


def _answer_for_any(self: Any, ack: Any) -> None:
    self._probes.clear()


def _verdict_of_lost_connection(self: Any, member: Any) -> None:
    self._belief.accept(member._replace(state=State.DEAD))


def _never_bury(self: Any) -> None:
    self.suspicions.postpone(self._core.now + 1.0)


def _ask_nobody(self: Any, probe: Any) -> None:
    probe.indirect_at = None


def _no_gossip(self: Any) -> None:
    self._core.gossip_at = float("inf")


def _no_reconnect(self: Any) -> None:
    self._reconnect_at = float("inf")


def _no_address_check(self: Any, member: Any) -> None:
    del self, member


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("a higher incarnation wins", belief, "supersedes", _supersedes_by_state),
    Mutation("old news change nothing", belief, "supersedes", _supersedes_always),
    Mutation(
        "a newer process beats an older",
        belief,
        "supersedes",
        _supersedes_without_epoch,
    ),
    Mutation(
        "at one incarnation the worse news win",
        belief,
        "supersedes",
        _supersedes_good_news,
    ),
    Mutation(
        "only a member raises its incarnation", belief.Belief, "accept", _raise_others
    ),
    Mutation("the accused object", belief.Belief, "_refute", _nothing),
    Mutation(
        "an objection has a higher incarnation",
        belief.Belief,
        "_refute",
        _refute_without_raising,
    ),
    Mutation(
        "an objection counts against this node's health",
        belief.Belief,
        "_refute",
        _refute_without_blame,
    ),
    Mutation(
        "suspects are buried in time", belief.Belief, "bury_suspects", _never_bury
    ),
    Mutation("silence is a suspicion first", belief.Belief, "accuse", _dead_at_once),
    Mutation("the accuser is named to all", core.Core, "tell_accuser", _nothing),
    Mutation("an accuser counts once", Suspicion, "confirm", _count_everybody),
    Mutation(
        "confirmations shorten a suspicion",
        Suspicion,
        "_timeout",
        lambda self, well: self._longest,
    ),
    Mutation(
        "a lone accuser waits long",
        Suspicion,
        "_timeout",
        lambda self, well: self._shortest,
    ),
    Mutation(
        "a lost link hastens what is confirmed", belief.Belief, "lose_link", _nothing
    ),
    Mutation(
        "a lost link alone hastens nothing",
        Suspicion,
        "_timeout",
        _hasten_unconfirmed,
    ),
    Mutation(
        "who is alone with its evidence waits", Suspicion, "_timeout", _hasten_alone
    ),
    Mutation(
        "who is unwell waits as ever", core.Awareness, "well", property(lambda _: True)
    ),
    Mutation("a word restores the link", belief.Belief, "restore_link", _nothing),
    Mutation(
        "a lost link makes for a brief probe",
        detector.Detector,
        "doubt_unlinked",
        detector.Detector.doubt,
    ),
    Mutation(
        "an ended suspicion leaves no news", broadcast.Broadcasts, "acquit", _nothing
    ),
    Mutation("targets are probed in turn", probe.Targets, "next", _random_target),
    Mutation("helpers are asked", detector.Detector, "_ask_helpers", _ask_nobody),
    Mutation("helpers pass the answer on", detector.Detector, "help", _nothing),
    Mutation("helpers without an answer say so", detector.Detector, "_nack", _nothing),
    Mutation(
        "an answer ends only the probe it is for",
        detector.Detector,
        "answered",
        _answer_for_any,
    ),
    Mutation(
        "a lost connection is no verdict",
        detector.Detector,
        "doubt_unlinked",
        _verdict_of_lost_connection,
    ),
    Mutation(
        "a lost connection is looked into",
        detector.Detector,
        "doubt_unlinked",
        _nothing,
    ),
    Mutation("health stretches time", core.Awareness, "worse", _nothing),
    Mutation("health comes back", core.Awareness, "better", _nothing),
    Mutation("late ticks accuse nobody", machine.Swim, "_distrust_myself", _nothing),
    Mutation(
        "a ping for another process is dropped",
        machine.Swim,
        "_on_ping",
        _ping_without_name,
    ),
    Mutation("news are sent more than once", broadcast.Queue, "draw", _draw_once),
    Mutation("news are not sent for ever", broadcast.Queue, "draw", _draw_for_ever),
    Mutation("news go out between probes", machine.Swim, "_gossip", _no_gossip),
    Mutation("lists that differ are exchanged", machine.Swim, "_compare", _nothing),
    Mutation("the dead are tried again", machine.Swim, "_reconnect", _no_reconnect),
    Mutation("the departing say farewell", machine.Swim, "_say_farewell", _nothing),
    Mutation(
        "an address has one process",
        belief.Belief,
        "_contest",
        _no_address_check,
    ),
    Mutation(
        "the accused are told (buddy)",
        core.Core,
        "speaks_ill_of",
        lambda self, member: False,
        also=((belief.Belief, "ill_of", lambda self, member: ()),),
    ),
)


def caught_by(mutation: Mutation | None) -> str | None:
    """Return the first check that fails under *mutation*, with what it said."""
    with ExitStack() as stack:
        if mutation is not None:
            for place in (mutation[1:4], *mutation.also):
                stack.enter_context(patch.object(*place))
        for check in CHECKS:
            try:
                check()
            except Exception as failure:  # noqa: BLE001 - whatever it was, it was seen
                said = str(failure).partition("\n")[0]
                return f"{check.__name__}: {type(failure).__name__} {said}".strip()
    return None


@pytest.mark.slow
def test_unbroken_every_check_passes():
    assert None is caught_by(None)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.rule.replace(" ", "-"))
def test_a_broken_rule_is_noticed(mutation):
    assert caught_by(mutation) is not None


def main() -> int:
    assert caught_by(None) is None
    missed = 0
    for mutation in MUTATIONS:
        caught = caught_by(mutation)
        missed += caught is None
        print(f"| {mutation.rule} | {caught or 'NOTHING'} |", flush=True)
    print(f"{len(MUTATIONS)} rules broken, {missed} unnoticed")
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
