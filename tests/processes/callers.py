"""Many callers of one key in one process, threads and tasks, for the tests of fills.

Callers ask in the background; `landed` tells what came of them. Every load writes its
beginning and its end to a file that all agents share. The functions in `ACTIONS` are
the agent's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import meshcache

LOG = Path(os.environ["AGENT_LOG"]).with_name("flights")
PATIENCE = 60.0
"""Seconds after which whatever still runs here is given up."""
TIMEOUTS = (0.5, 1.0, 20.0)
WAYS = ("closure", "caller", "owner", "aowner")
"""How a key is filled: by what is handed in, by the caller's function, by the owner's
function in a thread, or by the owner's on its loop."""

cache = meshcache.Cache("callers", ttl=300)
until: ContextVar[float | None] = ContextVar("until", default=None)
"""When the running caller's time is over. A load in an owner's pool has no caller."""


class Flight(NamedTuple):
    """What is asked for, and how its first load goes; all others go well.

    Attributes:
        way: one of `WAYS`.
        key: what is loaded.
        how: the first load returns, raises, exits, is interrupted or cancelled, or
            asks for its own key.
        first: seconds that the first load takes.
        then: seconds that each other takes.
    """

    way: str
    key: str
    how: str = "returns"
    first: float = 0.3
    then: float = 0.2


class Broken(Exception):
    """What a loader raises here. No other process is told to know it."""


# --- loads -----------------------------------------------------------------------


def write(**line: object) -> int:
    """Add a line to the file; return where it begins."""
    encoded = json.dumps({"pid": os.getpid(), "at": time.monotonic(), **line}).encode()
    with LOG.open("ab", buffering=0) as log:
        log.write(encoded + b"\n")
        return log.tell() - len(encoded) - 1


@contextmanager
def load(flight: Flight, place: str) -> Iterator[int]:
    """Write down the beginning and the end of a load; yield how many came before it."""
    mine = write(key=flight.key, load="begins", place=place, until=until.get())
    with LOG.open("rb") as log:
        before = [json.loads(line) for line in log.read(mine).splitlines()]
    nth = sum(b["key"] == flight.key and b.get("load") == "begins" for b in before)
    try:
        yield nth
    finally:
        write(key=flight.key, load="ends", nth=nth)


def fly(*flight: Any) -> str:
    with load(Flight(*flight), "thread") as nth:
        return plain(Flight(*flight), nth)


async def afly(*flight: Any) -> str:
    with load(Flight(*flight), "task") as nth:
        return await later(Flight(*flight), nth)


def plain(flight: Flight, nth: int) -> str:
    time.sleep(flight.then if nth else flight.first)
    if not nth and flight.how == "recurs":
        return asked(flight, PATIENCE)
    return ended(flight, nth)


async def later(flight: Flight, nth: int) -> str:
    await asyncio.sleep(flight.then if nth else flight.first)
    if not nth and flight.how == "recurs":
        return await aasked(flight, PATIENCE)
    if not nth and flight.how == "is stopped":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(PATIENCE)
    return ended(flight, nth)


def ended(flight: Flight, nth: int) -> str:
    if not nth and flight.how == "raises":
        raise Broken(flight.key)
    if not nth and flight.how == "is stopped":
        raise KeyboardInterrupt
    if not nth and flight.how == "exits":
        raise SystemExit(3)
    return f"load {nth} of {flight.key}"


# --- callers ---------------------------------------------------------------------


def memoized(way: str, timeout: float) -> tuple[Any, Any]:
    """Return the plain and the async function of one name, the owner's kind last."""
    fill = "caller" if way == "caller" else "owner"
    memoize = cache.memoize(name=way, fill=fill, load_timeout=timeout)
    if way == "aowner":
        return memoize(fly), memoize(afly)
    return tuple(memoize(function) for function in (afly, fly))[::-1]


FUNCTIONS = {
    (way, timeout): memoized(way, timeout)
    for way in WAYS[1:]
    for timeout in (*TIMEOUTS, PATIENCE)
}


def asked(flight: Flight, timeout: float) -> str:
    if flight.way == "closure":
        loader = partial(fly, *flight)
        return cache.get_or_load(flight.key, loader, load_timeout=timeout)
    return FUNCTIONS[flight.way, timeout][0](*flight)


