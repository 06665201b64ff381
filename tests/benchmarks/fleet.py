"""Workers for benchmarks of several processes: each does what its line of JSON says.

A benchmark runs itself again with `--worker`. Lines go down a worker's stdin, one
answer comes up for each; a worker ends when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import meshcache

ENDS_WITHIN = 10.0


class Worker:
    """A process of its own. One question at a time."""

    def __init__(self, script: str, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker"],
            env=os.environ | dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, **question: Any) -> None:
        print(json.dumps(question), file=self.process.stdin, flush=True)

    def hear(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker {self.process.pid} ended: see its stderr")
        return json.loads(line)

    def ask(self, **question: Any) -> Any:
        self.tell(**question)
        return self.hear()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(ENDS_WITHIN)

    def close(self) -> None:
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextmanager
def fleet(
    script: str, size: int, environ: Mapping[str, str]
) -> Iterator[Sequence[Worker]]:
    """Run so many workers until the end of the block."""
    with ExitStack() as stack:
        workers = []
        for _ in range(size):
            workers.append(Worker(script, environ))
            stack.callback(workers[-1].close)
        yield workers
        # All at the same time: none has to wait for one that is gone.
        for worker in workers:
            worker.process.stdin.close()


def ask_all(workers: Sequence[Worker], **question: Any) -> list[Any]:
    """Put one question to all, who work on it at the same time."""
    for worker in workers:
        worker.tell(**question)
    return [worker.hear() for worker in workers]


class Answering(Protocol):
    """What a worker is: a node, and answers."""

    node: meshcache.Node

    def __call__(self, **question: Any) -> Any: ...


def serve(make: Callable[[], Answering]) -> None:
    """In a worker: answer until nobody asks any more."""
    answering = make()
    try:
        for line in sys.stdin:
            print(json.dumps(answering(**json.loads(line))), flush=True)
    finally:
        answering.node.stop()
