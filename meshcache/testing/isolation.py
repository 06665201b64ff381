"""A default node for one test: fresh, alone, and gone afterwards.

    with isolated() as node:
        assert load_user(7) == "Ada"  # loaded: nothing is left of the test before

Whatever the application holds, module-level caches and memoized functions, uses that
node meanwhile. Nothing is shared with any other process, and nothing reaches the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Unpack
from uuid import uuid4
from weakref import WeakSet

from meshcache.clock import monotonic
from meshcache.config import Keywords
from meshcache.default import stand_in
from meshcache.node import Attached, Node
from meshcache.runtime.threads import STACK_NAME
from meshcache.testing.alone import Alone

__all__ = ["isolated"]

_SMALL: Final[Keywords] = {"max_bytes": "16MB"}
# What says where other nodes are, and how they reach this one: nothing does.
_ALONE: Final[Keywords] = {
    "bind": "127.0.0.1:0",
    "advertise": None,
    "data_port": 0,
    "seeds": (),
    "secret": None,
    "directory": False,
    "host_lane": False,
    "observer": False,
}
_PATIENCE: Final = 1.0
"""Seconds that the end waits for loads that still run."""

_used: Final[WeakSet[Attached]] = WeakSet()
"""What has been on an isolated node: each new one leaves its counts out."""


@contextmanager
def isolated(**settings: Unpack[Keywords]) -> Iterator[Node]:
    """Give the process a default node of its own for a while.

    It is empty and starts at its first use, in a few milliseconds. `meshcache.start`
    returns it whatever its arguments are, and `meshcache.stop` empties it. Afterwards
    the default node is the one it was.

    Nodes that the body makes itself are as they always are.

    Args:
        **settings: of the node; see docs/reference/configuration.md. Those that say
            where it listens and how it finds others have no effect.
    """
    wanted: dict[str, Any] = {"cluster": f"test-{uuid4().hex[:12]}"}
    wanted |= _SMALL | settings | _ALONE
    node = Node(**wanted)
    node.make_runtime = Alone
    before = _threads()
    with stand_in(node) as released:
        _used.update(released)
        for region in _used:
            region.tally.reset()
        node.count_anew(_used)
        try:
            yield node
        finally:
            _used.update(node.release())
            node.stop(_PATIENCE)
            _await_end(_threads() - before)


def _threads() -> set[threading.Thread]:
    ours = f"{STACK_NAME}-loader"
    return {t for t in threading.enumerate() if t.name.startswith(ours)}


def _await_end(threads: set[threading.Thread]) -> None:
    end = monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
