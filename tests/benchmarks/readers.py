"""Ways to read through a cache, each with one origin behind it.

Those of meshcache have one part less each than `full`; the others are what people use
instead. A reader is one process's; what they have in common is below, the rest is as
each system recommends it, or its default.

`ttl` is for how long a value is fresh. Whoever can give older ones may do so for as
long again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from pickle import dumps, loads
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import meshcache

ORIGIN = 0.02
BODY = "x" * 200
KEYS = 100_000
READY_WITHIN = 60.0
LOCK_TIMEOUT = 10.0
LOCK_SLEEP = 0.005
REFRESHERS = 8
"""Threads for dogpile's loads behind readers: as many as a node's `loader_threads`."""


class Setting(NamedTuple):
    """What all readers of one run share."""

    cluster: str
    runtime_dir: str
    peers: int
    redis: int
    ttl: float


class Origin:
    """What is slow and is called as seldom as possible. Thread-safe."""

    def __init__(self) -> None:
        self._calls = count()

    def load(self, key: str) -> dict[str, Any]:
        time.sleep(ORIGIN)
        return self._row(key)

    async def aload(self, key: str) -> dict[str, Any]:
        await asyncio.sleep(ORIGIN)
        return self._row(key)

    def _row(self, key: str) -> dict[str, Any]:
        next(self._calls)
        # The clock is one for all processes of a host, so anybody can tell its age.
        return {"key": key, "made": time.monotonic(), "body": BODY}

    def calls(self) -> int:
        return int(repr(self._calls)[6:-1])


class Reader:
    """One process's way to read. `read` or `aread` is set, for threads or tasks."""

    read: Callable[[str], dict[str, Any]] | None = None
    aread: Callable[[str], Coroutine[Any, Any, dict[str, Any]]] | None = None

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def stop(self) -> None:
        """Let go of everything."""


# --- meshcache -------------------------------------------------------------------


class Mesh(Reader):
    """meshcache, with one part taken away or none."""

    def __init__(
        self,
        origin: Origin,
        setting: Setting,
        *,
        without: str = "",
        tasks: bool = False,
    ) -> None:
        super().__init__(origin)
        alone = without == "cluster"
        settings: dict[str, Any] = {"near_entries": 0} if "near" in without else {}
        self.node = meshcache.Node(
            cluster=uuid4().hex if alone else setting.cluster,
            runtime_dir=setting.runtime_dir,
            host_lane="host lane" not in without,
            **settings,
        )
        self.node.start()
        self.node.wait_ready(peers=0 if alone else setting.peers, timeout=READY_WITHIN)
        cache = self.node.cache(
            "ablation",
            ttl=setting.ttl,
            stale=0 if "stale" in without else setting.ttl,
            early=0 if "early" in without else 1,
            jitter=0,
        )
        if tasks:
            self.aread = cache.memoize(name="row")(self.origin.aload)
        elif without != "single-flight":
            self.read = cache.memoize(name="row")(self.origin.load)
        else:
            self.read = partial(by_hand, cache.get, cache.set, origin.load)

    def stop(self) -> None:
        self.node.stop()


def by_hand(
    get: Callable[[str], Any],
    put: Callable[[str, Any], Any],
    load: Callable[[str], Any],
    key: str,
) -> Any:
    """Read as most people do: look, load what is missing, store it."""
    value = get(key)
    if value is None:
        value = load(key)
        put(key, value)
    return value


# --- what people use instead -----------------------------------------------------


class PerProcess(Reader):
    """A dict with a ttl in each process: `functools.lru_cache`, if it had one."""

    def __init__(self, origin: Origin, setting: Setting) -> None:
        super().__init__(origin)
        from cachetools import TTLCache, cached

        self.read = cached(TTLCache(KEYS, setting.ttl), lock=Lock())(origin.load)


