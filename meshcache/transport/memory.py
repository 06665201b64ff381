"""A network in memory, under virtual time and as bad as it is told to be.

It carries what a real one would: encoded frames, between addresses it knows nothing
about. Like TCP it keeps the order of a connection, holds what a stopped process does
not read, and tells a sender whose connection was refused or reset. Unlike TCP it can
lose, repeat and reorder, which is what reconnects amount to. Everything random comes
from one generator, so that a seed replays a run.

Connections have heartbeats, as ZeroMQ's do: one over which nothing can pass any more,
because a process stands still, a host is gone or a line is cut, is lost a while later
without a word from the other end, and made again soon after that is over. A process
that is merely slow or blocked keeps its connections, as its I/O thread does for it.

An *owner* is a process: it has one or more addresses and a codec, and lives until it
crashes. Time is what the caller says it is; nothing here waits.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple, TypeAlias, cast, final

from xxhash import xxh3_64

from meshcache.codec.frames import FrameCodec
from meshcache.codec.mail import Route
from meshcache.codec.messages import Message
from meshcache.errors import RemoteProtocolError

__all__ = ["Arrival", "Conditions", "Lost", "Made", "MemoryNetwork", "Traffic", "Way"]

HELD_MAX: Final = 10_000
"""Frames kept for one process that does not read, or one cut connection."""

HEARTBEAT_INTERVAL: Final = 0.5
HEARTBEAT_TIMEOUT: Final = 1.5
"""A silence is noticed so many seconds after the next heartbeat, as by default."""

REMADE_WITHIN: Final = 1.0
"""Seconds within which a lost connection is made again when nothing is in its way."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a connection behaves. Times in seconds, chances between 0 and 1.

    Attributes:
        delay: the least time a frame takes.
        jitter: up to so much more, at random; order is kept all the same.
        loss: the chance that a frame is lost without a word.
        duplicate: the chance that a frame arrives twice.
        reorder: the chance that a frame arrives out of its order, up to `straggle`
            late.
        straggle: see `reorder`.
    """

    delay: float = 0.0002
    jitter: float = 0.0003
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    straggle: float = 0.5


class Arrival(NamedTuple):
    """A message has come to *owner*; answers go along *route*."""

    owner: str
    message: Message
    route: Route


class Lost(NamedTuple):
    """The connection of *owner* to *address* was refused or reset, or fell silent."""

    owner: str
    address: str


class Made(NamedTuple):
    """A connection of *owner* to *address* that was lost has been made again."""

    owner: str
    address: str


Event: TypeAlias = Arrival | Lost | Made


class Way(NamedTuple):
    """The route back to one process; a later one of the same name is not meant."""

    owner: str
    life: int


class _Frame(NamedTuple):
    to: Way
    sender: Way
    data: bytes


class _Reset(NamedTuple):
    to: Way
    address: str


class _Remade(NamedTuple):
    to: Way
    address: str


class _Look(NamedTuple):
    """A heartbeat's time-out, or without `since` a new attempt to connect."""

    to: Way
    address: str
    since: float | None


_Flying: TypeAlias = _Frame | _Reset | _Remade | _Look
_Line: TypeAlias = tuple[str, str]
"""A connection: its owner, and the address it goes to."""


class _Outgoing(NamedTuple):
    owner: str
    address: str
    way: Way | None
    """Set for a reply, which has no address."""
    data: bytes


@final
@dataclass(slots=True)
class Traffic:
    """What one process has sent, by kind of message."""

    messages: Counter[str] = field(default_factory=Counter)
    octets: Counter[str] = field(default_factory=Counter)


