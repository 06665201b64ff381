"""Loading many keys at once: one call of the loader for all that are missing.

Each key is still loaded once in the cluster at a time, and shares its load with single
reads. So a call first takes what is there and the leases of what nobody loads, in one
request to each owner; loads and hands in the latter; and only then waits for those
keys that somebody else was at. To wait before would have two calls wait for each other.

Old values that are to stand in for a load that takes long are loaded behind the caller,
by one call of the loader for all of them, and given when its patience is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from typing import Any, Final, NamedTuple, TypeAlias

from xxhash import xxh3_128_digest

from meshcache.clock import NEVER, monotonic
from meshcache.engine.ops import (
    Busy,
    Got,
    Granted,
    LoadKey,
    LoadKeys,
    Lot,
    Raised,
    Tier,
)
from meshcache.errors import RecursiveLoad
from meshcache.freshness import Age, Recipe
from meshcache.lease import Absent, Lease
from meshcache.loads import ALONE_TIMEOUT, Wanted, check_circle, load, load_newer
from meshcache.model import MISSING
from meshcache.region import Held, Region
from meshcache.runtime.chain import MAX_DEPTH, current
from meshcache.runtime.failures import BUILTIN
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import STILL, Answer, Behind, RunHere, Steps

__all__ = ["Batch", "load_many"]

_OLD: Final = frozenset({Age.STALE, Age.LATE})
_ANEW: Final = frozenset({Age.EARLY, Age.STALE})

Loader: TypeAlias = Callable[[list[Any]], Any]
"""Takes the keys that are missing and returns their values by key, or awaits them."""


class Batch(NamedTuple):
    """Many values that shall be loaded if nobody has them.

    Attributes:
        keys: in any order; what comes twice counts once.
        loader: takes those of them that are missing.
        recipe: what is stored of what it brings.
        timeout: seconds to wait for a load elsewhere; 0 is the node's setting.
    """

    keys: Sequence[Any]
    loader: Loader
    recipe: Recipe
    timeout: float


class _Key(NamedTuple):
    """A key of a batch, as the application and as the cluster know it.

    `old` is what was found of it that will not do.
    """

    key: Any
    near_key: object
    full: bytes
    hashed: int
    old: Held | None = None

    @property
    def is_late(self) -> bool:
        """Whether what was found may be given if a load fails or takes long."""
        old = self.old
        return old is not None and old.age is Age.LATE and old.failure is None


def load_many(
    region: Region, runtime: Runtime | None, batch: Batch
) -> Steps[dict[Any, Any]]:
    """Return the values of the keys of *batch*, in order, as far as there are any.

    Raises:
        KeyRefused: two of the keys are two keys here and one in a dict.
        LoadError, LoadTimeout, RecursiveLoad: see `Cache.get_or_load`.
    """
    region.check_apart(batch.keys)
    batch = batch._replace(keys=list(dict.fromkeys(batch.keys)))
    loading = _Loading(region, runtime, batch, read=True)
    try:
        yield from loading.go()
    except Exception:
        region.tally.raised()
        raise
    return {key: loading.found[key] for key in batch.keys if key in loading.found}


class _Loading:
    """One load of many keys under way, which is a read or a refresh behind one."""

    def __init__(
        self, region: Region, runtime: Runtime | None, batch: Batch, *, read: bool
    ) -> None:
        self.read = read
        self.region = region
        self.runtime = runtime
        self.batch = batch
        self.found: dict[Any, Any] = {}
        # Of a refresh, what is more than the values.
        self.brought: dict[Any, Held] = {}
        # Whoever a refresh is for does not wait for it, so it closes no circle.
        self.chain = current() if read else ()

    def go(self) -> Steps[None]:
        """Find or load all keys."""
        runtime = self.runtime
        missing = [known for key in self.batch.keys if (known := self._local(key))]
        if runtime is None:
            if missing:
                yield from self._load(missing, {}, ALONE_TIMEOUT)
            return
        began = monotonic()
        # What is there, but not fresh, is loaded in one go with what is not.
        unknown: list[_Key] = []
        old: list[_Key] = []
        for key in missing:
            held = self.region.find(runtime, key.near_key, key.full, key.hashed)
            if not self._use(key, held, old):
                unknown.append(key._replace(old=held))
        late, missing = self._parted(unknown)
        behind = _Behind(self, runtime, late)
        if missing:
            yield from behind.go(0.0)
        others = yield from self._in_parts(runtime, missing, old)
        if old:
            yield self._refresh(runtime, old)
        found_late, others = self._parted(others)
        for key in others:
            yield from self._by_itself(key)
        for each in (behind, _Behind(self, runtime, found_late)):
            yield from each.go(began + self.region.freshness.soft_timeout - monotonic())
            each.take()

    def _parted(self, keys: list[_Key]) -> tuple[list[_Key], list[_Key]]:
        """Part those whose old values stand in for a load that takes long."""
        if not self.region.freshness.soft_timeout:
            return [], keys
        late = [key for key in keys if key.is_late]
        return late, [key for key in keys if not key.is_late]

    def _use(self, key: _Key, held: Held | None, old: list[_Key]) -> bool:
        """Take what was found, if it will do; what is to be refreshed is for *old*."""
        if held is None or held.failure is not None:
            return False
        if held.age in _ANEW:
            old.append(key._replace(old=held))
        elif held.age is not Age.FRESH:
            return False
        self.take(key, held)
        return True

    def _in_parts(
        self, runtime: Runtime, keys: list[_Key], old: list[_Key]
    ) -> Steps[list[_Key]]:
        """Ask for *keys*, not too many at once; return those that others load."""
        most, others = runtime.config.max_batch_keys, []
        for start in range(0, len(keys), most):
            part = keys[start : start + most]
            others += yield from self._from_owners(runtime, part, old)
        return others

    def _refresh(self, runtime: Runtime, old: list[_Key]) -> Behind:
        """Have old values loaded anew behind the caller, by one call of the loader."""
        # What somebody else is at, or has brought meanwhile, needs nothing more.
        anew = _Loading(self.region, runtime, self.batch, read=False)
        return Behind(
            _name(b"stale", old), lambda: anew._in_parts(runtime, old, []), 0.0
        )

    def newer(self, runtime: Runtime, keys: list[_Key]) -> Steps[None]:
        """Load what is newer than what is held of *keys*."""
        for key in (yield from self._in_parts(runtime, keys, [])):
            yield from self._newer_by_itself(runtime, key)

    def _newer_by_itself(self, runtime: Runtime, key: _Key) -> Steps[None]:
        """Wait for, or load, what is newer than what is held of one key."""
        assert key.old is not None
        wanted = self.wanted(key, self.batch.timeout or runtime.config.load_timeout)
        with suppress(Absent):
            held = yield from load_newer(self.region, runtime, wanted, key.old)
            self.take(key, held)

    def _local(self, key: Any) -> _Key | None:
        """Take what needs no thought; return the key if there is nothing such."""
        region, runtime = self.region, self.runtime
        value = region.local(runtime, key)
        if value is not MISSING:
            self.found[key] = value
            return None
        return _Key(key, region.near_key(key), *region.full(runtime, key))

    def take(self, key: _Key, held: Held) -> None:
        self.found[key.key] = held.value
        if not self.read:
            self.brought[key.key] = held
        else:
            if held.age in _OLD:
                self.region.tally.stale()
            self.region.tally.at(held.got.tier.value)

    def _from_owners(
        self, runtime: Runtime, keys: list[_Key], old: list[_Key]
    ) -> Steps[list[_Key]]:
        """Take what their owners have, load what nobody loads; return the others."""
        region, batch = self.region, self.batch
        timeout = batch.timeout or runtime.config.load_timeout
        asked = tuple((key.full, key.hashed) for key in keys)
        thans = tuple(key.old.got.version if key.old else 0 for key in keys)
        answer: Answer = yield LoadKeys(
            asked, timeout, self.chain, batch.recipe.tags, thans if any(thans) else ()
        )
        lot = answer.outcome
        outcomes: Sequence[object] = lot.outcomes if isinstance(lot, Lot) else ()
        mine: list[_Key] = []
        leases: dict[bytes, Lease] = {}
        others: list[_Key] = []
        for key, outcome in zip(keys, outcomes or (None,) * len(keys), strict=True):
            match outcome:
                case Got():
                    held = region.judge(runtime, key.near_key, outcome)
                    if not self._use(key, held, old):
                        others.append(key._replace(old=held or key.old))
                case Busy() | Raised():
                    others.append(key)
                case Granted():
                    mine.append(key)
                    place = region, runtime, key.near_key, batch.recipe
                    leases[key.full] = Lease(*place, outcome, answer.ticket)
                case _:
                    mine.append(key)
        if mine:
            yield from self._load(mine, leases, timeout)
        return others

    def _load(
        self, keys: list[_Key], leases: dict[bytes, Lease], timeout: float
    ) -> Steps[None]:
        """Call the loader for *keys*, and hand in what it brings for the leased."""
        batch, waiting = self.batch, dict(leases)
        self.region.tally.load()
        # Room is left for what the loader loads in its turn. A loader that asks for a
        # key of its own that is left out here waits until its time is over.
        chain = (*self.chain, *(key.hashed for key in keys))[: MAX_DEPTH // 2]
        loader = partial(batch.loader, [key.key for key in keys])
        began = monotonic()
        # What the loader brings nothing for is dropped, for others to try.
        failed: BaseException = Absent()
        try:
            brought = _checked(batch.loader, (yield RunHere(loader, chain, timeout)))
            cost = monotonic() - began
            for key in keys:
                if key.key in brought:
                    self._hand_in(key, brought[key.key], waiting, cost)
                elif self.read:
                    self.region.tally.miss()
        except BaseException as error:
            failed = error
            if not isinstance(error, Exception) or not self._fall_back(keys):
                raise
        finally:
            for lease in waiting.values():
                lease.failed(failed)

    def _fall_back(self, keys: list[_Key]) -> bool:
        """Take the old values of keys whose load failed; False if some have none."""
        if not self.read or not all(key.is_late for key in keys):
            return False
        self.region.tally.raised()
        for key in keys:
            if key.old and key.key not in self.found:
                self.take(key, key.old)
        return True

    def _hand_in(
        self, key: _Key, value: Any, waiting: dict[bytes, Lease], cost: float
    ) -> None:
        lease = waiting.get(key.full)
        held = Held(value, Age.FRESH, Got(b"", NEVER, 0, Tier.LOCAL, None))
        if lease is not None:
            held = lease.brought(value, cost)
            del waiting[key.full]
        self.take(key, held)

    def _by_itself(self, key: _Key) -> Steps[None]:
        """Find or load one key as a single read would."""
        wanted = self.wanted(key, self.batch.timeout)
        try:
            self.found[key.key] = yield from load(self.region, self.runtime, wanted)
        except Absent:
            self.region.tally.miss()

    def wanted(self, key: _Key, timeout: float) -> Wanted:
        """Return what a single read would want."""
        recipe = self.batch.recipe
        op = LoadKey(
            key.full, key.hashed, "", 0, b"", self.chain, timeout, tags=recipe.tags
        )
        loader = _one(self.batch.loader, key.key)
        return Wanted(key.near_key, op, loader, recipe, BUILTIN)


class _Behind:
    """The load of what is newer than old values, which stand in for it if it fails.

    Or takes too long, or has failed just now: an origin in trouble is not asked by
    every read.
    """

    def __init__(self, loading: _Loading, runtime: Runtime, keys: list[_Key]) -> None:
        self._loading = loading
        self._runtime = runtime
        self._keys = keys
        for key in keys if loading.chain else ():
            check_circle(loading.region, loading.wanted(key, 0.0).op)
        rests = runtime.background.rests
        self._tried = {key.full: key for key in keys if not rests(key.full)}
        self._brought: dict[Any, Held] | None = None

    def go(self, patience: float) -> Steps[None]:
        """Begin, or go on, and wait for the end for so many seconds."""
        if not self._tried or self._brought is not None:
            return
        name = _name(b"late", list(self._tried.values()))
        try:
            ended = yield Behind(name, self._steps, max(patience, 0.0))
        except RecursiveLoad:
            raise
        except Exception:  # noqa: BLE001 - what is old is given in its place
            self._loading.region.tally.raised()
        else:
            if ended is not STILL:
                self._brought = ended

    def _steps(self) -> Steps[dict[Any, Held]]:
        loading, keys = self._loading, list(self._tried.values())
        anew = _Loading(loading.region, self._runtime, loading.batch, read=False)
        try:
            yield from anew.newer(self._runtime, keys)
        except Exception:
            for key in keys:
                self._runtime.background.failed(key.full)
            raise
        # Maybe before whoever waits looks again.
        self._brought = anew.brought
        return anew.brought

    def take(self) -> None:
        """Take what was brought, if it is there, and the old values of the others."""
        brought = self._brought
        for key in self._keys:
            held = key.old
            if brought is not None and key.full in self._tried:
                held = brought.get(key.key)
            if held is None:
                self._loading.region.tally.miss()
            else:
                self._loading.take(key, held)


def _name(what: bytes, keys: list[_Key]) -> bytes:
    """Return what this load of *keys* goes by among those behind their readers."""
    parts = (part for key in keys for part in (b"%d " % len(key.full), key.full))
    return xxh3_128_digest(b"".join((what, *parts)))


def _one(loader: Loader, key: Any) -> Callable[[], Any]:
    """Return a loader of one key alone."""

    def load_one() -> Any:
        brought = loader([key])
        return (
            _aone(loader, key, brought)
            if isawaitable(brought)
            else _of(loader, key, brought)
        )

    return load_one


async def _aone(loader: Loader, key: Any, brought: Any) -> Any:
    return _of(loader, key, await brought)


def _of(loader: Loader, key: Any, brought: object) -> Any:
    found = _checked(loader, brought)
    if key not in found:
        raise Absent
    return found[key]


def _checked(loader: Loader, brought: object) -> Mapping[Any, Any]:
    if isinstance(brought, Mapping):
        return brought
    raise TypeError(
        f"{loader!r} returned {type(brought).__name__}; a loader of many keys returns "
        "a dict from those keys to their values"
    )
