"""The default node: one for the process, made when it is first needed."""

from __future__ import annotations

import pytest

import meshcache
from meshcache import Cache, ConfigError, NodeState
from meshcache.default import _default


@pytest.fixture(autouse=True)
def environment(monkeypatch, cluster, tmp_path):
    """Settings for whatever default node a test brings about, and its end."""
    monkeypatch.setenv("MESHCACHE_CLUSTER", cluster)
    monkeypatch.setenv("MESHCACHE_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(_default, "loaders", {})
    assert None is _default.node
    yield
    meshcache.stop()


def test_the_first_use_makes_it_from_the_environment(cluster):
    cache = Cache("c")

    assert None is _default.node

    cache.set("k", 1)

    assert cluster == meshcache.node().config.cluster
    assert cache.node is meshcache.node()
    assert NodeState.RUNNING is meshcache.node().state


def test_asking_for_it_makes_it_and_does_not_start_it():
    assert NodeState.NEW is meshcache.node().state
    assert meshcache.node() is meshcache.node()


def test_starting_again_with_the_same_settings_is_the_same_node(monkeypatch):
    monkeypatch.setenv("MESHCACHE_MAX_BYTES", "1GB")
    settings = {"near_entries": 5000, "max_value_bytes": "100MB", "near_ttl": "20s"}
    node = meshcache.start(**settings)

    assert node is meshcache.start(**settings)
    assert node is meshcache.start(max_value_bytes=100_000_000, near_ttl=20)
    assert node is meshcache.start()
    assert node is meshcache.start(preset="host")


def test_a_setting_is_compared_among_those_in_force():
    node = meshcache.start(max_bytes="1GB", max_value_bytes="100MB")

    assert node is meshcache.start(max_value_bytes="100MB")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near_entries": 6000}, "near_entries=6000: .* already has 5000"),
        ({"cluster": "another"}, "cluster='another'"),
        ({"near_entry": 5000}, "no such setting"),
        ({"preset": "lan"}, "bind=.* already has|data_port=.* already|reconnect_max"),
        ({"preset": "moon"}, "preset"),
    ],
)
def test_settings_that_are_not_in_force_are_refused(settings, message):
    node = meshcache.start(near_entries=5000, secret="a secret of some length")

    with pytest.raises(ConfigError, match=message):
        meshcache.start(**settings)

    assert node is meshcache.node()
    assert 5000 == node.config.near_entries


def test_a_preset_may_be_named_again():
    settings = {"preset": "lan", "bind": "127.0.0.1:0", "data_port": 0}
    node = meshcache.start(**settings)

    assert node is meshcache.start(**settings)


def test_a_bad_setting_makes_no_node():
    with pytest.raises(ConfigError):
        meshcache.start(near_entries=-1)

    assert None is _default.node


def test_after_a_stop_the_next_use_makes_another():
    cache = Cache("c")
    cache.set("k", 1)
    first = meshcache.node()
    meshcache.stop()
    meshcache.stop()

    assert NodeState.STOPPED is first.state
    assert None is cache.get("k")
    assert first is not meshcache.node()
    cache.set("k", 2)
    assert 2 == cache.get("k")


def test_functions_are_shared_by_whatever_default_node_there_is():
    @meshcache.memoize(name="before")
    def before(n):
        return n

    node = meshcache.start()

    @meshcache.memoize(name="after")
    def after(n):
        return n

    assert 2 == len(node._loaders)
    assert [1, 1, 2, 2] == [before(1), before(1), after(2), after(2)]
    meshcache.stop()
    assert 2 == len(meshcache.start()._loaders)
    assert 1 == before(1)


def test_the_default_cache_is_named_memoize():
    @meshcache.memoize(name="f")
    def function(n):
        return n

    assert function.key_for(1).startswith(b"memoize|f|1\0")


def test_threads_that_come_first_get_one_node(together):
    nodes = together(8, lambda _: meshcache.start())

    assert 1 == len(set(map(id, nodes)))
