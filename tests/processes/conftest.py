"""Real processes for the tests that need them: started, spoken to, always ended."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

AGENT = Path(__file__).parent / "agent.py"


class Agent:
    """One child process with a node in it; see agent.py for what it can do."""

    def __init__(self, environ: dict[str, str], prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(AGENT)],
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

    def _await_stop(self) -> None:
        """Wait until no thread runs any more: a signal takes its time to reach all."""
        tasks = Path(f"/proc/{self.pid}/task")
        end = time.monotonic() + 5
        while tasks.exists() and time.monotonic() < end:
            stats = [task.joinpath("stat").read_text() for task in tasks.iterdir()]
            # The state follows the name, which stands in brackets.
            if all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats):
                return
            time.sleep(0.001)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Have the whole process stand still for as long as the body takes."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            self._await_stop()
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

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

    def spawn(self, count: int = 1, prefix: Sequence[str] = ()) -> list[Agent]:
        """Start processes, each by *prefix* if there is one: `ip netns exec x`, say."""
        spawned = [Agent(self._environ, prefix) for _ in range(count)]
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

    def watch(self, agents: list[Agent]) -> None:
        """Have *agents* write down what happens to members from now on."""
        for agent in agents:
            agent.ask("watch")

    def changes(self, agents: list[Agent], state: str) -> list[dict[str, Any]]:
        """Return the changes to *state* that *agents* have written down."""
        found = []
        for agent in agents:
            found += [{**c, "by": agent.pid} for c in agent.ask("changes")]
        return [change for change in found if change["is"] == state]

    def until_all_see(
        self, agents: list[Agent], state: str, node_id: str, within: float = 15.0
    ) -> int:
        """Wait until all *agents* have seen a member in *state*.

        Returns:
            when the last of them did, in wall-clock nanoseconds.
        """
        end = time.monotonic() + within
        while True:
            seen = [c for c in self.changes(agents, state) if c["of"] == node_id]
            if len({change["by"] for change in seen}) == len(agents):
                return max(change["at"] for change in seen)
            assert time.monotonic() < end, (state, seen)
            time.sleep(0.05)

    def agree(self, agents: list[Agent], within: float = 10.0) -> float:
        """Wait until all have the same table of just them; return how long it took."""
        began = time.perf_counter()
        while True:
            about = [agent.ask("about") for agent in agents]
            ids = sorted(a["node_id"] for a in about)
            took = time.perf_counter() - began
            if len({a["epoch"] for a in about}) == 1 and all(
                a["alive"] == a["living"] == ids and a["ready"] for a in about
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


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Children for a whole module; its tests keep apart by their keys."""
    found = Agents(tmp_path_factory.mktemp("standing"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Other children for a whole module, which the `standing` do not meet."""
    found = Agents(tmp_path_factory.mktemp("crowd"))
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


def beside(name: str) -> ModuleType:
    """Import a module of this folder, which is no package."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"processes_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def proxies() -> Iterator[Callable[[int], Any]]:
    """Make fault proxies in front of loopback ports; see proxy.py."""
    made: list[Any] = []
    proxy = beside("proxy").Proxy

    def make(target: int) -> Any:
        made.append(proxy(target))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make_network() -> Iterator[Callable[[int], Any]]:
    """Make a network of namespaces, or skip where that cannot be; see namespaces.py.

    Name it in a test before `agents`, so that its processes end before its hosts do.
    """
    namespaces = beside("namespaces")
    reason = namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(namespaces.Network(count))


@pytest.fixture(scope="module")
def free_port() -> Callable[[], int]:
    """A port of loopback that nobody listens on, nor is given who asks for any."""
    ports = random.sample(range(20_000, 30_000), 1000)

    def find() -> int:
        while True:
            port = ports.pop()
            with socket.socket() as listener, suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return port

    return find
