"""What every test may use: clusters that nobody else is in, and nodes that end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings

import meshcache
from meshcache.runtime.threads import STACK_NAME

PATIENCE = 10.0
"""Seconds until `until` gives up. Nothing takes long; a loaded machine may."""

# Two busy cores make any deadline a coin toss. A failure prints how to replay it; in
# CI the same examples are tried every time, so that a red build is about the change.
settings.register_profile("local", deadline=None, print_blob=True)
# Fewer of them, so that the whole ends in time: a session at a desk tries the rest.
settings.register_profile(
    "ci", settings.get_profile("local"), derandomize=True, max_examples=40
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


_standing: set[threading.Thread] = set()


def _our_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith(f"{STACK_NAME}-")}


@contextmanager
def _standing_nodes() -> Iterator[None]:
    """Let the nodes that were started before the body live on after a test."""
    _standing.update(_our_threads())
    yield
    _standing.clear()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread of meshcache behind.

    A standing node starts the threads of its loaders during some test, so that those
    are not looked at while there is one.
    """
    before = _our_threads()
    yield
    left = _our_threads() - before - _standing
    if _standing:
        left = {t for t in left if not t.name.startswith(f"{STACK_NAME}-loader")}
    for thread in left:
        thread.join(PATIENCE / 2)
    names = sorted(t.name for t in left if t.is_alive())
    assert not names, f"threads are left: {names}"


def wait_until(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until *holds* returns something true; fail if it never does."""
    pause, end = threading.Event(), monotonic() + patience
    while not holds():
        assert monotonic() < end, f"still not so after {patience} s"
        pause.wait(0.001)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    return wait_until


def new_cluster() -> str:
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def cluster() -> str:
    """The name of a cluster that no other test is in."""
    return new_cluster()


@pytest.fixture
def make_node(tmp_path, cluster) -> Iterator[Callable[..., meshcache.Node]]:
    """Start nodes of one cluster, each with its own settings."""
    with ExitStack() as stack:

        def make(**settings: Any) -> meshcache.Node:
            wanted = {"cluster": cluster, "runtime_dir": tmp_path} | settings
            return stack.enter_context(meshcache.Node(**wanted))

        yield make


@pytest.fixture
def node(make_node) -> meshcache.Node:
    """One node, alone in its cluster."""
    return make_node()


@pytest.fixture
def make_pair(make_node) -> Callable[..., tuple[meshcache.Node, meshcache.Node]]:
    """Start two nodes that agree on the table, with the same settings."""

    def make(**settings: Any) -> tuple[meshcache.Node, meshcache.Node]:
        one, two = make_node(**settings), make_node(**settings)
        return one.wait_ready(peers=1), two.wait_ready(peers=1)

    return make


@pytest.fixture(scope="module")
def make_standing(tmp_path_factory) -> Iterator[Callable[..., tuple[Any, ...]]]:
    """Start a cluster for a whole module, a node for each of the given settings.

    A farewell among two takes half a second. Tests keep apart by the names of their
    caches, and do not stop these.
    """
    with ExitStack() as stack:

        def make(*settings: dict[str, Any]) -> tuple[Any, ...]:
            place, cluster = tmp_path_factory.mktemp("standing"), new_cluster()
            nodes = tuple(
                meshcache.Node(cluster=cluster, runtime_dir=place, **chosen)
                for chosen in settings
            )
            for node in nodes:
                stack.enter_context(node)
            for node in nodes:
                node.wait_ready(peers=len(nodes) - 1)
            stack.enter_context(_standing_nodes())
            return nodes

        yield make


@pytest.fixture(scope="module")
def pair(make_standing) -> tuple[meshcache.Node, meshcache.Node]:
    """Two joined nodes for a whole module."""
    return make_standing({}, {})


@pytest.fixture(scope="module")
def solo(make_standing) -> meshcache.Node:
    """One node for a whole module."""
    return make_standing({})[0]


@pytest.fixture
def name() -> str:
    """The name of a cache, or of a function, that no other test uses."""
    return f"c{uuid4().hex[:8]}"


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for a test that is itself no coroutine."""
    with asyncio.Runner() as loop:
        yield loop


def key_owned_by(owner: meshcache.Node, cache: str, start: int = 0) -> int:
    """Return the first number from *start* that *owner* owns as a key of *cache*."""
    for key in range(start, start + 1000):
        member = owner.owner(cache, key)
        if member is not None and member.node_id == owner.me.node_id:
            return key
    raise AssertionError(f"{owner!r} owns nothing")


@pytest.fixture(scope="session")
def owned_by() -> Callable[..., int]:
    return key_owned_by


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run *work* on *count* threads at once; return what each returned or raised."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def body(index: int) -> None:
        start.wait(PATIENCE)
        try:
            results[index] = work(index)
        except Exception as error:  # noqa: BLE001 - it is what came of it
            results[index] = error

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.fixture(scope="session", name="together")
def together_fixture() -> Callable[..., list[Any]]:
    return together


class Face:
    """Calls an operation as its users do: plainly, or by its async twin."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self.runner = runner

    def __call__(self, thing: Any, operation: str, *args: Any, **kwargs: Any) -> Any:
        if self.runner is not None:
            return self.runner.run(self._awaited(thing, operation, args, kwargs))
        if operation == "contains":
            return args[0] in thing
        return getattr(thing, operation)(*args, **kwargs)

    @staticmethod
    async def _awaited(
        thing: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return await getattr(thing, f"a{operation}")(*args, **kwargs)


@pytest.fixture(params=["sync", "async"])
def do(request) -> Face:
    """An operation of a cache, sync and async: `do(cache, "get", key)`."""
    is_async = request.param == "async"
    return Face(request.getfixturevalue("runner") if is_async else None)
