"""Loads that nobody waits for: old values are loaded anew behind their readers.

At most one for each key in this process (and, by the engine, in the cluster). Those of
plain functions run on a few daemon threads in the context of whoever asked first, those
of `async def` as tasks on its loop. What finds no room is not queued: the next reader
of the old value asks again. After one that failed its key is left alone for a while, so
that a loader in trouble is not called by every read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, final

from meshcache.clock import monotonic
from meshcache.config import Config
from meshcache.runtime.threads import start_thread

if TYPE_CHECKING:
    import asyncio

__all__ = ["Background"]

_log = logging.getLogger("meshcache.refresh")

Job: TypeAlias = Callable[[], object]


@final
class Background:
    """The refreshes of one node. Thread-safe.

    Args:
        config: how many threads there are at most, each started when first needed;
            how many refreshes are under way at most; the pause after a failure.
    """

    def __init__(self, config: Config) -> None:
        self._lock = Lock()
        self._flying: dict[bytes, Future[object]] = {}
        self._resting: dict[bytes, float] = {}
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # A loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = config.max_refreshes
        self._pause = config.refresh_pause
        self._threads = config.loader_threads
        self._idle = self._running = 0
        self._closed = False
        self._counts = dict.fromkeys(("started", "failed", "refused"), 0)

    def stats(self) -> dict[str, int]:
        """Return how many were started, failed, found no room, and are under way."""
        with self._lock:
            return self._counts | {"flying": len(self._flying)}

    def start(self, key: bytes, job: Job) -> Future[object] | None:
        """Have *job* run on a thread, unless one for *key* runs already; return it.

        None if *key* rests after a failure, or there is no room.
        """
        ended, fresh = self._enter(key)
        if ended is not None and fresh:
            run = copy_context().run
            self._submit(lambda: self._run(key, ended, lambda: run(job)))
        return ended

    def start_task(
        self, key: bytes, job: Callable[[], Coroutine[Any, Any, object]]
    ) -> Future[object] | None:
        """Have *job* run as a task of the running loop; see `start`."""
        ended, fresh = self._enter(key)
        if ended is not None and fresh:
            import asyncio  # noqa: PLC0415 - only tasks need it

            task = asyncio.get_running_loop().create_task(self._arun(key, ended, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return ended

    def rests(self, key: bytes) -> bool:
        """Whether a load of *key* has failed so lately that it is not tried again."""
        with self._lock:
            return self._rests(key)

    def failed(self, key: bytes) -> None:
        """Leave *key* alone for a while: somebody's load of it has failed."""
        with self._lock:
            self._rest(key)

    def close(self) -> None:
        """Start nothing any more, and let idle threads end."""
        with self._lock:
            self._closed = True
            running = self._running
        for _ in range(running):
            self._jobs.put(None)

    def _enter(self, key: bytes) -> tuple[Future[object] | None, bool]:
        with self._lock:
            ended = self._flying.get(key)
            if ended is not None:
                return ended, False
            if self._closed or self._rests(key):
                return None, False
            if len(self._flying) >= self._most:
                self._counts["refused"] += 1
                return None, False
            self._counts["started"] += 1
            ended = self._flying[key] = Future()
            return ended, True

    def _rests(self, key: bytes) -> bool:
        until = self._resting.get(key)
        if until is None:
            return False
        if monotonic() < until:
            return True
        del self._resting[key]
        return False

    def _rest(self, key: bytes) -> None:
        if len(self._resting) >= self._most:
            self._resting.clear()
        self._resting[key] = monotonic() + self._pause

    def _leave(self, key: bytes, error: BaseException | None) -> None:
        with self._lock:
            self._flying.pop(key, None)
            # One whose loop was closed, say, tells nothing about its loader.
            if not isinstance(error, Exception):
                return
            self._counts["failed"] += 1
            self._rest(key)
        _log.warning(
            "%r could not be loaded anew, and stays as it is: %s: %s",
            key[:200],
            type(error).__name__,
            error,
        )

    def _submit(self, work: Job) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._running < self._threads:
                self._running += 1
                start_thread(f"loader-behind-{self._running}", self._work)
        self._jobs.put(work)

    def _work(self) -> None:
        while (work := self._jobs.get()) is not None:
            work()
            with self._lock:
                self._idle += 1

    def _run(self, key: bytes, ended: Future[object], job: Job) -> None:
        try:
            value = job()
        except BaseException as error:  # noqa: BLE001 - whoever waits hears it
            self._leave(key, error)
            ended.set_exception(error)
        else:
            self._leave(key, None)
            ended.set_result(value)

    async def _arun(
        self,
        key: bytes,
        ended: Future[object],
        job: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        try:
            value = await job()
        except BaseException as error:
            self._leave(key, error)
            ended.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._leave(key, None)
            ended.set_result(value)
