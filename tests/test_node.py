"""The life of a node, and what it tells about the cluster."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import pytest

import meshcache
from meshcache import Cache, ConfigError, Node, NodeClosed, NodeState, NotReady, State
from meshcache.placement.table import Table

PARTS = {
    "native",
    "state",
    "reads",
    "loads",
    "raised",
    "stale",
    "refreshes",
    "events",
    "store",
    "membership",
    "engine",
    "handover",
    "host_wire",
    "near",
    "transport",
}
TIERS = {"near", "host", "peer", "fill", "local", "miss"}


def our_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("meshcache-")}


# --- life ------------------------------------------------------------------------


def test_constructing_opens_nothing(cluster, tmp_path):
    before = our_threads()

    node = Node(cluster=cluster, runtime_dir=tmp_path / "later")
    cache = node.cache("c")
    cache.memoize(name="f")(lambda: 1)

    assert NodeState.NEW is node.state
    assert before == our_threads()
    assert not (tmp_path / "later").exists()
    assert repr(cluster) in repr(node)


def test_the_first_use_starts_it_and_stop_ends_it(cluster, tmp_path):
    before = our_threads()
    node = Node(cluster=cluster, runtime_dir=tmp_path)
    node.cache("c").set("k", 1)

    assert NodeState.RUNNING is node.state
    assert node.me.name in repr(node)

    node.stop()

    assert NodeState.STOPPED is node.state
    node.stop()
    assert before == our_threads()


def test_starting_again_is_the_same_node(node):
    me = node.me

    assert node is node.start()
    assert me == node.me


def test_a_node_that_was_stopped_comes_back_as_a_new_member(node):
    before = node.me
    node.stop()

    after = node.start().me

    assert before.node_id != after.node_id
    assert before.epoch < after.epoch


def test_only_one_thread_of_many_starts_it(cluster, tmp_path, together):
    node = Node(cluster=cluster, runtime_dir=tmp_path)
    names = together(8, lambda _: node.start().me.name)
    node.stop()

    assert 1 == len(set(names))


def test_a_bad_setting_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="near_entry"):
        Node(near_entry=5)


def test_a_node_that_cannot_listen_leaves_nothing_behind(cluster, tmp_path):
    before = our_threads()
    # An address of the documentation's, which no machine has (RFC 5737).
    node = Node(
        cluster=cluster, bind="192.0.2.1:0", insecure=True, runtime_dir=tmp_path
    )
    cache = node.cache("c")

    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        node.start()
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        cache.get("k")

    assert NodeState.NEW is node.state
    assert before == our_threads()


def test_a_stop_meanwhile_is_never_overlooked(node, together):
    cache = node.cache("c")

    def work(index):
        for n in range(100):
            if index:
                cache.get(n)
            elif n % 10 == 9:
                node.stop()
                node.start()

    together(4, work)
    cache.set("k", 1)

    assert cache.region.runtime is node._runtime
    assert 1 == cache.get("k")


def test_a_node_that_is_asked_while_stopped_says_so(node):
    node.stop()

    for ask in (node.members, node.table, node.wait_ready, lambda: node.me):
        with pytest.raises(NodeClosed, match="start it"):
            ask()
    assert not node.ready
    assert "stopped" == node.stats()["state"]


# --- the cluster -----------------------------------------------------------------


def test_a_node_alone_is_ready_and_owns_everything(node):
    node.wait_ready()

    assert node.ready
    assert [node.me] == node.members()
    assert node.me == node.owner("c", "anything")


def test_a_pair_agrees_on_members_and_owners(pair):
    one, two = pair
    names = {one.me.name, two.me.name}

    for node in pair:
        assert node.ready
        assert names == {m.name for m in node.members()}
        assert {State.ALIVE} == {m.state for m in node.members()}
        assert isinstance(node.table(), Table)
    owners = [one.owner("c", key) for key in range(50)]
    assert owners == [two.owner("c", key) for key in range(50)]
    assert names == {m.name for m in owners}


def test_waiting_for_peers_that_do_not_come_says_what_to_check(node):
    with pytest.raises(NotReady, match=r"0 of 3 peers.*share its name, and seeds=\(\)"):
        node.wait_ready(peers=3, timeout=0.05)

    with pytest.raises(TimeoutError):
        node.wait_ready(peers=1, timeout=0)


def test_nodes_of_other_clusters_are_not_met(node, tmp_path):
    with Node(cluster="another", runtime_dir=tmp_path) as other:
        other.wait_ready()

        assert [other.me] == other.members()


@pytest.mark.slow
def test_a_farewell_is_heard_and_its_keys_move(make_pair, until):
    one, two = make_pair()
    two.stop()

    until(lambda: len(one.table().members) == 1)
    until(lambda: one.ready)
    assert all(one.owner("c", key) == one.me for key in range(20))


def test_an_observer_is_a_member_that_owns_nothing(make_node):
    node, watcher = make_node(), make_node(observer=True)
    watcher.wait_ready(peers=1)
    watcher.cache("c").set_many({n: n for n in range(20)})

    assert all(watcher.owner("c", n).node_id == node.me.node_id for n in range(20))
    assert list(range(20)) == [node.cache("c").get(n) for n in range(20)]


# --- explain ---------------------------------------------------------------------


def test_explain_tells_where_a_key_is_and_how_old(pair, name, owned_by):
    one, two = pair
    for owner in (one, two):
        key = owned_by(owner, name)
        missing = one.explain(name, key)
        one.cache(name, ttl=100, jitter=0).set(key, "value")
        found = one.explain(name, key)

        assert (name, key, owner.me) == (found.cache, found.key, found.owner)
        assert "host" == found.tier
        assert 0 <= found.age < 5
        assert 95 < found.ttl <= 100
        assert found.version > 0
        assert 0 < found.bytes < 20
        assert ("fill", None, None, 0, 0) == (
            missing.tier,
            missing.age,
            missing.ttl,
            missing.version,
            missing.bytes,
        )
        assert missing.partition == found.partition < len(one.table().owners)


def test_explain_says_none_for_what_never_expires(node):
    node.cache("c", ttl=None).set("k", 1)

    assert None is node.explain("c", "k").ttl


# --- stats -----------------------------------------------------------------------


def test_stats_have_their_documented_parts(node):
    stats = node.stats()

    assert PARTS == set(stats)
    assert TIERS == set(stats["reads"])
    assert all(
        isinstance(n, int | dict | str)
        for part in PARTS - {"state"}
        for n in (
            stats[part].values() if isinstance(stats[part], dict) else [stats[part]]
        )
    )


def test_reads_are_counted_by_the_tier_that_answered(pair, name, owned_by):
    one, two = pair
    cache = one.cache(name)
    mine, theirs = owned_by(one, name), owned_by(two, name)
    before = one.stats()

    def broken():
        raise KeyError

    cache.get(mine)
    cache.get_or_load(mine, lambda: 1)
    cache.get(mine)
    cache.set(theirs, 2)
    cache.get(theirs)
    cache.get(theirs)
    with pytest.raises(KeyError):
        cache.get_or_load(owned_by(one, name, mine + 1), broken)

    after = one.stats()
    moved = {tier: after["reads"][tier] - before["reads"][tier] for tier in TIERS}
    assert {"near": 2, "host": 1, "peer": 0, "fill": 1, "local": 0, "miss": 1} == moved
    assert 2 == after["loads"] - before["loads"]
    assert 1 == after["raised"] - before["raised"]


def test_what_a_cache_has_counted_outlives_it(node):
    for n in range(20):
        node.cache("c").get(n)
    gc.collect()

    assert 20 == node.stats()["reads"]["miss"]
    assert 0 == len(node._tallies)
    assert 0 == len(node._attached)


def test_clearing_a_function_does_not_turn_the_counters_back(node):
    function = node.cache("c").memoize(name="f")(lambda: 1)
    function()
    function()
    function.cache_clear()

    assert {"near": 1, "fill": 1} == {
        tier: n for tier, n in node.stats()["reads"].items() if n
    }


def test_a_stopped_node_that_nobody_holds_is_collected(cluster, tmp_path):
    node = Node(cluster=cluster, runtime_dir=tmp_path)
    node.cache("c").set("k", 1)
    node.stop()
    gone = weakref.ref(node)
    del node
    gc.collect()

    assert None is gone()


# --- off -------------------------------------------------------------------------


@pytest.fixture
def off(monkeypatch, cluster, tmp_path) -> Node:
    monkeypatch.setenv("MESHCACHE_DISABLE", "1")
    return Node(cluster=cluster, runtime_dir=tmp_path)


def test_a_disabled_node_starts_nothing_and_is_ready(off):
    before = our_threads()
    with off as node:
        assert NodeState.DISABLED is node.state
        assert node is node.wait_ready(peers=3)
        assert node.ready
        assert [] == node.members()
        assert before == our_threads()
        assert "disabled" == node.stats()["state"]
        with pytest.raises(NodeClosed, match="unset MESHCACHE_DISABLE"):
            node.table()
    assert NodeState.DISABLED is off.state


def test_caches_that_are_off_are_empty_and_refuse_nothing(off, do):
    cache = off.cache("c")

    assert None is do(cache, "set", 1, "value")
    assert None is do(cache, "get", 1)
    assert do(cache, "add", 1, "value")
    assert not do(cache, "contains", 1)
    assert not do(cache, "touch", 1)
    assert not do(cache, "delete", 1)
    assert 7 == do(cache, "incr", 1, 2, initial=5)
    assert -1 == do(cache, "decr", 1)
    assert [] == do(cache, "set_many", {1: 2})
    assert {} == do(cache, "get_many", [1])
    assert 0 == do(cache, "delete_many", [1])
    assert None is do(cache, "clear")
    assert ["loaded", "loaded"] == [
        do(cache, "get_or_load", 1, lambda: "loaded") for _ in range(2)
    ]


def test_functions_run_every_time_where_caches_are_off(off):
    calls = []
    function = off.cache("c").memoize(name="f")(calls.append)

    for _ in range(3):
        function(1)
    function.set(5, 1)
    assert not function.invalidate(1)
    function.cache_clear()
    assert [1, 1, 1] == calls
    assert not function.peek(1)


# --- forks -----------------------------------------------------------------------


def in_a_child(work) -> bytes:
    """Run *work* in a forked child and return the bytes that it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    os.waitpid(pid, 0)
    return result


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
def test_a_forked_child_has_a_node_of_its_own_at_first_use(node):
    cache = node.cache("c")
    function = cache.memoize(name="f")(lambda n: n)
    cache.set("k", "parent's")
    function(1)
    cache.get("k")

    def child() -> bytes:
        state = node.state.value
        function(2)
        name = node.me.name
        node.stop()
        return f"{state} {name}".encode()

    state, name = in_a_child(child).decode().split()

    assert "new" == state
    assert node.me.name != name
    assert "parent's" == cache.get("k")


def test_many_nodes_may_live_in_one_process(make_node, cluster):
    nodes = [make_node(cluster=f"{cluster}-{n}") for n in range(3)]
    for n, node in enumerate(nodes):
        node.cache("c").set("k", n)

    assert [0, 1, 2] == [Cache("c", node=node).get("k") for node in nodes]
    assert all(isinstance(node, meshcache.Node) for node in nodes)
