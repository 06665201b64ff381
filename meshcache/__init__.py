"""A peer-to-peer gossip cache embedded in your Python processes.

    import meshcache

    @meshcache.memoize(ttl=60)
    def load_user(user_id: int) -> dict: ...

    load_user(7)    # loaded once by one of all your processes, then read from memory

Stable names are those listed in `__all__`; docs/reference/api.md describes them.
"""

from typing import Any

from meshcache.bypass import bypass
from meshcache.cache import Cache
from meshcache.codec.types import register
from meshcache.codec.values import Codec
from meshcache.config import Config
from meshcache.default import node, start, stop
from meshcache.entry import CacheEntry
from meshcache.errors import (
    ConfigError,
    KeyRefused,
    LoadError,
    LoadTimeout,
    MeshCacheError,
    NodeClosed,
    NotANumber,
    NotReady,
    PeerTimeout,
    PeerUnavailable,
    RecursiveLoad,
    SerializationError,
    ValueTooLarge,
)
from meshcache.handles import AsyncMemoized, CacheInfo, Memoized
from meshcache.membership.effects import Changed
from meshcache.model import MISSING, UNSET, Member, State
from meshcache.node import Explanation, Node, NodeState

_default_cache = Cache("memoize")
memoize = _default_cache.memoize
"""`Cache.memoize` of a cache named "memoize" on the default node."""
memoize_many = _default_cache.memoize_many
"""`Cache.memoize_many`, likewise."""

__all__ = [
    "MISSING",
    "UNSET",
    "AsyncMemoized",
    "Cache",
    "CacheEntry",
    "CacheInfo",
    "Changed",
    "Codec",
    "Config",
    "ConfigError",
    "Explanation",
    "KeyRefused",
    "LoadError",
    "LoadTimeout",
    "Member",
    "Memoized",
    "MeshCacheError",
    "Node",
    "NodeClosed",
    "NodeState",
    "NotANumber",
    "NotReady",
    "PeerTimeout",
    "PeerUnavailable",
    "RecursiveLoad",
    "SerializationError",
    "State",
    "ValueTooLarge",
    "bypass",
    "memoize",
    "memoize_many",
    "node",
    "register",
    "start",
    "stop",
]


def __getattr__(name: str) -> Any:
    """Return `__version__`, read from the installed package when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - it is slow to import

    return version(__name__)
