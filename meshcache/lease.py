"""A load that this caller was granted, and how it hands in what came of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshcache.clock import NEVER, monotonic
from meshcache.codec.envelope import unwrap
from meshcache.engine.ops import Deliver, Drop, Got, Granted
from meshcache.errors import LoadTimeout
from meshcache.freshness import Age, Recipe
from meshcache.region import Held, Region
from meshcache.runtime.failures import failure_of
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.tickets import Ticket

__all__ = ["Absent", "Lease"]


class Absent(Exception):
    """A loader of many keys brought nothing for this one.

    Nothing is stored, and who waits for it loads for itself.
    """


class Lease(NamedTuple):
    """The owner's leave to load one key for all who want it."""

    region: Region
    runtime: Runtime
    near_key: object
    recipe: Recipe
    granted: Granted
    ticket: Ticket

    def brought(self, value: Any, cost: float) -> Held:
        """Give what was loaded in *cost* seconds to all who wait, and to the store.

        Raises:
            SerializationError: it would not come back the same. They wait on.
        """
        region, runtime, near_key, recipe, granted, _ = self
        loaded = region.brewed(value, recipe, cost)
        got = Got(loaded.value, NEVER, 0, granted.tier, granted.stamp)
        if len(loaded.value) > runtime.config.max_value_bytes:
            # It cannot be shared, so whoever waits has to load it too.
            self._drop(None)
            return Held(value, Age.FRESH, got)
        runtime.tell(Deliver(granted.lease, loaded.value, loaded.ttl_ms))
        if loaded.ttl_ms:
            if loaded.ttl_ms > 0:
                got = got._replace(expires=monotonic() + loaded.ttl_ms / 1000)
            region.keep(runtime, near_key, value, got, unwrap(loaded.value))
        return Held(value, Age.FRESH, got)

    def failed(self, error: BaseException) -> None:
        """Tell all who wait how the load failed.

        A raised error is the answer to all of them. A caller that was stopped
        (cancelled, interrupted, out of time) has none, and the next one loads.
        """
        if isinstance(error, LoadTimeout | Absent) or not isinstance(error, Exception):
            self._drop(None)
        elif self.recipe.remembers(error):
            loaded = self.region.remembered(failure_of(error), self.recipe)
            deliver = Deliver(self.granted.lease, loaded.value, loaded.ttl_ms)
            self.runtime.tell(deliver)
        else:
            self._drop(error)

    def _drop(self, error: Exception | None) -> None:
        failure = None if error is None else failure_of(error)
        self.runtime.tell(Drop(self.granted.lease, self.ticket, failure))
