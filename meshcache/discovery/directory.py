"""The same-host directory: how the processes of one user find each other.

    <runtime_dir, $XDG_RUNTIME_DIR or /tmp>/meshcache-<uid>/<cluster>/<node id>.node

One small file per node, JSON, and an exclusive `flock` on it that its owner holds for
as long as it lives. The kernel drops the lock with the process, however that ends, so
a free lock is proof of death, and the only proof accepted: a process that stopped
answering still holds its own.

Register: write the record under a temporary name, lock it, rename it. A visible file
is therefore complete, and locked unless its owner is gone.
Leave: empty the file, unlink it, close it. Empty is the mark of a clean farewell.
Scan: keep each sibling's file open and try its lock. While that fails the sibling
lives. Once it succeeds the owner is gone; the file, unless it is empty, was left by a
death. As every sibling has the file open, each sees the death for itself, even when
another has unlinked the file before.

A lock belongs to the open file, which a forked child shares. The child must close its
copy and never unlock it (`abandon_after_fork`), or the parent would look dead.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import deque
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, final

from meshcache.config.address import parse
from meshcache.model import NodeId
from meshcache.place import secure

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where the directory is off
    SUPPORTED = False
else:
    SUPPORTED = True

__all__ = ["Directory", "Record", "Scan"]

FILES_MAX: Final = 1024
"""Files looked at in one scan, so a full directory costs bounded time."""

RECORD_MAX: Final = 4096
"""Bytes of a file that are read."""

REGISTER_ATTEMPTS: Final = 16
"""Temporary names tried, each lost to a sibling's sweep in the same microseconds."""

_SUFFIX: Final = ".node"
_TEMPORARY: Final = ".tmp"
_EPOCH_MAX: Final = 2**64 - 1
_NODE_ID_BYTES: Final = 16
_OPEN: Final = (
    os.O_RDWR  # NFS grants an exclusive lock only on a file open for writing
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a FIFO somebody put here must not hold us up
)


class Record(NamedTuple):
    """One node of this host, as its file says."""

    node_id: NodeId
    epoch: int
    address: str
    pid: int


class Scan(NamedTuple):
    """What changed and what stands: siblings alive, and those that died since."""

    alive: tuple[Record, ...]
    died: tuple[Record, ...]


class _Sibling(NamedTuple):
    """A file that is kept open to watch its lock."""

    fd: int
    inode: int
    record: Record


