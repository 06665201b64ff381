"""The arenas of this host: this node's own, its siblings', and those of the dead.

Every failure here costs the host lane and nothing else: this node's range then lies in
memory of its own, and its siblings ask it by message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Final, final

from meshcache.clock import monotonic
from meshcache.config import Config
from meshcache.model import Member, NodeId
from meshcache.store.files import (
    ArenaFile,
    NoArena,
    Orphan,
    arena_directory,
    create,
    find_orphans,
    host_identity,
    list_arenas,
    open_sibling,
)
from meshcache.store.layout import Layout
from meshcache.store.view import BadArena, View

__all__ = ["GRACE", "Arenas"]

MAX_ORPHANS: Final = 64
"""Arenas of the dead that are claimed at once."""

GRACE: Final = 10.0
"""Seconds for which a claimed arena is kept, for siblings that have yet to open it."""

BURY_EVERY: Final = 0.2
"""Seconds, at least, between two searches for the dead as newcomers are looked for."""

_log = logging.getLogger("meshcache.arenas")
_told: set[str] = set()


def _realm(config: Config) -> str:
    """Return what processes must have in common that share memory.

    Two secrets are two clusters, which never meet; each would take the other's range.
    """
    if config.secret is None:
        return config.cluster
    # It loads OpenSSL: megabytes that a node without a secret has no use for.
    from hashlib import blake2b  # noqa: PLC0415

    digest = blake2b(config.secret.encode(), digest_size=8).hexdigest()
    return f"{config.cluster}@{digest}"


@final
class Arenas:
    """The files behind the host lane. Confined to the driver thread, once that runs.

    Args:
        config: whether there are any, how large, and where.
        clock: the monotonic time.
        died: takes whose arena has been claimed: its lock was free, so it is dead.

    Attributes:
        host: what names this boot of this host; 0 where that cannot be told.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = monotonic,
        *,
        died: Callable[[NodeId, int], None] = lambda _node_id, _epoch: None,
    ) -> None:
        self._clock = clock
        self._died = died
        # Two who can never meet must not take each other's range.
        meets = config.directory or bool(config.seeds)
        self._on = config.host_lane and meets and not config.observer
        self._reads = config.host_lane
        self._size = Layout.for_bytes(config.max_bytes).total
        self._path = arena_directory(
            _realm(config), config.arena_dir, config.runtime_dir, os.environ
        )
        self._node_id = b""
        self._seen: set[bytes] = set()
        self._own: ArenaFile | None = None
        self._claimed: list[tuple[float, Orphan]] = []
        self._buried_at = 0.0
        self.host = host_identity()

    # --- our own -----------------------------------------------------------------

    def create(self, node_id: bytes) -> mmap | None:
        """Return shared memory for this node's arena; None for memory of its own."""
        self._node_id = node_id
        if not self._on:
            return None
        try:
            self._own = create(self._path, node_id, self._size)
        except NoArena as error:
            self._give_up(error)
            return None
        return self._own.memory

    def publish(self) -> None:
        """Let siblings find the arena, now that it is formatted."""
        if self._own is None:
            return
        try:
            self._own.publish()
        except NoArena as error:
            self._own = None
            self._give_up(error)

    def _give_up(self, error: NoArena) -> None:
        self._on = False
        if error.reason not in _told:
            _told.add(error.reason)
            _log.warning(
                "no shared memory for this node, so the processes of this host read "
                "it by message: %s",
                error.reason,
            )

    @property
    def path(self) -> Path:
        """Where the arenas of this host's nodes lie."""
        return self._path

    @property
    def shared(self) -> bool:
        """Whether other processes of this host can read this node's arena."""
        return self._own is not None

    # --- others' -----------------------------------------------------------------

    def lane(self, member: Member) -> View | None:
        """Return a member's arena, if it lies on this host."""
        if not self._reads:
            return None
        view = self._open(member.node_id)
        if view is None or (view.node_id, view.epoch) != (member.node_id, member.epoch):
            return None
        return view

    def _view(self, memory: mmap) -> View | None:
        try:
            return View(memory, self.host)
        except BadArena as error:
            _log.info("an arena of this host is not read: %s", error)
            return None

    def neighbours(self) -> tuple[list[View], list[View]]:
        """Return the arenas of the living and of the dead that are here when we come.

        The dead's are claimed, by us or by another who has just come.
        """
        if not self._on:
            return [], []
        dead = self._claim()
        claimed = {view.node_id for view in dead}
        living = self.newcomers()
        for node_id, alive in list_arenas(self._path):
            if not alive and node_id not in claimed:
                view = self._open(node_id)
                if view is not None:
                    dead.append(view)
        return living, dead

    def look(self) -> list[View]:
        """Return the arenas that have come, and now and then seal those of the dead."""
        now = self._clock()
        if now - self._buried_at >= BURY_EVERY:
            self._buried_at = now
            self.bury()
        return self.newcomers()

    def newcomers(self) -> list[View]:
        """Return the arenas of the living that have come since the last look."""
        if not self._on:
            return []
        living = {node_id for node_id, alive in list_arenas(self._path) if alive}
        self._seen &= living
        found = []
        for node_id in sorted(living - self._seen - {self._node_id}):
            memory = open_sibling(self._path, node_id)
            if memory is None:
                continue
            # One that does not fit is looked at once.
            self._seen.add(node_id)
            view = self._view(memory)
            if view is not None:
                found.append(view)
        return found

    def _open(self, node_id: bytes) -> View | None:
        memory = open_sibling(self._path, node_id)
        return None if memory is None else self._view(memory)

    # --- the dead's --------------------------------------------------------------

    def bury(self) -> None:
        """Seal what the dead have left, so that their heirs may open."""
        if self._reads:
            self._claim()

    def _claim(self) -> list[View]:
        self._remove(self._clock() - GRACE)
        views = []
        for orphan in find_orphans(self._path, MAX_ORPHANS):
            view = self._view(orphan.memory) if orphan.claimed_new else None
            if view is None:
                # Of another layout or boot, or claimed before by one that died too.
                orphan.release(unlink=True)
                continue
            now = self._clock()
            view.seal_all(now)
            views.append(view)
            self._claimed.append((now, orphan))
            self._died(NodeId(view.node_id), view.epoch)
        return views

    def _remove(self, before: float) -> None:
        """Remove the arenas that were claimed long enough ago."""
        kept = []
        for claimed_at, orphan in self._claimed:
            if claimed_at <= before:
                orphan.release(unlink=True)
            else:
                kept.append((claimed_at, orphan))
        self._claimed = kept

    # --- ending ------------------------------------------------------------------

    def close(self) -> None:
        """Remove our own arena, and those we have claimed."""
        if self._own is not None:
            self._own.retire()
            self._own = None
        self._remove(float("inf"))

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of what is the parent's."""
        for _, orphan in self._claimed:
            orphan.abandon_after_fork()
        self._claimed.clear()
        if self._own is not None:
            self._own.abandon_after_fork()
            self._own = None
