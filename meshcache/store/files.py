"""The files under the arenas: made, found, left behind and claimed.

    <arena_dir or /dev/shm>/meshcache-<uid>/<cluster>/<node id>.arena    an owner's
    <arena_dir or /dev/shm>/meshcache-<uid>/<cluster>/<node id>.orphan   a claimed one

The owner holds an exclusive `flock` on its file for as long as it lives. The kernel
drops the lock with the process, however that ends, so a free lock is proof of death.

Create: make the file under a temporary name, lock it, reserve its room, map it. Its
owner formats the memory and then renames the file (`publish`), so that a visible
arena is whole, and locked unless its owner is gone.
Retire: unlink the file, close it. Who has the memory keeps it.
Claim: take the free lock and rename the file to `.orphan`. Of many who try at once one
has the lock. From then on the lock says that the claimer lives, and the name says
that the owner does not. If the claimer dies too, the next one claims again.

A lock belongs to the open file, which a forked child shares. The child must close its
copy and never unlock it (`abandon_after_fork`), or the parent would look dead.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, final

from meshcache.config.units import show_size
from meshcache.errors import ConfigError
from meshcache.place import directory_path, is_secure, secure
from meshcache.store.system import (
    SUPPORTED,
    host_identity,
    is_reserved,
    lock,
    map_shared,
    reserve,
)

__all__ = [
    "ArenaFile",
    "NoArena",
    "Orphan",
    "arena_directory",
    "create",
    "find_orphans",
    "host_identity",
    "is_alive",
    "list_arenas",
    "open_sibling",
]

FILES_MAX: Final = 1024
"""Files looked at in one scan, so a full directory costs bounded time."""

CREATE_ATTEMPTS: Final = 16
"""Temporary names tried, each lost to a sibling's sweep in the same microseconds."""

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - `secure` checks what is made there
_OWNED: Final = ".arena"
_CLAIMED: Final = ".orphan"
_TEMPORARY: Final = ".tmp"
_NAME: Final = re.compile(r"([0-9a-f]{32})\.(?:arena|orphan|arena\.[0-9]+-[0-9]+\.tmp)")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_MODE: Final = stat.S_IRUSR | stat.S_IWUSR
_OPEN: Final = (
    os.O_RDWR  # readers set marks
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO somebody put here must not hold us up
)
_CANNOT_ASK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOLCK})
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM})


class NoArena(Exception):
    """There can be no shared arena here. Nothing was left behind.

    Attributes:
        reason: why, and what to do about it, for people.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Identity(NamedTuple):
    """Which file it is, whatever its name."""

    device: int
    inode: int


@final
class _Hold:
    """An open file, and the name it has. Confined to one thread."""

    __slots__ = ("fd", "identity", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.identity = _identity(os.fstat(fd))

    def is_named(self) -> bool:
        """Return whether its name still leads to it; if not, others were faster."""
        with suppress(OSError):
            return _identity(self.path.lstat()) == self.identity
        return False

    def rename(self, name: str) -> None:
        path = self.path.with_name(name)
        self.path.rename(path)
        self.path = path

    def end(self, *, unlink: bool) -> None:
        """Close the file, and so drop its lock. Does nothing the second time."""
        try:
            # Before the lock is dropped, so that nobody takes it for an orphan.
            if unlink and self.fd >= 0 and self.is_named():
                with suppress(OSError):
                    self.path.unlink()
        finally:
            # Forgotten before it is closed, so that a child forked in between does not
            # close a number that is no longer ours.
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


@final
class ArenaFile:
    """This node's own file, locked and reserved. Confined to one thread.

    Attributes:
        memory: the whole file. It stays valid for who has it, whatever becomes of
            the file.
    """

    __slots__ = ("_hold", "memory")

    def __init__(self, hold: _Hold, memory: mmap.mmap) -> None:
        self._hold = hold
        self.memory = memory

    @property
    def path(self) -> Path:
        """The name it has now; a temporary one until it is published."""
        return self._hold.path

    def publish(self) -> None:
        """Give the file the name under which others look for it.

        Raises:
            NoArena: somebody removed it, or the directory. The memory stays valid.
        """
        assert self._hold.fd >= 0
        assert self.path.suffix == _TEMPORARY
        try:
            self._hold.rename(self.path.name.partition(".")[0] + _OWNED)
        except OSError as error:
            self.retire()
            raise NoArena(f"{self.path}: {error.strerror}") from error

    def retire(self) -> None:
        """Remove the file and drop its lock. Does nothing the second time."""
        self._hold.end(unlink=True)

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of what is the parent's, and change nothing of it.

        Only closes. To unlock would unlock for the parent, whose lock it is.
        """
        self._hold.end(unlink=False)
        with suppress(AttributeError):
            del self.memory


