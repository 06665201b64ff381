from __future__ import annotations

import random

import pytest

from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import Cancel
from meshcache.transport.memory import Arrival, Conditions, Lost, Made, MemoryNetwork

STEADY = Conditions(delay=0.001, jitter=0.0)


def network(conditions: Conditions = STEADY, seed: int = 1) -> MemoryNetwork:
    made = MemoryNetwork(random.Random(seed), conditions)
    for owner in "ab":
        made.attach(owner, FrameCodec("c"), f"{owner}/control", f"{owner}/data")
    return made


def arrivals(net: MemoryNetwork, until: float = 1e9) -> list:
    events = []
    while (at := net.deadline()) is not None and at <= until:
        event = net.deliver(at)
        if event is not None:
            events.append(event)
    return events


def numbers(net: MemoryNetwork, until: float = 1e9) -> list[int]:
    return [e.message.rid for e in arrivals(net, until) if isinstance(e, Arrival)]


def send(net: MemoryNetwork, count: int, to: str = "b/control", at: float = 0.0):
    for i in range(count):
        net.send("a", to, Cancel(i), at)


def test_a_message_arrives_after_the_delay_and_the_answer_finds_its_way_back():
    net = network()
    send(net, 1)

    assert 0.001 == net.deadline()
    assert net.deliver(0.0009) is None
    arrival = net.deliver(0.001)
    assert ("b", Cancel(0)) == arrival[:2]

    net.reply("b", arrival.route, Cancel(7), 0.001)
    answer = net.deliver(0.002)
    assert ("a", Cancel(7)) == answer[:2]

    net.reply("a", answer.route, Cancel(8), 0.002)
    assert ("b", Cancel(8)) == net.deliver(0.003)[:2]


def test_both_planes_of_a_process_are_its_own():
    net = network()
    net.send("a", "b/data", Cancel(1), 0.0)
    net.send("a", "b/control", Cancel(2), 0.0)

    assert ["b", "b"] == [event.owner for event in arrivals(net)]


def test_a_connection_keeps_its_order_whatever_the_jitter():
    net = network(Conditions(jitter=0.5))
    send(net, 100)

    assert list(range(100)) == numbers(net)


def test_reordering_is_had_for_the_asking():
    net = network(Conditions(jitter=0.0, reorder=0.3))
    send(net, 100)
    got = numbers(net)

    assert list(range(100)) == sorted(got) != got


@pytest.mark.parametrize(("loss", "low", "high"), [(0.0, 1000, 1000), (0.3, 650, 750)])
def test_so_much_is_lost_as_was_said_and_in_that_direction_alone(loss, low, high):
    net = network()
    net.between("a", "b", Conditions(loss=loss))
    send(net, 1000)
    for i in range(100):
        net.send("b", "a/control", Cancel(i), 0.0)
    owners = [event.owner for event in arrivals(net)]

    assert low <= owners.count("b") <= high
    assert 100 == owners.count("a")


def test_duplicates_arrive_twice():
    net = network(Conditions(duplicate=1.0))
    send(net, 10)

    assert sorted([*range(10), *range(10)]) == sorted(numbers(net))


def test_a_cut_is_in_one_direction_and_ends_with_healing():
    net = network()
    net.cut("a", "b", 0.0)
    send(net, 1)
    net.send("b", "a/control", Cancel(5), 0.0)
    assert ["a"] == [event.owner for event in arrivals(net, 1.0)]

    net.heal(1.0)
    send(net, 1, at=1.0)
    assert ["b"] == [event.owner for event in arrivals(net)]
    assert 1 == net.lost


def test_a_cut_that_holds_delivers_late_what_was_sent_meanwhile():
    net = network()
    net.cut("a", "b", 0.0, hold=True)
    send(net, 3)
    assert [] == arrivals(net, 1.0)

    net.heal(1.0)

    assert 1.0 == net.deadline()
    assert [0, 1, 2] == numbers(net)


def test_what_comes_for_a_paused_process_waits_for_it():
    net = network()
    net.pause("b", 0.0)
    send(net, 3)
    assert [] == arrivals(net, 1.0)

    net.resume("b", 1.2)

    assert 1.2 == net.deadline()
    assert [0, 1, 2] == numbers(net)


def test_a_connection_to_nobody_is_refused_and_its_sender_told():
    net = network()
    net.send("a", "c/control", Cancel(1), 0.0)

    assert [Lost("a", "c/control")] == arrivals(net)


def test_a_crash_resets_connections_and_loses_what_is_under_way():
    net = network()
    send(net, 2)
    net.crash("b", 0.0)

    assert [Lost("a", "b/control")] == arrivals(net)
    send(net, 1, at=1.0)
    assert [Lost("a", "b/control")] == arrivals(net)


def test_a_host_that_goes_dark_tells_nobody_but_its_heartbeats_are_missed_once():
    net = network()
    send(net, 2)
    net.crash("b", 0.0, silent=True)
    send(net, 2, at=1.0)

    assert [] == arrivals(net, 1.49)
    assert [Lost("a", "b/control")] == arrivals(net, 2.01)
    send(net, 2, at=3.0)
    assert [] == arrivals(net)
    assert 6 == net.lost


