"""A region of the cluster's memory: how its reads, loads and writes go.

Each operation is a generator of steps (`runtime.steps`), so that `Cache` and memoized
functions can offer it sync and async without a second copy. A read goes near (this
process's decoded objects), then host (this node's own range), then to the owner; a
load is what is left.

The runtime is an argument: the node may be stopped by another thread at any time, and
an operation ends with the runtime it began with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from sys import intern
from typing import Any, Final, NamedTuple, TypeAlias, final

from meshcache import default
from meshcache.answers import checked, not_kept, unreached
from meshcache.answers import found as found_in
from meshcache.answers import results as results_in
from meshcache.clock import NEVER, monotonic
from meshcache.codec.keys import encode_key
from meshcache.codec.messages import NO_EXPIRY, Item, Verb
from meshcache.codec.values import BytesCodec, Codec, JsonCodec, MsgpackCodec
from meshcache.config import Config
from meshcache.engine.ops import (
    ClearCache,
    Deliver,
    Drop,
    GetKeys,
    Got,
    Granted,
    LoadKey,
    Raised,
    TimedOut,
    Unreached,
    WriteKeys,
    WriteResult,
)
from meshcache.errors import (
    ConfigError,
    KeyRefused,
    LoadTimeout,
    NodeClosed,
    RecursiveLoad,
    SerializationError,
    ValueTooLarge,
)
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.model import MISSING, Unset
from meshcache.node import Node, NodeState
from meshcache.runtime.chain import MAX_DEPTH
from meshcache.runtime.failures import error_of, failure_of
from meshcache.runtime.loaders import Loader
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Answer, RunHere, Steps
from meshcache.runtime.tally import Tally
from meshcache.store.generations import Stamp
from meshcache.store.near import VISITED_MAX, NearEntry, NearShelf
from meshcache.times import Ttl, checked_ttl

__all__ = ["MAX_KEY", "Home", "Region", "Wanted"]

Home: TypeAlias = Node | Callable[[], Node] | None
"""The node of a region: itself, a callable that returns it, or None, the default."""

MAX_KEY: Final = 65_536
MAX_NAME: Final = 1000
ALONE_TIMEOUT: Final = 3600.0
"""Seconds for an awaitable loader where there is no node, and so no setting."""

# Exact `str` and `int` keys are their own near keys; all others go by their encoding,
# which is bytes and so equals neither. (`True == 1 == 1.0` must not meet in a dict.)
_PLAIN: Final = frozenset({str, int})

_ids: Final = count(1)


class Wanted(NamedTuple):
    """A value that shall be loaded if nobody has it.

    Attributes:
        near_key: under which it is kept near.
        op: what to ask the engine; a timeout of 0 is the node's setting.
        loader: run here if this caller is the one to load.
        ttl: for what it brings.
        errors: classes of errors raised elsewhere that may be raised here, by name.
    """

    near_key: object
    op: LoadKey
    loader: Callable[[], Any]
    ttl: Ttl
    errors: Mapping[str, type[Exception]]


@final
class Region:
    """A named region with its codec, its times to live and its node. Thread-safe."""

    def __init__(
        self,
        name: str,
        *,
        codec: Codec,
        ttl: float | None,
        near_ttl: float | None,
        jitter: float,
        copy: bool,
        home: Home,
    ) -> None:
        self.name: Final = name
        self.codec: Final = codec
        self.ttl: Final = ttl
        self.near_ttl: Final = near_ttl
        self.jitter: Final = jitter
        self.copy: Final = copy
        self.id: Final = _identity(name, codec, near_ttl, copy=copy)
        self.tally: Final = Tally()
        self.runtime: Runtime | None = None
        # The runtime's near entries, or none: what a memoized call looks at first.
        self.entries: dict[Hashable, NearEntry] = {}
        # Never none: a put that outlives the node must not lose its region's name.
        self._shelf = NearShelf(self.id)
        self._home = home
        self._keeps = 0.0
        self.prefix: Final = name.encode() + b"\0"
        self._random = random.Random()
        self._loader: Loader | None = None

    def part(self, name: str) -> Region:
        """Return a region of its own within this one: cleared with it, and by itself.

        Raises:
            ConfigError: the two names together are too long.
        """
        full = f"{self.name}|{name}"
        if len(full.encode()) > MAX_NAME:
            raise ConfigError(
                f"{full!r:.80}... is over {MAX_NAME} bytes; pass a shorter name="
            )
        return Region(
            full,
            codec=self.codec,
            ttl=self.ttl,
            near_ttl=self.near_ttl,
            jitter=self.jitter,
            copy=self.copy,
            home=self._home,
        )

    # --- the node ----------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node that this region is on."""
        home = self._home
        if isinstance(home, Node):
            return home
        return default.node() if home is None else home()

    def bind(self) -> Runtime | None:
        """Return the running node's runtime; None if it is stopped or disabled."""
        runtime = self.runtime
        if runtime is None:
            node = self.node
            if self._loader is not None:
                node.register(self._loader)
            runtime = node.attach(self)
        return runtime

    def rebind(self, runtime: Runtime | None) -> None:
        """Use *runtime* from now on; None is to ask the node at the next use."""
        self.runtime = runtime
        shelf = NearShelf(self.id) if runtime is None else runtime.near.shelf(self.id)
        self._shelf = shelf
        self.entries = shelf.entries
        self._keeps = 0.0 if runtime is None else self._near_seconds(runtime.config)

    def _near_seconds(self, config: Config) -> float:
        """Return for how long this process may keep what it reads; 0 for not at all."""
        if not config.near_entries or not config.near_bytes:
            return 0.0
        most = config.near_ttl
        return most if self.near_ttl is None else min(self.near_ttl, most)

    def register(self, loader: Loader) -> None:
        """Let peers have *loader* run in this process, once the node runs.

        Where the node comes from a callable, that is from the region's first use on.
        """
        if self._home is None:
            default.register(loader)
        elif isinstance(self._home, Node):
            self._home.register(loader)
        else:
            self._loader = loader

    # --- reading -----------------------------------------------------------------

    def local(self, runtime: Runtime | None, key: object) -> Any:
        """Return what this process or this host's shared memory holds, or MISSING.

        The hot path of every read: near, then the owner's arena if it lies on this
        host, written out in one piece. Its budget is in tests/benchmarks.
        """
        if runtime is None:
            return MISSING
        kind = type(key)
        encoded = None if kind is str or kind is int else encode_key(key)
        near_key = key if encoded is None else encoded
        now = monotonic()
        entry = self.entries.get(near_key)
        if (
            entry is not None
            and entry.tenure.table[entry.bucket] == entry.generation
            and entry.expires > now
        ):
            if entry.visited < VISITED_MAX:
                entry.visited += 1
            self.tally.near()
            value = entry.value
            return self.codec.decode(value) if self.copy else value
        full = self.prefix + (encode_key(key) if encoded is None else encoded)
        return self._host(runtime, near_key, full, key_hash(full), now)

    def _host(
        self, runtime: Runtime, near_key: object, full: bytes, hashed: int, now: float
    ) -> Any:
        tenure = runtime.tenures[partition_of(hashed)]
        get = tenure.get
        if get is None:
            return MISSING
        if runtime.bell[0]:
            runtime.give_way()
        bucket = bucket_of(hashed)
        generation = tenure.table[bucket]  # Before the read: see `Stamp`.
        found = get(full, hashed, now)
        if found is None:
            return MISSING
        encoded, _, expires = found
        # Another version of the application may have stored it, with another codec.
        try:
            value = self.codec.decode(encoded)
        except SerializationError:
            return MISSING
        self.tally.host()
        near_ttl = self._keeps
        if near_ttl and runtime.near.admits(hashed):
            until = now + near_ttl
            runtime.near.put(
                near_key,
                encoded if self.copy else value,
                expires=min(expires, until),
                stamp=Stamp(tenure, bucket, generation),
                weight=len(encoded),
                now=now,
                shelf=self._shelf,
            )
        return value

    def near(self, runtime: Runtime | None, key: object) -> Any:
        """Return what this process holds decoded, or MISSING."""
        return MISSING if runtime is None else self.held(runtime, self.near_key(key))

    def held(self, runtime: Runtime, near_key: object) -> Any:
        """Return what this process holds decoded by its near key, or MISSING."""
        found = runtime.near.get(near_key, monotonic(), self._shelf)
        if found is MISSING:
            return MISSING
        self.tally.near()
        return self.codec.decode(found) if self.copy else found

    def near_key(self, key: object) -> object:
        """Return what stands for *key* in the near cache of this region."""
        return key if type(key) in _PLAIN else encode_key(key)

    def host(self, runtime: Runtime, near_key: object, full: bytes, hashed: int) -> Any:
        """Return what an arena of this host holds, decoded, or MISSING."""
        return self._host(runtime, near_key, full, hashed, monotonic())

    def take(self, runtime: Runtime, near_key: object, got: Got) -> Any:
        """Decode, count and keep near what was found, or return MISSING."""
        # Another version of the application may have stored it, with another codec.
        try:
            value = self.codec.decode(got.value)
        except SerializationError:
            return MISSING
        self._keep(runtime, near_key, value, got)
        self.tally.at(got.tier.value)
        return value

    def _keep(
        self, runtime: Runtime, near_key: object, value: object, got: Got
    ) -> None:
        if got.stamp is None:
            return
        if self._keeps:
            now = monotonic()
            runtime.near.put(
                near_key,
                got.value if self.copy else value,
                expires=min(got.expires, now + self._keeps),
                stamp=got.stamp,
                weight=len(got.value),
                now=now,
                shelf=self._shelf,
            )

    def get(self, runtime: Runtime | None, key: object, missing: Any) -> Steps[Any]:
        """Return the value of *key*, else *missing*."""
        full, hashed = self.full(runtime, key)
        near_key = self.near_key(key)
        value = yield from self.look_up(runtime, near_key, full, hashed)
        return missing if value is MISSING else value

    def look_up(
        self, runtime: Runtime | None, near_key: object, full: bytes, hashed: int
    ) -> Steps[Any]:
        """Return the value of a key that is not near, else MISSING."""
        value: Any = MISSING
        if runtime is not None:
            value = self.host(runtime, near_key, full, hashed)
            if value is not MISSING:
                return value
            answer: Answer = yield GetKeys(((full, hashed),))
            got = found_in(answer, 1)[0]
            value = MISSING if got is None else self.take(runtime, near_key, got)
        if value is MISSING:
            self.tally.miss()
        return value

    def get_many(
        self, runtime: Runtime | None, keys: Sequence[object]
    ) -> Steps[dict[Any, Any]]:
        """Return the values of those of *keys* that are stored, by key.

        Raises:
            KeyRefused: two of them are two keys here and one in a dict.
        """
        self._check_apart(keys)
        values: dict[Any, Any] = {}
        asked: list[tuple[object, tuple[bytes, int]]] = []
        for key in keys:
            full = self.full(runtime, key)
            found = self.near(runtime, key)
            if found is MISSING and runtime is not None:
                found = self.host(runtime, self.near_key(key), *full)
            if found is MISSING:
                asked.append((key, full))
            else:
                values[key] = found
        if asked and runtime is not None:
            answer: Answer = yield GetKeys(tuple(full for _, full in asked))
            for (key, _), got in zip(asked, found_in(answer, len(asked)), strict=True):
                if got is not None:
                    found = self.take(runtime, self.near_key(key), got)
                    if found is not MISSING:
                        values[key] = found
        for key in keys:
            if key not in values:
                self.tally.miss()
        return {key: values[key] for key in keys if key in values}

    def _check_apart(self, keys: Sequence[object]) -> None:
        """Refuse `1` beside `True`: the dict that is returned has room for one."""
        known: dict[Any, tuple[object, object]] = {}
        for key in keys:
            near_key = self.near_key(key)
            first, other = known.setdefault(key, (key, near_key))
            if other != near_key:
                raise KeyRefused(
                    f"{first!r} and {key!r} are two keys, and one in the dict that is "
                    "returned; ask for one of them by itself"
                )

    def contains(self, runtime: Runtime | None, key: object) -> Steps[bool]:
        """Return whether something is stored under *key*."""
        full, hashed = self.full(runtime, key)
        if runtime is None:
            return False
        get = runtime.tenures[partition_of(hashed)].get
        if get is not None and get(full, hashed, monotonic()) is not None:
            return True
        answer: Answer = yield GetKeys(((full, hashed),))
        return found_in(answer, 1)[0] is not None

    # --- loading -----------------------------------------------------------------

    def fill(self, runtime: Runtime | None, wanted: Wanted) -> Steps[Any]:
        """Answer from the host, the owner or a load.

        Raises:
            LoadError, LoadTimeout, RecursiveLoad: see `Cache.get_or_load`.
        """
        ttl_ms = self.ttl_ms(wanted.ttl)
        self._check_circle(wanted.op)
        try:
            return (yield from self._fill(runtime, wanted, ttl_ms))
        except Exception:
            self.tally.raised()
            raise

    def _fill(self, runtime: Runtime | None, wanted: Wanted, ttl_ms: int) -> Steps[Any]:
        near_key, op, loader, _, errors = wanted
        chain = (*op.chain, op.hashed)
        if runtime is None:
            alone = RunHere(loader, chain, op.timeout or ALONE_TIMEOUT)
            return (yield from self._run_alone(alone))
        found = self.host(runtime, near_key, op.key, op.hashed)
        if found is not MISSING:
            return found
        timeout = op.timeout or runtime.config.load_timeout
        step = RunHere(loader, chain, timeout)
        answer: Answer = yield op._replace(timeout=timeout)
        match answer.outcome:
            case Got() as got:
                value = self.take(runtime, near_key, got)
                if value is not MISSING:
                    return value
            case Granted():
                granted = self._run_granted(runtime, near_key, answer, step, ttl_ms)
                return (yield from granted)
            case Raised(failure):
                raise error_of(failure, errors)
            case TimedOut():
                raise LoadTimeout(
                    "LoadTimeout",
                    f"no value for {op.key!r:.200} within {timeout} s; the loader may "
                    "still be running; raise load_timeout= if it needs so long",
                )
        # Nobody could answer, or what came cannot be read: this caller loads alone.
        return (yield from self._run_alone(step))

    def _check_circle(self, op: LoadKey) -> None:
        if op.hashed in op.chain or len(op.chain) >= MAX_DEPTH:
            raise RecursiveLoad(
                "RecursiveLoad",
                f"a loader of {self.name!r} asked for the key it is loading, "
                f"{op.key!r:.200}, and would wait for itself; have it compute the "
                "value without asking the cache for the same key",
            )

    def _run_alone(self, step: RunHere) -> Steps[Any]:
        """Run the loader for this caller only; nothing is stored."""
        self.tally.load()
        value = yield step
        self.tally.local()
        return value

    def _run_granted(
        self,
        runtime: Runtime,
        near_key: object,
        answer: Answer,
        step: RunHere,
        ttl_ms: int,
    ) -> Steps[Any]:
        """Run the loader under the lease that was granted, and hand in its value."""
        granted = answer.outcome
        assert isinstance(granted, Granted)
        self.tally.load()
        try:
            value = yield step
            encoded = self.codec.encode(value)
        except BaseException as error:
            # A raised error is the answer to all who wait. A caller that was stopped
            # (cancelled, interrupted, out of time) has none, and the next one loads.
            stopped = isinstance(error, LoadTimeout) or not isinstance(error, Exception)
            failure = None if stopped else failure_of(error)
            runtime.tell(Drop(granted.lease, answer.ticket, failure))
            raise
        self.tally.at(granted.tier.value)
        if len(encoded) > runtime.config.max_value_bytes:
            # It cannot be shared, so whoever waits has to load it too.
            runtime.tell(Drop(granted.lease, answer.ticket, None))
            return value
        runtime.tell(Deliver(granted.lease, encoded, ttl_ms))
        if ttl_ms:
            expires = NEVER if ttl_ms < 0 else monotonic() + ttl_ms / 1000
            got = Got(encoded, expires, 0, granted.tier, granted.stamp)
            self._keep(runtime, near_key, value, got)
        return value

    # --- writing -----------------------------------------------------------------

    def write(
        self, runtime: Runtime | None, verb: Verb, items: Sequence[Item]
    ) -> Steps[tuple[WriteResult | Unreached, ...]]:
        """Do one write of each item; return how each went, in order.

        Raises:
            NodeClosed: the node does not run.
        """
        if runtime is None:
            self._check_disabled(verb.name.lower())
            return tuple(not_kept(verb, item) for item in items)
        hashed = tuple((item, key_hash(item.key)) for item in items)
        answer: Answer = yield WriteKeys(verb, hashed)
        return results_in(answer, len(items))

    def write_one(
        self, runtime: Runtime | None, verb: Verb, item: Item
    ) -> Steps[WriteResult]:
        """Do one write of one item, or raise what kept it from being done."""
        if runtime is not None:
            done = runtime.write_here(verb, item, key_hash(item.key))
            if done is not None:
                return checked(item, done)
        results = yield from self.write(runtime, verb, [item])
        return checked(item, results[0])

    def clear(self, runtime: Runtime | None) -> Steps[None]:
        """Forget the region and its parts, on every member.

        Raises:
            PeerUnavailable, PeerTimeout: some member was not reached.
        """
        if runtime is None:
            self._check_disabled("clear")
            return
        answer: Answer = yield ClearCache(self.name)
        results = results_in(answer, 1)
        missed = [r for r in results if isinstance(r, Unreached)]
        if missed:
            where = ", ".join(r.address for r in missed)
            raise unreached(f"clear of {self.name!r} at {where}", missed[0])

    def _check_disabled(self, what: str) -> None:
        """Raise, unless there is no node because none is wanted."""
        if self.node.state is not NodeState.DISABLED:
            raise NodeClosed(f"{what} in {self.name!r}: {self.node!r} does not run")

    # --- keys, values, times -----------------------------------------------------

    def full(self, runtime: Runtime | None, key: object) -> tuple[bytes, int]:
        """Return the key as the cluster knows it, and its hash.

        Raises:
            KeyRefused: it has no stable encoding.
            ValueTooLarge: it is over `max_key_bytes`.
        """
        return self.checked_key(runtime, self.prefix + encode_key(key))

    def checked_key(self, runtime: Runtime | None, full: bytes) -> tuple[bytes, int]:
        """Return *full* and its hash, unless it is over the limit."""
        limit = MAX_KEY if runtime is None else runtime.config.max_key_bytes
        if len(full) > limit:
            raise ValueTooLarge(
                f"a key of {len(full)} bytes, {full!r:.60}..., is over max_key_bytes="
                f"{limit}; raise that, or use a digest as key"
            )
        return full, key_hash(full)

    def item(
        self, runtime: Runtime | None, key: object, value: bytes, ttl_ms: int
    ) -> Item:
        """Return what a write of *key* sends, unless it is over a limit."""
        full, _ = self.full(runtime, key)
        return self.checked_item(runtime, Item(full, value, ttl_ms, 0))

    def checked_item(self, runtime: Runtime | None, item: Item) -> Item:
        """Return *item*, unless its value is over `max_value_bytes`."""
        if runtime is None or len(item.value) <= runtime.config.max_value_bytes:
            return item
        raise ValueTooLarge(
            f"the value of {item.key!r:.200} takes {len(item.value)} bytes, over "
            f"max_value_bytes={runtime.config.max_value_bytes}; raise that, or store "
            "less under one key"
        )

    def ttl_ms(self, ttl: Ttl) -> int:
        """Return a ttl in the wire's milliseconds, with the region's jitter taken off.

        Raises:
            ConfigError: it is negative, or no number.
        """
        seconds = self.ttl if isinstance(ttl, Unset) else checked_ttl(ttl, "ttl")
        if seconds is None:
            return NO_EXPIRY
        if seconds == 0:
            return 0
        less = self._random.random() * self.jitter
        return max(1, int(seconds * (1 - less) * 1000))


def _identity(name: str, codec: Codec, near_ttl: float | None, *, copy: bool) -> str:
    """Return what regions have in common that may use each other's decoded values.

    Two caches of one name and the same options may, so one made anew for each request
    finds what the one before it kept. Whether two codecs of the application's are
    alike is not known.
    """
    ours = isinstance(codec, MsgpackCodec | JsonCodec | BytesCodec)
    # Interned, so that a look-up compares pointers.
    return intern(f"{name}\0{codec.name if ours else next(_ids)}\0{near_ttl}\0{copy}")
