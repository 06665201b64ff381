"""One load in the cluster, whatever becomes of the one who leads it, on real callers.

32 of them, threads and tasks of four processes, ask for one cold key in all the ways
there are to fill it. Each load writes down when it begins and when it ends, so that
"one at a time" is read off intervals; see callers.py.

The rule about two loads of one key: the second begins when the first has ended, or its
process was killed, or the time of the caller that ran it is over; that frees its lease,
though a plain function may go on in its thread (`in_turn`). That holds where the killed
process owned the key, too: the others wait for its new owner, and one of them loads.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

WAYS = ["closure", "caller", "owner", "aowner"]
PLACES = ["thread", "task"]
PROCESSES = 4
EACH = 4
CALLERS = PROCESSES * 2 * EACH
SLACK = 0.25 + 1.0
"""Seconds that a time-out may come late: `sweep_interval`, and a busy machine."""
CLOCK = 0.1
"""Seconds between when a load ends, or has to, and when it has written that down."""
FOREVER = float("inf")


@dataclass
class Load:
    """One load: `until` is when the time of the caller that runs it is over."""

    pid: int
    place: str
    began: float
    until: float
    ended: float = FOREVER


@dataclass
class Fleet:
    """Processes whose callers ask for one key in one way; see callers.py."""

    agents: Any
    members: list[Any]
    eventually: Any
    way: str
    how: str = "returns"
    first: float = 0.4
    then: float = 0.2
    key: str = field(default_factory=lambda: uuid4().hex)
    killed: dict[int, float] = field(default_factory=dict)

    # --- who asks ----------------------------------------------------------------

    @property
    def flight(self) -> list[Any]:
        return [self.way, self.key, self.how, self.first, self.then]

    def ask(self, threads: int = EACH, tasks: int = EACH, **kwargs: float) -> None:
        """Have callers of all processes ask, and wait until they have."""
        before = self.asked()
        for member in self.members:
            member.tell("ask", self.flight, threads, tasks, **kwargs)
        added = sum(member.answer() for member in self.members)
        self.eventually(lambda: self.asked() >= before + added)

    def lead(self, who: Any, place: str, **kwargs: float) -> None:
        """Have one caller ask, and wait until its load has begun."""
        who.ask("ask", self.flight, place == "thread", place == "task", **kwargs)
        self.eventually(self.loads)

    def kill(self, member: Any) -> None:
        self.members.remove(member)
        self.killed[member.pid] = time.monotonic()
        member.kill()

    def that_owns(self, *, it: bool) -> Any:
        """Return a process that owns the key, or one that does not own it."""
        return next(m for m in self.members if m.ask("owns", self.flight) is it)

    # --- what came of it ---------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        log = self.agents.log.with_name("flights")
        if not log.exists():
            return []
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in found if line["key"] == self.key]

    def asked(self) -> int:
        return sum("asks" in line for line in self.lines())

    def loads(self) -> list[Load]:
        found: list[Load] = []
        for line in self.lines():
            if line.get("load") == "begins":
                until = line["until"] or FOREVER
                ended = self.killed.get(line["pid"], FOREVER)
                found.append(Load(line["pid"], line["place"], line["at"], until, ended))
            elif line.get("load") == "ends":
                found[line["nth"]].ended = line["at"]
        return found

    def landed(self) -> list[dict[str, Any]]:
        """Wait for all callers, and return what came of each."""
        for member in self.members:
            member.tell("landed")
        return [one for member in self.members for one in member.answer(90)]

    def value(self, load: int) -> str:
        return f"load {load} of {self.key}"


def in_turn(loads: list[Load]) -> bool:
    return all(
        later.began + CLOCK >= min(load.ended, load.until)
        for load, later in pairwise(loads)
    )


def values(outcomes: list[dict[str, Any]]) -> Counter[str]:
    """Count what callers got: a value, or the name of what was raised."""
    return Counter(one.get("value") or one["raised"] for one in outcomes)


def started(agents: Any, patience: float = 10.0, **settings: Any) -> list[Any]:
    """Start four processes who know what the others can load."""
    members = agents.start(PROCESSES, **settings)
    end = time.monotonic() + patience
    while not all(m.ask("acquainted", PROCESSES - 1) for m in members):
        assert time.monotonic() < end
        time.sleep(0.02)
    return members


@pytest.fixture(scope="module")
def four(standing) -> list[Any]:
    # 32 callers on few cores may stall a node for longer than a request may take, and
    # then its callers rightly load by themselves; here it is the sharing that counts.
    return started(standing, request_timeout=10)


@pytest.fixture
def fleet(standing, four, eventually) -> Any:
    return lambda *how: Fleet(standing, list(four), eventually, *how)


# --- a load that goes well, and one that does not --------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_32_callers_of_a_cold_key_make_one_load(fleet, way):
    f = fleet(way)
    f.ask()

    assert {f.value(0): CALLERS} == values(f.landed())
    assert 1 == len(f.loads())


@pytest.mark.parametrize("way", WAYS)
def test_a_leader_that_raises_answers_all_who_wait_and_nobody_after(fleet, way):
    f = fleet(way, "raises")
    f.ask()
    outcomes = f.landed()

    assert {"Broken", "LoadError"} >= set(values(outcomes))
    assert {f.key} == {one["text"].splitlines()[0][-32:] for one in outcomes}
    assert 1 == len(f.loads())
    f.ask(1, 1)

    assert {f.value(1): 2 * PROCESSES} == values(f.landed())
    assert 2 == len(f.loads())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("way", "how"), [("closure", "is stopped"), ("caller", "exits")]
)
def test_a_leader_that_is_stopped_passes_the_lead_once(fleet, way, place, how):
    f = fleet(way, how, 0.6)
    f.lead(f.members[0], place)
    f.ask()
    got = values(f.landed())

    assert CALLERS == got.pop(f.value(1))
    assert [1] == list(got.values())
    assert set(got) < {"KeyboardInterrupt", "CancelledError", "SystemExit"}
    assert 2 == len(f.loads())
    assert in_turn(f.loads())


@pytest.mark.parametrize(
    ("way", "how"),
    [("owner", "is stopped"), ("aowner", "is stopped"), ("owner", "exits")],
)
def test_an_owner_whose_load_is_stopped_leaves_nobody_waiting(fleet, way, how):
    f = fleet(way, how, 0.6)
    owner = f.that_owns(it=True)
    # The owner's loop is the one its function was last awaited on.
    owner.ask("ask", [way, uuid4().hex, "returns", 1.5, 0.2], 0, 1)
    f.lead(f.that_owns(it=False), PLACES[way == "aowner"])
    f.ask()
    got = values(one for one in f.landed() if one["key"] == f.key)

    # A cancelled task has no answer, and the next in line loads; what a function
    # raises in the owner's pool is one, though it would have ended its own caller.
    served = how == "is stopped" and way == "aowner"
    expected = f.value(1) if served else "LoadError"
    assert {expected: CALLERS + 1} == got
    assert 1 + served == len(f.loads())
    assert in_turn(f.loads())
    assert owner.pid == f.loads()[0].pid


@pytest.mark.parametrize("way", ["closure", "owner"])
def test_a_loader_that_asks_for_its_own_key_is_an_error_for_all(fleet, way):
    f = fleet(way, "recurs")
    f.ask()

    assert {"RecursiveLoad": CALLERS} == values(f.landed())
    assert 1 == len(f.loads())


# --- a leader that is killed -----------------------------------------------------


@pytest.fixture
def mortal(agents, eventually) -> Any:
    """Four processes of which a test may kill some."""

    def start(*how: Any) -> Fleet:
        # It is also for so long that others wait for a new owner; as for `four`.
        members = started(agents, request_timeout=10)
        return Fleet(agents, members, eventually, *how)

    return start


@pytest.mark.parametrize(("way", "place"), [("closure", "thread"), ("caller", "task")])
def test_a_killed_leader_passes_the_lead_once(mortal, way, place):
    f = mortal(way, "returns", 30)
    leader = f.that_owns(it=False)
    f.lead(leader, place)
    f.ask()
    f.kill(leader)
    outcomes = f.landed()

    assert {f.value(1): CALLERS - 2 * EACH} == values(outcomes)
    assert 2 == len(f.loads())
    assert in_turn(f.loads())
    after = max(one["at"] + one["seconds"] for one in outcomes)
    assert after < f.killed[leader.pid] + f.then + SLACK


@pytest.mark.parametrize("way", ["closure", "owner"])
def test_an_owner_that_is_killed_while_it_loads_costs_one_load_more(mortal, way):
    f = mortal(way, "returns", 30)
    owner = f.that_owns(it=True)
    leader = owner if way == "closure" else f.that_owns(it=False)
    f.lead(leader, "thread")
    f.ask()
    f.kill(owner)
    outcomes = f.landed()

    assert {f.value(1): CALLERS - 2 * EACH + (way == "owner")} == values(outcomes)
    first, second = f.loads()
    assert owner.pid == first.pid
    assert in_turn([first, second])
    after = max(one["at"] + one["seconds"] for one in outcomes)
    assert after < f.killed[owner.pid] + f.then + SLACK


def test_a_killed_owner_of_a_load_that_goes_on_costs_one_load_more(mortal):
    f = mortal("closure", "returns", 4)
    owner, leader = f.that_owns(it=True), f.that_owns(it=False)
    f.lead(leader, "thread")
    f.ask()
    f.kill(owner)
    outcomes = f.landed()

    # Its own process has it; nobody can tell the others that it is good for them.
    theirs = [one for one in outcomes if one["pid"] == leader.pid]
    others = [one for one in outcomes if one["pid"] != leader.pid]
    # (Who has said that it asks may not have done so yet.)
    assert {f.value(0)} <= set(values(theirs)) <= {f.value(0), f.value(1)}
    assert {f.value(1): 2 * 2 * EACH} == values(others)
    assert 1 + 2 * EACH == len(theirs)
    assert 2 == len(f.loads())
    after = max(one["at"] + one["seconds"] for one in others)
    assert after < f.killed[owner.pid] + f.then + SLACK


# --- time-outs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "place"), [("closure", "thread"), ("closure", "task"), ("caller", "task")]
)
def test_a_leader_out_of_time_passes_the_lead_once(fleet, way, place):
    f = fleet(way, "returns", 1.5)
    f.lead(f.members[0], place, timeout=0.5)
    f.ask(timeout=20.0)
    got = values(f.landed())

    late, second, *none = f.loads()
    assert [] == none
    assert in_turn([late, second])
    if place == "task":
        # Only a coroutine can be cancelled, so that two never run at a time.
        assert {"LoadTimeout": 1, f.value(1): CALLERS} == got
        assert late.ended <= second.began + CLOCK
    else:
        assert {f.value(0): 1, f.value(1): CALLERS} == got
        assert second.ended < late.ended


def test_a_task_that_waited_for_the_lead_is_cancelled_when_its_own_time_is_over(fleet):
    f = fleet("closure", "returns", 30, 2.0)
    f.lead(f.members[0], "task", timeout=0.5)
    f.members[1].ask("ask", f.flight, 0, 1, timeout=1.5)
    f.ask(0, 1, timeout=20.0)
    got = values(f.landed())

    # Two lose their time with the lead, and the third has enough.
    assert {"LoadTimeout": 2, f.value(2): PROCESSES} == got
    first, second, third = f.loads()
    assert first.ended <= second.began + CLOCK
    assert second.ended <= third.began + CLOCK


@pytest.mark.parametrize("way", ["closure", "owner"])
def test_a_waiter_of_less_patience_times_out_and_the_others_are_served(fleet, way):
    f = fleet(way, "returns", 2.5)
    f.lead(f.members[0], "task")
    f.ask(1, 1, timeout=0.5)
    f.ask(2, 2)
    outcomes = f.landed()
    hasty = [one for one in outcomes if one["timeout"] == 0.5]

    assert {"LoadTimeout": 2 * PROCESSES} == values(hasty)
    assert all(0.5 - CLOCK <= one["seconds"] < 0.5 + SLACK for one in hasty)
    patient = [one for one in outcomes if one["timeout"] != 0.5]
    assert {f.value(0): 1 + 4 * PROCESSES} == values(patient)
    assert 1 == len(f.loads())


@pytest.mark.parametrize("way", ["closure", "owner"])
def test_nobody_waits_for_a_load_longer_than_their_time(fleet, way):
    f = fleet(way, "returns", 2.5)
    f.ask(timeout=0.5)
    outcomes = f.landed()

    ran = {(load.pid, load.place) for load in f.loads()}
    assert in_turn(f.loads())
    assert {"LoadTimeout", f.value(0), f.value(1)} >= set(values(outcomes))
    # Whoever runs a plain function itself is in it for as long as it takes.
    late = [one for one in outcomes if one["seconds"] >= 0.5 + SLACK]
    assert all((one["pid"], one["place"]) in ran for one in late)
    assert len(late) <= len(f.loads())
    assert {"LoadTimeout"} >= set(values(o for o in outcomes if o not in late))


# --- those who stop waiting ------------------------------------------------------


@pytest.mark.parametrize("way", ["caller", "aowner"])
def test_cancelled_waiters_leave_the_others_alone(fleet, way):
    f = fleet(way, "returns", 2.5)
    f.lead(f.members[0], "thread")
    f.ask(2, 0)
    f.ask(0, 2, cancel=0.2)
    outcomes = f.landed()

    assert {f.value(0): 1 + 2 * PROCESSES, "CancelledError": 2 * PROCESSES} == (
        values(outcomes)
    )
    assert 1 == len(f.loads())


@pytest.mark.parametrize(("way", "kept"), [("closure", True), ("caller", False)])
def test_a_loop_that_is_closed_under_its_leader_passes_the_lead(fleet, way, kept):
    f = fleet(way, "returns", 30)
    f.members[0].ask("strand", f.flight, 1.0, kept=kept)
    f.ask()
    outcomes = f.landed()

    # A coroutine that Python has thrown away has ended. One that something still
    # refers to holds its lease for as long as its time lasts.
    assert {f.value(1): CALLERS} == values(outcomes)
    assert 2 == len(f.loads())
    assert in_turn(f.loads())
    assert max(one["seconds"] for one in outcomes) < 1.0 + f.then + SLACK