def test_a_route_to_a_dead_process_does_not_lead_to_its_successor():
    net = network()
    send(net, 1)
    [arrival] = arrivals(net)
    net.crash("a", 0.1)
    net.attach("a", FrameCodec("c"), "a/control", "a/data")

    net.reply("b", arrival.route, Cancel(9), 0.2)

    assert [] == arrivals(net)


def test_a_successor_at_the_same_address_gets_what_is_sent_to_it():
    net = network()
    net.crash("b", 0.0, silent=True)
    net.attach("b", FrameCodec("c"), "b/control", "b/data")
    send(net, 1)

    assert [0] == numbers(net)


def test_frames_of_another_cluster_are_refused_and_counted():
    net = network()
    net.attach("z", FrameCodec("another"), "z/control")
    net.send("a", "z/control", Cancel(1), 0.0)

    assert [] == arrivals(net)
    assert {"cluster": 1} == net.refused


def test_messages_and_bytes_are_counted_by_sender_and_kind():
    net = network()
    send(net, 3)

    assert {"Cancel": 3} == net.traffic["a"].messages
    assert {"Cancel": 3 * len(FrameCodec("c").encode(Cancel(1)))} == (
        net.traffic["a"].octets
    )
    assert {} == net.traffic["b"].messages


def test_the_same_seed_gives_the_same_transcript_and_another_does_not():
    def transcript(seed):
        net = network(Conditions(jitter=0.1, loss=0.2, duplicate=0.2), seed)
        send(net, 50)
        arrivals(net)
        return net.transcript

    assert transcript(1) == transcript(1) != transcript(2)


def test_a_blocked_process_neither_reads_nor_sends_until_it_resumes():
    net = network()
    net.block("a")
    send(net, 2)
    send_back = arrivals(net, until=5.0)
    net.resume("a", 5.0)

    assert [] == send_back
    assert [0, 1] == numbers(net)


def test_what_is_for_a_slow_process_reaches_it_so_much_later():
    net = network()
    net.slow("b", 2.0)
    send(net, 1)

    assert [] == arrivals(net, until=1.9)
    assert [0] == numbers(net)


# --- heartbeats ---------------------------------------------------------------------


def losses(net: MemoryNetwork, until: float = 1e9) -> list[tuple]:
    """What was lost and made, as (owner, "lost" or "made")."""
    return [
        (event.owner, type(event).__name__.lower())
        for event in arrivals(net, until)
        if isinstance(event, Lost | Made)
    ]


def linked() -> MemoryNetwork:
    """Two processes, each connected to the other, with nothing under way."""
    net = network()
    send(net, 1)
    net.send("b", "a/control", Cancel(1), 0.0)
    arrivals(net)
    return net


def test_a_process_that_stands_still_loses_its_connections_and_has_them_back_after():
    net = linked()
    net.pause("b", 10.0)

    assert [] == losses(net, 11.49)
    assert [("a", "lost")] == losses(net, 13.0)

    net.resume("b", 13.0)

    # It hears only now that the others have hung up on it.
    assert [("b", "lost")] == losses(net, 13.0)
    assert [("a", "made"), ("b", "made")] == sorted(losses(net, 14.0))
    assert [] == losses(net)


def test_a_short_stop_loses_no_connection_and_nor_do_several():
    net = linked()
    for at in (10.0, 11.5, 13.0):
        net.pause("b", at)
        net.resume("b", at + 1.4)

    assert [] == losses(net)


@pytest.mark.parametrize(("source", "target"), ["ab", "ba"])
@pytest.mark.parametrize("hold", [True, False])
def test_a_cut_in_either_direction_loses_the_connections_of_both_ends(
    source, target, hold
):
    net = linked()
    net.cut(source, target, 10.0, hold=hold)

    assert [("a", "lost"), ("b", "lost")] == sorted(losses(net, 12.01))

    net.heal(20.0)

    assert [("a", "made"), ("b", "made")] == sorted(losses(net, 21.01))


def test_a_process_that_is_blocked_or_slow_keeps_its_connections():
    net = linked()
    net.slow("b", 5.0)
    net.block("b")
    send(net, 1, at=10.0)
    arrivals(net, 100.0)
    net.resume("b", 100.0)

    assert [] == losses(net)


def test_a_connection_begun_in_vain_is_lost_too_and_made_when_it_can_be():
    net = network()
    net.pause("b", 0.0)
    send(net, 1, at=1.0)

    assert [] == losses(net, 2.49)
    assert [("a", "lost")] == losses(net, 3.0)

    net.resume("b", 4.0)

    assert [("a", "made")] == losses(net)


def test_a_connection_to_the_successor_of_a_dead_process_is_told_as_made():
    net = linked()
    net.crash("b", 1.0)
    assert [("a", "lost")] == losses(net)
    net.attach("b", FrameCodec("c"), "b/control", "b/data")

    send(net, 1, at=2.0)

    assert [("a", "made")] == losses(net)


def test_without_heartbeats_silence_says_nothing():
    net = MemoryNetwork(random.Random(1), STEADY, heartbeats=False)
    for owner in "ab":
        net.attach(owner, FrameCodec("c"), f"{owner}/control")
    send(net, 1)
    net.crash("b", 1.0, silent=True)

    assert [] == losses(net)
