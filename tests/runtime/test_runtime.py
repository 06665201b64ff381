"""A node that cannot start, or does not end: what it leaves behind."""

from __future__ import annotations

import threading

import pytest

from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.runtime import runtime
from meshcache.runtime.runtime import Runtime


@pytest.fixture
def config(cluster, tmp_path):
    return Config(
        cluster=cluster, runtime_dir=tmp_path, arena_dir=tmp_path, max_bytes="1MB"
    )


def arenas(place):
    return list(place.rglob("*.arena*"))


def io_threads():
    return [t for t in threading.enumerate() if t.name == "meshcache-io"]


def test_a_runtime_that_starts_has_an_arena_and_one_that_stops_has_none(
    config, tmp_path
):
    running = Runtime(config, lambda _: None)
    assert 1 == len(arenas(tmp_path))

    assert running.stop(1.0)
    assert [] == arenas(tmp_path)


def test_whose_arena_was_found_without_its_owner_is_told_for_dead(config, until):
    running = Runtime(config, lambda _: None)
    running._proved(b"d" * 16, 7)
    believed = running.engine.swim._belief._proofs
    until(lambda: believed)

    assert {b"d" * 16: 7} == believed
    assert running.stop(1.0)


def test_an_engine_that_cannot_be_made_leaves_nothing_behind(
    config, tmp_path, monkeypatch
):
    before = io_threads()
    made = []

    def broken(*_args, memory, **_kwargs):
        made.append((memory, arenas(tmp_path)))
        raise ZeroDivisionError

    monkeypatch.setattr(runtime, "Engine", broken)
    with pytest.raises(ZeroDivisionError):
        Runtime(config, lambda _: None)

    ((memory, files),) = made
    assert 1 == len(files)
    assert memory is not None
    assert [] == arenas(tmp_path)
    for thread in set(io_threads()) - set(before):
        thread.join(5)


def test_a_start_that_takes_too_long_is_undone_when_it_is_done(
    config, tmp_path, monkeypatch, until
):
    goes_on = threading.Event()
    engine = runtime.Engine

    def slow(*args, **kwargs):
        goes_on.wait(10)
        return engine(*args, **kwargs)

    monkeypatch.setattr(runtime, "Engine", slow)
    monkeypatch.setattr(runtime, "START_TIMEOUT", 0.01)
    with pytest.raises(ConfigError, match="in time"):
        Runtime(config, lambda _: None)
    assert 1 == len(arenas(tmp_path))

    goes_on.set()
    until(lambda: not arenas(tmp_path))


def test_an_arena_stays_while_its_thread_has_not_ended(config, tmp_path, monkeypatch):
    running = Runtime(config, lambda _: None)
    join = running._join
    monkeypatch.setattr(running, "_join", lambda _timeout: False)
    assert not running.stop(0.1)
    assert 1 == len(arenas(tmp_path))

    monkeypatch.setattr(running, "_join", join)
    assert running.stop(0.1)
    assert [] == arenas(tmp_path)
