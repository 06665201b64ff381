"""The process's default node: what `meshcache.start`, `stop` and `node` mean.

This is the one place that holds state for the whole process, because a default is just
that. Everything else takes a node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from threading import Lock
from typing import Any, Final, Unpack, final

from meshcache.codec.messages import LoaderName
from meshcache.config import PRESETS, Config, Keywords
from meshcache.errors import ConfigError
from meshcache.node import STOP_TIMEOUT, Attached, Node
from meshcache.runtime.fork import watch
from meshcache.runtime.loaders import Loader

__all__ = ["node", "register", "stand_in", "start", "stop"]


@final
class _Default:
    """The default node, once there is one, and what it must know when it is made."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.node: Node | None = None
        self.stands_in = False
        self.loaders: dict[LoaderName, Loader] = {}
        watch(self)

    def after_fork_in_child(self) -> None:
        """Have a lock that nobody of the parent holds."""
        self.lock = Lock()

    def ensure(self, settings: Keywords) -> Node:
        with self.lock:
            if self.node is None:
                self.node = Node(**settings)
                for loader in self.loaders.values():
                    self.node.register(loader)
            elif settings and not self.stands_in:
                _check_same(self.node.config, dict(settings))
            return self.node


_default: Final = _Default()


def start(**settings: Unpack[Keywords]) -> Node:
    """Start the process's default node, if it does not run, and return it.

    Called again it returns the same node. After a fork the child's first use, or its
    own call, starts a node of the child's.

    Args:
        **settings: see docs/reference/configuration.md.

    Raises:
        ConfigError: a setting is out of its bounds, or the default node runs already
            with another value of one of *settings*.
    """
    return _default.ensure(settings).start()


def node() -> Node:
    """Return the process's default node, made from `MESHCACHE_*` if there is none.

    It starts at its first use.
    """
    found = _default.node
    return _default.ensure({}) if found is None else found


def stop(timeout: float = STOP_TIMEOUT) -> None:
    """Stop the default node, if there is one; the next use makes another."""
    with _default.lock:
        found, stands_in = _default.node, _default.stands_in
        if not stands_in:
            _default.node = None
    if found is not None and stands_in:
        found.renew(timeout)
    elif found is not None:
        found.stop(timeout)


def register(loader: Loader) -> None:
    """Let peers of the default node, once it runs, have *loader* run here."""
    with _default.lock:
        _default.loaders[loader.loader_name] = loader
        found = _default.node
    if found is not None:
        found.register(loader)


@contextmanager
def stand_in(stand: Node) -> Iterator[list[Attached]]:
    """Let *stand* be the default node for a while, whatever is started or stopped.

    `start` returns it, whatever its settings are, and `stop` empties it. All caches on
    the default node use it from their next use on, and the old one again afterwards.

    Yields:
        what the old one had been used by.
    """
    with _default.lock:
        before, _default.node = _default.node, stand
        stood_in, _default.stands_in = _default.stands_in, True
        known = dict(_default.loaders)
    for loader in known.values():
        stand.register(loader)
    released = [] if before is None else before.release()
    try:
        yield released
    finally:
        with _default.lock:
            _default.node, _default.stands_in = before, stood_in
            new = [_default.loaders[n] for n in _default.loaders.keys() - known.keys()]
        stand.release()
        if before is not None:
            for loader in new:
                before.register(loader)


def _check_same(config: Config, settings: dict[str, Any]) -> None:
    """Refuse to go on as if *settings* were in force where they are not."""
    preset = PRESETS.get(str(settings.get("preset")), {})
    held = {f.name: getattr(config, f.name) for f in fields(config)}
    # All that is not asked about stays as it is: one setting bounds another.
    rest = {name: value for name, value in held.items() if name not in preset}
    wanted = Config.load(os.environ, **(rest | settings))
    for name in {*preset, *settings} - {"preset"}:
        have, want = getattr(config, name), getattr(wanted, name)
        if have != want:
            raise ConfigError(
                f"{name}={want!r}: the default node already has {have!r}; start it "
                "once, before its first use, or make a Node of your own"
            )