async def aasked(flight: Flight, patience: float) -> str:
    if flight.way == "closure":
        loader = partial(afly, *flight)
        return await cache.aget_or_load(flight.key, loader, load_timeout=patience)
    return await FUNCTIONS[flight.way, patience][1](*flight)


class Callers:
    """Those of this process who ask, and what came of each."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []

    def start(self, body: Callable[..., Any], *args: Any) -> None:
        thread = threading.Thread(target=body, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    @contextmanager
    def caller(
        self, flight: Flight, place: str, timeout: float
    ) -> Iterator[dict[str, Any]]:
        """Note what the body came to, and how long it took."""
        began = time.monotonic()
        mine = {"key": flight.key, "place": place, "at": began, "timeout": timeout}
        mine["pid"] = os.getpid()
        token = until.set(began + timeout)
        write(key=flight.key, asks=place)
        try:
            yield mine
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            told = getattr(error, "type_name", "").rpartition(":")[2]
            mine |= {"raised": type(error).__name__, "of": told, "text": str(error)}
        until.reset(token)
        self.outcomes.append(mine | {"seconds": time.monotonic() - began})

    def thread(self, flight: Flight, timeout: float) -> None:
        with self.caller(flight, "thread", timeout) as mine:
            mine["value"] = asked(flight, timeout)

    async def task(self, flight: Flight, patience: float) -> None:
        with self.caller(flight, "task", patience) as mine:
            mine["value"] = await aasked(flight, patience)

    async def tasks(
        self, flight: Flight, patience: float, count: int, cancel: float
    ) -> None:
        """Have tasks ask; with *cancel*, all of them are cancelled after so long."""
        tasks = [asyncio.create_task(self.task(flight, patience)) for _ in range(count)]
        if cancel:
            await asyncio.sleep(cancel)
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)


callers = Callers()


def ask(
    flight: list[Any],
    threads: int,
    tasks: int,
    timeout: float = PATIENCE,
    cancel: float = 0,
) -> int:
    """Have so many threads, and tasks of one loop, ask for a key, in the background."""
    for _ in range(threads):
        callers.start(callers.thread, Flight(*flight), timeout)
    if tasks:
        asking = callers.tasks(Flight(*flight), timeout, tasks, cancel)
        callers.start(asyncio.run, asking)
    return threads + tasks


def landed() -> list[dict[str, Any]]:
    """Wait for all who ask; return what came of each."""
    end = time.monotonic() + PATIENCE
    for thread in callers.threads:
        thread.join(max(0.0, end - time.monotonic()))
        assert not thread.is_alive(), "somebody waits for ever"
    outcomes = callers.outcomes[:]
    callers.threads.clear()
    callers.outcomes.clear()
    return outcomes


left: list[Any] = []


def strand(flight: list[Any], timeout: float, *, kept: bool) -> None:
    """Have a task lead, and close its loop under it; its coroutine may be kept."""
    loop = asyncio.new_event_loop()
    coroutine = aasked(Flight(*flight), timeout)
    token = until.set(time.monotonic() + timeout)
    task = loop.create_task(coroutine)
    until.reset(token)
    with suppress(TimeoutError):
        waiting = asyncio.wait_for(asyncio.shield(task), 0.2)
        loop.run_until_complete(waiting)
    # What a program does that calls `loop.close()` with requests under way.
    task._log_destroy_pending = False
    loop.close()
    if kept:
        left.append((task, coroutine))
    del task, coroutine
    gc.collect()


def owns(flight: list[Any]) -> bool:
    """Return whether this process owns the key of a flight."""
    from meshcache.hashing import key_hash

    way, node = flight[0], meshcache.node()
    if way == "closure":
        return node.owner(cache.name, flight[1]).node_id == node.me.node_id
    key = FUNCTIONS[way, PATIENCE][0].key_for(*flight)
    return node.table().owner_of(key_hash(key)).node_id == node.me.node_id


def acquainted(peers: int) -> bool:
    """Return whether this node knows of so many others what they can load."""
    theirs = [p.loaders for p in meshcache.node()._runtime.engine._core.peers]
    ours = {(f"{cache.name}|{way}|1", 1) for way in ("owner", "aowner")}
    return peers == sum(ours <= loaders for loaders in theirs)


ACTIONS = {
    action.__name__: action for action in (ask, landed, strand, owns, acquainted)
}
