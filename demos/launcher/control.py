"""The launcher's hold on its workers: start them, hear them, end them, leave none.

Each worker is a process with a pipe in and a pipe out. A thread per worker reads what
it says into one queue; everything else happens on the launcher's main thread, which
alone changes what is recorded here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Final, final

from launcher.latency import Histogram
from launcher.wire import (
    Asked,
    Loaded,
    Message,
    Paused,
    Progress,
    Started,
    Stop,
    Synced,
    Trouble,
    View,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Fleet", "Worker"]

_TICK_S: Final = 0.1
_STOP_S: Final = 8.0
_TROUBLES: Final = 5
_WORDS: Final = 2000


@final
class Worker:
    """One process, and the last it said of itself. Confined to the main thread."""

    def __init__(self, slot: int, command: Sequence[str]) -> None:
        self.slot = slot
        self.label = f"w{slot + 1}"
        self.node = ""
        self.view: View | None = None
        self.progress = Progress()
        self.paused: int | None = None
        self.synced = False
        self.ended = False
        self.dismissed = False
        self.last_words = ""
        # Open for as long as the process may write to it: until `shut`.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # Ctrl-C is the launcher's to handle; the worker ends when its pipe does.
            process_group=0,
        )

    def say(self, message: Message) -> None:
        """Send a command. One to a process that has ended is lost, as it must be."""
        self.dismissed = self.dismissed or isinstance(message, Stop)
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(encode(message))
            self.process.stdin.flush()

    def hear(self, message: Message) -> None:
        """Take note of what the process says of itself."""
        match message:
            case Started(node):
                self.node = node
            case View():
                self.view = message
            case Progress():
                self.progress = message
            case Paused(position):
                self.paused = position
            case Synced():
                self.synced = True

    def kill(self) -> None:
        """End the process as a crash would: SIGKILL, no farewell."""
        self.dismissed = True
        os.kill(self.process.pid, signal.SIGKILL)

    def shut(self) -> None:
        """Close what belongs to an ended process, and keep the end of its log."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._log.seek(0)
        self.last_words = self._log.read().decode(errors="replace").strip()[-_WORDS:]
        self._log.close()


@final
class Fleet:
    """All workers of a run, living and ended. Confined to the main thread.

    `command` makes a worker's command line from its slot; `on_tick` is called about
    ten times a second while the fleet waits for anything.
    """

    def __init__(self, command: Callable[[int], list[str]]) -> None:
        self.on_tick: Callable[[], None] = lambda: None
        self.workers: dict[int, Worker] = {}
        self.former: list[Worker] = []
        self.asked: set[str] = set()
        self.loaded: Counter[str] = Counter()
        self.troubles: list[str] = []
        self.crashed: list[Worker] = []
        self.forced: list[Worker] = []
        self._command = command
        self._said: queue.SimpleQueue[tuple[Worker, Message | None]]
        self._said = queue.SimpleQueue()
        self._next_tick = 0.0

    def start(self, slot: int) -> Worker:
        """Start the worker of a slot, in the place of the one before it."""
        if slot in self.workers:
            self.former.append(self.workers[slot])
        worker = self.workers[slot] = Worker(slot, self._command(slot))
        threading.Thread(target=self._hear, args=(worker,), daemon=True).start()
        return worker

    @property
    def everyone(self) -> list[Worker]:
        """Every worker ever started."""
        return [*self.former, *self.workers.values()]

    @property
    def living(self) -> list[Worker]:
        """The workers that have not ended, by slot."""
        return [
            worker for _, worker in sorted(self.workers.items()) if not worker.ended
        ]

    def say(self, message: Message) -> None:
        """Send a command to every living worker."""
        for worker in self.living:
            worker.say(message)

    def wait(self, until: Callable[[], bool], timeout: float) -> bool:
        """Listen until something holds; return whether it did in time.

        A worker that ends unbidden ends the waiting too: the story cannot go on.
        """
        deadline = time.monotonic() + timeout
        while not until():
            now = time.monotonic()
            if now >= deadline or self.crashed:
                return False
            self._tick(now)
            self._listen(min(deadline - now, _TICK_S))
        return True

    def latency(self) -> dict[str, Histogram]:
        """Return the latency of all reads so far, by the tier that answered."""
        merged: dict[str, Histogram] = {}
        for worker in self.everyone:
            for tier, counts in worker.progress.latency.items():
                histogram = Histogram({int(key): n for key, n in counts.items()})
                merged.setdefault(tier, Histogram()).merge(histogram)
        return merged

    def close(self) -> None:
        """End every process, by its id: first asked, then made to."""
        self.say(Stop())
        self.crashed, crashed = [], self.crashed
        self.wait(lambda: not self.living, _STOP_S)
        self.crashed = crashed
        for worker in self.everyone:
            if worker.process.poll() is None and not self._exits(worker):
                self.forced.append(worker)
                worker.process.kill()
            worker.process.wait()
            worker.shut()

    @staticmethod
    def _exits(worker: Worker) -> bool:
        # Its pipe is closed: it is on its way out and needs but a moment.
        if not worker.ended:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(1.0)
        return worker.process.poll() is not None

    def _tick(self, now: float) -> None:
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self.on_tick()

    def _hear(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        for line in worker.process.stdout:
            if line.endswith("\n"):  # SIGKILL may cut the last one short
                self._said.put((worker, decode(line)))
        self._said.put((worker, None))

    def _listen(self, timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            self._note(*self._said.get(timeout=timeout))
            while True:
                self._note(*self._said.get_nowait())

    def _note(self, worker: Worker, message: Message | None) -> None:
        match message:
            case Asked(keys):
                self.asked.update(keys)
            case Loaded(key):
                self.loaded[key] += 1
            case Trouble(text):
                self.troubles = [*self.troubles, f"{worker.label}: {text}"][-_TROUBLES:]
            case None:
                worker.ended = True
                if not worker.dismissed:
                    self.crashed.append(worker)
            case _:
                worker.hear(message)
