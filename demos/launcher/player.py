"""The replay inside a worker: requests at a steady pace, every answer measured.

Which tier answered is read off the node's own counters: one thread asks, so exactly
one counter has moved since the read before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final, final

from launcher.latency import Histogram
from launcher.wire import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airports.app import Application
    from airports.stream import Request

__all__ = ["Player"]

_BURST_S: Final = 0.005
_FLAT_OUT: Final = 100
_CHECK_EVERY: Final = 500


@final
class Player:
    """Asks what a stream asks. `run` has a thread of its own; the rest is thread-safe.

    `begin` makes the stream, the same one each time. `tier` names the tier that
    answered last. `rate` is requests a second, 0 as many as can be.
    """

    def __init__(
        self,
        application: Application,
        begin: Callable[[], Iterator[Request]],
        tier: Callable[[], str],
        rate: int,
    ) -> None:
        self.troubles: deque[str] = deque(maxlen=3)
        self.asked: deque[Request] = deque()
        self.position = 0
        self._application = application
        self._begin = begin
        self._tier = tier
        self._burst = max(1, round(rate * _BURST_S)) if rate else _FLAT_OUT
        self._pause_s = self._burst / rate if rate else 0.0
        self._limit: int | None = None
        self._going = threading.Event()
        self._rested = threading.Event()
        self._known: set[Request] = set()
        self._requests = self._failed = self._wrong = self._slowest_ns = 0
        self._latency: dict[str, Histogram] = {}

    def resume(self, limit: int | None) -> None:
        """Begin the stream; with a limit, begin it again after so many requests."""
        self._limit = limit
        self._rested.clear()
        self._going.set()

    def pause(self) -> None:
        """Return once the request in hand is answered and no other will be asked."""
        if self._going.is_set():
            self._going.clear()
            self._rested.wait()

    def progress(self) -> Progress:
        """Return the counters as they stand."""
        return Progress(
            requests=self._requests,
            failed=self._failed,
            wrong=self._wrong,
            latency={
                tier: {str(bucket): n for bucket, n in dict(seen.counts).items()}
                for tier, seen in dict(self._latency).items()
            },
            slowest_read_ns=self._slowest_ns,
        )

    def run(self) -> None:
        """Replay whenever told to, for ever."""
        while self._going.wait():
            stream = self._stream()
            self.position = 0
            due = time.monotonic()
            while self._going.is_set():
                for request in islice(stream, self._burst):
                    self._ask(request)
                # After a slow answer the pace goes on from here: a backlog made up
                # in a hurry would measure the hurry.
                now = time.monotonic()
                due = max(due + self._pause_s, now)
                time.sleep(due - now)
            self._rested.set()

    def _stream(self) -> Iterator[Request]:
        if self._limit is None:
            return self._begin()
        return cycle(list(islice(self._begin(), self._limit)))

    def _ask(self, request: Request) -> None:
        if request not in self._known:
            self._known.add(request)
            self.asked.append(request)
        loader, args = self._application.loaders[request.loader], request.args
        started = time.perf_counter_ns()
        try:
            answer = loader(*args)
        except Exception as error:  # noqa: BLE001 - counted: a promise says none fails
            self._failed += 1
            self.troubles.append(f"{request.key}: {error!r}")
            return
        finally:
            spent = time.perf_counter_ns() - started
            self._slowest_ns = max(self._slowest_ns, spent)
            self._requests += 1
            self.position += 1
        self._latency.setdefault(self._tier(), Histogram()).add(spent)
        if self._requests % _CHECK_EVERY == 0:
            self._check(request, answer)

    def _check(self, request: Request, answer: object) -> None:
        if not self._application.is_right(request, answer):
            self._wrong += 1
            self.troubles.append(f"{request.key}: not what the database says")
