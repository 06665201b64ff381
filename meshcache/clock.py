"""Time, in the two kinds a cache needs.

Deadlines and expiries are monotonic seconds that never leave a process; on the wire
goes the time that remains. The order of writes is a hybrid logical clock (Kulkarni
et al., "Logical Physical Clocks", OPODIS'14, section 3): near wall time, yet never
behind anything it has seen, so that "the greater version wins" holds on every node
although their wall clocks differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from time import monotonic, time_ns
from typing import Any, Final, TypeVar, final
from weakref import WeakSet

__all__ = ["NEVER", "HybridClock", "compiled", "monotonic", "places", "time_ns"]

Function = TypeVar("Function", bound=Callable[..., Any])

NEVER: Final = float("inf")
"""The expiry of what does not expire."""

_PACKAGE: Final = __name__.partition(".")[0]
_compiled: Final[WeakSet[Callable[..., Any]]] = WeakSet()

_COUNTER_BITS: Final = 16
_MAX_AHEAD_MS: Final = 60_000


@final
class HybridClock:
    """A source of 64-bit versions: 48 bits of milliseconds, 16 bits of counter.

    Wall time is an argument, so a simulated node is as repeatable as any machine.
    Confined to the driver thread.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def stamp(self, wall_ns: int) -> int:
        """Return a version greater than every one stamped or observed before."""
        version = (wall_ns // 1_000_000) << _COUNTER_BITS
        if version <= self._last:
            version = self._last + 1
        self._last = version
        return version

    def observe(self, version: int, wall_ns: int) -> None:
        """Take note of a version made elsewhere.

        One that is more than a minute ahead of our wall time is ignored: a peer with
        a broken clock must not drag the whole cluster's versions into the future.
        """
        limit = (wall_ns // 1_000_000 + _MAX_AHEAD_MS) << _COUNTER_BITS
        if self._last < version <= limit:
            self._last = version


def compiled(function: Function) -> Function:
    """Take note of a function made from source, which may hold a clock by name."""
    _compiled.add(function)
    return function


def places() -> Iterator[dict[str, Any]]:
    """Yield every namespace of this package in which there may be a clock.

    The clocks are builtins that each module has by name, as nothing is faster. Whoever
    wants to move time (`meshcache.testing`) has to change them everywhere.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _PACKAGE:
            yield vars(module)
    for function in list(_compiled):
        yield function.__globals__