@final
class Orphan:
    """A dead node's file, claimed: its lock is ours. Confined to one thread.

    Attributes:
        node_id: whose it was.
        memory: the whole file, as the dead left it. Nothing in it can be trusted.
        claimed_new: whether this is the first claim; False after a claimer that died,
            or let it go, before it was done.
    """

    __slots__ = ("_hold", "claimed_new", "memory", "node_id")

    def __init__(self, hold: _Hold, memory: mmap.mmap, *, claimed_new: bool) -> None:
        self._hold = hold
        self.node_id = bytes.fromhex(hold.path.stem)
        self.memory = memory
        self.claimed_new = claimed_new

    @property
    def path(self) -> Path:
        """The name it has now, which says that it was claimed."""
        return self._hold.path

    def release(self, *, unlink: bool) -> None:
        """Drop the lock: the file is removed, or left for the next to claim.

        Does nothing the second time.
        """
        self._hold.end(unlink=unlink)

    def abandon_after_fork(self) -> None:
        """In a forked child: close what is the parent's, and change nothing of it."""
        self._hold.end(unlink=False)


def arena_directory(
    cluster: str,
    arena_dir: str | None,
    runtime_dir: str | None,
    environ: Mapping[str, str],
) -> Path:
    """Return where the arenas of *cluster* lie; the same for all of this user.

    Memory is best kept in memory: without a setting that is /dev/shm, where there is
    one, and else the place where nodes meet.
    """
    base = arena_dir or runtime_dir or _shared_memory()
    return directory_path(cluster, base, environ)


def _shared_memory() -> str | None:
    if sys.platform == "linux" and Path(_SHARED_MEMORY).is_dir():
        return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else None
    return None


def create(directory: Path, node_id: bytes, size: int) -> ArenaFile:
    """Make this node's file: locked, reserved, mapped, and not yet visible.

    Raises:
        NoArena: there is no room, no right, or no way to do it on this system.
    """
    assert size > 0
    if not SUPPORTED:
        raise NoArena("this system has no flock")
    try:
        secure(directory, "arena_dir")
        return _create(directory, node_id, size)
    except ConfigError as error:
        raise NoArena(str(error)) from error
    except (OSError, ValueError, OverflowError) as error:
        raise NoArena(f"{directory}: {_explain(error, size)}") from error


def _create(directory: Path, node_id: bytes, size: int) -> ArenaFile:
    hold = _hold_new(directory, node_id)
    try:
        _check_lock(hold.path)
        _check_host()
        reserve(hold.fd, size)
        return ArenaFile(hold, _map(hold.path, hold.identity))
    except BaseException:
        hold.end(unlink=True)
        raise


def _check_lock(path: Path) -> None:
    # Asked through a second descriptor: where locks belong to processes, as on NFS,
    # ours would not keep this very process from taking its own file for an orphan.
    if not _is_locked(path):
        raise OSError(errno.ENOLCK, "locks do not belong to open files here")


def _check_host() -> None:
    if not host_identity():
        raise OSError(errno.EOPNOTSUPP, "this system does not tell boots apart")


def _hold_new(directory: Path, node_id: bytes) -> _Hold:
    """Make an empty file that is locked, under a name that is ours."""
    for attempt in range(CREATE_ATTEMPTS):
        name = f"{node_id.hex()}{_OWNED}.{os.getpid()}-{attempt}{_TEMPORARY}"
        try:
            fd = os.open(directory / name, _OPEN | os.O_CREAT | os.O_EXCL, _MODE)
        except FileExistsError:
            continue
        hold = _Hold(directory / name, fd)
        locked = False
        try:
            os.fchmod(fd, _MODE)  # whatever the umask took away
            # Until it is locked, a sibling's sweep may take it for an orphan. With both
            # the lock and the name ours, no sweep can have it any more.
            locked = lock(fd, shared=False) and hold.is_named()
        finally:
            if not locked:
                hold.end(unlink=True)
        if locked:
            return hold
    raise BlockingIOError(errno.EAGAIN, "each new file is locked by others")


