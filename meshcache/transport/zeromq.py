"""ZeroMQ: the sockets of one node and everything that is to be known about them.

Two ROUTERs listen, one for each plane. To every peer this node writes to goes one
DEALER per plane (the harmony pattern, zguide chapter 8). A request goes out by the
DEALER and its answer comes back on it; a ROUTER is written to only to answer.

What the options are for, each measured or suffered by somebody:

    LINGER 0            exit does not wait for peers that are gone
    IMMEDIATE 1         nothing queues for a peer that is not connected; what waits for
                        the first handshake waits here, bounded and with an age
    ROUTER_MANDATORY 1  an answer to nobody is an error to count, not a silence
    MAXMSGSIZE          a frame over the plane's limit ends the connection
    HEARTBEAT_*         a host that vanished is noticed by libzmq's own thread, and one
                        that lives is vouched for by it, however busy its interpreter
                        is; that proves the process, not that the application answers,
                        so SWIM still asks. Who connects asks, and tells the listener
                        (HEARTBEAT_TTL) how long a silence means the end: one heartbeat
                        serves both ends.
    no routing ids      CONNECT_ROUTING_ID and a forged identity abort the process
    one frame each      the number of parts is not limited by any option

A monitor on every DEALER tells when its connection is refused or breaks, and when it
has been made; membership takes a loss as a reason to probe, at once, and as evidence.
Made is what has shaken hands: the kernel accepts connections for a stopped process too.

Confined to the driver thread, except `wake`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, final

import zmq

from meshcache.clock import monotonic
from meshcache.codec.mail import Route
from meshcache.config import Address, Config
from meshcache.config.address import parse
from meshcache.errors import ConfigError
from meshcache.transport.arrivals import Arrival, Traffic
from meshcache.transport.security import Curve, Doorman
from meshcache.transport.waker import drain, wake, waker

__all__ = ["Arrival", "Plane", "Traffic", "ZmqTransport"]

Socket: TypeAlias = "zmq.Socket[bytes]"

OUTBOX: Final = 64
"""Frames that wait for a link's first connection."""

OUTBOX_AGE: Final = 1.0
"""Seconds after which a frame that could not be sent is not worth sending.

The last control frame is, whatever its age: it makes the sender known as soon as a
split network is whole again, and what it says is judged by who hears it.
"""

CONNECT_TIMEOUT: Final = 2.0
"""Seconds after which a connection that nobody answers is begun anew. The kernel would
double its pauses, and find out up to a minute late that the network is back."""

DATA_PATIENCE: Final = 2
"""How many times longer heartbeats take on the data plane: one may have to wait behind
a big value, whose parts are no sign of life to libzmq until it is complete."""

LISTENER_HEARTBEAT: Final = 10.0
"""Seconds between a listener's own heartbeats, for those who connect and send none."""

MAX_SOCKETS: Final = 16_384
"""libzmq's own default, 1023, is enough for 170 peers: a link takes three sockets."""

FRAMES_PER_TURN: Final = 256
"""Frames taken from one socket before the others, and the engine, have their turn."""

DATA_OVERHEAD: Final = 1 << 20

# Plain integers: arithmetic with the library's enums takes over a microsecond, and
# these are used several times for each frame.
_IN: Final = int(zmq.POLLIN)
_OUT: Final = int(zmq.POLLOUT)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

_BROKEN: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_MADE: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED
_REFUSED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

_REFUSALS: Final = 2

_log = logging.getLogger("meshcache.transport")


class Plane(NamedTuple):
    """One of the two: its name, its queue length and its largest frame."""

    name: str
    hwm: int
    max_frame: int


class _Way(NamedTuple):
    """A route: a listener and the identity of a connection to it."""

    plane: str
    identity: bytes


@final
@dataclass(slots=True, eq=False)
class _Link:
    """This node's connection to one address."""

    address: str
    socket: Socket
    monitor: Socket
    plane: Plane
    used: float
    told: bool = False  # the loss of this connection has been reported
    known: bool = False  # hands have been shaken over it
    refusals: int = 0  # handshakes that failed before any did not
    outbox: deque[tuple[float, bytes]] = field(default_factory=deque)


