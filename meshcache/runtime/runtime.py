"""One running node: the I/O thread, the scout, the loaders, and the way in.

A runtime is started once, stopped once and never again used. `Node` makes a new one
after a stop or a fork. Whoever reads goes through the things a runtime lets any thread
look at (`store`, `ranges`, `near`) before it asks the I/O thread.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Condition
from typing import Any, Final
from uuid import uuid4

from meshcache.clock import monotonic, time_ns
from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import Item, Verb
from meshcache.config import Config
from meshcache.discovery.directory import Directory, Record
from meshcache.engine.effects import Changed, Complete, Effect, Retabled
from meshcache.engine.engine import Engine
from meshcache.engine.ops import (
    Asked,
    Closed,
    Forsake,
    LoadKey,
    Moved,
    Operation,
    Outcome,
    Unreached,
    WriteKeys,
    WriteResult,
)
from meshcache.engine.owner import moves
from meshcache.errors import ConfigError
from meshcache.hashing import bucket_of, partition_of
from meshcache.model import Member, NodeId, State
from meshcache.place import directory_path
from meshcache.runtime.arenas import GRACE as BURIED
from meshcache.runtime.arenas import Arenas
from meshcache.runtime.background import Background
from meshcache.runtime.driver import Driver, Told
from meshcache.runtime.fork import close_inherited
from meshcache.runtime.loaders import Loader, Loaders
from meshcache.runtime.scout import Scout
from meshcache.runtime.service import HostService
from meshcache.runtime.threads import is_patched, start_thread
from meshcache.runtime.tickets import AsyncTicket, SyncTicket
from meshcache.runtime.wire import HostWire
from meshcache.store.files import is_alive
from meshcache.store.generations import Tenure
from meshcache.store.near import Near
from meshcache.transport.host import SUPPORTED, HostListener
from meshcache.transport.paths import sweep
from meshcache.transport.zeromq import ZmqTransport

__all__ = ["Runtime"]

START_TIMEOUT: Final = 10.0
CLOSING: Final = 1.0
"""Seconds beyond its farewell that a node may take to close its sockets."""

BURY_AGAIN: Final = 0.1

GRACE: Final = 5.0
"""Seconds that a caller waits beyond what the engine promised, before it concludes
that the I/O thread is gone."""

_log = logging.getLogger("meshcache.members")
_wire_log = logging.getLogger("meshcache.transport")


class Runtime:
    """A node that runs. Thread-safe, except where a method says otherwise.

    Raises:
        ConfigError: it could not listen or register; nothing is left running.
    """

    def __init__(self, config: Config, told: Callable[[Told], None]) -> None:
        self.config = config
        self.near = Near(config.near_entries, config.near_bytes)
        self.background = Background(config)
        self.news = Condition()
        self._told = told
        self._startup: BaseException | None = None
        self._started = False
        self._directory = _directory(config)
        self._arenas = Arenas(config, died=self._proved)
        self._proofs: list[tuple[NodeId, int]] = []
        self._scout = Scout(config, self._directory, self._found, self._died)
        self._loaders = Loaders(config, self._run_ended)
        self._transport: ZmqTransport
        self._engine: Engine
        self._host: HostListener | None = None
        self._join_host: Callable[[float], bool] | None = None
        self._wire: HostWire | None = None
        self._members: tuple[Member, ...] = ()
        self.tenures: list[Tenure] = []
        self.bell: Sequence[int] = (0,)
        self._driver: Driver
        self._join = self._spawn()
        self._await_start()

    # --- starting ----------------------------------------------------------------

    def _spawn(self) -> Callable[[float], bool]:
        """Start what drives the engine; return a function that waits for its end."""
        return start_thread("io", self._body)

    def _await_start(self) -> None:
        with self.news:
            if not self.news.wait_for(lambda: self._started, START_TIMEOUT):
                self._startup = ConfigError("the I/O thread did not start in time")
        if self._startup is not None:
            raise self._startup
        try:
            self._scout.start(self.me)
        except ConfigError:
            self.stop(0)
            raise

    def _body(self) -> None:
        """Be the I/O thread: ZeroMQ's sockets are made where they are used."""
        try:
            self._build()
        except BaseException as error:  # noqa: BLE001 - raised by `_await_start`
            self._undo()
            self._startup = error
            with self.news:
                self._started = True
                self.news.notify_all()
            return
        with self.news:
            self._started = self._startup is None
            self.news.notify_all()
        if self._started:
            self._serve_siblings()
            self._driver.run()
        else:
            self._undo()  # It took too long, and nobody waits for it any more.

    def _undo(self) -> None:
        """Close what there is of a node that will not run."""
        if self._host is not None:
            self._host.close()
        self._arenas.close()
        transport: ZmqTransport | None = getattr(self, "_transport", None)
        if transport is not None:
            transport.close()

    def _build(self) -> None:
        config = self.config
        self._transport = ZmqTransport(config)
        address, data_address = self._transport.open()
        me = Member(
            NodeId(uuid4().bytes),
            time_ns(),
            0,
            State.ALIVE,
            address,
            data_address,
            socket.gethostname()[:64],
            0 if config.observer else 1,
        )
        now = monotonic()
        offset = time_ns() - int(now * 1e9)
        arenas = self._arenas
        memory = arenas.create(me.node_id)
        self._engine = Engine(
            me,
            config,
            random.Random(),
            now,
            offset,
            memory=memory,
            host=arenas.host,
            open_lane=arenas.lane,
            look=arenas.look,
            expecting=self._directory is not None or bool(config.seeds),
        )
        arenas.publish()
        # Looked for only now: of two who start at once, one at least sees the other.
        self._engine.ranges.neighbours(*arenas.neighbours())
        self._members = self._engine.members()
        self._host = self._listen(me.node_id)
        self._driver = Driver(
            self._engine,
            self._transport,
            config,
            self._loaders.run,
            self._tell,
            host=self._host,
        )
        self._wire = self._open_wire()
        self.tenures = self._engine.ranges.tenures
        self.bell = self._engine.store.bell
        self._driver.post(lambda engine, at: engine.join((), at))
        self._driver.post(self._tell_proofs)

    def _listen(self, node_id: NodeId) -> HostListener | None:
        """Let siblings write to this node without ZeroMQ, if they see its arena."""
        arenas = self._arenas
        if not arenas.shared or not _has_wire(self.config):
            return None
        self._sweep_host()
        try:
            return HostListener(arenas.path, node_id)
        except OSError as error:
            _wire_log.warning("siblings write to this node by ZeroMQ only: %s", error)
            return None

    def _serve_siblings(self) -> None:
        if self._host is not None:
            frames = FrameCodec(self.config.cluster)
            service = HostService(self._host, self._engine, self._driver, frames)
            self._join_host = start_thread("host", service.run)

    def _open_wire(self) -> HostWire | None:
        if not _has_wire(self.config):
            return None
        return HostWire(
            self.config,
            self._arenas.path,
            self._engine,
            self._driver,
            lambda operation: self._ask(operation)[1],
            listener=self._host,
        )

    def _sweep_host(self) -> None:
        directory = self._arenas.path
        sweep(directory, lambda node_id: is_alive(directory, node_id))

    # --- what the edges find out -------------------------------------------------

    def _found(self, addresses: Iterable[str]) -> None:
        known = tuple(addresses)
        with self.news:
            self.news.notify_all()
        self._driver.post(lambda engine, now: engine.seeds(known, now))

    def _died(self, record: Record) -> None:
        self._proved(record.node_id, record.epoch)

    def _proved(self, node_id: NodeId, epoch: int) -> None:
        """Hear from the kernel that a process is gone, even before the driver runs."""
        self._proofs.append((node_id, epoch))
        if hasattr(self, "_driver"):
            self._driver.post(self._tell_proofs)

    def _tell_proofs(self, engine: Engine, now: float) -> list[Effect]:
        proofs, self._proofs = self._proofs, []
        return [e for proof in proofs for e in engine.proof_of_death(*proof, now)]

    def _run_ended(self, ended: Operation) -> None:
        self._driver.submit(None, ended)

    def _tell(self, news: Told) -> None:
        # A tuple replaced by assignment, since the machine's own may be half changed
        # when another thread looks.
        self._members = self._engine.members()
        if isinstance(news, Changed):
            _log_change(self.me, news)
            if news.member.state is State.DEAD:
                self._bury(news.member)
        elif isinstance(news, Retabled):
            _log.debug("%s: %d partitions moved", self.me.name, news.moved)
        with self.news:
            self.news.notify_all()
        self._told(news)

    def _bury_later(self, seconds: float, engine: Engine, now: float) -> list[Effect]:
        return engine.remind(now + seconds, lambda _now: self._arenas.bury())

    def _bury(self, member: Member) -> None:
        """Take what a sibling's death has left.

        Again in a moment, for the kernel drops a dead process's locks one by one; and
        once more to remove it when all have had their time.
        """
        self._arenas.bury()
        for seconds in (BURY_AGAIN, BURIED + BURY_AGAIN):
            self._driver.post(partial(self._bury_later, seconds))
        if self._wire is not None:
            self._wire.forget(member.node_id)
            self._sweep_host()

    # --- what any thread may look at ---------------------------------------------

    @property
    def me(self) -> Member:
        """This node as its peers know it."""
        return self._engine.me

    @property
    def engine(self) -> Engine:
        """The engine, for the four things of it that any thread may read."""
        return self._engine

    @property
    def closed(self) -> bool:
        """Whether the node has ended."""
        return self._driver.closed

    def members(self) -> tuple[Member, ...]:
        """Return everyone this node knows of, in whatever state."""
        return self._members

    @property
    def siblings(self) -> frozenset[str] | None:
        """The addresses of this host's other nodes; None before the first look."""
        return self._scout.siblings

    def stats(self) -> dict[str, Any]:
        """Return the counters of the engine and the edges."""
        near = self.near
        return {
            **self._engine.stats(),
            "near": {
                "entries": len(near),
                "bytes": near.weight,
                "evictions": near.evictions,
                "evicted_unexpired": near.evicted_unexpired,
                "stale_dropped": near.stale_dropped,
            },
            "transport": {
                **self._transport.traffic.as_dict(),
                "garbage": dict(self._driver.garbage),
                "errors": self._driver.errors,
                "discovery_failures": self._scout.failures,
            },
            "refreshes": self.background.stats(),
            "host_wire": {} if self._wire is None else self._wire.stats(),
        }

    # --- asking ------------------------------------------------------------------

    def _patience(self, operation: Asked) -> float:
        if isinstance(operation, LoadKey):
            return operation.timeout + GRACE
        return self.config.request_timeout + GRACE

    def ask(self, operation: Asked) -> tuple[SyncTicket, Outcome]:
        """Put *operation* to the engine and wait for its outcome."""
        if type(operation) is WriteKeys and self._wire is not None:
            written = self._wire.write(operation)
            if written is not None:
                return SyncTicket(), written
        return self._ask(operation)

    def _ask(self, operation: Asked) -> tuple[SyncTicket, Outcome]:
        ticket = SyncTicket()
        if not self._driver.submit(ticket, operation):
            return ticket, Closed()
        outcome: Outcome = Closed()
        try:
            outcome = ticket.wait(self._patience(operation))
        finally:
            # Ctrl-C while waiting, say: nobody is here to take a lease any more.
            if isinstance(outcome, Closed):
                self.tell(Forsake(ticket))
        return ticket, outcome

    async def aask(self, operation: Asked) -> tuple[AsyncTicket, Outcome]:
        """Put *operation* to the engine and await its outcome."""
        import asyncio  # noqa: PLC0415 - only tasks need it

        ticket = AsyncTicket(asyncio.get_running_loop())
        if not self._driver.submit(ticket, operation):
            return ticket, Closed()
        try:
            async with asyncio.timeout(self._patience(operation)):
                return ticket, await ticket.future
        except TimeoutError:
            self.tell(Forsake(ticket))
            return ticket, Closed()
        except BaseException:
            self.tell(Forsake(ticket))
            raise

    def owns(self, hashed: int) -> bool:
        """Whether a key of this hash is this node's, and open."""
        return self.tenures[partition_of(hashed)].get is self._engine.store.get

    def write_here(self, verb: Verb, item: Item, hashed: int) -> WriteResult | None:
        """Do one write on this thread, if this node owns the key; else None."""
        return self._write_own(verb, item, hashed) if self.owns(hashed) else None

    def _write_own(self, verb: Verb, item: Item, hashed: int) -> WriteResult | None:
        if self.bell[0]:
            self.give_way()
        engine = self._engine
        result = engine.owner.direct(verb, item, hashed, monotonic())
        if engine.readers and result is not None and moves(verb, result):
            self._driver.note(Moved(bucket_of(hashed)))
        return result

    def write_now(
        self, verb: Verb, item: Item, hashed: int
    ) -> WriteResult | Unreached | None:
        """Do one write on this thread, here or by the wire; None if neither will do.

        It waits for a sibling, so it is not for tasks.
        """
        if self.tenures[partition_of(hashed)].get is self._engine.store.get:
            return self._write_own(verb, item, hashed)
        return None if self._wire is None else self._wire.write_one(verb, item, hashed)

    def give_way(self) -> None:
        """Let a sibling that has rung have its answer before this thread goes on.

        Called in the course of reads and writes, by whoever finds `bell` rung.
        """
        self._driver.give_way()

    def tell(self, operation: Operation) -> None:
        """Put *operation* to the engine; it has no outcome."""
        self._driver.submit(None, operation)

    def register(self, loader: Loader) -> None:
        """Let other nodes have *loader* run here."""
        self.tell(self._loaders.register(loader))

    def catch_up(self) -> None:
        """Have done what is due by now, and wait for that: time has been moved."""
        done = SyncTicket()

        def tell(_engine: Engine, _now: float) -> list[Effect]:
            return [Complete(done, Closed())]

        # The second time for what the first has put on the agenda.
        for post in (Engine.tick, Engine.tick, tell):
            self._driver.post(post)
        if not self.closed:
            done.wait(GRACE)

    # --- ending ------------------------------------------------------------------

    def stop(self, timeout: float) -> bool:
        """Say farewell and end the threads; False if one would not end in time."""
        end = monotonic() + timeout + CLOSING
        self._driver.stop(timeout)
        if self._wire is not None:
            self._wire.close()
        self._loaders.close()
        self.background.close()
        looking = self._scout.stop(timeout)
        ended = self._join(max(0.0, end - monotonic()))
        if ended and self._join_host is not None:
            ended = self._join_host(max(0.0, end - monotonic()))
        if ended:
            # A thread that did not end may still write. Its arena is an orphan when
            # this process is no more.
            self._arenas.close()
        return ended and looking

    def abandon_after_fork(self) -> None:
        """In a forked child: close what was inherited, and touch nothing else."""
        self._scout.abandon_after_fork()
        self._arenas.abandon_after_fork()
        for end in (self._host, self._wire):
            if end is not None:
                end.abandon_after_fork()
        close_inherited(self._transport.ports, self._transport.addresses())


def _directory(config: Config) -> Directory | None:
    if not config.directory:
        return None
    path = directory_path(config.cluster, config.runtime_dir, os.environ)
    return Directory(path)


def _has_wire(config: Config) -> bool:
    """Whether threads may write to siblings by themselves.

    Not in a greenlet, where waiting for a socket is the hub's.
    """
    return config.host_lane and SUPPORTED and not is_patched("socket")


def _log_change(me: Member, change: Changed) -> None:
    """Write one line for each thing that happens to a member, its parts as extras."""
    member = change.member
    before = "new" if change.previous is None else change.previous.name
    parts = {
        "mesh_node": me.node_id.hex(),
        "mesh_member": member.node_id.hex(),
        "mesh_address": member.address,
        "mesh_epoch": member.epoch,
        "mesh_incarnation": member.incarnation,
        "mesh_previous": before,
        "mesh_state": member.state.name,
    }
    _log.info(
        "%s: member %s at %s: %s -> %s (incarnation %d)",
        me.name,
        member.name,
        member.address,
        before,
        member.state.name,
        member.incarnation,
        extra=parts,
    )