@final
class MemoryNetwork:
    """Frames between processes. Confined to the thread that drives the simulation."""

    def __init__(
        self,
        rng: random.Random,
        conditions: Conditions | None = None,
        *,
        heartbeats: bool = True,
    ) -> None:
        self.conditions = conditions or Conditions()
        self.traffic: dict[str, Traffic] = {}
        self.lost = 0
        self.held_back = 0
        self.refused: Counter[str] = Counter()
        self._rng = rng
        self._special: dict[tuple[str, str], Conditions] = {}
        self._codecs: dict[str, FrameCodec] = {}
        self._lives: dict[str, int] = {}
        self._listening: dict[str, str] = {}
        self._dark: dict[str, str] = {}
        self._heartbeats = heartbeats
        self._homes: dict[str, tuple[str, ...]] = {}
        self._dialled: dict[str, dict[str, None]] = {}
        self._lines: dict[str, dict[str, bool]] = {}
        """By address, who connects to it, and whether the connection is there."""
        self._apart: dict[_Line, float] = {}
        self._broken: set[_Line] = set()
        self._stopped: set[str] = set()
        self._latest: dict[tuple[str, str], float] = {}
        self._paused: dict[str, deque[_Flying]] = {}
        self._unsent: dict[str, deque[_Outgoing]] = {}
        self._slow: dict[str, float] = {}
        self._cut: dict[tuple[str, str], bool] = {}
        self._behind_cut: dict[tuple[str, str], deque[_Frame]] = {}
        self._flying: list[tuple[float, int, _Flying]] = []
        self._order = 0
        self._transcript = xxh3_64()

    # --- processes --------------------------------------------------------------

    def attach(self, owner: str, codec: FrameCodec, *addresses: str) -> None:
        """Let a process live, listening at *addresses*."""
        assert owner not in self._codecs
        self._codecs[owner] = codec
        self._lives[owner] = self._lives.get(owner, 0) + 1
        self.traffic.setdefault(owner, Traffic())
        self._homes[owner] = addresses
        for address in addresses:
            assert address not in self._listening
            self._listening[address] = owner
            self._dark.pop(address, None)

    def crash(self, owner: str, now: float, *, silent: bool = False) -> None:
        """Let a process die. What is on its way to it is lost.

        The kernel resets its connections and refuses new ones; *silent* is the loss of
        the whole host, which nobody is told of.
        """
        del self._codecs[owner]
        self._paused.pop(owner, None)
        self._unsent.pop(owner, None)
        self._slow.pop(owner, None)
        self._stopped.discard(owner)
        self._hang_up(owner)
        for address in self._homes[owner]:
            del self._listening[address]
            if silent:
                self._dark[address] = owner
                continue
            for peer in self._lines.pop(address, {}):
                self._dialled[peer].pop(address, None)
                self._apart.pop((peer, address), None)
                self._report_lost(peer, owner, address, now)
        self._review(self._lines_of(owner), now)

    def pause(self, owner: str, now: float) -> None:
        """Let a process stand still, as under SIGSTOP; what comes waits for it."""
        self._hold(owner)
        self._stopped.add(owner)
        self._review(self._lines_of(owner), now)

    def block(self, owner: str) -> None:
        """Let a process neither read nor send: what comes and what it sends waits."""
        self._hold(owner)
        self._unsent.setdefault(owner, deque(maxlen=HELD_MAX))

    def resume(self, owner: str, now: float) -> None:
        """Let a process read and send again, first of all what has waited."""
        self._stopped.discard(owner)
        self._review(self._lines_of(owner), now)
        for frame in self._paused.pop(owner, ()):
            self._push(now, frame)
        for waiting in self._unsent.pop(owner, ()):
            self._post(waiting, now)

    def slow(self, owner: str, seconds: float) -> None:
        """Let whatever is for a process reach it so much later; 0 for no more."""
        self._slow[owner] = seconds

    # --- the state of the lines -------------------------------------------------

    def between(self, source: str, target: str, conditions: Conditions) -> None:
        """Set how frames from one process to another travel; one direction only."""
        self._special[source, target] = conditions

    def cut(self, source: str, target: str, now: float, *, hold: bool = False) -> None:
        """Let nothing through from one process to another; one direction only.

        *hold* keeps the frames and delivers them after `heal`, as TCP does when the
        line is back before it has given up.
        """
        self._cut[source, target] = hold
        there = [(source, address) for address in self._homes.get(target, ())]
        back = [(target, address) for address in self._homes.get(source, ())]
        self._review([line for line in there + back if self._is_dialled(line)], now)

    def heal(self, now: float) -> None:
        """Mend every line: all cuts, and all that `between` has set."""
        self._cut.clear()
        self._special.clear()
        self._review(list(self._apart), now)
        held, self._behind_cut = self._behind_cut, {}
        for frames in held.values():
            for frame in frames:
                self._push(now, frame)

    # --- sending ----------------------------------------------------------------

    def send(self, owner: str, address: str, message: Message, now: float) -> None:
        """Send a message to whoever listens at *address*."""
        frame = self._encode(owner, message)
        self._post(_Outgoing(owner, address, None, frame), now)

    def reply(self, owner: str, route: Route, message: Message, now: float) -> None:
        """Send a message back along the way another came."""
        frame = self._encode(owner, message)
        self._post(_Outgoing(owner, "", cast("Way", route), frame), now)

    # --- arriving ---------------------------------------------------------------

    def deadline(self) -> float | None:
        """Return when the next frame arrives."""
        return self._flying[0][0] if self._flying else None

    def deliver(self, now: float) -> Event | None:
        """Return the next event due by *now*, or None where a frame came to nothing."""
        if not self._flying or self._flying[0][0] > now:
            return None
        _, _, flying = heappop(self._flying)
        owner, life = flying.to
        codec = self._codecs.get(owner)
        if codec is None or self._lives[owner] != life:
            self.lost += isinstance(flying, _Frame)
            return None
        if isinstance(flying, _Look):
            self._look(flying, now)
            return None
        if owner in self._paused:
            self.held_back += 1
            self._paused[owner].append(flying)
            return None
        if not isinstance(flying, _Frame):
            event = Lost if isinstance(flying, _Reset) else Made
            return event(owner, flying.address)
        return self._arrive(owner, codec, flying, now)

    def _arrive(
        self, owner: str, codec: FrameCodec, flying: _Frame, now: float
    ) -> Arrival | None:
        self._transcript.update(flying.data)
        self._transcript.update(f"{now!r} {owner}".encode())
        try:
            return Arrival(owner, codec.decode(flying.data), flying.sender)
        except RemoteProtocolError as error:
            self.refused[error.reason] += 1
            return None

    @property
    def transcript(self) -> str:
        """A hash of all that has arrived, when and where."""
        return self._transcript.hexdigest()

    # --- inside -----------------------------------------------------------------

    def _encode(self, owner: str, message: Message) -> bytes:
        frame = self._codecs[owner].encode(message)
        kind = type(message).__name__
        traffic = self.traffic[owner]
        traffic.messages[kind] += 1
        traffic.octets[kind] += len(frame)
        return frame

    def _post(self, outgoing: _Outgoing, now: float) -> None:
        owner, address, way, data = outgoing
        if owner in self._unsent:
            self._unsent[owner].append(outgoing)
        elif way is None:
            self._post_to(address, owner, data, now)
        elif way.owner in self._codecs and self._lives[way.owner] == way.life:
            self._carry(owner, way.owner, way.owner, data, now)
        else:
            self.lost += 1

    def _post_to(self, address: str, owner: str, data: bytes, now: float) -> None:
        target = self._listening.get(address)
        if target is not None or address in self._dark:
            self._dial(owner, address, now)
        if target is not None:
            self._carry(owner, target, address, data, now)
        elif address in self._dark:
            self.lost += 1
        else:
            self._report_lost(owner, address, address, now)

    def _carry(
        self, source: str, target: str, line: str, data: bytes, now: float
    ) -> None:
        pair = (source, target)
        frame = _Frame(
            Way(target, self._lives[target]), Way(source, self._lives[source]), data
        )
        if self._cut and pair in self._cut:
            self._stop(pair, frame)
            return
        how = self._special.get(pair, self.conditions)
        if how.loss and self._rng.random() < how.loss:
            self.lost += 1
            return
        self._push(self._arrival(how, pair, line, now), frame)
        if how.duplicate and self._rng.random() < how.duplicate:
            self._push(self._arrival(how, pair, line, now), frame)

    def _stop(self, pair: tuple[str, str], frame: _Frame) -> None:
        if self._cut[pair]:
            self._behind_cut.setdefault(pair, deque(maxlen=HELD_MAX)).append(frame)
        else:
            self.lost += 1

    def _arrival(
        self, how: Conditions, pair: tuple[str, str], line: str, now: float
    ) -> float:
        source, target = pair
        at = now + how.delay + how.jitter * self._rng.random()
        at += self._slow.get(target, 0.0) if self._slow else 0.0
        if how.reorder and self._rng.random() < how.reorder:
            return at + how.straggle * self._rng.random()
        at = max(at, self._latest.get((source, line), at))
        self._latest[source, line] = at
        return at

    def _report_lost(self, owner: str, target: str, address: str, now: float) -> None:
        how = self._special.get((owner, target), self.conditions)
        if (target, owner) not in self._cut:
            way = Way(owner, self._lives[owner])
            self._broken.add((owner, address))
            self._push(now + how.delay, _Reset(way, address))

    def _hold(self, owner: str) -> None:
        self._paused.setdefault(owner, deque(maxlen=HELD_MAX))

    # --- heartbeats -------------------------------------------------------------

    def _dial(self, owner: str, address: str, now: float) -> None:
        """Have a connection begun, if there is none yet."""
        peers = self._lines.setdefault(address, {})
        if owner in peers:
            return
        line = (owner, address)
        peers[owner] = True
        self._dialled.setdefault(owner, {})[address] = None
        self._review([line], now)
        if line in self._broken and line not in self._apart:
            self._broken.discard(line)
            way = Way(owner, self._lives[owner])
            self._push(now + self.conditions.delay, _Remade(way, address))

    def _hang_up(self, owner: str) -> None:
        """Drop the connections that a process has made."""
        for address in self._dialled.pop(owner, ()):
            self._lines[address].pop(owner, None)
            self._apart.pop((owner, address), None)
            self._broken.discard((owner, address))

    def _is_dialled(self, line: _Line) -> bool:
        owner, address = line
        return owner in self._lines.get(address, ())

    def _lines_of(self, owner: str) -> list[_Line]:
        """Return the connections that a process has made, and those made to it."""
        made = [(owner, address) for address in self._dialled.get(owner, ())]
        homes = self._homes[owner]
        return made + [(p, home) for home in homes for p in self._lines.get(home, ())]

    def _is_apart(self, line: _Line) -> bool:
        """Return whether nothing passes between the ends of a connection."""
        owner, address = line
        if address in self._dark:
            return True
        target = self._listening[address]
        return (
            owner in self._stopped
            or target in self._stopped
            or (owner, target) in self._cut
            or (target, owner) in self._cut
        )

    def _review(self, lines: list[_Line], now: float) -> None:
        """See which connections have fallen silent by now, and which no longer are."""
        if not self._heartbeats:
            return
        for line in lines:
            owner, address = line
            way = Way(owner, self._lives[owner])
            if not self._is_apart(line):
                silent = self._apart.pop(line, None) is not None
                if silent and not self._lines[address][owner]:
                    at = now + REMADE_WITHIN * self._rng.random()
                    self._push(at, _Look(way, address, None))
            elif line not in self._apart:
                self._apart[line] = now
                at = now + HEARTBEAT_TIMEOUT + HEARTBEAT_INTERVAL * self._rng.random()
                self._push(at, _Look(way, address, now))

    def _look(self, look: _Look, now: float) -> None:
        """Lose a connection that has been silent, or make it again."""
        line = (look.to.owner, look.address)
        if not self._is_dialled(line) or self._apart.get(line) != look.since:
            return
        made = look.since is None
        if self._lines[look.address][look.to.owner] is made:
            return
        self._lines[look.address][look.to.owner] = made
        event = _Remade if made else _Reset
        self._push(now, event(look.to, look.address))

    def _push(self, at: float, flying: _Flying) -> None:
        self._order += 1
        heappush(self._flying, (at, self._order, flying))
