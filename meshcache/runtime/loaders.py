"""Running the application's loaders for other nodes: a bounded pool, and its loops.

A plain loader runs on one of a few daemon threads, never on the I/O thread. An
`async def` loader runs as a task on the application's own loop, the one that the
function was last used on; without such a loop it cannot run here and the asker loads
for itself. The engine asks for no more runs at once than `loader_threads`, so nothing
queues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

from meshcache.codec.messages import LoaderName
from meshcache.config import Config
from meshcache.engine.effects import RunLoader
from meshcache.engine.ops import Register, RunEnded
from meshcache.runtime.chain import loading
from meshcache.runtime.failures import failure_of
from meshcache.runtime.threads import start_thread

if TYPE_CHECKING:
    import asyncio

__all__ = ["CannotRun", "Loaded", "Loader", "Loaders"]

_log = logging.getLogger("meshcache.loaders")


class CannotRun(Exception):
    """A loader cannot make out the arguments of a call; nothing was run.

    Whoever asked loads for itself.
    """


class Loaded(NamedTuple):
    """What a loader brought, encoded, and how long to keep it (0: not at all)."""

    value: bytes
    ttl_ms: int


class Loader(Protocol):
    """A function that can be run for another node, by name and version."""

    @property
    def loader_name(self) -> LoaderName:
        """The name and version under which it is announced."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop to run on; None for a plain function, or where there is none."""

    @property
    def is_async(self) -> bool:
        """Whether it is `async def`."""

    def load(self, key: bytes, args: bytes) -> Loaded:
        """Run a plain loader with what *args*, or else *key*, encodes."""

    def aload(self, key: bytes, args: bytes) -> Coroutine[Any, Any, Loaded]:
        """Run an `async def` loader likewise."""


@final
class Loaders:
    """The loaders of one node and the threads they run on for others.

    `register` is thread-safe; `run` is confined to the driver thread.

    Args:
        config: how many threads there will be at most, each started when first
            needed, and after how long a task is cancelled. A thread cannot be; its
            place is lost until its loader returns.
        ended: takes the end of each run, from any thread.
    """

    def __init__(self, config: Config, ended: Callable[[RunEnded], None]) -> None:
        self._by_name: dict[LoaderName, Loader] = {}
        self._jobs: SimpleQueue[tuple[Loader, RunLoader] | None] = SimpleQueue()
        self._threads = config.loader_threads
        self._most = config.max_loaders
        self._started = 0
        # A loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._timeout = config.load_timeout
        self._ended = ended

    def register(self, loader: Loader) -> Register:
        """Add, or replace, a loader; return what the engine must know of them all.

        Beyond the limit a loader is left out, and its calls load where they are made.
        """
        name = loader.loader_name
        if name in self._by_name or len(self._by_name) < self._most:
            self._by_name[name] = loader
        else:
            _log.warning(
                "%s is over max_loaders=%d: it is not shared", name, self._most
            )
        tasks = (name for name, known in self._by_name.items() if known.is_async)
        return Register(tuple(sorted(self._by_name)), frozenset(tasks))

    def run(self, effect: RunLoader) -> None:
        """Start a run. Its end is told, also when it cannot be started."""
        name = LoaderName(effect.loader, effect.loader_version)
        loader = self._by_name.get(name)
        if loader is None:
            self._ended(_unable(effect))
        elif loader.is_async:
            self._run_task(loader, effect)
        else:
            self._run_thread(loader, effect)

    def close(self) -> None:
        """Let idle threads end. Busy ones end with their loader, or the process."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _run_thread(self, loader: Loader, effect: RunLoader) -> None:
        if self._started < self._threads:
            self._started += 1
            start_thread(f"loader-{self._started}", self._work)
        self._jobs.put((loader, effect))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loader, effect = job
            try:
                with loading(effect.chain):
                    ended = _brought(effect, loader.load(effect.key, effect.args))
            except CannotRun:
                _log.debug("%s: the arguments of a call cannot be read", effect.loader)
                ended = _unable(effect)
            except BaseException as error:  # noqa: BLE001 - it goes to every waiter
                ended = _raised(effect, error)
            self._ended(ended)

    def _run_task(self, loader: Loader, effect: RunLoader) -> None:
        loop = loader.loop
        if loop is None or loop.is_closed() or not loop.is_running():
            self._ended(_unable(effect))
            return
        try:
            loop.call_soon_threadsafe(self._start_task, loop, loader, effect)
        except RuntimeError:
            _log.debug("the loop of %s was closed", effect.loader)
            self._ended(_unable(effect))

    def _start_task(
        self, loop: asyncio.AbstractEventLoop, loader: Loader, effect: RunLoader
    ) -> None:
        task = loop.create_task(self._task(loader, effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _task(self, loader: Loader, effect: RunLoader) -> None:
        import asyncio  # noqa: PLC0415 - only tasks need it

        ended = _unable(effect)
        try:
            with loading(effect.chain):
                async with asyncio.timeout(self._timeout):
                    loaded = await loader.aload(effect.key, effect.args)
            ended = _brought(effect, loaded)
        except CannotRun:
            _log.debug("%s: the arguments of a call cannot be read", effect.loader)
        except asyncio.CancelledError:
            # The loop is going down: whoever waits shall load for itself.
            raise
        except BaseException as error:  # noqa: BLE001 - it goes to every waiter
            ended = _raised(effect, error)
        finally:
            self._ended(ended)


def _unable(effect: RunLoader) -> RunEnded:
    return RunEnded(effect.flight, None, 0, None)


def _brought(effect: RunLoader, loaded: Loaded) -> RunEnded:
    return RunEnded(effect.flight, loaded.value, loaded.ttl_ms, None)


def _raised(effect: RunLoader, error: BaseException) -> RunEnded:
    return RunEnded(effect.flight, None, 0, failure_of(error))
