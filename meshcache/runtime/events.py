"""Telling the application who came and who went, without waiting for it.

Each subscriber has a thread and a bounded queue of its own, so that a slow one delays
neither the node nor another subscriber. A full queue loses its oldest change and counts
the loss; whoever sees that counter move looks at `Node.members` instead.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, final

from meshcache.clock import monotonic
from meshcache.membership.effects import Changed
from meshcache.runtime.threads import allocate_lock, start_thread

__all__ = ["QUEUE", "Callback", "Events"]

QUEUE: Final = 1024
"""Changes that wait for one subscriber."""

Callback: TypeAlias = Callable[[Changed], object]

_log = logging.getLogger("meshcache.events")


@final
class Events:
    """The subscribers of one node. Thread-safe.

    They outlive the node's runs: a node that is started again tells the same ones.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[_Subscriber, ...] = ()
        self._guard = allocate_lock()
        self._gone = [0, 0]

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have *callback* called with every change; return what ends that."""
        subscriber = _Subscriber(callback)
        with self._guard:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._guard:
                kept = tuple(s for s in self._subscribers if s is not subscriber)
                if len(kept) < len(self._subscribers):
                    self._subscribers = kept
                    self._gone[0] += subscriber.dropped
                    self._gone[1] += subscriber.failed
            subscriber.end(drain=False)

        return unsubscribe

    def publish(self, change: Changed) -> None:
        """Hand *change* to every subscriber's queue. Waits for nobody."""
        for subscriber in self._subscribers:
            subscriber.put(change)

    def count_dropped(self) -> None:
        """Count a change that was lost further on."""
        with self._guard:
            self._gone[0] += 1

    def rest(self, until: float) -> None:
        """End the threads when their queues are empty; the next change wakes them.

        Waits for that, but not beyond *until*, in monotonic seconds.
        """
        for subscriber in self._subscribers:
            subscriber.end(drain=True, timeout=until - monotonic())

    def after_fork_in_child(self) -> None:
        """Forget the parent's threads and what they had still to tell."""
        self._guard = allocate_lock()
        for subscriber in self._subscribers:
            subscriber.reset()

    def stats(self) -> dict[str, int]:
        """Return how many subscribe, and how many changes were lost or failed."""
        subscribers = self._subscribers
        return {
            "subscribers": len(subscribers),
            "dropped": self._gone[0] + sum(s.dropped for s in subscribers),
            "failed": self._gone[1] + sum(s.failed for s in subscribers),
        }


@final
class _Subscriber:
    """A callback, its queue, and a thread while there is something to tell."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self.dropped = 0
        self.failed = 0
        self.reset()

    def reset(self) -> None:
        self._queue: deque[Changed] = deque()
        self._guard = allocate_lock()
        self._bell = allocate_lock()
        self._bell.acquire()
        self._asleep = False
        self._ending = False
        self._unsubscribed = False
        self._join: Callable[[float], bool] | None = None

    def put(self, change: Changed) -> None:
        with self._guard:
            if self._unsubscribed:
                return
            if len(self._queue) >= QUEUE:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(change)
            self._ending = False
            self._ring()
            if self._join is None:
                self._join = start_thread("events", self._run)

    def end(self, *, drain: bool, timeout: float = 0.0) -> None:
        with self._guard:
            join = self._join
            self._ending = True
            if not drain:
                self._unsubscribed = True
                self._queue.clear()
            self._ring()
        if join is not None and timeout > 0:
            try:
                join(timeout)
            except RuntimeError:
                # The callback itself has stopped the node: it cannot wait for itself.
                _log.debug("a subscriber stopped the node that tells it")

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.release()

    def _run(self) -> None:
        while True:
            with self._guard:
                change = self._queue.popleft() if self._queue else None
                if change is None and self._ending:
                    self._join = None
                    return
                self._asleep = change is None
            if change is None:
                self._bell.acquire()
            else:
                self._tell(change)

    def _tell(self, change: Changed) -> None:
        # SystemExit too: it would end this thread, and be the last thing told.
        try:
            self._callback(change)
        except BaseException:  # noqa: BLE001 - logged and counted; nobody else can
            self.failed += 1
            _log.exception("a subscriber failed on %s", change.member.name)
