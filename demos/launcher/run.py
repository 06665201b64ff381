"""One run, from the database to the verdict."""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import TYPE_CHECKING

from airports.database import build
from rich.console import Console

from launcher.chronicle import Chronicle
from launcher.control import Fleet
from launcher.draw import verdict
from launcher.job import Job
from launcher.promises import broken, check
from launcher.screen import screen_on
from launcher.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.story import Plan
    from launcher.summary import Summary

__all__ = ["run"]


def run(plan: Plan, script: Path, *, as_json: bool) -> int:
    """Run the demo as planned and report on it; return the exit code.

    `script` is what a worker is started with, under `--worker` and its job.
    """
    # With --json standard output belongs to the one object at the end.
    console = Console(stderr=as_json)
    fleet = Fleet(_commands(plan, script))
    with screen_on(console) as screen:
        chronicle = Chronicle(fleet, screen, plan.nodes)
        story = Story(plan, fleet, chronicle)
        try:
            story.tell()
            chronicle.close()
        finally:
            fleet.close()
    return _report(story.summary(), fleet, console, as_json=as_json)


def _commands(plan: Plan, script: Path) -> Callable[[int], list[str]]:
    database = str(build())
    # Unique, so that demos on one machine do not meet.
    cluster = f"demo-{os.getpid()}-{secrets.token_hex(4)}"

    def command(slot: int) -> list[str]:
        job = Job(cluster, database, slot, plan.nodes, plan.rate, plan.trace)
        return [sys.executable, str(script), "--worker", job.write()]

    return command


def _report(summary: Summary, fleet: Fleet, console: Console, *, as_json: bool) -> int:
    promises = check(summary)
    console.print()
    console.print(verdict(promises))
    if as_json:
        names = [promise.name for promise in broken(promises)]
        print(json.dumps(summary.as_json() | {"broken": names}, indent=2))
    for promise in broken(promises):
        print(f"broken promise: {promise.name}: {promise.detail}", file=sys.stderr)
    for worker in fleet.crashed:
        print(f"{worker.label} said:\n{worker.last_words}", file=sys.stderr)
    return 1 if broken(promises) else 0
