"""A process that embeds a node and does what its parent tells it, line by line.

Each line on stdin is a JSON list: the name of an action below and its arguments. The
answer is one JSON line, {"ok": ...} or {"error": ...}. Run by `Agents` in conftest.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import random
import stat
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import callers

import meshcache

LOG = Path(os.environ["AGENT_LOG"])
cache = meshcache.Cache("agents", ttl=300)
seen: list[dict] = []
logged: list[str] = []


def note(key: object) -> None:
    """Write down, in a file all agents share, that a loader ran for *key*."""
    with LOG.open("a") as log:
        log.write(f"{os.getpid()} {key}\n")


def work(key: int) -> str:
    note(key)
    time.sleep(0.005)
    return f"value of {key}"


@cache.memoize(name="by_owner")
def by_owner(key: int) -> str:
    return work(key)


@cache.memoize(name="by_caller", fill="caller")
def by_caller(key: int) -> str:
    return work(key)


@cache.memoize(name="aby_owner")
async def aby_owner(key: int) -> str:
    note(key)
    await asyncio.sleep(0.005)
    return f"value of {key}"


@cache.memoize(name="aby_caller", fill="caller")
async def aby_caller(key: int) -> str:
    note(key)
    await asyncio.sleep(0.005)
    return f"value of {key}"


@cache.memoize(name="slow")
def slow(key: int, seconds: float) -> str:
    note(key)
    time.sleep(seconds)
    return f"{key} from {os.getpid()}"


@cache.memoize(name="broken")
def broken(key: int) -> str:
    note(key)
    time.sleep(0.05)
    raise KeyError(f"no {key}")


def start(**settings: object) -> dict:
    meshcache.start(**settings)
    return about()


def about() -> dict:
    node = meshcache.node()
    return {
        "pid": os.getpid(),
        "node_id": node.me.node_id.hex(),
        "address": node.me.address,
        "epoch": node.table().epoch,
        "alive": sorted(
            m.node_id.hex() for m in node.members() if m.state is meshcache.State.ALIVE
        ),
        # Suspects among them: they have their part of the table.
        "living": sorted(
            m.node_id.hex()
            for m in node.members()
            if m.state <= meshcache.State.SUSPECT
        ),
        "states": {m.node_id.hex(): m.state.name for m in node.members()},
        "ready": node.ready,
    }


def ready(peers: int, timeout: float) -> dict:
    meshcache.node().wait_ready(peers=peers, timeout=timeout)
    return about()


def load(name: str, keys: list[int], threads: int) -> dict:
    """Have *threads* threads or tasks each ask for all *keys*, all at once."""
    function = globals()[name]
    if name.startswith("a"):
        return asyncio.run(_load_tasks(function, keys, threads))
    barrier = threading.Barrier(threads)

    def one(offset: int) -> tuple[bool, float]:
        barrier.wait()
        longest = 0.0
        right = True
        for i in range(len(keys)):
            key = keys[(i + offset * 7) % len(keys)]
            before = time.perf_counter()
            right &= function(key) == f"value of {key}"
            longest = max(longest, time.perf_counter() - before)
        return right, longest

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(one, range(threads)))
    return {"right": all(r for r, _ in results), "longest": max(s for _, s in results)}


async def _load_tasks(function, keys: list[int], tasks: int) -> dict:
    async def one(offset: int) -> bool:
        right = True
        for i in range(len(keys)):
            key = keys[(i + offset * 7) % len(keys)]
            right &= await function(key) == f"value of {key}"
        return right

    return {"right": all(await asyncio.gather(*[one(i) for i in range(tasks)]))}


def call(name: str, *args: object) -> dict:
    """Call a function once; report its value or error, and how long it took."""
    before = time.perf_counter()
    try:
        outcome = {"value": globals()[name](*args)}
    except Exception as error:  # noqa: BLE001 - the test looks at it
        outcome = {"raised": type(error).__name__, "text": str(error)[:500]}
    return {**outcome, "seconds": time.perf_counter() - before}


def owner_of(name: str, *args: object) -> str:
    key = globals()[name].key_for(*args)
    from meshcache.hashing import key_hash

    owner = meshcache.node().table().owner_of(key_hash(key))
    return owner.node_id.hex()


def do(method: str, *args: object, **kwargs: object) -> object:
    """Call a method of the cache."""
    return getattr(cache, method)(*args, **kwargs)


def owned(keys: list[str]) -> list[str]:
    """Return those of *keys* that this process owns."""
    node = meshcache.node()
    return [k for k in keys if node.owner(cache.name, k).node_id == node.me.node_id]


def try_set(keys: list[str], value: object) -> int:
    """Store *value* under *keys*; return how many could be."""
    done = 0
    for key in keys:
        with suppress(meshcache.PeerUnavailable):
            cache.set(key, value)
            done += 1
    return done


def fill(count: int) -> int:
    """Store numbered entries, and return how many could not be."""
    return len(cache.set_many({f"entry {n}": n for n in range(count)}))


def count_kept(count: int) -> int:
    """Read numbered entries one by one, and return how many are there, and right."""
    return sum(cache.get(f"entry {n}") == n for n in range(count))


def stats() -> dict:
    return json.loads(json.dumps(meshcache.node().stats(), default=str))


def stop() -> int:
    """Stop the node and return when that was begun, in wall-clock ns."""
    began = time.time_ns()
    meshcache.stop()
    return began


# --- for tests of membership ------------------------------------------------------


def watch() -> None:
    """Write down, from now on, what this node comes to believe of members."""
    seen.clear()
    meshcache.node().subscribe(_see)


def _see(change: meshcache.Changed) -> None:
    seen.append(
        {
            "at": time.time_ns(),
            "of": change.member.node_id.hex(),
            "epoch": change.member.epoch,
            "was": change.previous.name if change.previous is not None else None,
            "is": change.member.state.name,
        }
    )


def changes() -> list[dict]:
    return list(seen)


def keep_logs() -> None:
    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record.getMessage())

    logging.getLogger("meshcache").addHandler(Kept())


def logs() -> list[str]:
    return list(logged)


def hold(seconds: float) -> None:
    """Sleep in C without letting go of the GIL, as a long regular expression does."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def burn(threads: int, seconds: float) -> None:
    """Have *threads* threads compute for *seconds*, all wanting the GIL."""
    end = time.monotonic() + seconds

    def compute() -> None:
        while time.monotonic() < end:
            sum(range(1000))

    burning = [threading.Thread(target=compute) for _ in range(threads)]
    for thread in burning:
        thread.start()
    for thread in burning:
        thread.join()


