"""What a read costs by the tier that answers it, beside what people use today.

    python tests/benchmarks/bench_reads.py [--quick] [--json] [--check] [--only SERIES]

The contenders of a series take turns: a batch each, round after round, the order
rotated, so that what the machine does meanwhile hits all of them. A contender's times
are over all its rounds. Its ratio is meshcache's median by its own within each round:
the median of those, and the middle half of them as the spread. Below 1 meshcache is
faster.

This process is pinned to one core, all that it talks to (the other node, the servers,
the echo) to another: each is its own process, and a round trip is a real one. Every
contender returns the same small dict; from another process all decode it each time.
`--check` holds the ratios against budgets.toml.

Near hits expire in all caches that can do that (all but lru_cache) after 300 seconds.
Peers are read with the host lane off, siblings through it, and both with nothing kept
near. What eight threads count has to come out exact, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import lru_cache, partial
from importlib import metadata
from itertools import repeat
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from uuid import uuid4

from msgpack import packb, unpackb
from rivals import (
    Absent,
    memcached,
    on_core,
    redis_server,
    running,
    shared_memory,
    zmq_echo,
)

import meshcache
from meshcache import native

BUDGETS = Path(__file__).with_name("budgets.toml")
SHM = Path("/dev/shm")
CACHE = "bench"
MANY = 100
IN_FLIGHT = 64
# Well below a time slice of the scheduler's, so that on a busy machine the median is
# of batches that ran through.
BATCH = 100
ROUNDS = 25
QUICK_ROUNDS = 5
TTL = 300
THREADS = 8
PAYLOAD = bytes(100)
VALUE = {"id": 7, "name": "Ada Lovelace", "email": "ada@example.org", "tags": ["a", 1]}
PACKAGES = (
    "pyzmq",
    "msgpack",
    "redis",
    "hiredis",
    "pymemcache",
    "cachebox",
    "cachetools",
    "moka-py",
    "warp-cache",
)

Measure = Callable[[int], list[float]]
"""Does so many calls and returns the seconds of each."""


class Contender(NamedTuple):
    name: str
    measure: Measure


class Series(NamedTuple):
    """Contenders for one job, meshcache first, and the calls of a round."""

    name: str
    calls: int
    contenders: list[Contender]


# --- how a call is timed -----------------------------------------------------


def spun(call: Callable[[int], object]) -> Measure:
    """Time `BATCH` calls at once, for what is as short as reading the clock."""

    def measure(calls: int) -> list[float]:
        times = []
        for _ in range(calls // BATCH):
            start = time.perf_counter()
            for seven in repeat(7, BATCH):
                call(seven)
            times.append((time.perf_counter() - start) / BATCH)
        return times

    return measure


def timed(call: Callable[[], object]) -> Measure:
    def measure(calls: int) -> list[float]:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times

    return measure


def threaded(call: Callable[[int], object], threads: int) -> Measure:
    """Time how long a call takes of the whole while so many threads make them."""

    def measure(calls: int) -> list[float]:
        each = calls // threads
        ready = threading.Barrier(threads + 1)

        def several() -> None:
            ready.wait()
            for seven in repeat(7, each):
                call(seven)

        workers = [Raising(several) for _ in range(threads)]
        for worker in workers:
            worker.start()
        ready.wait()
        start = time.perf_counter()
        for worker in workers:
            worker.join()
        spent = time.perf_counter() - start
        for worker in workers:
            if worker.raised is not None:
                raise worker.raised
        return [spent / (each * threads)]

    return measure


class Raising(threading.Thread):
    """A thread that keeps what it raised for whoever joins it."""

    def __init__(self, job: Callable[[], None]) -> None:
        super().__init__()
        self.job = job
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            self.job()
        except BaseException as error:  # noqa: BLE001 - raised again by `threaded`
            self.raised = error


def awaited(
    runner: asyncio.Runner, call: Callable[[], Coroutine[Any, Any, object]]
) -> Measure:
    async def measure(calls: int) -> list[float]:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            await call()
            times.append(time.perf_counter() - start)
        return times

    return lambda calls: runner.run(measure(calls))


def in_flight(
    runner: asyncio.Runner, call: Callable[[], Coroutine[Any, Any, object]]
) -> Measure:
    """Time how long a call takes of the whole while `IN_FLIGHT` are under way."""

    async def several(calls: int) -> None:
        for _ in range(calls):
            await call()

    async def measure(calls: int) -> list[float]:
        start = time.perf_counter()
        each = calls // IN_FLIGHT
        await asyncio.gather(*(several(each) for _ in range(IN_FLIGHT)))
        return [(time.perf_counter() - start) / (each * IN_FLIGHT)]

    return lambda calls: runner.run(measure(calls))


# --- the rounds --------------------------------------------------------------


def compete(series: Series, rounds: int) -> dict[str, Any]:
    """Let the contenders take turns; return each one's times and ratio."""
    times: dict[str, list[list[float]]] = {c.name: [] for c in series.contenders}
    for contender in series.contenders:
        contender.measure(max(series.calls // 4, IN_FLIGHT))
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            at = number % len(series.contenders)
            for contender in series.contenders[at:] + series.contenders[:at]:
                times[contender.name].append(contender.measure(series.calls))
    finally:
        gc.enable()
    ours = [median(batch) for batch in times[series.contenders[0].name]]
    return {name: summary(ours, batches) for name, batches in times.items()}


def summary(ours: list[float], batches: list[list[float]]) -> dict[str, float]:
    every = sorted(second for batch in batches for second in batch)
    ratios = [a / median(batch) for a, batch in zip(ours, batches, strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return {
        "p50_us": median(every) * 1e6,
        "p99_us": every[len(every) * 99 // 100] * 1e6,
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
    }


# --- the contenders ----------------------------------------------------------


class Ours(NamedTuple):
    """A node in this process, another in one of its own, and keys of both."""

    cache: meshcache.Cache
    hits: meshcache.Cache
    near: Any
    mine: str
    theirs: list[str]


def ours(stack: ExitStack, *, lane: bool) -> Ours:
    """Start two nodes, with shared memory or not, and store the value at both."""
    runtime_dir = stack.enter_context(tempfile.TemporaryDirectory(dir=shared_memory()))
    name = uuid4().hex
    environ = {
        "MESHCACHE_RUNTIME_DIR": runtime_dir,
        "MESHCACHE_CLUSTER": name,
        "MESHCACHE_HOST_LANE": str(int(lane)),
    }
    stack.enter_context(running([sys.executable, __file__, "--worker"], environ))
    node = stack.enter_context(
        meshcache.Node(cluster=name, runtime_dir=runtime_dir, host_lane=lane)
    )
    node.wait_ready(peers=1)
    cache = node.cache(CACHE, ttl=None, near_ttl=0)
    keys: dict[bool, list[str]] = {True: [], False: []}
    for number in range(10_000):
        key = f"user:{number}"
        keys[node.owner(CACHE, key) == node.me].append(key)
    theirs = keys[False][:MANY]
    cache.set_many(dict.fromkeys([keys[True][0], *theirs], VALUE))
    hits = node.cache("near", ttl=TTL)
    near = hits.memoize(value_of, name="value_of")
    return Ours(cache, hits, near, keys[True][0], theirs)


def value_of(number: int) -> dict[str, Any]:
    return VALUE | {"id": number}


def work() -> None:
    """Be the other node, until whoever started it closes its end of the pipe."""
    with meshcache.Node():
        sys.stdin.read()


def near_hit(mesh: Ours, skipped: dict[str, str]) -> Iterator[Contender]:
    yield Contender("meshcache", spun(mesh.near))
    yield Contender("functools.lru_cache", spun(lru_cache(value_of)))
    for name, memoized in memoizers(skipped).items():
        yield Contender(name, spun(memoized(value_of)))


def memoizers(skipped: dict[str, str]) -> dict[str, Callable[[Any], Any]]:
    """Return the decorators that there are, each with a time to live."""
    makers = (_cachebox, _cachebox_as_is, _cachetools, _moka, _warp)
    found = {}
    for make in makers:
        try:
            name, decorator = make()
        except ImportError as error:
            skipped[make.__name__.strip("_")] = str(error)
        else:
            found[name] = decorator
    return found


def _cachebox() -> tuple[str, Any]:
    from cachebox import TTLCache, cached

    return "cachebox TTLCache", cached(TTLCache(1024, TTL))


def _cachebox_as_is() -> tuple[str, Any]:
    from cachebox import TTLCache, cached

    # As it comes it copies what can be changed, which ours does not.
    return "cachebox TTLCache, uncopied", cached(TTLCache(1024, TTL), postprocess=None)


def _cachetools() -> tuple[str, Any]:
    from cachetools import TTLCache, cached

    kept = TTLCache(1024, TTL)
    return "cachetools TTLCache, lock", cached(kept, lock=threading.Lock())


def _moka() -> tuple[str, Any]:
    from moka_py import cached

    return "moka-py", cached(maxsize=1024, ttl=TTL)


def _warp() -> tuple[str, Any]:
    from warp_cache import cache

    return "warp-cache, memory", cache(max_size=1024, ttl=TTL)


class Shop:
    """An object with a method, which says of itself what tells it apart."""

    def __cache_key__(self) -> int:
        return 7

    def price(self, number: int) -> dict[str, Any]:
        return value_of(number)


def price_of(
    number: int, count: int = 1, *, discount: float | None = None, unit: str = "kg"
) -> dict[str, Any]:
    return value_of(number)


def by_key(mesh: Ours) -> Iterator[Series]:
    """Yield what the key of a near hit costs, by what it is made of.

    The last contender is the function itself, whose body a hit is spared.
    """
    theirs = type("Theirs", (Shop,), {"price": lru_cache(Shop.price)})
    ours = type("Ours", (Shop,), {"price": mesh.hits.memoize(Shop.price, name="m")})
    mine = mesh.hits.memoize(price_of, name="price_of")
    for name, call in {
        "two arguments": lambda f: lambda seven: f(seven, 8),
        "names and defaults": lambda f: lambda seven: f(seven, unit="g", discount=None),
        "a float among them": lambda f: lambda seven: f(seven, 8, discount=0.5),
    }.items():
        yield Series(
            f"near hit, {name}",
            20_000,
            [
                Contender("meshcache", spun(call(mine))),
                Contender("functools.lru_cache", spun(call(lru_cache(price_of)))),
                Contender("the function", spun(call(price_of))),
            ],
        )
    yield Series(
        "near hit, method",
        20_000,
        [
            Contender("meshcache", spun(ours().price)),
            Contender("functools.lru_cache", spun(theirs().price)),
            Contender("the function", spun(Shop().price)),
        ],
    )


def from_threads(mesh: Ours) -> Iterator[Contender]:
    mesh.near(7)  # Hits alone are counted.
    yield Contender("meshcache", counted(mesh.near, threaded(mesh.near, THREADS)))
    yield Contender("one thread", threaded(mesh.near, 1))


def counted(memoized: Any, measure: Measure) -> Measure:
    """Check after each measurement that every hit was counted, once."""

    def checked(calls: int) -> list[float]:
        before = memoized.cache_info()
        times = measure(calls)
        after = memoized.cache_info()
        made = calls // THREADS * THREADS
        if (after.hits - before.hits, after.misses) != (made, before.misses):
            raise AssertionError(f"{made} hits were counted as {before} to {after}")
        return times

    return checked


def host_get(mesh: Ours) -> Iterator[Contender]:
    get, mine = mesh.cache.get, mesh.mine
    yield Contender("meshcache", spun(lambda _: get(mine)))
    yield Contender("functools.lru_cache", spun(lru_cache(value_of)))


def own_set(mesh: Ours) -> Iterator[Contender]:
    put, mine = mesh.cache.set, mesh.mine
    yield Contender("meshcache", spun(lambda _: put(mine, PAYLOAD)))
    yield Contender("functools.lru_cache", spun(lru_cache(value_of)))


def sibling_get(mesh: Ours, skipped: dict[str, str]) -> Iterator[Contender]:
    get, key = mesh.cache.get, mesh.theirs[0]
    yield Contender("meshcache", timed(lambda: get(key)))
    yield Contender("functools.lru_cache", timed(partial(lru_cache(value_of), 7)))
    try:
        from warp_cache import cache
    except ImportError as error:
        skipped["warp-cache, shared"] = str(error)
        return
    shared = cache(max_size=1024, ttl=TTL, backend="shared")(value_of)
    yield Contender("warp-cache, shared", timed(partial(shared, 7)))


def near_hits(mesh: Ours, skipped: dict[str, str]) -> Iterator[Series]:
    yield Series("near hit, memoized", 20_000, [*near_hit(mesh, skipped)])
    yield from by_key(mesh)
    yield Series(f"near hit, {THREADS} threads", 160_000, [*from_threads(mesh)])


def everything(stack: ExitStack, skipped: dict[str, str]) -> Iterator[Series]:
    """Yield the series, each with those contenders that there are."""
    near, mesh = ours(stack, lane=True), ours(stack, lane=False)
    cache, key, keys = mesh.cache, mesh.theirs[0], mesh.theirs
    runner = stack.enter_context(asyncio.Runner())
    assert VALUE == cache.get(key)
    assert dict.fromkeys(keys, VALUE) == cache.get_many(keys)
    assert VALUE == near.cache.get(near.theirs[0])
    sync = [Contender("meshcache", timed(lambda: cache.get(key)))]
    many = [Contender("meshcache", timed(lambda: cache.get_many(keys)))]
    tasks = [Contender("meshcache", awaited(runner, lambda: cache.aget(key)))]
    crowd = [Contender("meshcache", in_flight(runner, lambda: cache.aget(key)))]
    packed = packb(VALUE)
    echo = stack.enter_context(zmq_echo())
    sibling = [*sibling_get(near, skipped)]
    own = [*own_set(near)]
    yield from near_hits(near, skipped)
    yield Series("host get", 5_000, [*host_get(near)])
    for reference in (sync, tasks):
        reference.append(Contender("zmq echo, raw", timed(lambda: echo(packed))))
    try:
        plain, aio = stack.enter_context(redis_server(dict.fromkeys(keys, packed)))
        stack.callback(lambda: runner.run(aio.aclose()))
        assert VALUE == unpackb(plain.get(key))
        redis_get = Contender("redis-py", timed(lambda: unpackb(plain.get(key))))
        sync.append(redis_get)
        sibling.append(redis_get)
        own.append(Contender("redis-py", spun(lambda _: plain.set("one", PAYLOAD))))
        many.append(
            Contender(
                "redis-py",
                timed(lambda: [unpackb(value) for value in plain.mget(keys)]),
            )
        )

        async def aget() -> object:
            return unpackb(await aio.get(key))

        tasks.append(Contender("redis.asyncio", awaited(runner, aget)))
        crowd.append(Contender("redis.asyncio", in_flight(runner, aget)))
    except Absent as error:
        skipped["redis"] = str(error)
    try:
        client = stack.enter_context(memcached(dict.fromkeys(keys, packed)))
    except Absent as error:
        skipped["memcached"] = str(error)
    else:
        assert VALUE == unpackb(client.get(key))
        memcached_get = Contender("pymemcache", timed(lambda: unpackb(client.get(key))))
        sync.append(memcached_get)
        sibling.append(memcached_get)
        own.append(
            Contender(
                "pymemcache", spun(lambda _: client.set("one", PAYLOAD, noreply=False))
            )
        )
        many.append(
            Contender(
                "pymemcache",
                timed(lambda: [unpackb(v) for v in client.get_many(keys).values()]),
            )
        )
    yield Series("sibling get", 300, sibling)
    yield Series("own set, 100 bytes", 300, own)
    yield Series("peer get, sync", 300, sync)
    yield Series("peer get, async", 300, tasks)
    yield Series(f"peer get_many of {MANY}", 20, many)
    yield Series(f"peer get, async, {IN_FLIGHT} in flight", IN_FLIGHT * 10, crowd)


def run(*, quick: bool = False, only: str = "") -> dict[str, Any]:
    """Measure everything whose name has *only* in it; plain data, fit for JSON."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    skipped: dict[str, str] = {}
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    results = {}
    with ExitStack() as stack:
        stack.callback(tidy, set(SHM.glob("warp_cache_*")))
        on_core(0)
        try:
            for series in everything(stack, skipped):
                if only in series.name:
                    results[series.name] = compete(series, rounds)
        finally:
            if before is not None:
                os.sched_setaffinity(0, before)
    return {
        "machine": machine(),
        "rounds": rounds,
        "series": results,
        "skipped": skipped,
    }


def tidy(before: set[Path]) -> None:
    """Remove what warp-cache's shared backend leaves behind when it ends."""
    for path in set(SHM.glob("warp_cache_*")) - before:
        path.unlink(missing_ok=True)


def machine() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


# --- what came of it ---------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    print(f"{'':28}{'p50 us':>10}{'p99 us':>10}   meshcache / it, middle half")
    for name, rows in result["series"].items():
        print(name)
        for contender, row in rows.items():
            line = f"  {contender:26}{row['p50_us']:10.2f}{row['p99_us']:10.2f}"
            if contender != "meshcache":
                spread = f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}"
                line += f"{row['ratio']:8.2f}   {spread}"
            print(line)
    for rival, why in result["skipped"].items():
        print(f"without {rival}: {why}")
    facts = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    print(
        f"{result['rounds']} rounds; {facts['system']}, {facts['cores']} cores, "
        f"load {facts['load']:.1f}, "
        f"{'compiled' if native.built else 'not compiled'}; {versions}"
    )


def broken(result: dict[str, Any]) -> list[str]:
    """Return a sentence for each budget that is exceeded beyond its tolerance.

    A series that was not asked for has no budget.
    """
    sentences = []
    for name, budget in tomllib.loads(BUDGETS.read_text()).items():
        if budget["series"] not in result["series"]:
            continue
        row = result["series"][budget["series"]][budget["reference"]]
        ratio = (
            budget["ratio"]
            if native.built
            else budget.get("uncompiled", budget["ratio"])
        )
        most = ratio * (1 + budget["tolerance"])
        if row["ratio"] > most:
            sentences.append(
                f"{name}: {row['ratio']:.2f} times {budget['reference']}, where "
                f"{ratio} and a tolerance of {budget['tolerance']:.0%} allow "
                f"{most:.2f}"
            )
    return sentences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="against budgets.toml")
    parser.add_argument("--only", default="", metavar="SERIES", help="part of a name")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    result = run(quick=options.quick, only=options.only)
    print(json.dumps(result, indent=2)) if options.json else show(result)
    exceeded = broken(result) if options.check else []
    for sentence in exceeded:
        print(sentence, file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
