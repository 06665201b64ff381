"""Where the nodes of one user on one host meet, and whether it is safe to.

/tmp belongs to everybody, and so does /dev/shm: whoever made our directory before us
could hand us peers, or values, of their choosing. So it is used only if it is ours,
and ours alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meshcache.errors import ConfigError

__all__ = ["directory_path", "is_secure", "secure"]

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def directory_path(
    cluster: str, runtime_dir: str | None, environ: Mapping[str, str]
) -> Path:
    """Return where the nodes of *cluster* meet; the same for all of this user.

    Every byte of the name but lower-case letters, digits, `_` and `-` is written as
    `%xx`: no name leaves the directory, and none meet where case does not count.
    """
    base = runtime_dir or _runtime_dir(environ)
    uid = os.geteuid() if hasattr(os, "geteuid") else environ.get("USERNAME")
    quoted = "".join(
        chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in cluster.encode()
    )
    return Path(base) / f"meshcache-{uid}" / quoted


def _runtime_dir(environ: Mapping[str, str]) -> str:
    for path in (environ.get("XDG_RUNTIME_DIR"), "/tmp"):  # noqa: S108 - see _check
        if path and os.access(path, os.W_OK | os.X_OK) and Path(path).is_dir():
            return path
    # It brings a megabyte along, which hardly anybody needs.
    from tempfile import gettempdir  # noqa: PLC0415

    return gettempdir()


def secure(path: Path, setting: str = "runtime_dir") -> None:
    """Make the directory and its parent, or refuse what is not ours alone.

    Raises:
        ConfigError: one of the two is somebody else's, open to others, or a link. It
            names *setting*, which would put the directory elsewhere.
        OSError: it cannot be made.
    """
    for each in (path.parent, path):
        try:
            found = each.lstat()
        except FileNotFoundError:
            _make(each, setting)
            found = each.lstat()
        _check(each, found, setting)


def is_secure(path: Path) -> bool:
    """Return whether the directory is there and ours alone. Makes nothing."""
    try:
        for each in (path.parent, path):
            _check(each, each.lstat(), "")
    except (OSError, ConfigError):
        return False
    return True


def _make(path: Path, setting: str) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise ConfigError(
            f"{setting}={str(path.parent)!r}: there is no such directory; make it, "
            f"or set {setting}= to one that exists"
        ) from None


def _check(path: Path, found: os.stat_result, setting: str) -> None:
    remedy = f"remove it, or set {setting}= to a directory of this user's own"
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path}: not a directory, or a link to one; {remedy}")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path}: belongs to user {found.st_uid}; {remedy}")
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{path}: others may enter it (mode {mode:04o}); run `chmod 700 {path}`, "
            f"or set {setting}= to a directory of this user's own"
        )