def replay(threads: int, seconds: float) -> None:
    """Read and write in the background, on *threads* threads, for *seconds*."""
    end = time.monotonic() + seconds

    def use() -> None:
        while time.monotonic() < end:
            key = random.randrange(1000)
            if random.random() >= 0.1:
                cache.get(f"replay {key}")
                continue
            with suppress(meshcache.MeshCacheError):  # its owner may be leaving
                cache.set(f"replay {key}", key)

    for _ in range(threads):
        threading.Thread(target=use, daemon=True).start()


def count(keys: list[str], threads: int, times: int) -> str:
    """Have *threads* threads each add 1 to each of *keys*, *times* times."""

    def add() -> None:
        for _ in range(times):
            for key in keys:
                cache.incr(key)

    with ThreadPoolExecutor(threads) as pool:
        for adding in [pool.submit(add) for _ in range(threads)]:
            adding.result()
    return "done"


def descriptors() -> dict[str, int]:
    """Count this process's open descriptors, the TCP connections among them."""
    kinds = {"all": 0, "sockets": 0}
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            mode = link.stat().st_mode
        except OSError:
            continue
        kinds["all"] += 1
        kinds["sockets"] += stat.S_ISSOCK(mode)
    return kinds


def fork(count: int) -> list[dict]:
    """Fork children that use the cache, as a pre-forking server does."""
    children = []
    for _ in range(count):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(write)
        os.close(write)
        with os.fdopen(read) as pipe:
            children.append(json.loads(pipe.readline()))
    return children


def _child(write: int) -> None:
    try:
        cache.get("anything")
        meshcache.node().wait_ready(peers=1, timeout=10)
        mine = about()
    except BaseException:  # noqa: BLE001 - the parent must hear of it
        mine = {"error": traceback.format_exc()}
    with os.fdopen(write, "w") as pipe:
        pipe.write(json.dumps(mine) + "\n")
    if "error" not in mine:
        threading.Event().wait(60)  # until killed, or a bounded while
    os._exit(0)


def main() -> None:
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        try:
            action = callers.ACTIONS.get(name) or globals()[name]
            answer = {"ok": action(*args, **kwargs)}
        except Exception:  # noqa: BLE001 - the test looks at it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
