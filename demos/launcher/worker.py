"""A worker: one process that embeds a node, serves the application and measures it.

Three threads: the main one obeys the launcher, one replays requests, one reports.
Standard output belongs to the protocol; whatever else is printed goes to the log.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, final

from airports.app import Application

import meshcache
from launcher.player import Player
from launcher.sight import Tiers, view_of
from launcher.wire import (
    Asked,
    Loaded,
    Message,
    Pause,
    Paused,
    Replay,
    Started,
    Stop,
    Sync,
    Synced,
    Trouble,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airports.stream import Request

    from launcher.job import Job
    from launcher.wire import View

__all__ = ["work"]

_LOOK_S: Final = 0.05
_LOOKS_PER_REPORT: Final = 4
_MAX_BYTES: Final = "12MB"  # five such arenas fit the 64 MB of a container's /dev/shm
_NEAR_ENTRIES: Final = 500  # fewer than there are keys, so that every tier has work


def work(job: Job) -> int:
    """Be a worker until the launcher says stop or is gone; return the exit code."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)
        Worker(job, Voice(pipe)).obey()
    return 0


@final
class Voice:
    """The way to the launcher. Thread-safe."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def say(self, message: Message) -> None:
        """Send one message, whole."""
        line = encode(message)
        with self._lock:
            self._pipe.write(line)
            self._pipe.flush()


@final
class Worker:
    """The node, the application on it, and the replay of requests against both."""

    def __init__(self, job: Job, voice: Voice) -> None:
        self._voice = voice
        self._slowest_load_ns = 0
        self._seen: View | None = None
        self._reporting = threading.Lock()
        self._node = meshcache.start(
            cluster=job.cluster, max_bytes=_MAX_BYTES, near_entries=_NEAR_ENTRIES
        )
        application = Application(self._node, Path(job.database), self._witness)
        tiers = Tiers(self._node)
        self._player = Player(application, job.stream(), tiers.last, job.rate)

    def obey(self) -> None:
        """Do what the launcher says until it says stop or its pipe closes."""
        self._voice.say(Started(self._node.me.node_id.hex()))
        for errand in (self._player.run, self._watch):
            threading.Thread(target=_or_end, args=(errand,), daemon=True).start()
        for line in sys.stdin:
            match decode(line):
                case Replay(limit):
                    self._player.resume(limit)
                case Pause():
                    self._player.pause()
                    self._voice.say(Paused(self._player.position))
                case Sync():
                    self._report()
                    self._voice.say(Synced())
                case Stop():
                    break
        self._player.pause()
        self._report()
        meshcache.stop()

    @contextmanager
    def _witness(self, request: Request) -> Iterator[None]:
        self._voice.say(Loaded(request.key))
        started = time.perf_counter_ns()
        yield
        spent = time.perf_counter_ns() - started
        self._slowest_load_ns = max(self._slowest_load_ns, spent)

    def _watch(self) -> None:
        looks = 0
        while True:
            time.sleep(_LOOK_S)
            looks += 1
            self._look()
            if looks % _LOOKS_PER_REPORT == 0:
                self._report()

    def _look(self) -> None:
        seen = view_of(self._node, self._seen)
        if seen != self._seen:
            self._seen = seen
            self._voice.say(seen)

    def _report(self) -> None:
        # One at a time: what a report has taken must be sent before `Synced` is.
        with self._reporting:
            asked, player = self._player.asked, self._player
            keys = [asked.popleft().key for _ in range(len(asked))]
            troubles = player.troubles
            texts = [troubles.popleft() for _ in range(len(troubles))]
            if keys:
                self._voice.say(Asked(keys))
            for text in texts:
                self._voice.say(Trouble(text))
            progress = player.progress()
            self._voice.say(
                replace(
                    progress,
                    slowest_load_ns=self._slowest_load_ns,
                    evicted=self._node.stats()["store"]["evicted"],
                )
            )


def _or_end(errand: Callable[[], None]) -> None:
    # A worker with a thread missing would look as if the mesh hung.
    try:
        errand()
    except BaseException:  # noqa: BLE001 - told in the log, and ended
        traceback.print_exc()
        os._exit(1)
