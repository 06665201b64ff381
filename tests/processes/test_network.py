"""Membership on networks that fail: silent hosts, splits, and one-way faults.

The hosts are network namespaces (namespaces.py), where those can be made; one-way
faults come from a proxy in front of a node (proxy.py), over loopback.
TESTS_LONG=1 makes the split last a whole minute.
"""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

SPLIT = 60.0 if os.environ.get("TESTS_LONG") else 0.0
"""Seconds that it lasts at least, and until both sides have buried the other."""

MOST_FLAPS = 15 * 4 * 1.5
"""In 15 s, four probers begin a probe of the fifth once a second between them, each of
which four nodes may take for a suspicion; half as many again for lost connections."""

SECRET = "a secret of these tests"
PORT = 7946


@pytest.fixture
def hosts(make_network, agents):
    """Start one node on each of some hosts; host 1 is everybody's seed."""

    def start(count, **settings):
        network = make_network(count)
        seed = f"{network.address(1)}:{PORT}"
        cluster = [agents.spawn(prefix=network.prefix(n + 1))[0] for n in range(count)]
        for host, agent in enumerate(cluster, 1):
            agent.tell(
                "start",
                bind=f"{network.address(host)}:{PORT}",
                seeds=[seed],
                directory=False,
                secret=SECRET,
                **settings,
            )
        for agent in cluster:
            agent.answer()
        agents.agree(cluster, within=20)
        agents.watch(cluster)
        return network, cluster

    return start


def id_of(agent):
    return agent.ask("about")["node_id"]


def test_a_host_that_goes_silent_is_known_to_all_and_nobody_else_is_blamed(
    hosts, agents
):
    network, cluster = hosts(8)
    *rest, victim = cluster
    victim_id = id_of(victim)
    network.unplug([8])
    silent = time.time_ns()
    known = agents.until_all_see(rest, "DEAD", victim_id, within=30)
    took = (known - silent) / 1e9
    print(json.dumps({"seconds": took}))

    # A heartbeat and its time-out, a brief probe, the suspicion of a lost link, and
    # the news of it: 6.3 s, and as long again for a machine that has more to do.
    assert took < 12
    assert 0 < sum(agent.ask("stats")["membership"]["links_lost"] for agent in rest)
    assert {victim_id} == {change["of"] for change in agents.changes(rest, "SUSPECT")}


def test_a_silence_shorter_than_a_suspicion_kills_nobody(hosts, agents):
    network, cluster = hosts(8)
    network.unplug([8])
    time.sleep(3)
    network.plug([8])
    took = agents.agree(cluster)
    print(json.dumps({"seconds": took}))

    assert took < 5
    assert [] == agents.changes(cluster, "DEAD")


@pytest.mark.timeout(SPLIT + 120)
def test_a_split_heals_within_ten_seconds_without_a_restart(hosts, agents):
    network, cluster = hosts(8)
    ids = sorted(id_of(agent) for agent in cluster)
    network.plug([6, 7, 8], "there")
    split = time.monotonic()
    agents.agree(cluster[:5], within=30)
    agents.agree(cluster[5:], within=30)
    time.sleep(max(0.0, split + SPLIT - time.monotonic()))
    print(json.dumps({"split": time.monotonic() - split}))
    network.plug([6, 7, 8])
    took = agents.agree(cluster, within=30)
    print(json.dumps({"healed": took}))

    assert took < 10
    assert ids == sorted(id_of(agent) for agent in cluster)


WAYS = ("inward", "outward")
FAULTS = {
    "loss": lambda proxy, faults: setattr(faults, "loss", 0.3),
    "delay": lambda proxy, faults: setattr(faults, "delay", 1.2),
    "silence": lambda proxy, faults: proxy.hold(faults),
}


class Trial(NamedTuple):
    """What came of one fault, in one cluster of five."""

    lost: int
    flaps: dict[str, int]
    healed: float
    dead: set[tuple[str, str]]
    """Who held whom for dead: "it" is the one behind the proxy, "other" all others."""


def start_behind_a_proxy(agents, name, proxy, port):
    """Start five nodes, the last of which the others reach through a proxy alone."""
    cluster = agents.spawn(5)
    # Their links are what is tried, and not how much they hold.
    common = {"cluster": name, "directory": False, "max_bytes": "1MB"}
    seed = cluster[0].ask("start", **common)["address"]
    for agent in cluster[1:4]:
        agent.ask("start", seeds=[seed], **common)
    cluster[4].ask(
        "start",
        seeds=[seed],
        bind=f"127.0.0.1:{port}",
        advertise=proxy.address,
        **common,
    )
    agents.agree(cluster, within=30)
    agents.watch(cluster)
    return cluster


def flaps(agents, cluster):
    """Return how often each state was come to, over all nodes' views."""
    return {s: len(agents.changes(cluster, s)) for s in ("SUSPECT", "ALIVE", "DEAD")}


def deaths(agents, cluster):
    """Return who held whom for dead."""
    pid, node_id = cluster[4].pid, id_of(cluster[4])
    return {
        ("it" if c["by"] == pid else "other", "it" if c["of"] == node_id else "other")
        for c in agents.changes(cluster, "DEAD")
    }


@pytest.fixture(scope="module")
def trials(standing, proxies, free_port):
    """Try each fault, each way, in a cluster of its own, all of them side by side.

    They wait most of the time, and take as long together as one of them alone.
    """

    def one(what, way):
        name, port = f"{standing.cluster}-{what}-{way}", free_port()
        proxy = proxies(port)
        cluster = start_behind_a_proxy(standing, name, proxy, port)
        together.wait(90)
        faults = getattr(proxy, way)
        FAULTS[what](proxy, faults)
        time.sleep(15)
        seen, lost = flaps(standing, cluster), faults.lost
        proxy.heal()
        healed = standing.agree(cluster, within=20)
        return Trial(lost, seen, healed, deaths(standing, cluster))

    cases = list(product(FAULTS, WAYS))
    together = threading.Barrier(len(cases))
    with ThreadPoolExecutor(len(cases)) as pool:
        return {case: pool.submit(one, *case) for case in cases}


@pytest.mark.parametrize("way", WAYS)
def test_one_way_loss_leads_to_no_death_and_passes(trials, way):
    trial = trials["loss", way].result()
    print(trial)

    assert 5 < trial.lost
    assert trial.healed < 5
    assert set() == trial.dead


@pytest.mark.parametrize("way", WAYS)
def test_one_way_delay_beyond_the_probe_interval_passes(trials, way):
    trial = trials["delay", way].result()
    print(trial)

    assert trial.healed < 5
    assert trial.flaps["SUSPECT"] <= MOST_FLAPS
    assert not {by for by, _ in trial.dead} - {"it"}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_is_silent_and_comes_back_heals(trials, way):
    trial = trials["silence", way].result()
    print(trial)

    assert trial.healed < 10
    assert trial.flaps["SUSPECT"] <= MOST_FLAPS
    assert not {of for _, of in trial.dead} - {"it"}
