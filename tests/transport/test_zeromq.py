"""Real sockets on loopback. Nothing waits for a time: only for something to happen."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from time import monotonic
from typing import Any

import pytest
import zmq

from meshcache.config import Config
from meshcache.errors import ConfigError
from meshcache.transport.zeromq import FRAMES_PER_TURN, OUTBOX, OUTBOX_AGE, ZmqTransport

PATIENCE = 10.0
SECRET = "a secret of the cluster"
HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(150))
"""How a TLS client begins."""


class Peer:
    """An open transport, and all that has happened to it."""

    def __init__(self, **settings: Any) -> None:
        quick = {"reconnect_min": 0.01, "reconnect_max": 0.02}
        self.transport = ZmqTransport(Config(cluster="t", **(quick | settings)))
        self.control, self.data = self.transport.open()
        self.arrived: list[Any] = []
        self.lost: list[str] = []
        self.made: list[str] = []
        self.dead: list[Any] = []
        self.open = True

    def turn(self, seconds: float = 0.005) -> None:
        self.transport.poll(seconds)
        self.arrived += self.transport.receive()
        self.lost += self.transport.lost()
        self.made += self.transport.made()
        self.dead += self.transport.dead_routes()

    def send(self, address: str, frame: bytes, plane: str = "control") -> None:
        self.transport.send(address, frame, getattr(self.transport, plane))

    def frames(self) -> list[bytes]:
        return [arrival.frame for arrival in self.arrived]

    def count(self, name: str) -> int:
        return self.transport.traffic.as_dict()[name]

    def close(self) -> None:
        if self.open:
            self.open = False
            self.transport.close()


def until(holds: Callable[[], object], *peers: Peer) -> None:
    """Let the peers turn until it holds."""
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, f"still not so after {PATIENCE} s"
        for peer in peers:
            peer.turn()


def some_turns(*peers: Peer, turns: int = 15) -> None:
    """Let happen what may still happen, such as a few attempts to reconnect."""
    for _ in range(turns):
        for peer in peers:
            peer.turn(0.01)


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(**settings: Any) -> Peer:
        made.append(Peer(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pair(peer):
    return peer(), peer()


@pytest.fixture
def raw() -> Iterator[Callable[[int], Any]]:
    """Plain ZeroMQ sockets, for what no node of ours would send."""
    context = zmq.Context()
    made = []

    def make(kind: int) -> Any:
        made.append(context.socket(kind))
        return made[-1]

    yield make
    for each in made:
        each.disable_monitor()
        each.close(0)
    context.destroy(0)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        return listening.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


# --- there and back ---------------------------------------------------------------


@pytest.mark.parametrize("plane", ["control", "data"])
def test_a_frame_arrives_and_its_answer_comes_back(pair, plane):
    ann, bob = pair
    address = getattr(bob, plane)
    ann.send(address, b"ask", plane)
    until(lambda: bob.arrived, ann, bob)
    (ask,) = bob.arrived
    assert (b"ask", True) == (ask.frame, ask.inbound)

    bob.transport.reply(ask.route, b"answer")
    until(lambda: ann.arrived, ann, bob)
    (answer,) = ann.arrived
    assert (b"answer", address, False) == answer
    assert {address} == ann.transport.addresses()
    assert set() == bob.transport.addresses()


def test_an_answer_can_be_answered(pair):
    ann, bob = pair
    ann.send(bob.control, b"1")
    until(lambda: bob.arrived, ann, bob)
    bob.transport.reply(bob.arrived[0].route, b"2")
    until(lambda: ann.arrived, ann, bob)
    ann.transport.reply(ann.arrived[0].route, b"3")
    until(lambda: len(bob.arrived) == 2, ann, bob)

    assert [b"1", b"3"] == bob.frames()


def test_frames_arrive_in_their_order(pair):
    ann, bob = pair
    sent = [b"%d" % number for number in range(50)]
    for frame in sent:
        ann.send(bob.data, frame, "data")
    until(lambda: len(bob.arrived) == 50, ann, bob)

    assert sent == bob.frames()
    assert 50 == ann.count("frames_sent") == bob.count("frames_received")
    size = sum(map(len, sent))
    assert size == ann.count("bytes_sent") == bob.count("bytes_received")


def test_an_empty_frame_is_a_frame(pair):
    ann, bob = pair
    ann.send(bob.control, b"")
    until(lambda: bob.arrived, ann, bob)

    assert [b""] == bob.frames()


def test_two_senders_have_two_routes(peer):
    ann, bob, eve = peer(), peer(), peer()
    ann.send(eve.control, b"a")
    bob.send(eve.control, b"b")
    until(lambda: len(eve.arrived) == 2, ann, bob, eve)
    for arrival in eve.arrived:
        eve.transport.reply(arrival.route, arrival.frame * 2)
    until(lambda: ann.arrived and bob.arrived, ann, bob, eve)

    assert ([b"aa"], [b"bb"]) == (ann.frames(), bob.frames())


def test_a_flood_leaves_the_others_their_turn(pair):
    ann, bob = pair
    count = FRAMES_PER_TURN + 40
    until(lambda: "made" if _connected(ann, bob) else None, ann, bob)
    for _ in range(count):
        ann.send(bob.data, b"x", "data")
    most = 0
    while len(bob.arrived) < count + 1:
        before = len(bob.arrived)
        bob.turn()
        ann.turn(0.0)
        most = max(most, len(bob.arrived) - before)

    assert 0 < most <= FRAMES_PER_TURN


def _connected(ann: Peer, bob: Peer) -> bool:
    if not ann.transport.addresses():
        ann.send(bob.data, b"first", "data")
    return bool(bob.arrived)


# --- nobody there -----------------------------------------------------------------


def test_an_answer_to_somebody_gone_is_counted_and_its_route_is_dead(pair):
    ann, bob = pair
    ann.send(bob.control, b"ask")
    until(lambda: bob.arrived, ann, bob)
    route = bob.arrived[0].route
    ann.close()

    def told() -> bool:
        bob.transport.reply(route, b"answer")
        return bob.count("unroutable") > 0

    until(told, bob)
    bob.turn()
    assert [route] == bob.dead
    assert 1 == bob.count("unroutable")


def test_a_refused_connection_is_reported_once(peer):
    ann = peer()
    nowhere = f"127.0.0.1:{free_port()}"
    ann.send(nowhere, b"hello?")
    until(lambda: ann.lost, ann)
    some_turns(ann)

    assert [nowhere] == ann.lost


def test_a_connection_that_breaks_is_reported_once(pair):
    ann, bob = pair
    ann.send(bob.control, b"hello")
    until(lambda: bob.arrived, ann, bob)
    assert [] == ann.lost
    bob.close()
    until(lambda: ann.lost, ann)
    some_turns(ann)

    assert [bob.control] == ann.lost


def test_a_connection_that_was_made_again_can_be_lost_again(peer):
    port = free_port()
    ann = peer()
    address = f"127.0.0.1:{port}"
    for round_ in range(1, 3):
        bob = peer(bind=address)
        until(lambda: _heard(ann, bob), ann, bob)  # noqa: B023 - called in this round
        bob.close()
        until(lambda: len(ann.lost) == round_, ann)  # noqa: B023

    assert [address] * 2 == ann.lost


def test_a_connection_is_made_when_hands_are_shaken_and_each_time(peer):
    port = free_port()
    ann = peer()
    address = f"127.0.0.1:{port}"
    for round_ in range(1, 3):
        bob = peer(bind=address)
        until(lambda: _heard(ann, bob), ann, bob)  # noqa: B023 - called in this round
        until(lambda: len(ann.made) == round_, ann)  # noqa: B023
        bob.close()
        until(lambda: len(ann.lost) == round_, ann)  # noqa: B023

    assert [address] * 2 == ann.made


def test_a_connection_that_only_the_kernel_accepts_is_not_made(peer):
    """As for a stopped process: its backlog takes connections, and nobody reads."""
    ann = peer()
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        ann.send(f"127.0.0.1:{stopped.getsockname()[1]}", b"hello?")
        some_turns(ann)

        assert [] == ann.made == ann.lost


def test_a_connection_made_and_lost_in_one_turn_is_lost_alone(peer):
    ann, bob = peer(), peer()
    ann.send(bob.control, b"hello")
    # Ann takes no turn meanwhile; the sockets work by themselves.
    dealer = ann.transport._links[bob.control].socket
    until(lambda: dealer.poll(0, zmq.POLLOUT))
    bob.close()
    until(lambda: not dealer.poll(0, zmq.POLLOUT))
    ann.turn()

    assert ([bob.control], []) == (ann.lost, ann.made)


def test_heartbeats_are_half_as_frequent_where_big_values_go(peer):
    ann = peer(heartbeat_interval=0.5, heartbeat_timeout=1.5)
    ann.send("127.0.0.1:1", b"x", "control")
    ann.send("127.0.0.1:2", b"x", "data")

    options = (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)
    assert [[500, 1500, 1500], [1000, 3000, 3000]] == [
        [link.socket.getsockopt(option) for option in options]
        for link in ann.transport._links.values()
    ]


def test_a_listener_hangs_up_on_who_is_silent_for_as_long_as_it_said_itself(peer):
    ann = peer()
    with closing(socket.create_connection(_place(ann.control))) as client:
        client.sendall(GREETING + READY + PING_FOR_200_MS)
        client.settimeout(0.01)

        def ended() -> bool:
            with suppress(TimeoutError):
                return client.recv(4096) == b""
            return False

        until(ended, ann)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
PING_FOR_200_MS = b"\x04\x07\x04PING\x00\x02"
"""What a ZMTP 3.0 client says first, and a heartbeat with its time to live."""


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _heard(ann: Peer, bob: Peer) -> bool:
    ann.send(bob.control, b"hello")
    return bool(bob.arrived)


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:nan", "\ud800:7946", "a\0b:1", ""]
)
def test_an_address_that_is_none_is_lost_at_once(peer, address):
    ann = peer()
    ann.send(address, b"x")
    ann.turn(0.0)

    assert [address] == ann.lost
    assert set() == ann.transport.addresses()


def test_more_connections_than_there_can_be_are_lost_and_not_an_error():
    """Descriptors run out as well, and gossip may name any number of addresses."""
    transport = ZmqTransport(Config(cluster="t"))
    try:
        transport._context.set(zmq.MAX_SOCKETS, 8)
        transport.open()
        addresses = [f"127.0.0.1:{port}" for port in range(1, 20)]
        for address in addresses:
            transport.send(address, b"x", transport.control)
        open_, lost = transport.addresses(), transport.lost()
        assert 0 < len(open_) < 19
        assert sorted(addresses) == sorted([*open_, *lost])

        for address in open_:
            transport.forget(address)
        end = monotonic() + PATIENCE
        while not transport.addresses():
            assert monotonic() < end
            transport.poll(0.001)
            transport.send(lost[0], b"x", transport.control)
    finally:
        transport.close()


def test_a_large_cluster_has_room_for_its_links(peer):
    """libzmq's own default is 1023 sockets, and a link takes a few."""
    ann = peer()
    for port in range(1, 401):
        ann.send(f"127.0.0.1:{port}", b"x")

    assert 400 == len(ann.transport.addresses())


