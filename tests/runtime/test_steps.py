"""The two ways to run an operation, which cannot differ."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading

import pytest

from meshcache.errors import LoadTimeout
from meshcache.runtime.chain import current
from meshcache.runtime.steps import RunHere, arun, run

place = contextvars.ContextVar("place", default="outside")


@pytest.fixture(params=["sync", "async"])
def perform(request, runner):
    """Run steps, without a node, either way."""
    if request.param == "sync":
        return functools.partial(run, None)
    return lambda steps: runner.run(arun(None, steps))


def steps_of(*loaders, timeout=10.0):
    """Run the loaders one after the other and return what came of each."""
    results = []
    for loader in loaders:
        try:
            results.append((yield RunHere(loader, (7,), timeout)))
        except Exception as error:  # noqa: BLE001 - it is what came of it
            results.append(error)
    return results


def test_an_operation_is_sent_what_its_steps_bring(perform):
    assert [1, None, []] == perform(steps_of(lambda: 1, lambda: None, list))


def test_an_operation_that_takes_no_step_has_its_result(perform):
    assert [] == perform(steps_of())


def test_an_operation_hears_of_an_error_and_may_go_on(perform):
    def broken():
        raise error

    error = KeyError("k")

    assert [error, 2] == perform(steps_of(broken, lambda: 2))


def test_an_error_of_the_operation_itself_goes_to_its_caller(perform):
    def steps():
        yield RunHere(int, (), 1.0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        perform(steps())


def test_a_loader_knows_that_it_is_one_and_has_the_caller_s_context(perform):
    place.set("inside")

    assert [((7,), "inside")] == perform(steps_of(lambda: (current(), place.get())))
    assert () == current()


@pytest.mark.parametrize("chained", [StopIteration(3), StopIteration()])
def test_a_stop_iteration_of_a_loader_s_is_no_end_of_the_operation(chained):
    def broken():
        raise chained

    def steps():
        yield RunHere(broken, (), 1.0)

    with pytest.raises(StopIteration) as caught:
        run(None, steps())
    assert chained is caught.value
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        asyncio.run(arun(None, steps()))


def test_a_runtime_error_that_a_loader_s_own_generator_made_stays_one():
    def generator():
        yield next(iter(()))

    def steps():
        yield RunHere(lambda: list(generator()), (), 1.0)

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        run(None, steps())


async def later():
    return "later"


def hidden():
    return later()


@pytest.mark.parametrize("loader", [later, functools.partial(later), hidden])
def test_an_async_loader_is_awaited_or_refused(loader):
    assert ["later"] == asyncio.run(arun(None, steps_of(loader)))
    [error] = run(None, steps_of(loader))
    assert isinstance(error, TypeError)
    assert "a-prefixed twin" in str(error)


def test_a_future_that_a_plain_caller_s_loader_returns_is_refused_too():
    loop = asyncio.new_event_loop()
    [error] = run(None, steps_of(loop.create_future))
    loop.close()

    assert isinstance(error, TypeError)


def test_a_coroutine_function_is_called_on_the_loop_and_a_plain_one_is_not():
    async def on_loop():
        return threading.get_ident()

    loaders = (on_loop, functools.partial(on_loop), threading.get_ident)
    one, two, other = asyncio.run(arun(None, steps_of(*loaders)))

    assert threading.get_ident() == one == two
    assert threading.get_ident() != other


def test_a_coroutine_out_of_time_is_cancelled_and_named():
    async def endless():
        await asyncio.Event().wait()

    [error] = asyncio.run(arun(None, steps_of(endless, timeout=0.01)))

    assert isinstance(error, LoadTimeout)
    assert "endless" in str(error)


def test_a_cancelled_task_has_its_operation_clean_up():
    cleaned = []

    def steps():
        try:
            yield RunHere(asyncio.Event().wait, (), 10.0)
        except BaseException as error:
            cleaned.append(type(error))
            raise

    async def main():
        task = asyncio.create_task(arun(None, steps()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert [asyncio.CancelledError] == cleaned