class Redis(Reader):
    """redis-py, and nothing else."""

    def __init__(self, origin: Origin, setting: Setting) -> None:
        super().__init__(origin)
        from redis import Redis as Client

        client, life = Client(port=setting.redis), int(setting.ttl * 1000)

        def get(key: str) -> Any:
            found = client.get(key)
            return None if found is None else loads(found)

        def put(key: str, value: Any) -> None:
            client.set(key, dumps(value), px=life)

        self.read = partial(by_hand, get, put, origin.load)
        self.stop = client.close


class Dogpile(Reader):
    """dogpile.cache: its lock, and the old value for those who do not get it."""

    def __init__(
        self,
        origin: Origin,
        setting: Setting,
        *,
        everywhere: bool = False,
        best: bool = False,
    ) -> None:
        super().__init__(origin)
        from dogpile.cache import make_region

        arguments: dict[str, Any] = {
            "port": setting.redis,
            # Redis forgets in whole seconds; "larger than dogpile's own", it says.
            "redis_expiration_time": max(1, round(2 * setting.ttl)),
        }
        if everywhere:
            arguments |= {"distributed_lock": True, "thread_local_lock": False}
            arguments |= {"lock_timeout": LOCK_TIMEOUT}
        if best:
            arguments |= {"lock_sleep": LOCK_SLEEP}
        region = make_region(async_creation_runner=self._behind if best else None)
        region.configure("dogpile.cache.redis", setting.ttl, arguments)
        self._pool = ThreadPoolExecutor(REFRESHERS)
        self.read = lambda key: region.get_or_create(key, partial(origin.load, key))

    def _behind(self, region: Any, key: str, creator: Any, mutex: Any) -> None:
        def run() -> None:
            try:
                region.set(key, creator())
            finally:
                mutex.release()

        self._pool.submit(run)

    def stop(self) -> None:
        self._pool.shutdown()


class Cashews(Reader):
    """cashews, which is for asyncio alone."""

    def __init__(self, origin: Origin, setting: Setting, *, way: str) -> None:
        super().__init__(origin)
        from cashews import Cache

        cache, ttl = Cache(), setting.ttl
        cache.setup(f"redis://127.0.0.1:{setting.redis}")
        decorate = {
            "plain": partial(cache, ttl=ttl),
            "lock": partial(cache, ttl=ttl, lock=True),
            "early": partial(cache.early, ttl=2 * ttl, early_ttl=ttl),
        }[way]

        @decorate(key="row:{key}")
        async def read(key: str) -> Any:
            return await origin.aload(key)

        self.aread = read


READERS: dict[str, Callable[[Origin, Setting], Reader]] = {
    "full": Mesh,
    "full, tasks": partial(Mesh, tasks=True),
    **{
        f"without {part}": partial(Mesh, without=part)
        for part in (
            "stale",
            "early",
            "stale, early",
            "near",
            "host lane",
            "near, host lane",
            "single-flight",
            "cluster",
        )
    },
    "cachetools": PerProcess,
    "redis-py": Redis,
    "dogpile": Dogpile,
    "dogpile, distributed": partial(Dogpile, everywhere=True),
    "dogpile, at its best": partial(Dogpile, everywhere=True, best=True),
    "cashews": partial(Cashews, way="plain"),
    "cashews, lock": partial(Cashews, way="lock"),
    "cashews, early": partial(Cashews, way="early"),
}
NEEDS = {
    "cachetools": ("cachetools",),
    "redis-py": ("redis",),
    "dogpile": ("dogpile.cache", "redis"),
    "cashews": ("cashews", "redis"),
}


def needs(name: str) -> tuple[str, ...]:
    """Return the packages that a reader needs beside meshcache."""
    return NEEDS.get(name.partition(",")[0], ())


def lacks(name: str) -> str | None:
    """Return why a reader cannot be had here, if so."""
    for package in needs(name):
        if find_spec(package.partition(".")[0]) is None:
            return f"{package} is not installed"
    return None


def versions() -> dict[str, str]:
    """Return the versions of all that take part."""
    found = {}
    for package in ("meshcache", "pyzmq", "hiredis", *sorted(_all_needs())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _all_needs() -> set[str]:
    return {package for names in NEEDS.values() for package in names}