# --- what waits for a connection --------------------------------------------------


def test_what_was_sent_before_the_connection_was_made_arrives(peer):
    address = f"127.0.0.1:{free_port()}"
    ann = peer()
    for number in range(3):
        ann.send(address, b"%d" % number)
    until(lambda: ann.lost, ann)
    bob = peer(bind=address)
    until(lambda: len(bob.arrived) == 3, ann, bob)

    assert [b"0", b"1", b"2"] == bob.frames()
    assert 3 == ann.count("frames_sent")


def test_only_so_much_waits_and_the_oldest_goes_first(peer, silent):
    ann = peer()
    for number in range(OUTBOX + 10):
        ann.send(silent, b"%d" % number, "data")
    (link,) = ann.transport._links.values()

    assert OUTBOX == len(link.outbox)
    assert b"10" == link.outbox[0][1]
    assert 10 == ann.count("dropped_full")
    assert 0 == ann.count("frames_sent")


def test_what_has_waited_too_long_is_not_sent(peer):
    address = f"127.0.0.1:{free_port()}"
    ann = peer()
    for frame in (b"old", b"older", b"new"):
        ann.send(address, frame, "data")
    (link,) = ann.transport._links.values()
    long_ago = monotonic() - OUTBOX_AGE - 0.1
    for index in range(2):
        link.outbox[index] = (long_ago, link.outbox[index][1])
    link.outbox[2] = (monotonic() + PATIENCE, b"new")
    bob = peer(bind=address)
    until(lambda: bob.arrived, ann, bob)

    assert [b"new"] == bob.frames()
    assert 2 == ann.count("dropped_stale")