@final
class Directory:
    """This node's place among the processes of the host. Confined to one thread.

    Attributes:
        path: the directory; made when it is first needed.
        reason: why same-host discovery is off on this system, or None. When it is
            off, registering does nothing and nobody is found.
    """

    __slots__ = ("_died", "_fd", "_inode", "_own", "_siblings", "path", "reason")

    def __init__(self, path: Path, *, supported: bool = SUPPORTED) -> None:
        self.path = path
        self.reason = None if supported else "this system has no flock"
        self._own: Record | None = None
        self._fd = -1
        self._inode = -1
        self._siblings: dict[str, _Sibling] = {}
        self._died: deque[Record] = deque(maxlen=FILES_MAX)

    def register(self, node_id: NodeId, epoch: int, address: str, pid: int) -> None:
        """Make this node known to its siblings until it leaves or ends.

        Raises:
            ConfigError: the directory is not ours alone.
            OSError: the file cannot be written or locked. Nothing was left behind.
        """
        assert self._own is None
        if self.reason is not None:
            return
        record = Record(node_id, epoch, str(parse(address)), pid)
        secure(self.path)
        self._publish(record)
        self._own = record

    def unregister(self) -> None:
        """Say farewell and stop watching. Does nothing the second time."""
        if self._own is not None:
            self._withdraw(_file_name(self._own))
        self._own = None
        self._forget()

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of what is the parent's, and change nothing of it.

        Only closes. To unlock would unlock for the parent, whose lock it is.
        """
        self._own = None
        self._let_go()
        self._forget()
        self._died.clear()

    def addresses(self) -> list[str]:
        """Return the control addresses of the siblings that live."""
        return [record.address for record in self.records()]

    def records(self) -> list[Record]:
        """Return the siblings that live, and keep deaths for the next `scan`."""
        if self.reason is not None:
            return []
        secure(self.path)
        names = self._names()
        for name in list(self._siblings):
            self._watch(name)
        own = _file_name(self._own) if self._own else ""
        for name in names:
            if name.endswith(_TEMPORARY):
                self._sweep(name)
            elif name not in self._siblings and name != own:
                self._meet(name)
        if own and (self._fd < 0 or _inode(self.path / own) != self._inode):
            self._return(own)
        return [sibling.record for sibling in self._siblings.values()]

    def scan(self) -> Scan:
        """Return the siblings that live and those found dead since the last scan.

        Each is found once. One that left has not died.
        """
        alive = tuple(self.records())
        died = tuple(self._died)
        self._died.clear()
        return Scan(alive, died)

    def _publish(self, record: Record) -> None:
        content = _encode(record)
        for attempt in range(REGISTER_ATTEMPTS):
            temporary = self.path / f"{_file_name(record)}.{os.getpid()}-{attempt}.tmp"
            if self._write(temporary, content):
                break
        else:
            raise BlockingIOError(f"{self.path}: a new file is locked by others")
        try:
            temporary.rename(self.path / _file_name(record))
        except OSError:
            self._discard(temporary)
            raise

    def _write(self, temporary: Path, content: bytes) -> bool:
        """Make a locked file; False when a sibling's sweep got hold of it first."""
        try:
            self._fd = os.open(temporary, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            # Until it is locked, a sibling's sweep may take it for an orphan. With both
            # the lock and the name ours, no sweep can have it any more.
            locked = _lock(self._fd, fcntl.LOCK_EX)
            self._inode = os.fstat(self._fd).st_ino
            if locked and _inode(temporary) == self._inode:
                os.write(self._fd, content)
                return True
        except OSError:
            self._discard(temporary)
            raise
        self._discard(temporary)
        return False

    def _discard(self, temporary: Path) -> None:
        with suppress(FileNotFoundError):
            temporary.unlink()
        self._let_go()

    def _withdraw(self, name: str) -> None:
        if self._fd < 0:
            return
        try:
            # Emptied first, so that a sibling who has it open knows it for a farewell.
            os.ftruncate(self._fd, 0)
            self._remove(name, self._inode)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        # Forgotten before it is closed, so that a child forked in between does not
        # close a number that is no longer ours.
        fd, self._fd, self._inode = self._fd, -1, -1
        if fd >= 0:
            os.close(fd)

    def _return(self, name: str) -> None:
        """Register again after somebody removed our file, or the whole directory."""
        assert self._own is not None
        self._withdraw(name)
        self._publish(self._own)

    def _names(self) -> set[str]:
        with os.scandir(self.path) as entries:
            ours = (
                entry.name
                for entry in entries
                if entry.name.endswith((_SUFFIX, _TEMPORARY))
            )
            return set(islice(ours, FILES_MAX))

    def _watch(self, name: str) -> None:
        """See whether a sibling still holds its lock; if not, learn how it went."""
        sibling = self._siblings[name]
        if not _lock(sibling.fd, fcntl.LOCK_SH):
            return
        if os.fstat(sibling.fd).st_size:
            self._died.append(sibling.record)
        self._remove(name, sibling.inode)
        del self._siblings[name]
        os.close(sibling.fd)

    def _meet(self, name: str) -> None:
        """Open a file that is new to us; keep it if its owner lives."""
        fd = self._open(name) if len(self._siblings) < FILES_MAX else -1
        if fd < 0:
            return
        kept = False
        try:
            inode = os.fstat(fd).st_ino
            # Shared, so that siblings who look at the same moment do not take each
            # other's lock for the owner's.
            if _lock(fd, fcntl.LOCK_SH):
                # It may have come and died between two scans; who left has no record.
                if died := _decode(os.pread(fd, RECORD_MAX, 0)):
                    self._died.append(died)
                self._remove(name, inode)
            elif record := _decode(os.pread(fd, RECORD_MAX, 0)):
                self._siblings[name] = _Sibling(fd, inode, record)
                kept = True
        finally:
            if not kept:
                os.close(fd)

    def _sweep(self, name: str) -> None:
        """Remove a temporary file whose maker died before it could rename it."""
        fd = self._open(name)
        if fd < 0:
            return
        try:
            if _lock(fd, fcntl.LOCK_SH):
                self._remove(name, os.fstat(fd).st_ino)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        """Return a descriptor, or -1 for what vanished or was never a node's file."""
        try:
            fd = os.open(self.path / name, _OPEN)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise
            return -1
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return -1

    def _remove(self, name: str, inode: int) -> None:
        """Unlink *name* if it is still the file we hold; another's is not touched."""
        path = self.path / name
        if _inode(path) == inode:
            path.unlink(missing_ok=True)

    def _forget(self) -> None:
        for sibling in self._siblings.values():
            os.close(sibling.fd)
        self._siblings.clear()


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return -1


def _file_name(record: Record) -> str:
    return f"{record.node_id.hex()}{_SUFFIX}"


def _encode(record: Record) -> bytes:
    return json.dumps(record._asdict() | {"node_id": record.node_id.hex()}).encode()


def _decode(content: bytes) -> Record | None:
    """Return the record, or None for what no node wrote."""
    try:
        found = json.loads(content)
        node_id = bytes.fromhex(found["node_id"])
        record = Record(
            NodeId(node_id), found["epoch"], str(parse(found["address"])), found["pid"]
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    whole = len(node_id) == _NODE_ID_BYTES
    for number in (record.epoch, record.pid):
        whole &= type(number) is int and 0 <= number <= _EPOCH_MAX
    return record if whole else None
