"""Running loaders for other nodes: threads, tasks, and every way they can end."""

from __future__ import annotations

import asyncio
import threading
from queue import Queue

import pytest

from meshcache.codec.messages import LoaderName
from meshcache.config import Config
from meshcache.engine.effects import RunLoader
from meshcache.runtime.chain import current
from meshcache.runtime.loaders import CannotRun, Loaded, Loaders


class Fake:
    """A loader that does what it is told to."""

    def __init__(self, work, name="f", *, is_async=False, loop=None):
        self.loader_name = LoaderName(name, 1)
        self.is_async = is_async
        self.loop = loop
        self._work = work

    def load(self, key, args):
        return Loaded(self._work(key, args), 1000)

    async def aload(self, key, args):
        return Loaded(await self._work(key, args), 1000)


@pytest.fixture
def make():
    """Make loaders whose runs' ends arrive in a queue."""
    made = []

    def one(**settings):
        ends = Queue()
        loaders = Loaders(Config(**settings), ends.put)
        made.append(loaders)
        return loaders, lambda: ends.get(timeout=10)

    yield one
    for loaders in made:
        loaders.close()


def call(flight=1, name="f", version=1):
    return RunLoader(flight, name, version, b"key", b"args", (5, 7))


def test_a_plain_loader_runs_on_a_thread_of_ours(make):
    loaders, ended = make()

    def work(key, args):
        assert (b"key", b"args", (5, 7)) == (key, args, current())
        return threading.current_thread().name.encode()

    loaders.register(Fake(work))
    loaders.run(call(flight=9))
    end = ended()

    assert (9, b"meshcache-loader-1", 1000, None) == end


def test_there_are_no_more_threads_than_allowed(make):
    loaders, ended = make(loader_threads=2)
    release, names = threading.Event(), set()

    def work(key, args):
        names.add(threading.current_thread().name)
        release.wait(10)
        return b""

    loaders.register(Fake(work))
    for flight in range(5):
        loaders.run(call(flight))
    release.set()

    assert set(range(5)) == {ended().flight for _ in range(5)}
    assert len(names) <= 2


@pytest.mark.parametrize("error", [KeyError("k"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_a_loader_raises_is_told_and_the_thread_goes_on(make, error):
    loaders, ended = make(loader_threads=1)

    def broken(key, args):
        raise error

    loaders.register(Fake(broken))
    loaders.register(Fake(lambda key, args: b"value", "g"))
    loaders.run(call())
    loaders.run(call(name="g"))
    failed, fine = ended(), ended()

    assert f"builtins:{type(error).__name__}" == failed.failure.type_name
    assert "in broken" in failed.failure.traceback
    assert b"value" == fine.value


@pytest.mark.parametrize(("name", "version"), [("unknown", 1), ("f", 2)])
def test_a_loader_that_is_not_here_cannot_be_run(make, name, version):
    loaders, ended = make()
    loaders.register(Fake(lambda key, args: b""))
    loaders.run(call(name=name, version=version))

    assert (1, None, 0, None) == ended()


def test_arguments_that_cannot_be_read_leave_the_load_to_the_caller(make):
    loaders, ended = make()

    def work(key, args):
        raise CannotRun

    loaders.register(Fake(work))
    loaders.run(call())

    assert (1, None, 0, None) == ended()


def test_all_names_are_announced_in_order_and_the_tasks_apart(make):
    loaders, _ = make()
    loaders.register(Fake(None, "b"))
    loaders.register(Fake(None, "a", is_async=True))
    told = loaders.register(Fake(None, "b"))

    assert (("a", 1), ("b", 1)) == told.loaders
    assert frozenset({("a", 1)}) == told.tasks


def test_loaders_beyond_the_limit_are_left_out_with_a_warning(make, caplog):
    loaders, _ = make(max_loaders=2)
    for name in "abca":
        told = loaders.register(Fake(None, name))

    assert ["a", "b"] == [name for name, _ in told.loaders]
    assert "over max_loaders=2" in caplog.text


def test_an_async_loader_runs_on_the_loop_it_belongs_to(make):
    loaders, ended = make()

    async def work(key, args):
        await asyncio.sleep(0)
        assert (b"key", b"args", (5, 7)) == (key, args, current())
        return b"value"

    async def main():
        loop = asyncio.get_running_loop()
        loaders.register(Fake(work, is_async=True, loop=loop))
        loaders.run(call())
        return await asyncio.to_thread(ended)

    assert (1, b"value", 1000, None) == asyncio.run(main())


@pytest.mark.parametrize("loop", ["none", "closed", "idle"])
def test_without_a_running_loop_an_async_loader_cannot_be_run(make, loop):
    loaders, ended = make()
    own = None if loop == "none" else asyncio.new_event_loop()
    if loop == "closed":
        own.close()
    loaders.register(Fake(None, is_async=True, loop=own))
    loaders.run(call())

    assert (1, None, 0, None) == ended()
    if own is not None:
        own.close()


def test_a_task_that_fails_or_takes_too_long_is_told(make):
    loaders, ended = make(load_timeout="50ms", request_timeout="50ms")

    async def broken(key, args):
        raise KeyError("k")

    async def endless(key, args):
        await asyncio.Event().wait()

    async def main():
        loop = asyncio.get_running_loop()
        loaders.register(Fake(broken, is_async=True, loop=loop))
        loaders.register(Fake(endless, "g", is_async=True, loop=loop))
        loaders.run(call())
        loaders.run(call(name="g"))
        return [await asyncio.to_thread(ended) for _ in range(2)]

    names = [end.failure.type_name for end in asyncio.run(main())]

    assert ["builtins:KeyError", "builtins:TimeoutError"] == names


def test_a_loop_that_goes_down_leaves_the_load_to_the_caller(make):
    loaders, ended = make()
    begun = asyncio.Event()

    async def endless(key, args):
        begun.set()
        await asyncio.Event().wait()

    async def main():
        loop = asyncio.get_running_loop()
        loaders.register(Fake(endless, is_async=True, loop=loop))
        loaders.run(call())
        await begun.wait()

    asyncio.run(main())

    assert (1, None, 0, None) == ended()