def test_the_last_word_on_the_control_plane_is_sent_however_old_it_is(peer):
    address = f"127.0.0.1:{free_port()}"
    ann = peer()
    ann.send(address, b"first")
    ann.send(address, b"last")
    (link,) = ann.transport._links.values()
    for index in range(2):
        link.outbox[index] = (monotonic() - 60.0, link.outbox[index][1])
    bob = peer(bind=address)
    until(lambda: bob.arrived, ann, bob)

    assert [b"last"] == bob.frames()


# --- garbage ----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 300])
def test_messages_of_several_parts_are_dropped_and_counted(peer, raw, parts):
    bob = peer()
    dealer = raw(zmq.DEALER)
    dealer.connect(f"tcp://{bob.data}")
    dealer.send_multipart([b"x"] * parts)
    dealer.send(b"one part")
    until(lambda: bob.arrived, bob)

    assert [b"one part"] == bob.frames()
    assert 1 == bob.count("malformed")


def test_answers_of_several_parts_are_dropped_and_counted(peer, raw):
    ann = peer()
    router = raw(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    ann.send(f"127.0.0.1:{port}", b"ask")
    until(lambda: router.poll(0), ann)
    identity, _ = router.recv_multipart()
    router.send_multipart([identity, b"two", b"parts"])
    router.send_multipart([identity, b"one part"])
    until(lambda: ann.arrived, ann)

    assert [b"one part"] == ann.frames()
    assert 1 == ann.count("malformed")


@pytest.mark.parametrize(
    "noise",
    [HELLO, b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 64, b"\xff\0\0\0\0\0\0\0"],
    ids=["tls", "http", "zeros", "ones", "half a greeting"],
)
def test_what_is_not_zeromq_does_no_harm(pair, noise):
    ann, bob = pair
    host, _, port = bob.control.partition(":")
    with closing(socket.create_connection((host, int(port)), PATIENCE)) as stranger:
        stranger.sendall(noise)
        ann.send(bob.control, b"still there?")
        until(lambda: b"still there?" in bob.frames(), ann, bob)

    # Bytes that could be of ZeroMQ's first protocol are a frame to it; ours are not.
    assert not any(frame.startswith(b"MC") for frame in bob.frames())


def test_random_bytes_do_no_harm(pair):
    ann, bob = pair
    rng = random.Random(1)
    host, _, port = bob.data.partition(":")
    for _ in range(20):
        with closing(socket.create_connection((host, int(port)), PATIENCE)) as stranger:
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL" + bytes(48)
            begin = greeting if rng.random() < 0.5 else b""
            stranger.sendall(begin + rng.randbytes(rng.randrange(300)))
        bob.turn()
    ann.send(bob.data, b"still there?", "data")

    until(lambda: b"still there?" in bob.frames(), ann, bob)


# --- sizes ------------------------------------------------------------------------


def test_the_largest_frame_arrives_and_a_larger_one_is_not_sent(peer):
    ann, bob = peer(max_control_frame="16KiB"), peer(max_control_frame="16KiB")
    largest = bytes(16 * 1024)
    ann.send(bob.control, largest + b"x")
    assert 1 == ann.count("dropped_large")
    assert set() == ann.transport.addresses()
    ann.send(bob.control, largest)
    until(lambda: bob.arrived, ann, bob)
    assert [largest] == bob.frames()

    bob.transport.reply(bob.arrived[0].route, largest + b"x")
    bob.transport.reply(bob.arrived[0].route, b"short")
    until(lambda: ann.arrived, ann, bob)
    assert [b"short"] == ann.frames()
    assert 1 == bob.count("dropped_large")


def test_a_stranger_with_too_large_a_frame_loses_its_connection(peer, raw):
    ann, bob = peer(), peer(max_control_frame="16KiB")
    dealer = raw(zmq.DEALER)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    dealer.connect(f"tcp://{bob.control}")
    dealer.send(bytes(64 * 1024))
    until(lambda: monitor.poll(0), bob)
    monitor.close(0)
    ann.send(bob.control, b"others do not")
    until(lambda: bob.arrived, ann, bob)

    assert [b"others do not"] == bob.frames()


# --- waking -----------------------------------------------------------------------


def test_another_thread_ends_a_poll(peer):
    ann = peer()
    began = monotonic()
    waker = threading.Thread(target=ann.transport.wake)
    waker.start()
    ann.turn(PATIENCE)
    waker.join()

    assert monotonic() - began < PATIENCE / 2
    assert [] == ann.arrived


def test_a_wake_before_the_poll_ends_it_and_only_that_one(peer):
    ann = peer()
    for _ in range(100):
        ann.transport.wake()
    began = monotonic()
    ann.turn(PATIENCE)
    assert monotonic() - began < PATIENCE / 2
    began = monotonic()
    ann.turn(0.02)

    assert monotonic() - began >= 0.02


def test_a_poll_that_may_not_wait_does_not(peer):
    ann = peer()
    for timeout in (0.0, -1.0):
        began = monotonic()
        ann.turn(timeout)
        assert monotonic() - began < 1.0


# --- closing ----------------------------------------------------------------------


def test_closing_does_not_wait_for_what_was_not_sent(peer, silent):
    ann = peer()
    for _ in range(OUTBOX):
        ann.send(silent, bytes(10_000), "data")
        ann.send(f"127.0.0.1:{free_port()}", b"x")
    began = monotonic()
    ann.close()

    assert monotonic() - began < 2.0


def test_closing_does_not_wait_for_a_reader_that_has_stopped(pair):
    ann, bob = pair
    ann.send(bob.data, b"x", "data")
    until(lambda: bob.arrived, ann, bob)
    for _ in range(2 * 1000 + 200):
        ann.send(bob.data, bytes(10_000), "data")
    assert ann.count("dropped_full") > 0
    began = monotonic()
    ann.close()
    bob.close()

    assert monotonic() - began < 2.0


def test_a_transport_that_was_never_opened_can_be_closed():
    ZmqTransport(Config(cluster="t")).close()


def test_after_closing_the_port_is_free(peer):
    address = f"127.0.0.1:{free_port()}"
    for _ in range(3):
        ann = peer(bind=address)
        assert address == ann.control
        ann.close()


# --- links ------------------------------------------------------------------------


def test_a_forgotten_link_is_closed_and_made_anew_when_wanted(pair):
    ann, bob = pair
    ann.send(bob.control, b"1")
    until(lambda: bob.arrived, ann, bob)
    ann.transport.forget(bob.control)
    ann.transport.forget(bob.control)
    assert set() == ann.transport.addresses()
    ann.send(bob.control, b"2")
    until(lambda: len(bob.arrived) == 2, ann, bob)

    assert [] == ann.lost


def test_what_arrives_may_close_any_link_while_more_is_read(peer):
    """A death heard by one link closes another, which may have something to say."""
    ann, others = peer(), [peer() for _ in range(4)]
    for other in others:
        ann.send(other.control, b"ask")
    until(lambda: all(other.arrived for other in others), ann, *others)
    for other in others:
        for _ in range(5):
            other.transport.reply(other.arrived[0].route, b"answer")
    sockets = {link.socket for link in ann.transport._links.values()}
    until(lambda: _ready(ann, sockets))
    heard = 0
    for _ in ann.transport.receive():
        heard += 1
        for other in others:
            ann.transport.forget(other.control)

    assert 1 == heard
    assert set() == ann.transport.addresses()


def _ready(peer: Peer, sockets: set[Any]) -> bool:
    peer.transport.poll(0.005)
    return sockets <= set(peer.transport._ready)


def test_idle_links_are_closed_and_used_ones_are_kept(peer):
    ann, bob, eve = peer(link_idle=100), peer(), peer()
    for other in (bob, eve):
        ann.send(other.control, b"ask")
    until(lambda: bob.arrived and eve.arrived, ann, bob, eve)
    later = monotonic() + 90
    for link in ann.transport._links.values():
        link.used = later - (101 if link.address == bob.control else 99)
    ann.transport.sweep(later)

    assert {eve.control} == ann.transport.addresses()
    assert 1 == ann.count("links_idled")


def test_an_answer_keeps_a_link_in_use(pair):
    """A load may take longer than a link may be idle, and its owner says so."""
    ann, bob = pair
    ann.send(bob.data, b"load", "data")
    until(lambda: bob.arrived, ann, bob)
    (link,) = ann.transport._links.values()
    link.used = 0.0
    bob.transport.reply(bob.arrived[0].route, b"pending")
    until(lambda: ann.arrived, ann, bob)

    assert link.used > 0.0


# --- where it listens -------------------------------------------------------------


def test_both_planes_have_a_port_of_their_own(peer):
    ann = peer()

    assert {ann.control, ann.data} == {
        f"127.0.0.1:{port}" for port in ann.transport.ports
    }
    assert 2 == len(ann.transport.ports)


def test_a_port_that_is_taken_is_passed_over_for_a_free_one(peer, caplog):
    first = peer(bind=f"127.0.0.1:{free_port()}")
    port = first.control.rpartition(":")[2]
    with caplog.at_level(logging.WARNING, "meshcache.transport"):
        second = peer(bind=first.control)

    assert first.control != second.control
    assert f"port {port} of 127.0.0.1 is taken" in caplog.text
    second.send(first.control, b"and both work")
    until(lambda: first.arrived, first, second)


def test_a_data_port_that_is_taken_is_passed_over_too(peer):
    port = free_port()
    first, second = peer(data_port=port), peer(data_port=port)

    assert f"127.0.0.1:{port}" == first.data != second.data


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_host_that_is_not_this_one_is_refused(host):
    transport = ZmqTransport(Config(cluster="t", bind=f"{host}:0", insecure=True))
    try:
        with pytest.raises(ConfigError, match="cannot be listened on"):
            transport.open()
    finally:
        transport.close()


def test_a_name_is_looked_up(peer):
    ann, bob = peer(bind="localhost:0"), peer()
    assert ann.control.startswith("localhost:")
    bob.send(ann.control, b"x")

    until(lambda: ann.arrived, ann, bob)


def test_peers_are_told_what_is_advertised(peer):
    ann = peer(advertise="cache.example")
    bob = peer(advertise="cache.example:7000")
    port = ann.control.rpartition(":")[2]

    assert int(port) in ann.transport.ports
    assert ann.control.startswith("cache.example:")
    assert "cache.example:7000" == bob.control
    assert bob.data.startswith("cache.example:")


# --- secrets ----------------------------------------------------------------------


@pytest.mark.parametrize("plane", ["control", "data"])
def test_those_who_know_the_secret_talk(peer, plane):
    ann, bob = peer(secret=SECRET), peer(secret=SECRET)
    ann.send(getattr(bob, plane), b"ask", plane)
    until(lambda: bob.arrived, ann, bob)
    bob.transport.reply(bob.arrived[0].route, b"answer")
    until(lambda: ann.arrived, ann, bob)

    assert [b"answer"] == ann.frames()
    assert 0 == bob.count("refused_keys")


@pytest.mark.parametrize("plane", ["control", "data"])
@pytest.mark.parametrize(
    "theirs", [{"secret": "another secret, of others"}, {}], ids=["wrong", "none"]
)
def test_those_who_do_not_know_it_get_nothing_and_are_counted(peer, theirs, plane):
    ann, bob, eve = peer(secret=SECRET), peer(secret=SECRET), peer(**theirs)
    eve.send(getattr(bob, plane), b"let me in", plane)
    until(lambda: bob.count("refused_keys") and eve.lost, bob, eve)
    ann.send(getattr(bob, plane), b"hello", plane)
    until(lambda: bob.arrived, ann, bob, eve)

    assert [b"hello"] == bob.frames()
    assert [] == eve.arrived


def test_a_secret_does_not_talk_to_those_who_have_none(peer):
    """Else a cluster whose settings were lost on one host would leak to it."""
    ann, bob = peer(secret=SECRET), peer()
    ann.send(bob.control, b"for members only")
    until(lambda: ann.lost, ann, bob)

    assert [] == bob.arrived


def test_who_knows_the_listener_but_not_the_secret_is_refused(peer, raw):
    """The public key is no secret: each holder of it could otherwise connect."""
    bob = peer(secret=SECRET)
    eve = raw(zmq.DEALER)
    public, secret = zmq.curve_keypair()
    eve.setsockopt(zmq.CURVE_SERVERKEY, bob.transport._curve.public)
    eve.setsockopt(zmq.CURVE_PUBLICKEY, public)
    eve.setsockopt(zmq.CURVE_SECRETKEY, secret)
    eve.connect(f"tcp://{bob.data}")
    eve.send(b"let me in")
    until(lambda: bob.count("refused_keys"), bob)
    some_turns(bob, turns=5)

    assert [] == bob.arrived


def test_several_guarded_transports_live_in_one_process(peer):
    """The handler of secrets listens at one fixed name in each context."""
    peers = [peer(secret=SECRET) for _ in range(3)]
    for other in peers[1:]:
        peers[0].send(other.control, b"x")

    until(lambda: all(other.arrived for other in peers[1:]), *peers)
