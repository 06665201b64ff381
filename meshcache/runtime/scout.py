"""Looking for peers: a thread that may block, so that the I/O thread never does.

It asks the same-host directory often, since that costs microseconds, and the seeds'
providers at their own pace, for ever: names are looked up again each time, and a
provider that fails is logged once, counted, and asked again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from threading import Event
from typing import final

from meshcache.clock import monotonic
from meshcache.config import Config
from meshcache.discovery.directory import Directory, Record
from meshcache.discovery.provider import Provider
from meshcache.discovery.seeds import providers
from meshcache.errors import ConfigError
from meshcache.model import Member
from meshcache.runtime.threads import start_thread

__all__ = ["Scout"]

_log = logging.getLogger("meshcache.discovery")


@final
class Scout:
    """Discovery for one node, on a thread of its own.

    Args:
        config: which seeds, how often, and whether there is a directory.
        directory: the same-host directory, or None.
        found: takes all addresses known now, whenever they have changed.
        died: takes a sibling whose lock was released by its death.

    Attributes:
        siblings: the control addresses of the living nodes of this host, as of the
            last look; None before the first. Read by any thread.
    """

    def __init__(
        self,
        config: Config,
        directory: Directory | None,
        found: Callable[[Iterable[str]], None],
        died: Callable[[Record], None],
    ) -> None:
        self._directory = directory
        self._found = found
        self._died = died
        self._interval = config.directory_interval
        self._seed_interval = config.seed_interval
        self._providers: list[tuple[Provider, list[str]]] = [
            (provider, []) for provider in providers(config.seeds)
        ]
        self.siblings: frozenset[str] | None = None
        self._me: Member | None = None
        self._registered = False
        self._next_ask = 0.0
        self._last: set[str] | None = None
        self._failing: set[object] = set()
        self._stop = Event()
        self.failures = 0
        self._join: Callable[[float], bool] | None = None

    def start(self, me: Member) -> None:
        """Register in the directory and begin to look.

        Raises:
            ConfigError: the directory is not this user's alone.
        """
        self._me = me
        self._register()
        if self._directory is None and not self._providers:
            self.siblings = frozenset()
            self._found(())
        else:
            self._join = start_thread("scout", self._run)

    def stop(self, timeout: float) -> bool:
        """Stop looking and leave the directory; False if that takes too long.

        A look-up of a name cannot be cut short. What is left then, the kernel cleans.
        """
        self._stop.set()
        if self._join is not None and not self._join(timeout):
            return False
        self._leave()
        return True

    def abandon_after_fork(self) -> None:
        """Let go of the parent's lock, in a child."""
        if self._directory is not None:
            self._directory.abandon_after_fork()

    def _register(self) -> None:
        """Enter the directory; if that cannot be done now, at the next look."""
        me, directory = self._me, self._directory
        if directory is None or me is None or self._registered:
            return
        try:
            directory.register(me.node_id, me.epoch, me.address, os.getpid())
        except OSError as error:
            self._fail("directory", error)
        else:
            self._registered = True

    def _leave(self) -> None:
        if self._directory is not None:
            self._directory.unregister()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look()
            self._stop.wait(self._interval)

    def _look(self) -> None:
        siblings = self._look_around()
        self.siblings = frozenset(siblings)
        addresses = siblings | self._look_abroad()
        if addresses != self._last:
            self._last = addresses
            self._found(sorted(addresses))

    def _look_around(self) -> set[str]:
        if self._directory is None:
            return set()
        self._register()
        try:
            scan = self._directory.scan()
        except (OSError, ConfigError) as error:
            self._fail("directory", error)
            return set()
        if self._registered:
            self._failing.discard("directory")
        for record in scan.died:
            self._died(record)
        return {record.address for record in scan.alive}

    def _look_abroad(self) -> set[str]:
        """Return the addresses of all seeds, looked up anew when it is time to."""
        now = monotonic()
        if now >= self._next_ask:
            self._next_ask = now + self._seed_interval
            for provider, known in self._providers:
                self._ask(provider, known)
        return {address for _, known in self._providers for address in known}

    def _ask(self, provider: Provider, known: list[str]) -> None:
        try:
            known[:] = provider.addresses()
        except (OSError, ConfigError) as error:
            # What was found before stays good to try: a name server may be down.
            self._fail(provider, error)
        else:
            self._failing.discard(provider)

    def _fail(self, source: object, error: Exception) -> None:
        self.failures += 1
        if source not in self._failing:
            self._failing.add(source)
            _log.warning("discovery: %s; asking again, for ever", error)
