"""Everything meshcache raises, as one tree.

    MeshCacheError
    ├── ConfigError (ValueError)        a setting out of its bounds
    ├── KeyRefused (TypeError)          an argument without a stable encoding
    ├── SerializationError (TypeError)  a value that would not come back the same
    ├── ValueTooLarge (ValueError)      a value or key over its limit
    ├── NotANumber (TypeError)          incr or decr on something else
    ├── NodeClosed                      the node was stopped
    ├── NotReady (TimeoutError)         wait_ready gave up
    ├── PeerUnavailable                 a write that did not reach its owner
    │   └── PeerTimeout (TimeoutError)  a write whose outcome is not known
    ├── LoadError                       a loader raised in another process
    │   ├── LoadTimeout (TimeoutError)  a load took longer than load_timeout
    │   └── RecursiveLoad               a loader asked for its own key
    └── ProtocolError                   never raised into the application
        ├── LocalProtocolError          we tried to send what is not allowed
        └── RemoteProtocolError         a peer sent what is not allowed

A failing mesh does not raise on reads: it degrades to a miss or a local load.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "KeyRefused",
    "LoadError",
    "LoadTimeout",
    "LocalProtocolError",
    "MeshCacheError",
    "NodeClosed",
    "NotANumber",
    "NotReady",
    "PeerTimeout",
    "PeerUnavailable",
    "ProtocolError",
    "RecursiveLoad",
    "RemoteProtocolError",
    "SerializationError",
    "ValueTooLarge",
]


class MeshCacheError(Exception):
    """The root of every error that meshcache raises."""


class ConfigError(MeshCacheError, ValueError):
    """A setting is out of its bounds. Nothing was started or changed."""


class KeyRefused(MeshCacheError, TypeError):
    """A key or argument has no stable encoding. Nothing was read or stored."""


class SerializationError(MeshCacheError, TypeError):
    """A value would not come back the same. Nothing was stored."""


class ValueTooLarge(MeshCacheError, ValueError):
    """A key or value is over its limit. Nothing was stored."""


class NotANumber(MeshCacheError, TypeError):
    """The entry under incr or decr is not an integer. It was left as it was."""


class NodeClosed(MeshCacheError):
    """The node was stopped while, or before, it was asked. Nothing was stored."""


class NotReady(MeshCacheError, TimeoutError):
    """The peers asked for were not there in time. The node keeps trying."""


class PeerUnavailable(MeshCacheError):
    """The owner could not be reached, so the write was not done."""


class PeerTimeout(PeerUnavailable, TimeoutError):
    """The owner did not answer in time: the write may or may not have been done."""


class LoadError(MeshCacheError):
    """A loader raised in another process, or for another waiter of the same load.

    Nothing was stored. Built-in exceptions and those a memoized function lists in
    `errors=` are raised as themselves with the `LoadError` as their `__cause__`;
    all others arrive as this class.

    Attributes:
        type_name: the exception's `module.qualname` where it was raised.
        remote_message: its `str()`.
        remote_traceback: its traceback as text, for a person to read.
    """

    def __init__(
        self, type_name: str, remote_message: str, remote_traceback: str = ""
    ) -> None:
        super().__init__(type_name, remote_message, remote_traceback)
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = f"{self.type_name}: {self.remote_message}"
        if self.remote_traceback:
            text += f"\n\nwhere the loader ran:\n{self.remote_traceback}"
        return text


class LoadTimeout(LoadError, TimeoutError):
    """A load took longer than `load_timeout`. Nothing was stored for this waiter.

    The loader may still be running; if it ends, its value is stored for others.
    """


class RecursiveLoad(LoadError):
    """A loader asked, directly or through others, for the key it is loading.

    Waiting would never end, so the inner call is refused. Nothing was stored.
    """


class ProtocolError(MeshCacheError):
    """Something that the wire protocol does not allow; see the two subclasses."""


class LocalProtocolError(ProtocolError):
    """We were about to send what the protocol does not allow. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """A peer sent what the protocol does not allow. The frame was dropped.

    The driver counts and logs it; it is never raised into the application.

    Attributes:
        reason: a short word for the counter, such as "magic" or "field".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
