"""News of members on their way to the application."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

import pytest

from meshcache import Changed, Member, State
from meshcache.model import NodeId
from meshcache.runtime.events import QUEUE, Events


def change(number: int) -> Changed:
    node_id = NodeId(number.to_bytes(16))
    member = Member(node_id, 1, 0, State.ALIVE, "127.0.0.1:1", "127.0.0.1:2", "h", 1)
    return Changed(member, None)


@pytest.fixture
def events():
    made = Events()
    yield made
    made.rest(until=monotonic() + 5)


def test_subscribers_are_told_in_order_on_a_thread_that_is_not_the_publishers(events):
    told = []
    events.subscribe(lambda c: told.append((c, threading.get_ident())))
    for number in range(10):
        events.publish(change(number))
    events.rest(until=monotonic() + 5)

    assert [change(number) for number in range(10)] == [c for c, _ in told]
    assert threading.get_ident() not in {thread for _, thread in told}


def test_a_slow_subscriber_loses_the_oldest_and_delays_nobody(events, until):
    gate, entered = threading.Event(), threading.Event()
    slow, quick = [], []

    def wait(told: Changed) -> None:
        entered.set()
        gate.wait(10)
        slow.append(told)

    events.subscribe(wait)
    events.subscribe(quick.append)
    events.publish(change(0))
    assert entered.wait(10)
    for number in range(1, QUEUE + 6):
        events.publish(change(number))
        until(lambda n=number: len(quick) == n + 1)

    assert {"subscribers": 2, "dropped": 5, "failed": 0} == events.stats()
    gate.set()
    until(lambda: len(slow) == QUEUE + 1)

    assert [change(0), change(6)] == slow[:2]
    assert change(QUEUE + 5) == slow[-1]


def test_a_subscriber_that_raises_is_counted_and_told_the_next(events, caplog):
    told = []

    def fail(news: Changed) -> None:
        told.append(news)
        raise SystemExit

    events.subscribe(fail)
    events.publish(change(1))
    events.publish(change(2))
    events.rest(until=monotonic() + 5)

    assert [change(1), change(2)] == told
    assert 2 == events.stats()["failed"]
    assert 2 == caplog.text.count("a subscriber failed")


def test_an_unsubscribed_callback_is_not_called_again_and_its_losses_stay_counted(
    events, until
):
    told, gate = [], threading.Event()
    unsubscribe = events.subscribe(lambda c: (told.append(c), gate.wait(10)))
    for number in range(QUEUE + 3):
        events.publish(change(number))
        if number == 0:
            until(lambda: told)
    unsubscribe()
    unsubscribe()
    gate.set()
    events.publish(change(9))
    events.rest(until=monotonic() + 5)

    assert [change(0)] == told
    assert {"subscribers": 0, "dropped": 2, "failed": 0} == events.stats()


def test_a_node_tells_who_comes_and_who_leaves(make_node, until):
    one = make_node()
    told = []
    one.subscribe(told.append)
    other = make_node()
    other_id = other.me.node_id
    one.wait_ready(peers=1)
    other.stop()
    until(lambda: told and told[-1].member.state is State.LEFT)

    assert [(None, State.ALIVE), (State.ALIVE, State.LEFT)] == [
        (t.previous, t.member.state) for t in told if t.member.node_id == other_id
    ]


def test_a_subscription_outlives_the_runs_of_its_node(make_node, until):
    node = make_node()
    told = []
    node.subscribe(told.append)
    node.stop()
    until(lambda: told[-1:] and told[-1].member.state is State.LEFT)
    node.start()
    until(lambda: told[-1].member.state is State.ALIVE)

    assert told[-1].member.node_id == node.me.node_id


def test_a_subscriber_may_stop_the_node(make_node, until):
    one, two = make_node(), make_node()
    two.wait_ready(peers=1)
    stopped = []
    one.subscribe(lambda _: stopped.append(one.stop(timeout=2)))
    two.stop()
    until(lambda: stopped)

    assert 0 == one.stats()["events"]["failed"]


def test_changes_can_be_iterated_on_a_loop(make_node, runner):
    node = make_node()

    async def first() -> Changed:
        changes = node.changes()
        step = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await asyncio.to_thread(make_node)
        try:
            return await asyncio.wait_for(step, 10)
        finally:
            await changes.aclose()

    found = runner.run(first())

    assert (None, State.ALIVE) == (found.previous, found.member.state)
    assert 0 == node.stats()["events"]["subscribers"]


def test_each_change_is_one_log_line_with_its_parts(make_node, until, caplog):
    caplog.set_level("INFO", "meshcache.members")
    one, two = make_node(), make_node()
    one.wait_ready(peers=1)
    ours, theirs = one.me.node_id.hex(), two.me.node_id.hex()
    two.stop()

    def lines():
        return [
            (record.mesh_previous, record.mesh_state)
            for record in caplog.records
            if record.name == "meshcache.members"
            and (record.mesh_node, record.mesh_member) == (ours, theirs)
        ]

    until(lambda: len(lines()) == 2)

    assert [("new", "ALIVE"), ("ALIVE", "LEFT")] == lines()
