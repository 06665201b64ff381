"""Which keys the running code is loading."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from meshcache.runtime.chain import current, loading


def test_nothing_is_loading_outside_of_loaders():
    assert () == current()


def test_a_loader_is_inside_of_those_around_it():
    with loading((1, 2)):
        assert (1, 2) == current()
        with loading((*current(), 3)):
            assert (1, 2, 3) == current()
        assert (1, 2) == current()
    assert () == current()


def test_an_error_ends_the_load_too():
    with pytest.raises(KeyError), loading((1,)):
        raise KeyError

    assert () == current()


def test_what_a_loader_leaves_behind_is_inside_of_it_only_while_it_runs():
    with loading((1,)):
        left = contextvars.copy_context()
        with loading((1, 2)):
            deeper = contextvars.copy_context()
        assert (1,) == left.run(current)
        # The link of 1 that the inner load made is closed with it.
        assert () == deeper.run(current)

    assert () == left.run(current)


def test_the_chain_follows_tasks_and_threads():
    async def main():
        with loading((1,)):
            task = asyncio.create_task(asyncio.to_thread(current))
            return await task

    assert (1,) == asyncio.run(main())
    assert () == current()
