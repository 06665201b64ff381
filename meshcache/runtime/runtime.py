"""One running node: the I/O thread, the scout, the loaders, and the way in.

A runtime is started once, stopped once and never again used. `Node` makes a new one
after a stop or a fork. Whoever reads goes through the things a runtime lets any thread
look at (`store`, `ranges`, `near`) before it asks the I/O thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Iterable
from threading import Condition
from typing import Any, Final, final
from uuid import uuid4

from meshcache.clock import monotonic, time_ns
from meshcache.config import Config
from meshcache.discovery.directory import Directory, Record
from meshcache.discovery.place import directory_path
from meshcache.engine.effects import Changed, Retabled
from meshcache.engine.engine import Engine
from meshcache.engine.ops import (
    Asked,
    Closed,
    Forsake,
    LoadKey,
    Operation,
    Outcome,
)
from meshcache.errors import ConfigError
from meshcache.model import Member, NodeId, State
from meshcache.runtime.driver import Driver, Told
from meshcache.runtime.fork import close_inherited
from meshcache.runtime.loaders import Loader, Loaders
from meshcache.runtime.scout import Scout
from meshcache.runtime.threads import start_thread
from meshcache.runtime.tickets import AsyncTicket, SyncTicket
from meshcache.store.near import Near
from meshcache.transport.zeromq import ZmqTransport

__all__ = ["Runtime"]

START_TIMEOUT: Final = 10.0
CLOSING: Final = 1.0
"""Seconds beyond its farewell that a node may take to close its sockets."""

GRACE: Final = 5.0
"""Seconds that a caller waits beyond what the engine promised, before it concludes
that the I/O thread is gone."""

_log = logging.getLogger("meshcache.members")


@final
class Runtime:
    """A node that runs. Thread-safe, except where a method says otherwise.

    Raises:
        ConfigError: it could not listen or register; nothing is left running.
    """

    def __init__(self, config: Config, told: Callable[[Told], None]) -> None:
        self.config = config
        self.near = Near(config.near_entries, config.near_bytes)
        self.news = Condition()
        self._told = told
        self._startup: BaseException | None = None
        self._started = False
        self._directory = _directory(config)
        self._scout = Scout(config, self._directory, self._found, self._died)
        self._loaders = Loaders(config, self._run_ended)
        self._transport: ZmqTransport
        self._engine: Engine
        self._members: tuple[Member, ...] = ()
        self._driver: Driver
        self._join = start_thread("io", self._body)
        self._await_start()

    # --- starting ----------------------------------------------------------------

    def _await_start(self) -> None:
        with self.news:
            self.news.wait_for(lambda: self._started, START_TIMEOUT)
        if self._startup is None and not self._started:
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
            self._startup = error
        with self.news:
            self._started = True
            self.news.notify_all()
        if self._startup is None:
            self._driver.run()

    def _build(self) -> None:
        config = self.config
        self._transport = ZmqTransport(config)
        try:
            address, data_address = self._transport.open()
        except BaseException:
            self._transport.close()
            raise
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
        self._engine = Engine(me, config, random.Random(), now, offset)
        self._members = self._engine.members()
        self._driver = Driver(
            self._engine, self._transport, config, self._loaders.run, self._tell
        )
        self._driver.post(lambda engine, at: engine.join((), at))

    # --- what the edges find out -------------------------------------------------

    def _found(self, addresses: Iterable[str]) -> None:
        known = tuple(addresses)
        with self.news:
            self.news.notify_all()
        self._driver.post(lambda engine, now: engine.seeds(known, now))

    def _died(self, record: Record) -> None:
        self._driver.post(
            lambda engine, now: engine.proof_of_death(record.node_id, record.epoch, now)
        )

    def _run_ended(self, ended: Operation) -> None:
        self._driver.submit(None, ended)

    def _tell(self, news: Told) -> None:
        # A tuple replaced by assignment, since the machine's own may be half changed
        # when another thread looks.
        self._members = self._engine.members()
        if isinstance(news, Changed):
            _log_change(self.me, news)
        elif isinstance(news, Retabled):
            _log.debug("%s: %d partitions moved", self.me.name, news.moved)
        with self.news:
            self.news.notify_all()
        self._told(news)

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
        }

    # --- asking ------------------------------------------------------------------

    def _patience(self, operation: Asked) -> float:
        if isinstance(operation, LoadKey):
            return operation.timeout + GRACE
        return self.config.request_timeout + GRACE

    def ask(self, operation: Asked) -> tuple[SyncTicket, Outcome]:
        """Put *operation* to the engine and wait for its outcome."""
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

    def tell(self, operation: Operation) -> None:
        """Put *operation* to the engine; it has no outcome."""
        self._driver.submit(None, operation)

    def register(self, loader: Loader) -> None:
        """Let other nodes have *loader* run here."""
        self.tell(self._loaders.register(loader))

    # --- ending ------------------------------------------------------------------

    def stop(self, timeout: float) -> bool:
        """Say farewell and end the threads; False if one would not end in time."""
        end = monotonic() + timeout + CLOSING
        self._driver.stop(timeout)
        self._loaders.close()
        looking = self._scout.stop(timeout)
        return self._join(max(0.0, end - monotonic())) and looking

    def abandon_after_fork(self) -> None:
        """In a forked child: close what was inherited, and touch nothing else."""
        self._scout.abandon_after_fork()
        close_inherited(self._transport.ports, self._transport.addresses())


def _directory(config: Config) -> Directory | None:
    if not config.directory:
        return None
    path = directory_path(config.cluster, config.runtime_dir, os.environ)
    return Directory(path)


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
