"""Real processes for the tests that need them: started, spoken to, always ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

AGENT = Path(__file__).parent / "agent.py"


class Agent:
    """One child process with a node in it; see agent.py for what it can do."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(AGENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        self.pid = self.process.pid
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def tell(self, action: str, *args: Any, **kwargs: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([action, args, kwargs]) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = 30.0) -> Any:
        line = self._answers.get(timeout=timeout)
        assert line, f"agent {self.pid} ended with {self.process.poll()}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def ask(self, action: str, *args: Any, **kwargs: Any) -> Any:
        self.tell(action, *args, **kwargs)
        return self.answer()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def end(self) -> int:
        """Close its stdin, so that it exits by itself, and return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(10)


class Agents:
    """The children of one test, and the log of all loads they ran."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "loads"
        self.log.touch()
        self.cluster = f"test-{uuid.uuid4().hex[:12]}"
        self._environ = {
            **os.environ,
            "AGENT_LOG": str(self.log),
            "MESHCACHE_CLUSTER": self.cluster,
            "MESHCACHE_RUNTIME_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.all: list[Agent] = []

    def spawn(self, count: int = 1) -> list[Agent]:
        spawned = [Agent(self._environ) for _ in range(count)]
        self.all += spawned
        return spawned

    def start(self, count: int, **settings: Any) -> list[Agent]:
        """Spawn agents, start their nodes and wait until they agree on one table."""
        spawned = self.spawn(count)
        for agent in spawned:
            agent.tell("start", **settings)
        for agent in spawned:
            agent.answer()
        self.agree(spawned)
        return spawned

    def agree(self, agents: list[Agent], within: float = 10.0) -> float:
        """Wait until all have the same table of just them; return how long it took."""
        began = time.perf_counter()
        while True:
            about = [agent.ask("about") for agent in agents]
            ids = sorted(a["node_id"] for a in about)
            took = time.perf_counter() - began
            if len({a["epoch"] for a in about}) == 1 and all(
                a["alive"] == ids and a["ready"] for a in about
            ):
                return took
            assert took < within, about
            time.sleep(0.02)

    def loads(self) -> Counter[str]:
        """Return how often the loader ran for each key."""
        return Counter(line.split()[1] for line in self.log.read_text().splitlines())

    def close(self) -> None:
        for agent in self.all:
            if agent.process.poll() is None:
                agent.process.kill()
            agent.process.wait(10)
            for pipe in (agent.process.stdin, agent.process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    found = Agents(tmp_path)
    yield found
    found.close()


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Ask again and again, for a bounded time, until the answer is true."""

    def ask(question: Callable[[], Any], within: float = 10.0) -> Any:
        end = time.monotonic() + within
        while not (answer := question()):
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.02)
        return answer

    return ask
