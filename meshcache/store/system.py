"""What arenas need of the operating system, and how to tell that it is not there.

A lock that ends with its holder, memory shared through a file, room in that file that
is truly reserved, and a number that says which boot of which host this is.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_intdigest

if sys.platform == "darwin":
    from ctypes import CDLL, byref, c_size_t, create_string_buffer

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where there is no host lane
    SUPPORTED = False
else:
    SUPPORTED = True

__all__ = ["SUPPORTED", "host_identity", "is_reserved", "lock", "map_shared", "reserve"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TIME_NAMESPACE: Final = Path("/proc/self/ns/time")
_BOOT_ID_MAX: Final = 256
_STAT_BLOCK: Final = 512
"""What `st_blocks` counts in, whatever the file system's own blocks are (POSIX)."""

# From Darwin's <sys/fcntl.h>: struct fstore, F_ALLOCATEALL, F_PEOFPOSMODE.
_FSTORE: Final = struct.Struct("=Iiqqq")
_ALLOCATE_ALL: Final = 4
_FROM_END: Final = 3


def host_identity() -> int:
    """Return a number for this boot of this host and its clock; 0 if there is none.

    Two processes of the same number can share memory and compare `monotonic` times.
    The clock belongs to the time namespace, which a container may have of its own.
    """
    boot = _boot()
    return xxh3_64_intdigest(boot) or 1 if boot else 0


if sys.platform == "darwin":

    def _boot() -> bytes:
        # Not kern.boottime, which moves whenever the clock is set.
        value = create_string_buffer(_BOOT_ID_MAX)
        length = byref(c_size_t(_BOOT_ID_MAX))
        try:
            ask = CDLL(None).sysctlbyname
        except (OSError, AttributeError):
            return b""
        failed = ask(b"kern.bootsessionuuid", value, length, None, c_size_t(0))
        return b"" if failed else value.value

else:

    def _boot() -> bytes:
        try:
            boot = _BOOT_ID.read_bytes().strip()
        except OSError:
            return b""
        namespace = 0
        with suppress(OSError):  # Linux before 5.6 has none
            namespace = _TIME_NAMESPACE.stat().st_ino
        return boot and b"%b %d" % (boot, namespace)


def lock(fd: int, *, shared: bool) -> bool:
    """Take the lock of an open file; False while somebody else has it.

    Exclusive for who owns, shared for who only looks: two who look at the same moment
    must not take each other for the owner.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reserve(fd: int, size: int) -> None:
    """Give an empty file its length, with room behind every byte of it.

    Without, running out of room would be a SIGBUS in whoever touches the memory.

    Raises:
        OSError: there is no such room, or no way to be sure of it.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    elif hasattr(fcntl, "F_PREALLOCATE"):
        _preallocate(fd, size)
    else:
        raise OSError(errno.EOPNOTSUPP, "this system cannot reserve room in a file")
    # Some file systems promise and do not keep: compressed and copy-on-write ones.
    if not is_reserved(os.fstat(fd)):
        raise OSError(errno.EOPNOTSUPP, "this file system does not reserve room")


def _preallocate(fd: int, size: int) -> None:
    room = os.fstatvfs(fd)
    if room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    request = _FSTORE.pack(_ALLOCATE_ALL, _FROM_END, 0, size, 0)
    fcntl.fcntl(fd, fcntl.F_PREALLOCATE, request)  # type: ignore[attr-defined]
    os.ftruncate(fd, size)


def is_reserved(found: os.stat_result) -> bool:
    """Return whether there is room behind every byte of a file."""
    return found.st_blocks * _STAT_BLOCK >= found.st_size


def map_shared(fd: int, size: int) -> mmap.mmap:
    """Return the first *size* bytes of an open file as memory shared with others.

    The memory outlives the file's name and, from Python 3.13 on, needs no descriptor.
    Before, it keeps one of its own. That shares the lock of *fd*, so *fd* must not be
    the one that was locked, or the lock would last as long as the memory.
    """
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, trackfd=False)
    else:  # noqa: RET505 - mypy would call what follows unreachable from 3.13 on
        return mmap.mmap(fd, size)