def open_sibling(directory: Path, node_id: bytes) -> mmap.mmap | None:
    """Return the memory of another node's arena, claimed or not; None if unfit.

    Unfit is what is absent, of somebody else, open to others, empty, not reserved, or
    no file at all.
    """
    if not SUPPORTED or not is_secure(directory):
        return None
    for suffix in (_OWNED, _CLAIMED):
        with suppress(OSError, ValueError, OverflowError):
            return _map(directory / f"{node_id.hex()}{suffix}")
    return None


def is_alive(directory: Path, node_id: bytes) -> bool:
    """Return whether the owner of an arena lives. What cannot be asked counts as alive.

    While it asks, it has the lock of a dead one's file for a moment: who looks for
    orphans just then finds that one the next time.
    """
    if not SUPPORTED:
        return False
    try:
        return _is_locked(directory / f"{node_id.hex()}{_OWNED}")
    except OSError as error:
        return error.errno in _CANNOT_ASK


def find_orphans(directory: Path, limit: int) -> list[Orphan]:
    """Claim up to *limit* arenas whose owners are dead, and sweep what was never one.

    Each is claimed by one process, however many try, until that releases it or dies.
    """
    if not SUPPORTED or not is_secure(directory):
        return []
    found: list[Orphan] = []
    for name in _names(directory):
        if name.endswith(_TEMPORARY):
            _sweep(directory / name)
        elif len(found) < limit:
            orphan = _claim(directory / name)
            if orphan is not None:
                found.append(orphan)
    return found


def list_arenas(directory: Path) -> list[tuple[bytes, bool]]:
    """Return whose arenas there are, each with whether it has not been claimed."""
    if not SUPPORTED or not is_secure(directory):
        return []
    return [
        (bytes.fromhex(name.partition(".")[0]), name.endswith(_OWNED))
        for name in _names(directory)
        if not name.endswith(_TEMPORARY)
    ]


def _names(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            ours = (entry.name for entry in entries if _NAME.fullmatch(entry.name))
            return sorted(islice(ours, FILES_MAX))
    except OSError:
        return []


def _claim(path: Path) -> Orphan | None:
    """Take the lock of a file and mark it as taken; None if it is not to be had."""
    orphan = None
    try:
        hold = _Hold(path, _open(path))
    except OSError:
        return None
    try:
        with suppress(OSError, ValueError, OverflowError):
            if lock(hold.fd, shared=False):
                memory = _map(path, hold.identity)  # fails if others were faster
                hold.rename(path.stem + _CLAIMED)
                orphan = Orphan(hold, memory, claimed_new=path.suffix == _OWNED)
    finally:
        if orphan is None:
            hold.end(unlink=False)
    return orphan


def _sweep(path: Path) -> None:
    """Remove a temporary file whose maker died before it could rename it."""
    try:
        hold = _Hold(path, _open(path))
    except OSError:
        return
    abandoned = False
    try:
        with suppress(OSError):
            abandoned = lock(hold.fd, shared=True)
    finally:
        hold.end(unlink=abandoned)


def _open(path: Path) -> int:
    """Return a descriptor, or raise `OSError` for what no node of ours has made."""
    fd = os.open(path, _OPEN)
    found = os.fstat(fd)
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    if ours and not found.st_mode & _OTHERS:
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a file of this user alone")


def _is_locked(path: Path) -> bool:
    fd = _open(path)
    try:
        return not lock(fd, shared=True)
    finally:
        os.close(fd)


def _map(path: Path, identity: _Identity | None = None) -> mmap.mmap:
    """Return the memory of a file, through a descriptor that has nobody's lock."""
    fd = _open(path)
    try:
        found = os.fstat(fd)
        if identity not in (None, _identity(found)):
            raise FileNotFoundError(errno.ENOENT, "replaced by another file")
        if not is_reserved(found):
            raise OSError(errno.EINVAL, "no room behind it")
        return map_shared(fd, found.st_size)
    finally:
        os.close(fd)


def _identity(found: os.stat_result) -> _Identity:
    return _Identity(found.st_dev, found.st_ino)


def _explain(error: Exception, size: int) -> str:
    number = getattr(error, "errno", None)
    text = getattr(error, "strerror", None) or str(error)
    if number in _NO_ROOM:
        return (
            f"no room for {show_size(size)} ({text}); make it larger, as with "
            "`docker run --shm-size`, lower max_bytes, or set arena_dir="
        )
    if number in _NO_RIGHT:
        return f"not writable ({text}); set arena_dir= to a directory that is"
    return text
