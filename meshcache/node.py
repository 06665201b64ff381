"""A node: this process's participant in a cluster.

Most programs need only the default node: `meshcache.start(...)` or nothing at all, as
the first use of a cache starts it from the `MESHCACHE_*` settings. `Node` is for those
who want to say where it begins and ends, or want several in one process.

Constructing a node opens nothing. It runs from `start()`, or from its first use, until
`stop()` or the end of the process. A forked child has no running node; the first use
there starts one of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from enum import Enum
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, Unpack, final
from weakref import WeakSet, finalize

from meshcache import native
from meshcache.clock import NEVER, monotonic, time_ns
from meshcache.codec.envelope import unwrap
from meshcache.codec.keys import full_key
from meshcache.codec.messages import LoaderName
from meshcache.config import Config, Keywords, disabled
from meshcache.engine.effects import Changed
from meshcache.engine.ops import AskTables, GetKeys, Got, Results, Tables, Tier
from meshcache.errors import NodeClosed, NotReady, SerializationError
from meshcache.hashing import partition_of
from meshcache.model import Member, State
from meshcache.placement.table import Table
from meshcache.runtime.driver import Told
from meshcache.runtime.events import QUEUE, Callback, Events
from meshcache.runtime.fork import watch
from meshcache.runtime.loaders import Loader
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.tally import OTHERS, TIERS, Tally

if TYPE_CHECKING:
    from meshcache.cache import Cache, Options

__all__ = [
    "STOP_TIMEOUT",
    "Attached",
    "Explanation",
    "Node",
    "NodeState",
    "running",
]

_log = logging.getLogger("meshcache.node")

MAX_NAME: Final = 512
STOP_TIMEOUT: Final = 5.0
EXIT_TIMEOUT: Final = 1.0
AGREE_INTERVAL: Final = 0.05
"""Seconds between two questions to all peers while their tables differ."""


class NodeState(Enum):
    """Where a node is in its life."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"
    DISABLED = "disabled"
    """MESHCACHE_DISABLE is set: every cache is empty and every loader runs."""


class Explanation(NamedTuple):
    """Where a key lives and what would happen to a read of it now.

    `tier` is "host" or "peer" when the key is stored, and "fill" when it would have
    to be loaded. `age` and `ttl` are seconds; `ttl` None means that it never expires,
    and a negative one that it is stale. Age goes by the owner's wall clock.
    """

    cache: str
    key: object
    partition: int
    owner: Member | None
    replicas: tuple[Member, ...]
    tier: str
    version: int
    age: float | None
    ttl: float | None
    bytes: int


class Attached(Protocol):
    """What follows a node from one runtime to the next."""

    @property
    def tally(self) -> Tally:
        """What it counts."""

    def rebind(self, runtime: Runtime | None) -> None:
        """Use *runtime* from now on; None is to ask again at the next use."""


