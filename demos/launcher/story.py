"""The story of a run: gather, replay, count, kill, notice, start again, finish.

Each chapter returns whether the story can go on. What a chapter learns goes into the
facts, and the facts become the summary; whether that is good enough is for
`promises` to say.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

from launcher.picture import owner_map
from launcher.promises import CONVERGE_S, DETECT_S, REJOIN_S
from launcher.space import NOBODY, letter, moved
from launcher.summary import Summary, hits, latency_us, not_once
from launcher.wire import Pause, Replay, Sync

if TYPE_CHECKING:
    from launcher.chronicle import Chronicle
    from launcher.control import Fleet, Worker
    from launcher.space import Moved

__all__ = ["Plan", "Story"]

_REST_S: Final = 10.0
_KILL_AT: Final = 0.45
_START_AT: Final = 0.70
"""Shares of the replay at which one process is killed, and started again."""

_UNDERWAY_S: Final = 0.5
_NAMED: Final = 3
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Plan:
    """What the user asked for."""

    nodes: int
    seconds: float
    rate: int
    kill: bool
    trace: str | None


@final
class Story:
    """One run of a fleet. Confined to the main thread."""

    def __init__(self, plan: Plan, fleet: Fleet, chronicle: Chronicle) -> None:
        self._plan = plan
        self._fleet = fleet
        self._chronicle = chronicle
        self._positions: dict[int, int] = {}
        self._before_kill = ""
        self._facts = Summary(plan.nodes, plan.seconds, plan.trace, kill=plan.kill)

    def tell(self) -> None:
        """Run the chapters in order, until the last or the first that fails."""
        killing = (self._kill, self._start_again) if self._plan.kill else ()
        for chapter in (self._gather, self._first_replay, *killing, self._finish):
            if not chapter():
                break

    def summary(self) -> Summary:
        """Return what happened, with the counts as the fleet last reported them."""
        fleet = self._fleet
        latency = fleet.latency()
        told = [worker.progress for worker in fleet.everyone]
        return replace(
            self._facts,
            requests=sum(progress.requests for progress in told),
            failed=sum(progress.failed for progress in told),
            wrong=sum(progress.wrong for progress in told),
            evicted=sum(progress.evicted for progress in told),
            distinct_keys=len(fleet.asked),
            loads=fleet.loaded.total(),
            hits=hits(latency),
            latency_us=latency_us(latency),
            slowest_read_s=max((p.slowest_read_ns for p in told), default=0) / _NS,
            slowest_load_s=max((p.slowest_load_ns for p in told), default=0) / _NS,
            crashed=[worker.label for worker in fleet.crashed],
            forced=[worker.label for worker in fleet.forced],
            left_behind=[w.process.pid for w in fleet.everyone if _runs(w)],
            troubles=fleet.troubles,
        )

    def _gather(self) -> bool:
        self._chronicle.enter("starting", (0.0, 0.0), CONVERGE_S)
        for slot in range(self._plan.nodes):
            last = self._fleet.start(slot)
        if not self._fleet.wait(self._all_agree, CONVERGE_S):
            return False
        took_s = time.monotonic() - last.started_s
        self._learn(converged_s=took_s)
        self._chronicle.tell(
            f"{self._plan.nodes} members agree on one table,"
            f" {took_s:.2f} s after the last was started"
        )
        return True

    def _first_replay(self) -> bool:
        until = _KILL_AT if self._plan.kill else 1.0
        self._fleet.say(Replay(None))
        if not (self._spend("replaying", 0.0, until) and self._rest()):
            return False
        fleet = self._fleet
        self._positions = {worker.slot: worker.paused or 1 for worker in fleet.living}
        self._learn(
            loads_before_kill=fleet.loaded.total(),
            not_once=not_once(fleet.loaded, fleet.asked),
        )
        self._chronicle.tell(
            f"replay held: {fleet.loaded.total():,} loads"
            f" of {len(fleet.asked):,} distinct keys"
        )
        return True

    def _kill(self) -> bool:
        # From here on nothing new is asked: whatever is loaded, the kill has cost.
        for worker in self._fleet.living:
            worker.say(Replay(self._positions[worker.slot]))
        self._chronicle.enter("replaying", (_KILL_AT, _KILL_AT), 1.0)
        if not self._pass_time(_UNDERWAY_S):
            return False
        victim = self._fleet.workers[self._plan.nodes // 2]
        self._before_kill = owner_map(self._fleet)
        self._chronicle.enter("one down", (_KILL_AT, _START_AT), self._part_s())
        asked, killed_s = self._survivors_asked(victim), time.monotonic()
        victim.kill()
        self._chronicle.tell(
            f"{victim.label} killed: SIGKILL to process {victim.process.pid}"
        )
        if not self._fleet.wait(lambda: self._all_agree_without(victim), DETECT_S):
            return False
        took_s = time.monotonic() - killed_s
        self._learn(detected_s=took_s)
        self._chronicle.tell(
            f"all survivors call {victim.label} dead, {took_s:.2f} s after the kill"
        )
        self._tell_what_moved(victim)
        went_on = self._pass_time(killed_s + self._part_s() - time.monotonic())
        self._learn(requests_while_down=self._survivors_asked(victim) - asked)
        return went_on

    def _start_again(self) -> bool:
        slot = self._plan.nodes // 2
        self._chronicle.enter("one back", (_START_AT, 1.0), self._part_s(last=True))
        worker = self._fleet.start(slot)
        self._chronicle.tell(
            f"{worker.label} started again: process {worker.process.pid}"
        )
        if not self._fleet.wait(self._all_agree, REJOIN_S):
            return False
        took_s = time.monotonic() - worker.started_s
        self._learn(rejoined_s=took_s)
        worker.say(Replay(self._positions[slot]))
        self._chronicle.tell(
            f"{self._plan.nodes} members agree again, {took_s:.2f} s later;"
            f" {worker.label} is now node {worker.node[:8]}"
        )
        until_s = worker.started_s + self._part_s(last=True)
        return self._pass_time(until_s - time.monotonic()) and self._rest()

    def _finish(self) -> bool:
        self._chronicle.enter("done", (1.0, 1.0), 1.0)
        again = self._fleet.loaded.total() - (self._facts.loads_before_kill or 0)
        if self._plan.kill:
            self._chronicle.tell(f"{again:,} keys were loaded again since the kill")
        return True

    def _spend(self, phase: str, start: float, end: float) -> bool:
        seconds = (end - start) * self._plan.seconds
        self._chronicle.enter(phase, (start, end), seconds)
        return self._pass_time(seconds)

    def _part_s(self, *, last: bool = False) -> float:
        share = 1.0 - _START_AT if last else _START_AT - _KILL_AT
        return share * self._plan.seconds

    def _pass_time(self, seconds: float) -> bool:
        self._fleet.wait(lambda: False, seconds)
        return not self._fleet.crashed

    def _rest(self) -> bool:
        # Twice, because a worker at rest may still load what another one waits for:
        # only after all rest has each of them said its last.
        for worker in self._fleet.living:
            worker.paused, worker.synced = None, False
        self._fleet.say(Pause())
        if not self._fleet.wait(
            lambda: all(worker.paused is not None for worker in self._fleet.living),
            _REST_S,
        ):
            return False
        self._fleet.say(Sync())
        return self._fleet.wait(
            lambda: all(worker.synced for worker in self._fleet.living), _REST_S
        )

    def _all_agree(self) -> bool:
        nodes = {worker.node for worker in self._fleet.living}
        return len(nodes) == self._plan.nodes and self._agree(nodes)

    def _all_agree_without(self, victim: Worker) -> bool:
        views = [worker.view for worker in self._fleet.living if worker is not victim]
        noticed = all(
            view is not None and view.states.get(victim.node, "DEAD") == "DEAD"
            for view in views
        )
        nodes = {worker.node for worker in self._fleet.living}
        return noticed and victim.ended and self._agree(nodes)

    def _agree(self, nodes: set[str]) -> bool:
        views = [worker.view for worker in self._fleet.living]
        return len({view.epoch if view else None for view in views}) == 1 and all(
            view is not None
            and set(view.order) == nodes
            and all(view.states.get(node) == "ALIVE" for node in nodes)
            for view in views
        )

    def _survivors_asked(self, victim: Worker) -> int:
        return sum(
            worker.progress.requests
            for worker in self._fleet.living
            if worker is not victim
        )

    def _tell_what_moved(self, victim: Worker) -> None:
        after = owner_map(self._fleet)
        gone = moved(self._before_kill, after, letter(victim.slot))
        self._learn(
            partitions_moved=sum(gone.to.values()) - gone.to.get(NOBODY, 0),
            partitions_orphaned=after.count(NOBODY) + after.count(letter(victim.slot)),
            bystanders_moved=gone.bystanders,
        )
        others = f"{gone.bystanders:,} others moved" if gone.bystanders else "no others"
        self._chronicle.tell(
            f"its {sum(gone.to.values()):,} partitions: {self._shared_out(gone)};"
            f" {others}"
        )

    def _shared_out(self, gone: Moved) -> str:
        if len(self._fleet.living) > _NAMED:
            return f"moved to {len(gone.to)} survivors"
        return ", ".join(
            f"{worker.label} +{gone.to.get(letter(worker.slot), 0):,}"
            for worker in self._fleet.living
        )

    def _learn(self, **facts: Any) -> None:
        self._facts = replace(self._facts, **facts)


def _runs(worker: Worker) -> bool:
    try:
        os.kill(worker.process.pid, 0)
    except ProcessLookupError:
        return False
    return worker.process.poll() is None
