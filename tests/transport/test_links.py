"""Links to peers: what waits for a connection, and when a link is closed."""

from __future__ import annotations

import socket
from time import monotonic, sleep

import pytest

from meshcache.config import Config
from meshcache.transport.zeromq import OUTBOX_AGE, ZmqTransport

pytestmark = [pytest.mark.slow]


@pytest.fixture
def make():
    made = []

    def transport(**settings):
        made.append(ZmqTransport(Config(**settings)))
        return made[-1]

    yield transport
    for one in made:
        one.close()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def turn(transports, done, patience=10.0):
    """Have all turn until *done*; return the frames that came to listeners."""
    frames = []
    end = monotonic() + patience
    while not done(frames):
        assert monotonic() < end, frames
        for transport in transports:
            transport.poll(0.01)
            frames += [a.frame for a in transport.receive() if a.inbound]
    return frames


@pytest.mark.parametrize("plane", ["control", "data"])
def test_of_what_waited_too_long_only_the_last_control_frame_is_sent(make, plane):
    sender = make()
    sender.open()
    port, data_port = free_port(), free_port()
    to = getattr(sender, plane)
    address = f"127.0.0.1:{port if plane == 'control' else data_port}"
    for number in range(3):
        sender.send(address, b"old %d" % number, to)
    sleep(OUTBOX_AGE + 0.1)
    receiver = make(bind=f"127.0.0.1:{port}", data_port=data_port)
    receiver.open()
    stale = 2 if plane == "control" else 3
    came = turn([sender, receiver], lambda _: sender.traffic.dropped_stale >= stale)
    sender.send(address, b"new", to)
    came += turn([sender, receiver], lambda frames: b"new" in frames)

    assert [b"old 2", b"new"][plane == "data" :] == came
    assert stale == sender.traffic.dropped_stale


def test_an_idle_link_is_closed_and_opened_again_by_the_next_frame(make):
    sender, receiver = make(link_idle=1), make()
    sender.open()
    address, _ = receiver.open()
    sender.send(address, b"one", sender.control)
    turn([sender, receiver], lambda frames: b"one" in frames)
    sender.sweep(monotonic() + 0.9)

    assert {address} == sender.addresses()
    sender.sweep(monotonic() + 2)

    assert set() == sender.addresses()
    sender.send(address, b"two", sender.control)
    turn([sender, receiver], lambda frames: b"two" in frames)

    assert (2, 1) == (sender.traffic.links_opened, sender.traffic.links_idled)


def test_an_answer_keeps_a_link_from_being_idle(make):
    sender, receiver = make(link_idle=1), make()
    sender.open()
    _, address = receiver.open()
    sender.send(address, b"question", sender.data)
    routes, came = [], []
    end = monotonic() + 10
    while not came:
        assert monotonic() < end
        for arrival in _arrivals(receiver):
            routes.append(arrival.route)
            sleep(0.6)
            receiver.reply(arrival.route, b"answer")
        came += _arrivals(sender)
    sender.sweep(monotonic() + 0.7)

    assert {address} == sender.addresses()


def _arrivals(transport):
    transport.poll(0.01)
    return list(transport.receive())
