"""The host wire between real processes: kills, stops, forks, interrupts, contention."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import meshcache

pytestmark = [pytest.mark.slow, pytest.mark.processes]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def join(agents, tmp_path) -> Iterator[Callable[..., tuple]]:
    """Start one agent, the owner, and a node here that knows it.

    Returns the agent, a cache on our node, and a key that is the agent's.
    """
    nodes = []

    def join(**settings) -> tuple:
        (owner,) = agents.start(1, **settings)
        node = meshcache.Node(
            cluster=agents.cluster, runtime_dir=tmp_path, near_entries=0, **settings
        )
        nodes.append(node)
        node.start().wait_ready(peers=1)
        cache = node.cache("agents", ttl=300)
        theirs = owner.ask("about")["node_id"]
        owners = ((k, node.owner("agents", k)) for k in range(1000))
        key = next(k for k, member in owners if member.node_id.hex() == theirs)
        cache.set(key, 0)
        assert 1 == wire(cache)["sent"]
        return owner, cache, key

    yield join
    for node in nodes:
        node.stop()


def wire(cache: meshcache.Cache) -> dict[str, int]:
    return cache.node.stats()["host_wire"]


def when_sent(cache: meshcache.Cache, act: Callable[[], None]) -> threading.Thread:
    """Do *act* as soon as one more write has gone out by the wire."""
    before = wire(cache)["sent"]

    def watch() -> None:
        end = time.monotonic() + 10
        while wire(cache)["sent"] == before and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.02)  # until it sleeps in the kernel
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_the_owners_death_ends_a_write_at_once_and_leaves_no_socket(
    join, eventually, tmp_path
):
    owner, cache, key = join(request_timeout=20, load_timeout=30)
    with owner.stopped():
        killing = when_sent(cache, owner.kill)
        began = time.monotonic()
        with pytest.raises(meshcache.PeerTimeout):
            cache.incr(key)
        took = time.monotonic() - began
        killing.join()

    assert 5 > took
    assert 1 == wire(cache)["lost"]
    assert eventually(lambda: 1 == len(list(tmp_path.rglob("*.sock"))))
    assert eventually(lambda: cache.node.owner("agents", key) == cache.node.me)
    cache.set(key, 1)


def test_a_later_start_removes_what_a_kill_has_left(agents, tmp_path):
    (killed,) = agents.start(1)
    killed.kill()
    left = list(tmp_path.rglob("*.sock"))
    agents.start(1)

    assert 1 == len(left)
    assert left != list(tmp_path.rglob("*.sock"))
    assert 1 == len(list(tmp_path.rglob("*.sock")))


def test_a_stopped_owner_costs_one_time_out_and_is_written_to_again_when_it_goes_on(
    join, eventually
):
    owner, cache, key = join()
    with owner.stopped():
        with pytest.raises(meshcache.PeerTimeout):
            cache.incr(key)
        began = time.monotonic()
        with pytest.raises(meshcache.PeerUnavailable):
            cache.incr(key)
        took = time.monotonic() - began
    sent = wire(cache)["sent"]

    assert 0.5 > took
    assert (2, 1) == (sent, wire(cache)["timeouts"])

    def counts() -> bool:
        try:
            cache.set(key, 5)
        except meshcache.PeerUnavailable:
            return False
        return wire(cache)["sent"] > sent

    assert eventually(counts)
    assert 6 == cache.incr(key)


def test_an_interrupt_ends_a_write_and_the_next_one_gets_its_own_answer(join):
    owner, cache, key = join(request_timeout=20, load_timeout=30)
    with owner.stopped():
        interrupting = when_sent(cache, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            cache.incr(key, 100)
        interrupting.join()

    # The interrupted one had been sent, and counts; its answer went to nobody.
    assert 101 == cache.incr(key, 1)
    assert 102 == cache.incr(key, 1)


def test_a_forked_child_writes_by_its_own_wire_and_its_parents_lives_on(join):
    script = """
        import os, socket
        import meshcache

        def unix_sockets():
            found = 0
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    with socket.socket(fileno=os.dup(fd)) as copy:
                        found += copy.family == socket.AF_UNIX
                except OSError:
                    pass
            return found

        def theirs(node):
            return next(k for k in range(1000)
                        if node.owner("forked", k).node_id != node.me.node_id)

        cache = meshcache.Cache("forked", ttl=60)
        node = meshcache.start().wait_ready(peers=1, timeout=20)
        key = theirs(node)
        assert cache.incr(key) == 1
        assert unix_sockets() == 2, unix_sockets()  # one to listen, one to the owner
        hear, tell = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                assert unix_sockets() == 0, unix_sockets()
                os.read(hear, 1)
                node.start().wait_ready(peers=2, timeout=20)
                cache.incr(theirs(node))
                assert node.stats()["host_wire"]["sent"] == 1
                node.stop()
                code = 0
            finally:
                os._exit(code)
        assert cache.incr(key) == 2
        stats = node.stats()["host_wire"]
        assert (stats["sent"], stats["connections"]) == (2, 1), stats
        os.write(tell, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    _, cache, _ = join()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        timeout=50,
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "MESHCACHE_CLUSTER": cache.node.config.cluster,
            "MESHCACHE_RUNTIME_DIR": str(cache.node.config.runtime_dir),
        },
    )

    assert 0 == done.returncode, done.stderr


def test_four_processes_with_threads_count_together_and_lose_nothing(agents):
    processes = agents.start(4)
    keys = [f"counter {i}" for i in range(8)]
    for agent in processes:
        agent.tell("count", keys, 4, 25)
    for agent in processes:
        assert "done" == agent.answer()
    stats = [agent.ask("stats")["host_wire"] for agent in processes]

    assert [400] * 8 == [processes[0].ask("do", "get", key) for key in keys]
    assert 0 < sum(s["sent"] for s in stats)
    assert 0 == sum(s["timeouts"] + s["lost"] + s["garbage"] for s in stats)
