"""Membership on real processes: who is held dead, who is not, and how soon.

TESTS_LONG=1 makes the test of slow processes take its full ten minutes.
"""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(120)]

LONG = bool(os.environ.get("TESTS_LONG"))
TROUBLE = 600.0 if LONG else 40.0


def id_of(agent):
    return agent.ask("about")["node_id"]


def test_24_processes_know_of_a_kill_within_a_second(agents):
    cluster = agents.spawn(24)
    for agent in cluster:
        agent.tell("start")
    for agent in cluster:
        agent.answer()
    agents.agree(cluster, within=30)
    agents.watch(cluster)
    victim, *rest = cluster
    victim_id = id_of(victim)
    victim.kill()
    killed = time.time_ns()
    known = agents.until_all_see(rest, "DEAD", victim_id)

    assert (known - killed) / 1e9 < 1
    assert {victim_id} == {change["of"] for change in agents.changes(rest, "DEAD")}


@pytest.mark.timeout(TROUBLE + 120)
def test_a_process_that_is_slow_or_stopped_is_never_taken_for_dead(agents):
    cluster = agents.start(8)
    agents.watch(cluster)
    end = time.monotonic() + TROUBLE
    for agent in itertools.cycle(cluster):
        agent.ask("hold", 2.0)
        agent.ask("burn", 8, 2.0)
        with agent.stopped():
            time.sleep(3)
        if time.monotonic() > end:
            break
    took = agents.agree(cluster)
    counted = [agent.ask("stats")["membership"] for agent in cluster]
    names = ("suspicions", "false_suspicions", "refutations", "deaths", "late")
    print(json.dumps({n: sum(c[n] for c in counted) for n in names}), took)

    assert [] == agents.changes(cluster, "DEAD")
    assert 0 == sum(c["deaths"] for c in counted)
    assert 0 < sum(c["late"] for c in counted), "nobody was slow"


def links_lost(agents):
    return sum(agent.ask("stats")["membership"]["links_lost"] for agent in agents)


@pytest.mark.parametrize("count", [8, 24])
def test_a_process_stopped_for_three_seconds_loses_its_links_and_not_its_life(
    agents, count
):
    cluster = agents.start(count)
    agents.watch(cluster)
    *rest, sleeper = cluster
    with sleeper.stopped():
        time.sleep(3)
    took = agents.agree(cluster)
    print(json.dumps({"agreed": took, "links_lost": links_lost(rest)}))

    assert [] == agents.changes(cluster, "DEAD")
    assert 0 < links_lost(rest)


def test_a_process_that_holds_the_gil_keeps_its_links(agents):
    cluster = agents.start(8)
    *rest, holder = cluster
    before = links_lost(rest)
    holder.ask("hold", 2.3)
    time.sleep(1)

    assert before == links_lost(rest)
    assert 0 < holder.ask("stats")["membership"]["late"]
    assert 0 == sum(agent.ask("stats")["membership"]["deaths"] for agent in cluster)


def test_a_farewell_is_believed_within_a_second_under_load(agents):
    cluster = agents.start(8)
    agents.watch(cluster)
    for agent in cluster:
        agent.ask("replay", 2, 20.0)
    for leaver in cluster[:3]:
        cluster.remove(leaver)
        leaver_id = id_of(leaver)
        left = leaver.ask("stop")
        known = agents.until_all_see(cluster, "LEFT", leaver_id)

        assert (known - left) / 1e9 < 1
    assert [] == agents.changes(cluster, "DEAD")


def test_another_clusters_node_at_a_dead_ones_address_is_refused_by_name(
    agents, eventually, free_port
):
    ours, other = agents.cluster, f"{agents.cluster}-other"
    survivor, victim, stranger = agents.spawn(3)
    survivor.ask("keep_logs")
    stranger.ask("keep_logs")
    address = f"127.0.0.1:{free_port()}"
    seed = survivor.ask("start", directory=False)["address"]
    victim.ask("start", directory=False, bind=address, seeds=[seed])
    agents.agree([survivor, victim])
    victim.kill()
    stranger_id = stranger.ask("start", cluster=other, directory=False, bind=address)[
        "node_id"
    ]

    def refusals(agent):
        lines = agent.ask("logs")
        return [line for line in lines if repr(ours) in line and repr(other) in line]

    eventually(lambda: refusals(survivor))
    eventually(lambda: refusals(stranger))

    assert stranger_id not in survivor.ask("about")["states"]
    assert [stranger_id] == stranger.ask("about")["alive"]


def test_a_restart_at_a_fixed_address_is_a_new_member_at_once(agents, free_port):
    address = f"127.0.0.1:{free_port()}"
    (first,) = agents.spawn()
    seed = first.ask("start", directory=False)["address"]
    second, victim, successor = agents.spawn(3)
    second.ask("start", directory=False, seeds=[seed])
    victim.ask("start", directory=False, seeds=[seed], bind=address)
    agents.agree([first, second, victim])
    agents.watch([first, second])
    victim_id = id_of(victim)
    victim.kill()
    begun = time.time_ns()
    successor_id = successor.ask("start", directory=False, seeds=[seed], bind=address)[
        "node_id"
    ]
    known = agents.until_all_see([first, second], "ALIVE", successor_id)
    buried = agents.until_all_see([first, second], "DEAD", victim_id)
    agents.agree([first, second, successor])

    assert victim_id != successor_id
    assert (known - begun) / 1e9 < 1
    # Without the successor it takes a probe and a whole suspicion: five seconds.
    assert (buried - begun) / 1e9 < 2


def test_what_was_said_to_a_stopped_process_neither_resurrects_nor_accuses(agents):
    cluster = agents.start(6)
    agents.watch(cluster)
    sleeper, victim, *rest = cluster
    victim_id, sleeper_id = id_of(victim), id_of(sleeper)
    with sleeper.stopped():
        time.sleep(1)
        victim.kill()
        agents.until_all_see(rest, "DEAD", victim_id)
        time.sleep(4)
    agents.until_all_see([sleeper, *rest], "DEAD", victim_id)
    agents.agree([sleeper, *rest])
    time.sleep(2)

    awake = [sleeper, *rest]
    assert victim_id not in {c["of"] for c in agents.changes(awake, "ALIVE")}
    assert [] == agents.changes([sleeper], "SUSPECT")
    assert {victim_id} == {c["of"] for c in agents.changes([sleeper], "DEAD")}
    assert {victim_id, sleeper_id} >= {c["of"] for c in agents.changes(rest, "DEAD")}


def test_idle_links_are_closed_and_opened_again_when_they_are_needed(
    agents, eventually
):
    # By message: shared memory would answer without a link.
    cluster = agents.start(8, link_idle=1, host_lane=False)
    for number in range(64):
        assert cluster[0].ask("do", "set", f"key {number}", number) is None
    busy = cluster[0].ask("descriptors")
    # A probe a second keeps one control link in use; the others of 14 go.
    eventually(
        lambda: cluster[0].ask("descriptors")["sockets"] <= busy["sockets"] - 8, 15
    )
    idle = cluster[0].ask("descriptors")
    print(json.dumps({"busy": busy, "idle": idle}))

    def opened() -> int:
        return cluster[0].ask("stats")["transport"]["links_opened"]

    def reads_open_links() -> bool:
        # What this node has to say to all, now and then, may have opened them before.
        time.sleep(2)
        before = opened()
        for number in range(64):
            assert number == cluster[0].ask("do", "get", f"key {number}")
        return opened() >= before + 4

    eventually(reads_open_links, 30)

    assert 0 == sum(a.ask("stats")["membership"]["suspicions"] for a in cluster)