@final
class Node:
    """One participant in a cluster. Thread-safe.

    Use it as a context manager, or call `start` and `stop`.

    Args:
        **settings: see docs/reference/configuration.md. What is not given comes from
            the environment (`MESHCACHE_<NAME>`), the preset, or the default.

    Raises:
        ConfigError: a setting is unknown or out of its bounds.
    """

    make_runtime: Callable[[Config, Callable[[Told], None]], Runtime] = Runtime
    """What it runs on; `meshcache.testing` has one without threads and sockets."""

    def __init__(self, **settings: Unpack[Keywords]) -> None:
        self.config: Final = Config.load(os.environ, **settings)
        self._disabled = disabled(os.environ)
        self._lock = RLock()
        self._runtime: Runtime | None = None
        self._stopped = False
        self._forked = False
        self._loaders: dict[LoaderName, Loader] = {}
        self._attached: WeakSet[Attached] = WeakSet()
        self._tallies: WeakSet[Tally] = WeakSet()
        self._counted: dict[str, int] = dict.fromkeys((*TIERS, *OTHERS), 0)
        self._events = Events()
        watch(self)

    def __repr__(self) -> str:
        runtime = self._runtime
        where = "" if runtime is None else f" {runtime.me.name} at {runtime.me.address}"
        return f"<Node of {self.config.cluster!r}: {self.state.value}{where}>"

    # --- life --------------------------------------------------------------------

    @property
    def state(self) -> NodeState:
        """Where this node is in its life."""
        if self._disabled:
            return NodeState.DISABLED
        if self._stopped:
            return NodeState.STOPPED
        return NodeState.NEW if self._runtime is None else NodeState.RUNNING

    def start(self) -> Self:
        """Start this node if it does not run. Safe to call again.

        Raises:
            ConfigError: it cannot listen, or the same-host directory is not safe.
        """
        with self._lock:
            self._stopped = False
            self._running()
        return self

    def _running(self) -> Runtime | None:
        """Return the runtime, started if need be; None when disabled or stopped."""
        runtime = self._runtime
        if runtime is not None:
            return runtime
        with self._lock:
            if self._runtime is None and not self._disabled and not self._stopped:
                self._launch()
            return self._runtime

    def _launch(self) -> None:
        if self._forked:
            self._forked = False
            _log.info("started anew in process %d, after a fork", os.getpid())
        runtime = self.make_runtime(self.config, self._heard)
        for loader in self._loaders.values():
            runtime.register(loader)
        self._runtime = runtime
        _running.add(self)

    def _heard(self, news: Told) -> None:
        if isinstance(news, Changed):
            self._events.publish(news)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Say farewell to the cluster and close everything, within *timeout* seconds.

        Loaders that run are not waited for. Reads through a stopped node run their
        loaders and store nothing; writes raise `NodeClosed`. `start` starts it again,
        as a new member.
        """
        with self._lock:
            runtime, self._runtime = self._runtime, None
            self._stopped = True
            self._rebind()
            _running.discard(self)
        end = monotonic() + timeout
        if runtime is not None and not runtime.stop(timeout):
            _log.warning("%r: a thread did not end within %s s", self, timeout)
        self._events.rest(until=end)

    def renew(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop this node, and let its next use start it again, as a new member."""
        self.stop(timeout)
        with self._lock:
            self._stopped = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent; the next use starts a node here."""
        runtime, self._runtime = self._runtime, None
        self._lock = RLock()
        self._events.after_fork_in_child()
        self._rebind()
        _running.discard(self)
        if runtime is not None:
            self._forked = True
            runtime.abandon_after_fork()

    def _rebind(self) -> None:
        for region in list(self._attached):
            region.rebind(None)

    # --- the cluster -------------------------------------------------------------

    def _need(self) -> Runtime:
        runtime = self._running()
        if runtime is None:
            advice = "unset MESHCACHE_DISABLE" if self._disabled else "start it"
            raise NodeClosed(f"{self!r}: {advice} before asking it about the cluster")
        return runtime

    @property
    def me(self) -> Member:
        """This node as its peers know it."""
        return self._need().me

    def members(self) -> list[Member]:
        """Return everyone this node knows of, itself included, in whatever state."""
        return [] if self._disabled else list(self._need().members())

    def table(self) -> Table:
        """Return the partition table that this node goes by."""
        return self._need().engine.ranges.table

    @property
    def ready(self) -> bool:
        """Whether this node runs, has met its siblings and counts all who live.

        One that is disabled has nothing to wait for.
        """
        runtime = self._runtime
        return self._disabled or (runtime is not None and _settled(runtime, 0))

    def wait_ready(self, peers: int = 0, timeout: float = 10.0) -> Self:
        """Wait until at least *peers* others are alive and all agree on one table.

        The other nodes of this host are waited for in any case. Every member is asked
        which table it goes by, so that from then on, as long as nobody comes or goes,
        each key has the same owner for everybody. A disabled node does not wait.

        Raises:
            NotReady: it did not come to that within *timeout* seconds. The node goes
                on looking for peers.
        """
        if self._disabled:
            return self
        runtime = self._need()
        end = monotonic() + timeout
        while (left := end - monotonic()) > 0:
            with runtime.news:
                # Not all that is waited for is told: entries arrive without news.
                patience = min(left, AGREE_INTERVAL)
                settled = runtime.news.wait_for(
                    lambda: _settled(runtime, peers), patience
                )
            if settled and _agreed(runtime):
                return self
            with runtime.news:
                runtime.news.wait(min(AGREE_INTERVAL, max(0.0, end - monotonic())))
        alive = sum(m.state is State.ALIVE for m in runtime.members()) - 1
        raise NotReady(
            f"{alive} of {peers} peers, or no agreement, after {timeout} s in cluster "
            f"{self.config.cluster!r}: check that they share its name, "
            f"and seeds={self.config.seeds!r}"
        )

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have *callback* called when a member comes, goes or changes.

        It gets one `Changed`, with the `member` as it is now and its `previous` state,
        on a thread that is its own: it may take its time, and what it raises is logged.
        When too many changes wait for it the oldest are dropped and counted, in
        `stats()["events"]`. What is so already is not told: ask `members` afterwards.

        Returns:
            A function that ends the subscription. A call under way goes on.
        """
        return self._events.subscribe(callback)

    async def changes(self) -> AsyncIterator[Changed]:
        """Yield what `subscribe` tells, on the running loop, from the first step on."""
        import asyncio  # noqa: PLC0415 - only tasks need it

        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Changed] = asyncio.Queue(QUEUE)

        def put(change: Changed) -> None:
            if waiting.full():
                waiting.get_nowait()
                self._events.count_dropped()
            waiting.put_nowait(change)

        unsubscribe = self._events.subscribe(
            lambda change: loop.call_soon_threadsafe(put, change)
        )
        try:
            while True:
                yield await waiting.get()
        finally:
            unsubscribe()

    def owner(self, cache: str, key: object) -> Member | None:
        """Return the member that owns *key* of the cache named *cache*."""
        return self.table().owner_of(_located(cache, key)[1])

    def explain(self, cache: str, key: object) -> Explanation:
        """Return where a key lives, and where a read of it would be answered now."""
        runtime = self._need()
        full, hashed = _located(cache, key)
        got = _on_host(runtime, full, hashed)
        if got is None:
            _, outcome = runtime.ask(GetKeys(((full, hashed),)))
            got = outcome.found[0] if isinstance(outcome, Results) else None
        return _explain(cache, key, self.table().owner_of(hashed), hashed, got)

    def stats(self) -> dict[str, Any]:
        """Return every counter of this node, nested by part.

        `reads` has the reads of this process by the tier that answered, `raised` those
        that ended with a loader's error, `stale` those that were given an old value,
        `loads` how often a loader ran here;
        docs/reference/metrics.md explains each.
        """
        runtime = self._runtime
        parts: dict[str, Any] = {} if runtime is None else runtime.stats()
        with self._lock:
            counted = [tally.reader()() for tally in self._tallies]
        counted.append(self._counted)
        reads = {tier: sum(c[tier] for c in counted) for tier in TIERS}
        loads, raised, stale = (sum(c[what] for c in counted) for what in OTHERS)
        return {
            "state": self.state.value,
            "native": native.built,
            "reads": reads,
            "loads": loads,
            "raised": raised,
            "stale": stale,
            "events": self._events.stats(),
            **parts,
        }

    def cache(self, name: str, **options: Unpack[Options]) -> Cache:
        """Return a cache on this node; see `Cache` for the options."""
        from meshcache.cache import Cache  # noqa: PLC0415 - it is the floor above

        return Cache(name, node=self, **options)

    # --- for the caches of this node ---------------------------------------------

    def register(self, loader: Loader) -> None:
        """Let peers have *loader* run in this process."""
        with self._lock:
            self._loaders[loader.loader_name] = loader
            if self._runtime is not None:
                self._runtime.register(loader)

    def attach(self, region: Attached) -> Runtime | None:
        """Give *region* the runtime, now and whenever it is another; return it."""
        with self._lock:
            self._attached.add(region)
            self._count(region.tally)
            runtime = self._running()
            # Under the lock, or a stop at this moment would be overwritten.
            region.rebind(runtime)
            return runtime

    def release(self) -> list[Attached]:
        """Let go of all caches: each asks at its next use which node to use."""
        with self._lock:
            attached = list(self._attached)
            self._attached.clear()
            for region in attached:
                region.rebind(None)
        return attached

    def count_anew(self, regions: Iterable[Attached]) -> None:
        """Leave out of `stats` what *regions* have counted on other nodes."""
        with self._lock:
            for region in regions:
                self._count(region.tally)
                for tier, number in region.tally.reader()().items():
                    self._counted[tier] -= number

    def catch_up(self) -> None:
        """Do what is due by now, if this node runs: time has been moved."""
        runtime = self._runtime
        if runtime is not None:
            runtime.catch_up()

    def _count(self, tally: Tally) -> None:
        """Have what *tally* counts show up in `stats`, also when it is gone."""
        if tally not in self._tallies:
            self._tallies.add(tally)
            finalize(tally, _add, self._counted, tally.reader()).atexit = False


