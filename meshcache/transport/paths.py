"""The sockets of a host's nodes, as files: their names, and what the dead have left.

<directory of the arenas>/<node id>.sock
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, final

__all__ = ["Short", "socket_path", "sweep"]

FILES_MAX: Final = 1024
"""Files looked at in one sweep, so a full directory costs bounded time."""

PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path that the kernel takes."""

_SUFFIX: Final = ".sock"


def sweep(directory: Path, is_alive: Callable[[bytes], bool]) -> None:
    """Remove the sockets of nodes that are no more."""
    with suppress(OSError), os.scandir(directory) as entries:
        names = [e.name for e in islice(entries, FILES_MAX) if e.name.endswith(_SUFFIX)]
        for name in names:
            with suppress(ValueError, OSError):
                if not is_alive(bytes.fromhex(name.removesuffix(_SUFFIX))):
                    (directory / name).unlink()


def socket_path(directory: Path, node_id: bytes) -> Path:
    """Return where the node of that id listens."""
    return directory / f"{node_id.hex()}{_SUFFIX}"


@final
class Short:
    """A name for *path* that the kernel takes as a socket's, inside a `with`.

    On Linux a long path is shortened through a descriptor of its directory; elsewhere
    the kernel refuses it, and there is no wire.
    """

    __slots__ = ("_fd", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        path = self._path
        if len(os.fsencode(path)) <= PATH_MAX or sys.platform != "linux":
            return str(path)
        self._fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{path.name}"

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
