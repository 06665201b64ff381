"""Loads that nobody waits for: how many there are, where they run, what ends them."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextvars import ContextVar, copy_context

import pytest

from meshcache.config import Config
from meshcache.runtime.background import Background
from meshcache.testing import time_travel

PATIENCE = 10.0
PAUSE = 1.0

place = ContextVar("place", default="outside")


@pytest.fixture
def time():
    with time_travel() as moving:
        yield moving


@pytest.fixture
def make():
    """Make one for a test, at whose end its threads are let go."""
    made = []

    def background(**settings):
        wanted = {"refresh_pause": PAUSE, "loader_threads": 4} | settings
        made.append(Background(Config(cluster="behind", **wanted)))
        return made[-1]

    yield background
    for each in made:
        each.close()


@pytest.fixture
def hold():
    """What jobs wait for; it is over at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def ended(future):
    """Return what a job returned or raised."""
    assert future is not None
    error = future.exception(PATIENCE)
    return future.result() if error is None else error


def broken():
    raise OSError("down")


# --- how many ---------------------------------------------------------------------


def test_a_key_is_loaded_once_at_a_time_and_all_have_its_end(make, hold):
    background = make()
    first = background.start(b"k", lambda: hold.wait(PATIENCE) and "first")
    second = background.start(b"k", lambda: "second")
    hold.set()

    assert "first" == ended(first)
    assert first is second
    assert "third" == ended(background.start(b"k", lambda: "third"))
    assert 2 == background.stats()["started"]


def test_what_finds_no_room_is_refused_and_not_queued(make, hold):
    background = make(max_refreshes=2)
    flying = [background.start(k, lambda: hold.wait(PATIENCE)) for k in (b"a", b"b")]

    assert None is background.start(b"c", lambda: "c")
    assert {"started": 2, "failed": 0, "refused": 1, "flying": 2} == background.stats()
    hold.set()
    assert [True, True] == [ended(future) for future in flying]
    assert "c" == ended(background.start(b"c", lambda: "c"))


def test_there_are_no_more_threads_than_are_set(make, hold):
    background, before = make(loader_threads=2), set(threading.enumerate())
    flying = [
        background.start(k, lambda: hold.wait(PATIENCE)) for k in (b"a", b"b", b"c")
    ]
    started = set(threading.enumerate()) - before
    hold.set()

    assert [True] * 3 == [ended(future) for future in flying]
    assert 2 == len(started)


def test_a_thread_that_is_idle_is_used_again(make, until):
    background, seen = make(), set()
    for key in (b"a", b"b", b"c"):
        ended(background.start(key, lambda: seen.add(threading.get_ident())))
        until(lambda: background._idle)

    assert 1 == len(seen)


def test_after_its_end_it_is_under_way_no_more(make, hold):
    """Whoever hears of the end may begin anew at once."""
    background, seen = make(), []
    for key, job in ((b"a", lambda: 1), (b"b", broken)):
        hold.clear()
        waits = threading.Event()
        future = background.start(key, lambda job=job: hold.wait(PATIENCE) and job())
        future.add_done_callback(
            lambda _, w=waits: (seen.append(background.stats()["flying"]), w.set())
        )
        hold.set()
        waits.wait(PATIENCE)

    assert [0, 0] == seen


def test_it_runs_in_the_context_of_who_asked(make):
    background, here = make(), copy_context()
    here.run(place.set, "inside")

    assert "inside" == ended(here.run(background.start, b"k", place.get))


def test_once_closed_it_starts_nothing(make):
    background = make()
    ended(background.start(b"k", lambda: 1))
    background.close()

    assert None is background.start(b"k", lambda: 2)


# --- failures ---------------------------------------------------------------------


def test_after_a_failure_its_key_rests_and_no_other(make, time):
    background = make()

    assert isinstance(ended(background.start(b"k", broken)), OSError)
    assert background.rests(b"k")
    assert not background.rests(b"other")
    assert None is background.start(b"k", lambda: 1)
    assert {"started": 1, "failed": 1, "refused": 0, "flying": 0} == background.stats()
    time.advance(PAUSE)
    assert not background.rests(b"k")
    assert 1 == ended(background.start(b"k", lambda: 1))


def test_a_key_whose_load_failed_elsewhere_rests_too(make):
    background = make()
    background.failed(b"k")

    assert None is background.start(b"k", lambda: 1)
    assert 0 == background.stats()["failed"]


def test_what_is_no_error_says_nothing_of_the_loader(make):
    background = make()

    def leaves():
        raise SystemExit

    assert isinstance(ended(background.start(b"k", leaves)), SystemExit)
    assert 0 == background.stats()["failed"]
    assert 1 == ended(background.start(b"k", lambda: 1))


def test_what_rests_is_bounded(make):
    """With as many failures as there may be loads, all are tried again."""
    background = make(max_refreshes=2)
    for key in (b"a", b"b", b"c"):
        background.failed(key)

    assert [False, False, True] == [background.rests(key) for key in (b"a", b"b", b"c")]


# --- tasks ------------------------------------------------------------------------


def test_a_task_lives_although_nobody_holds_it(make, runner):
    background, gone = make(), []

    async def job():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            gone.append("task")

    async def main():
        assert None is not background.start_task(b"k", job)
        await asyncio.sleep(0)
        gc.collect()
        return list(gone)

    assert [] == runner.run(main())


def test_a_cancelled_task_is_cancelled_and_no_failure(make, runner):
    background = make()

    async def job():
        await asyncio.get_running_loop().create_future()

    async def main():
        future = background.start_task(b"k", job)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), future.done(), background.rests(b"k")

    assert (True, True, False) == runner.run(main())
    assert {"started": 1, "failed": 0, "refused": 0, "flying": 0} == background.stats()
