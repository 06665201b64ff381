"""What a fork does to a node: the child has none, until it uses one.

A forked child inherits memory and descriptors and not one thread. Its copy of a node
is a body without a pulse: sends vanish, a poll never returns, and the listening port
stays taken for as long as the child lives. So the child lets go of everything at once,
and its first use starts a node of its own with a new identity.

`os.register_at_fork` cannot be undone, so it is called once for the process, over a
set that does not keep anything alive.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["Forkable", "close_inherited", "watch"]

_DESCRIPTORS: Final = (Path("/proc/self/fd"), Path("/dev/fd"))


class Forkable(Protocol):
    """Something that must know that it woke up in a child."""

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent. Must not wait for any lock."""


_watched: WeakSet[Forkable] = WeakSet()


def watch(thing: Forkable) -> None:
    """Tell *thing* when the process was forked, as long as it exists."""
    _watched.add(thing)


def _in_child() -> None:
    for thing in list(_watched):
        thing.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def close_inherited(ports: set[int], addresses: set[str]) -> int:
    """Close this child's copies of a parent's sockets; return how many there were.

    They are the sockets that listen at, or were accepted by, one of *ports*, and
    those that are connected to one of *addresses*. As long as a child held them, the
    port would stay taken and the death of the parent would not break a connection.
    """
    directory = next((d for d in _DESCRIPTORS if d.is_dir()), None)
    if directory is None:
        return 0
    closed = 0
    for name in os.listdir(directory):  # noqa: PTH208 - names are all it takes
        fd = int(name)
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode) and _ours(fd, ports, addresses):
                os.close(fd)
                closed += 1
    return closed


def _ours(fd: int, ports: set[int], addresses: set[str]) -> bool:
    with socket.socket(fileno=os.dup(fd)) as copy:
        if copy.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        if copy.getsockname()[1] in ports:
            return True
        host, port = copy.getpeername()[:2]
        return f"{host}:{port}" in addresses or f"[{host}]:{port}" in addresses
