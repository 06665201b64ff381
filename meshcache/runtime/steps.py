"""One way to write an operation, two ways to run it.

An operation of the facade is a generator. It yields what it needs done, an operation
for the engine or a loader to run, and is sent what came of it. `run` does these steps
by waiting, `arun` by awaiting, and neither knows what the operation is about; so the
sync and the async face cannot differ.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from meshcache.engine.ops import Asked, Outcome
from meshcache.errors import LoadTimeout
from meshcache.runtime.chain import loading
from meshcache.runtime.runtime import Runtime
from meshcache.runtime.tickets import Ticket

if TYPE_CHECKING:
    import asyncio

__all__ = ["STILL", "Answer", "Behind", "RunHere", "Step", "Steps", "arun", "run"]

Result = TypeVar("Result")


class Answer(NamedTuple):
    """What came of an operation, and the ticket it was asked with."""

    ticket: Ticket
    outcome: Outcome


class RunHere(NamedTuple):
    """Run *loader* in the caller's own context, as the load of the chain's last key.

    An awaitable that takes longer than *timeout* seconds is cancelled; a plain
    function cannot be. The seconds that the caller has *waited* for its turn are taken
    off: its lease is over with its time.
    """

    loader: Callable[[], Any]
    chain: tuple[int, ...]
    timeout: float
    waited: float = 0.0


class Behind(NamedTuple):
    """Do *steps* as the refresh of *key*, and wait *patience* seconds for their end.

    Sent back: what they return; `STILL` if they have not ended by then, or were not
    begun because there is no room for them.
    """

    key: bytes
    steps: Callable[[], Generator[Any, Any, Any]]
    patience: float


STILL: Final = object()
"""What a `Behind` answers that has not ended."""

Step: TypeAlias = Asked | RunHere | Behind
Steps: TypeAlias = Generator[Step, Any, Result]


def run(runtime: Runtime | None, steps: Steps[Result]) -> Result:
    """Do *steps* on the calling thread.

    Raises:
        TypeError: a loader turned out to be asynchronous.
    """
    raised: BaseException | None = None
    try:
        step = next(steps)
        while True:
            try:
                answer = _do(runtime, step)
            except BaseException as error:  # noqa: BLE001 - the operation decides
                raised = error
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as done:
        result: Result = done.value
        return result
    except RuntimeError as error:
        # What a loader's StopIteration becomes on its way out of a generator (PEP 479).
        if isinstance(raised, StopIteration) and error.__cause__ is raised:
            raise raised from None
        raise


def _do(runtime: Runtime | None, step: Step) -> Any:
    if isinstance(step, RunHere):
        if iscoroutinefunction(step.loader):
            raise _is_async(step.loader)
        with loading(step.chain):
            value = step.loader()
        if isawaitable(value):
            if iscoroutine(value):
                value.close()
            raise _is_async(step.loader)
        return value
    assert runtime is not None
    if isinstance(step, Behind):
        return _behind(runtime, step)
    return Answer(*runtime.ask(step))


def _behind(runtime: Runtime, step: Behind) -> Any:
    ended = runtime.background.start(step.key, lambda: run(runtime, step.steps()))
    if ended is None or not step.patience:
        return STILL
    try:
        return ended.result(step.patience)
    except TimeoutError:
        if ended.done():
            raise
        return STILL


def _is_async(loader: Callable[[], Any]) -> TypeError:
    return TypeError(
        f"{loader!r} is async, and this call is not: await the a-prefixed twin of this "
        "call, or, to memoize it, write it as `async def`"
    )


async def arun(runtime: Runtime | None, steps: Steps[Result]) -> Result:
    """Do *steps* on the running loop."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await _ado(runtime, step)
            except BaseException as error:  # noqa: BLE001 - the operation decides
                step = steps.throw(error)
            else:
                step = steps.send(answer)
    except StopIteration as done:
        result: Result = done.value
        return result


async def _ado(runtime: Runtime | None, step: Step) -> Any:
    if isinstance(step, RunHere):
        with loading(step.chain):
            return await _load_within(step)
    assert runtime is not None
    if isinstance(step, Behind):
        return await _abehind(runtime, step)
    return Answer(*await runtime.aask(step))


async def _abehind(runtime: Runtime, step: Behind) -> Any:
    import asyncio  # noqa: PLC0415 - only tasks need it

    background = runtime.background
    ended = background.start_task(step.key, lambda: arun(runtime, step.steps()))
    if ended is None or not step.patience:
        return STILL
    # Not by `wait_for`: what is given up here goes on for others.
    waiting = asyncio.wrap_future(ended)
    waiting.add_done_callback(_seen)
    done, _ = await asyncio.wait([waiting], timeout=step.patience)
    return done.pop().result() if done else STILL


def _seen(waiting: asyncio.Future[object]) -> None:
    """Take note of an error that nobody waits for any more: it was told elsewhere."""
    if not waiting.cancelled():
        waiting.exception()


async def _load_within(step: RunHere) -> Any:
    import asyncio  # noqa: PLC0415 - only tasks need it

    try:
        async with asyncio.timeout(step.timeout - step.waited) as limit:
            return await _load(step.loader)
    except TimeoutError:
        if not limit.expired():
            raise
        raise LoadTimeout(
            "LoadTimeout",
            f"{step.loader!r} took longer than {step.timeout} s and was cancelled; "
            "raise load_timeout= if it needs so long",
        ) from None


async def _load(loader: Callable[[], Any]) -> Any:
    if iscoroutinefunction(loader):
        return await loader()
    import asyncio  # noqa: PLC0415 - only tasks need it

    # A plain function may block, so it does so elsewhere, in the caller's context.
    # What it returns may still be for us to await: `lambda: fetch(key)`.
    value = await asyncio.to_thread(_plainly, loader)
    if isawaitable(value):
        awaitable: Awaitable[Any] = value
        return await awaitable
    return value


def _plainly(loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except StopIteration as error:
        # No future takes this one: whoever awaits it would wait for ever.
        raise RuntimeError(f"{loader!r} raised StopIteration") from error