@final
class ZmqTransport:
    """The sockets of one node. See the module for the rules they follow."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.control = Plane("control", config.control_hwm, config.max_control_frame)
        largest = max(config.max_value_bytes, config.max_batch_bytes)
        self.data = Plane("data", config.data_hwm, 2 * largest + DATA_OVERHEAD)
        self.traffic = Traffic()
        self.ports: set[int] = set()
        self._links: dict[str, _Link] = {}
        self._link_of: dict[object, _Link] = {}
        self._lost: list[str] = []
        self._made: dict[str, None] = {}
        self._dead_routes: list[Route] = []
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._poller = zmq.Poller()
        self._listeners: dict[str, Socket] = {}
        self._watches: list[Socket] = []
        self._doorman: Doorman | None = None
        self._curve = None if config.secret is None else Curve(config.secret)
        self._waker, self._wake_fd = waker()
        self._poller.register(self._waker, zmq.POLLIN)
        self._ready: dict[object, int] = {}
        self._swept = monotonic()

    # --- opening and closing -----------------------------------------------------

    def open(self) -> tuple[str, str]:
        """Listen on both planes and return the addresses that peers shall use.

        Raises:
            ConfigError: an address cannot be listened on; nothing is left open.
        """
        if self._curve is not None:
            self._doorman = Doorman(self._context, self._curve)
            self._poller.register(self._doorman.socket, zmq.POLLIN)
        bind = self._config.bind_address
        control = self._listen(self.control, bind.host, bind.port)
        data = self._listen(self.data, bind.host, self._config.data_port)
        self.ports = {control, data}
        host, port = self._advertised(bind)
        return str(Address(host, port or control)), str(Address(host, data))

    def _advertised(self, bind: Address) -> Address:
        """Return what peers shall connect to; port 0 is the one listened on."""
        if self._config.advertise is not None:
            return parse(self._config.advertise, default_port=0)
        return Address(_default_route() if bind.wildcard else bind.host, 0)

    def _listen(self, plane: Plane, host: str, port: int) -> int:
        listener: Socket = self._context.socket(zmq.ROUTER)
        self._limit(listener, plane)
        listener.setsockopt(zmq.ROUTER_MANDATORY, 1)
        listener.setsockopt(zmq.ROUTER_HANDOVER, 1)
        listener.setsockopt(zmq.BACKLOG, 512)
        listener.setsockopt(zmq.HEARTBEAT_IVL, _ms(LISTENER_HEARTBEAT))
        listener.setsockopt(zmq.HEARTBEAT_TIMEOUT, _ms(LISTENER_HEARTBEAT))
        if self._curve is not None:
            self._curve.guard(listener)
            self._watch(listener)
        if port and not _bind(listener, host, port):
            # Several workers of one host share their settings. The first has the
            # port that others know as a seed; the rest are found through gossip.
            _log.warning("port %d of %s is taken: using a free one", port, host)
            port = 0
        if not port and not _bind(listener, host, 0):
            listener.disable_monitor()
            listener.close(0)
            raise ConfigError(
                f"bind={host!r} cannot be listened on: it is no address of this "
                "machine; use 127.0.0.1 for one host or 0.0.0.0 for a network"
            )
        self._listeners[plane.name] = listener
        self._poller.register(listener, zmq.POLLIN)
        endpoint = listener.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def _watch(self, listener: Socket) -> None:
        """Have the handshakes counted that *listener* refuses.

        The doorman does not see most of them: without the secret, a handshake fails
        before anybody is asked.
        """
        watch: Socket = listener.get_monitor_socket(_REFUSED)
        self._watches.append(watch)
        self._poller.register(watch, zmq.POLLIN)

    def _limit(self, any_socket: Socket, plane: Plane) -> None:
        """Set what every socket of a plane has in common, before it is used."""
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, plane.hwm),
            (zmq.RCVHWM, plane.hwm),
            (zmq.MAXMSGSIZE, plane.max_frame),
            (zmq.HANDSHAKE_IVL, _ms(self._config.handshake_timeout)),
            (zmq.IPV6, 1),
        ):
            any_socket.setsockopt(option, value)

    def addresses(self) -> set[str]:
        """Return the addresses that links go to. Safe in a forked child."""
        return set(self._links)

    def close(self) -> None:
        """Close every socket and the context. Never waits for a peer."""
        for link in list(self._links.values()):
            self._close_link(link)
        for listener in self._listeners.values():
            listener.disable_monitor()
            listener.close(0)
        for watch in self._watches:
            watch.close(0)
        if self._doorman is not None:
            self._doorman.socket.close(0)
        self._context.destroy(0)
        os.close(self._waker)
        if self._wake_fd != self._waker:
            os.close(self._wake_fd)

    # --- waiting -----------------------------------------------------------------

    def wake(self) -> None:
        """End the current `poll`, or the next. Thread-safe."""
        wake(self._wake_fd)

    def poll(self, timeout: float | None) -> None:
        """Wait until something arrives, `wake` is called or *timeout* seconds pass."""
        wait_ms = None if timeout is None else max(0, int(timeout * 1000) + 1)
        if timeout is not None and timeout <= 0:
            wait_ms = 0
        self._ready = dict(self._poller.poll(wait_ms))
        if self._waker in self._ready:
            drain(self._waker)

    def receive(self) -> Iterator[Arrival]:
        """Yield what has arrived, a bounded number from each socket."""
        ready = self._ready
        if self._doorman is not None and self._doorman.socket in ready:
            self._doorman.answer()
        for watch in self._watches:
            while watch in ready and watch.poll(0):
                _next_event(watch)
                self.traffic.refused_keys += 1
        for name, listener in self._listeners.items():
            if listener in ready:
                yield from self._receive_inbound(name, listener)
        for any_socket, events in ready.items():
            # What arrived before may have closed it.
            link = self._link_of.get(any_socket)
            if link is not None:
                yield from self._receive_by(link, any_socket, events)

    def _receive_by(
        self, link: _Link, any_socket: object, events: int
    ) -> Iterator[Arrival]:
        if any_socket is link.monitor:
            self._read_monitor(link)
            return
        if events & _OUT:
            self._flush(link)
        if events & _IN:
            yield from self._receive_answers(link)

    def _receive_inbound(self, name: str, listener: Socket) -> Iterator[Arrival]:
        for _ in range(FRAMES_PER_TURN):
            try:
                identity = listener.recv(_NOBLOCK)
                part = listener.recv(_NOBLOCK, copy=False)
            except zmq.Again:
                return
            frame = self._last_part(listener, part)
            if frame is not None:
                yield Arrival(frame, _Way(name, identity), inbound=True)

    def _receive_answers(self, link: _Link) -> Iterator[Arrival]:
        for _ in range(FRAMES_PER_TURN):
            # News of a death, in the frame just yielded, closes the link.
            if link.socket.closed:
                return
            try:
                part = link.socket.recv(_NOBLOCK, copy=False)
            except zmq.Again:
                return
            frame = self._last_part(link.socket, part)
            if frame is not None:
                # An answer keeps a link open too: a load may take long.
                link.used = monotonic()
                yield Arrival(frame, link.address, inbound=False)

    def _last_part(self, any_socket: Socket, part: zmq.Frame) -> bytes | None:
        """Return the bytes of *part*; None, and drop the rest, if it is not the last.

        A `Frame` knows whether more follow. To ask the socket takes as long as to
        receive.
        """
        if part.more:
            while any_socket.recv(_NOBLOCK, copy=False).more:
                pass
            self.traffic.malformed += 1
            return None
        frame = part.bytes
        self._count_in(frame)
        return frame

    def _count_in(self, frame: bytes) -> None:
        self.traffic.frames_received += 1
        self.traffic.bytes_received += len(frame)

    # --- sending -----------------------------------------------------------------

    def send(self, address: str, frame: bytes, plane: Plane) -> None:
        """Send *frame* to *address*, as soon as it is connected, or drop it."""
        if self._too_large(frame, plane):
            return
        link = self._links.get(address)
        if link is None:
            link = self._open_link(address, plane)
            if link is None:
                return
        link.used = monotonic()
        if link.outbox or not self._try(link, frame):
            self._put_by(link, frame)

    def reply(self, route: Route, frame: bytes) -> None:
        """Send *frame* back along *route*, or drop it when nobody is there."""
        if not isinstance(route, _Way):
            assert isinstance(route, str)
            link = self._links.get(route)
            if link is not None:
                self.send(route, frame, link.plane)
            return
        plane = self.control if route.plane == "control" else self.data
        if self._too_large(frame, plane):
            return
        try:
            listener = self._listeners[route.plane]
            listener.send(route.identity, _MORE)
            listener.send(frame, _NOBLOCK)
        except zmq.Again:
            self.traffic.dropped_full += 1
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self.traffic.unroutable += 1
            self._dead_routes.append(route)
        else:
            self._count_out(frame)

    def _too_large(self, frame: bytes, plane: Plane) -> bool:
        # A frame over the receiver's limit would cost the whole connection.
        if len(frame) <= plane.max_frame:
            return False
        self.traffic.dropped_large += 1
        return True

    def _try(self, link: _Link, frame: bytes) -> bool:
        try:
            link.socket.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        self._count_out(frame)
        return True

    def _count_out(self, frame: bytes) -> None:
        self.traffic.frames_sent += 1
        self.traffic.bytes_sent += len(frame)

    def _put_by(self, link: _Link, frame: bytes) -> None:
        if len(link.outbox) >= OUTBOX:
            link.outbox.popleft()
            self.traffic.dropped_full += 1
        link.outbox.append((monotonic(), frame))
        self._poller.register(link.socket, zmq.POLLIN | zmq.POLLOUT)

    def _flush(self, link: _Link) -> None:
        oldest = monotonic() - OUTBOX_AGE
        while link.outbox:
            since, frame = link.outbox[0]
            last_word = len(link.outbox) == 1 and link.plane is self.control
            if since < oldest and not last_word:
                self.traffic.dropped_stale += 1
            elif not self._try(link, frame):
                return
            link.outbox.popleft()
        self._poller.register(link.socket, zmq.POLLIN)

    # --- links -------------------------------------------------------------------

    def _open_link(self, address: str, plane: Plane) -> _Link | None:
        try:
            dealer, monitor = self._dial(address, plane)
        except (zmq.ZMQError, ValueError) as error:
            _log.debug("no link to %r: %s", address, error)
            self._lost.append(address)
            return None
        self.traffic.links_opened += 1
        link = _Link(address, dealer, monitor, plane, monotonic())
        self._links[address] = link
        self._link_of[dealer] = self._link_of[monitor] = link
        self._poller.register(dealer, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        return link

    def _dial(self, address: str, plane: Plane) -> tuple[Socket, Socket]:
        """Return a socket that connects to *address*, and its monitor.

        Raises:
            ZMQError, ValueError: it is no address, or sockets or descriptors have run
                out; nothing is left open.
        """
        dealer: Socket = self._context.socket(zmq.DEALER)
        monitor: Socket | None = None
        try:
            self._prepare(dealer, plane)
            monitor = dealer.get_monitor_socket(_BROKEN | _MADE | _REFUSED)
            dealer.connect(f"tcp://{address}")
        except (zmq.ZMQError, ValueError):
            dealer.disable_monitor()
            if monitor is not None:
                monitor.close(0)
            dealer.close(0)
            raise
        return dealer, monitor

    def _prepare(self, dealer: Socket, plane: Plane) -> None:
        self._limit(dealer, plane)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        config = self._config
        patience = 1 if plane is self.control else DATA_PATIENCE
        for option, seconds in (
            (zmq.HEARTBEAT_IVL, patience * config.heartbeat_interval),
            (zmq.HEARTBEAT_TIMEOUT, patience * config.heartbeat_timeout),
            (zmq.HEARTBEAT_TTL, patience * config.heartbeat_timeout),
            (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT),
            (zmq.RECONNECT_IVL, config.reconnect_min),
            (zmq.RECONNECT_IVL_MAX, config.reconnect_max),
        ):
            dealer.setsockopt(option, _ms(seconds))
        if self._curve is not None:
            self._curve.unlock(dealer)

    def _read_monitor(self, link: _Link) -> None:
        """Report a connection that was refused or broke, once until it is made."""
        while link.monitor.poll(0):
            event = _next_event(link.monitor)
            if event & _MADE:
                link.told, link.known = False, True
                self._made[link.address] = None
                continue
            if event & _REFUSED:
                _note_refusal(link)
            if not link.told:
                link.told = True
                self._lost.append(link.address)
                self._made.pop(link.address, None)

    def lost(self) -> list[str]:
        """Return the addresses whose connection was refused or broke since asked."""
        lost, self._lost = self._lost, []
        return lost

    def made(self) -> list[str]:
        """Return the addresses to which a connection was made since asked, and holds.

        Ask for `lost` first: one that was lost and made again is in both.
        """
        made, self._made = self._made, {}
        return list(made)

    def dead_routes(self) -> list[Route]:
        """Return the routes that turned out to lead nowhere since asked."""
        dead, self._dead_routes = self._dead_routes, []
        return dead

    def forget(self, address: str) -> None:
        """Close the link to an address that is not wanted any more."""
        link = self._links.get(address)
        if link is not None:
            self._close_link(link)

    def sweep(self, now: float) -> None:
        """Close links that have been idle for long. Cheap; call it at every turn."""
        idle = self._config.link_idle
        if now - self._swept < idle / 4:
            return
        self._swept = now
        for link in [x for x in self._links.values() if now - x.used > idle]:
            self.traffic.links_idled += 1
            self._close_link(link)

    def _close_link(self, link: _Link) -> None:
        del self._links[link.address]
        del self._link_of[link.socket], self._link_of[link.monitor]
        self._poller.unregister(link.socket)
        self._poller.unregister(link.monitor)
        link.socket.disable_monitor()
        link.monitor.close(0)
        link.socket.close(0)


def _note_refusal(link: _Link) -> None:
    """Say what a second failed handshake means; the first may meet a dying process."""
    link.refusals += 1
    if link.refusals == _REFUSALS and not link.known:
        _log.warning("%s refused the handshake: another secret, or none", link.address)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _bind(listener: Socket, host: str, port: int) -> bool:
    try:
        # ZeroMQ takes a name here for a network interface, so it is looked up first.
        # Bytes are taken as they are; a str would load the tables of all the world's
        # scripts first.
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]
        bracketed = f"[{found}]" if ":" in str(found) else found
        listener.bind(f"tcp://{bracketed}:{port or '*'}")
    except (zmq.ZMQError, OSError):
        return False
    return True


def _next_event(monitor: Socket) -> int:
    """Return the next event that *monitor* tells of: zmq_socket_monitor(3)."""
    # pyzmq's own function for this would load asyncio, and with it OpenSSL.
    event, _ = monitor.recv_multipart()
    return int.from_bytes(event[:2], sys.byteorder)


def _default_route() -> str:
    """Return this machine's address on its default route; sends nothing.

    Raises:
        ConfigError: there is no such route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # A UDP socket picks its source address on connect, without a packet. The
            # address is one reserved for documentation (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError as error:
            raise ConfigError(
                "bind is a wildcard and this machine has no default route to tell its "
                "address by; say advertise= with the address that peers can reach"
            ) from error
        return str(probe.getsockname()[0])
