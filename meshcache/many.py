"""Loading many keys at once: one call of the loader for all that are missing.

Each key is still loaded once in the cluster at a time, and shares its load with single
reads. So a call first takes what is there and the leases of what nobody loads, in one
request to each owner; loads and hands in the latter; and only then waits for those
keys that somebody else was at. To wait before would have two calls wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, TypeAlias

from meshcache.clock import monotonic
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
from meshcache.freshness import Recipe
from meshcache.lease import Absent, Lease
from meshcache.loads import ALONE_TIMEOUT, Wanted, load
from meshcache.model import MISSING
from meshcache.region import Region
from meshcache.runtime.chain import MAX_DEPTH, current
from meshcache.runtime.failures import BUILTIN
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.steps import Answer, RunHere, Steps

__all__ = ["Batch", "load_many"]

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
    """A key of a batch, as the application and as the cluster know it."""

    key: Any
    near_key: object
    full: bytes
    hashed: int


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
    loading = _Loading(region, runtime, batch)
    try:
        yield from loading.go()
    except Exception:
        region.tally.raised()
        raise
    return {key: loading.found[key] for key in batch.keys if key in loading.found}


class _Loading:
    """One load of many keys under way. For one thread or task."""

    def __init__(self, region: Region, runtime: Runtime | None, batch: Batch) -> None:
        self.region = region
        self.runtime = runtime
        self.batch = batch
        self.found: dict[Any, Any] = {}

    def go(self) -> Steps[None]:
        """Find or load all keys."""
        runtime = self.runtime
        missing = [known for key in self.batch.keys if (known := self._local(key))]
        if runtime is None:
            if missing:
                yield from self._load(missing, {}, ALONE_TIMEOUT)
            return
        # What is there, but not fresh, is for `load` to think about, key by key.
        unknown, others = [], []
        for key in missing:
            held = self.region.find(runtime, key.near_key, key.full, key.hashed)
            if held is None:
                unknown.append(key)
            elif held.fresh:
                self._take(key, held.value, held.got.tier)
            else:
                others.append(key)
        most = runtime.config.max_batch_keys
        for start in range(0, len(unknown), most):
            part = unknown[start : start + most]
            others += yield from self._from_owners(runtime, part)
        for key in others:
            yield from self._by_itself(key)

    def _local(self, key: Any) -> _Key | None:
        """Take what needs no thought; return the key if there is nothing such."""
        region, runtime = self.region, self.runtime
        value = region.local(runtime, key)
        if value is not MISSING:
            self.found[key] = value
            return None
        return _Key(key, region.near_key(key), *region.full(runtime, key))

    def _take(self, key: _Key, value: Any, tier: Tier) -> None:
        self.region.tally.at(tier.value)
        self.found[key.key] = value

    def _from_owners(self, runtime: Runtime, keys: list[_Key]) -> Steps[list[_Key]]:
        """Take what their owners have, load what nobody loads; return the others."""
        region, batch = self.region, self.batch
        timeout = batch.timeout or runtime.config.load_timeout
        asked = tuple((key.full, key.hashed) for key in keys)
        answer: Answer = yield LoadKeys(asked, timeout, current(), batch.recipe.tags)
        lot = answer.outcome
        outcomes: Sequence[object] = lot.outcomes if isinstance(lot, Lot) else ()
        mine: list[_Key] = []
        leases: dict[bytes, Lease] = {}
        others = []
        for key, outcome in zip(keys, outcomes or (None,) * len(keys), strict=True):
            match outcome:
                case Got():
                    held = region.judge(runtime, key.near_key, outcome)
                    if held is not None and held.fresh:
                        self._take(key, held.value, held.got.tier)
                    else:
                        others.append(key)
                case Busy() | Raised():
                    others.append(key)
                case Granted():
                    mine.append(key)
                    leases[key.full] = Lease(
                        region,
                        runtime,
                        key.near_key,
                        batch.recipe,
                        outcome,
                        answer.ticket,
                    )
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
        chain = (*current(), *(key.hashed for key in keys))[:MAX_DEPTH]
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
                else:
                    self.region.tally.miss()
        except BaseException as error:
            failed = error
            raise
        finally:
            for lease in waiting.values():
                lease.failed(failed)

    def _hand_in(
        self, key: _Key, value: Any, waiting: dict[bytes, Lease], cost: float
    ) -> None:
        lease, tier = waiting.get(key.full), Tier.LOCAL
        if lease is not None:
            lease.brought(value, cost)
            tier = lease.granted.tier
            del waiting[key.full]
        self._take(key, value, tier)

    def _by_itself(self, key: _Key) -> Steps[None]:
        """Find or load one key as a single read would."""
        recipe = self.batch.recipe
        op = LoadKey(
            key.full,
            key.hashed,
            "",
            0,
            b"",
            current(),
            self.batch.timeout,
            tags=recipe.tags,
        )
        loader = _one(self.batch.loader, key.key)
        wanted = Wanted(key.near_key, op, loader, recipe, BUILTIN)
        try:
            self.found[key.key] = yield from load(self.region, self.runtime, wanted)
        except Absent:
            self.region.tally.miss()


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