def _add(counted: dict[str, int], read: Callable[[], dict[str, int]]) -> None:
    """Keep what a cache has counted that is no more, such as one request's."""
    for tier, number in read().items():
        counted[tier] += number


def _located(cache: str, key: object) -> tuple[bytes, int]:
    """Return the key as the cluster knows it, and its hash."""
    return full_key(cache.encode() + b"\0", key)


def _settled(runtime: Runtime, peers: int) -> bool:
    """Whether everybody known is in the table, and everybody to be known is known."""
    members = runtime.members()
    alive = {m.address for m in members if m.state is State.ALIVE}
    owners = {m.node_id for m in members if m.routable}
    counted = {m.node_id for m in runtime.engine.ranges.table.members}
    if runtime.siblings is None:
        return False
    # A sibling that is known to be gone is in the directory for a moment longer.
    gone = {m.address for m in members if m.state >= State.DEAD}
    met = runtime.siblings - gone <= alive
    settled = runtime.engine.settled
    return met and settled and len(alive) > peers and counted == owners


def _agreed(runtime: Runtime) -> bool:
    _, outcome = runtime.ask(AskTables())
    return isinstance(outcome, Tables) and len(set(outcome.epochs)) == 1


def _on_host(runtime: Runtime, full: bytes, hashed: int) -> Got | None:
    """Return what an arena of this host has of a key."""
    get = runtime.tenures[partition_of(hashed)].get
    entry = None if get is None else get(full, hashed, monotonic())
    if entry is None:
        return None
    return Got(entry.value, entry.expires, entry.version, Tier.HOST, None)


def _fresh_until(got: Got) -> float:
    try:
        return unwrap(got.value).fresh_until(got.expires)
    except SerializationError:
        return got.expires


def _explain(
    cache: str, key: object, owner: Member | None, hashed: int, got: Got | None
) -> Explanation:
    partition = partition_of(hashed)
    if got is None:
        return Explanation(
            cache, key, partition, owner, (), Tier.FILL.value, 0, None, None, 0
        )
    written_ms = got.version >> 16
    age = max(0.0, time_ns() / 1e9 - written_ms / 1000)
    until = _fresh_until(got)
    ttl = None if until == NEVER else until - monotonic()
    return Explanation(
        cache,
        key,
        partition,
        owner,
        (),
        got.tier.value,
        got.version,
        age,
        ttl,
        len(got.value),
    )


# Nodes that run, kept alive by that: one that nobody holds any more still is a member.
_running: set[Node] = set()


def running() -> list[Node]:
    """Return the nodes of this process that run."""
    return list(_running)


@atexit.register
def _stop_all() -> None:
    """Say farewell at exit, so that peers need not find out."""
    for node in list(_running):
        node.stop(timeout=EXIT_TIMEOUT)
