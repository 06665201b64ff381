"""What the application asks of the engine, and what it is told.

An operation is put to the engine with a *ticket*, any hashable token of the driver's;
its outcome comes back in one `Complete` effect for that ticket. `Deliver`, `Drop`,
`Forsake`, `Moved`, `Register`, `RunEnded` and `Wrote` have no outcome.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import NamedTuple, TypeAlias

from meshcache.codec.messages import Item, LoaderName, Status, Verb
from meshcache.store.generations import Stamp

__all__ = [
    "AskTables",
    "Asked",
    "Busy",
    "ClearCache",
    "Closed",
    "Deliver",
    "Drop",
    "Failure",
    "Forsake",
    "GetKeys",
    "Got",
    "Granted",
    "InvalidateTags",
    "LoadKey",
    "LoadKeys",
    "Lot",
    "Moved",
    "Note",
    "Operation",
    "Outcome",
    "Raised",
    "Register",
    "Results",
    "RunEnded",
    "Tables",
    "Ticket",
    "Tier",
    "TimedOut",
    "Unreached",
    "WriteKeys",
    "WriteResult",
    "WriteResults",
    "Wrote",
]

Ticket: TypeAlias = Hashable


class Tier(Enum):
    """Where a read was answered, nearest first."""

    NEAR = "near"
    HOST = "host"
    PEER = "peer"
    FILL = "fill"
    LOCAL = "local"
    """The mesh could not answer, so the loader ran here and for this process only."""


class Failure(NamedTuple):
    """A loader's exception as it travels: names and texts, and its encoded `args`."""

    type_name: str
    message: str
    traceback: str
    args: bytes


# --- asked -----------------------------------------------------------------------


class GetKeys(NamedTuple):
    """The values of these full keys, given with their hashes, as far as stored."""

    keys: tuple[tuple[bytes, int], ...]


class LoadKey(NamedTuple):
    """The value of one key, loaded if nobody has it.

    With a `loader` name the owner may run it. `chain` holds the hashes of the keys
    whose loaders the caller is inside of; `timeout` is how long it will wait.

    A value no newer than the version `than` will not do: the caller holds it and wants
    it refreshed. `tags` are the hashes of the tags that the value will bear.
    """

    key: bytes
    hashed: int
    loader: str
    loader_version: int
    args: bytes
    chain: tuple[int, ...]
    timeout: float
    than: int = 0
    tags: tuple[int, ...] = ()


class LoadKeys(NamedTuple):
    """The values of these full keys, or the leases to load them. It waits for no load.

    Each lease lasts for `timeout`. `chain`, `tags` and `thans` are as in `LoadKey`: the
    tags of all keys, and a version for each, or none where all have 0.
    """

    keys: tuple[tuple[bytes, int], ...]
    timeout: float
    chain: tuple[int, ...] = ()
    tags: tuple[int, ...] = ()
    thans: tuple[int, ...] = ()


class WriteKeys(NamedTuple):
    """Change these keys, each at its owner."""

    verb: Verb
    items: tuple[tuple[Item, int], ...]


class ClearCache(NamedTuple):
    """Forget everything of one cache, on every member."""

    cache: str


class InvalidateTags(NamedTuple):
    """Forget all that bears one of these tags, on every member.

    They are hashes, at most `MAX_UNTAGGED`.
    """

    tags: tuple[int, ...]


class AskTables(NamedTuple):
    """Which table each living member that owns something goes by."""


class Deliver(NamedTuple):
    """The value of a load that was `Granted`; `ttl_ms` as in `Fulfil`."""

    lease: int
    value: bytes
    ttl_ms: int


class Drop(NamedTuple):
    """A `Granted` load that did not end well; without a failure it passes on.

    `ticket` is the one it was granted to: only the holder can drop a lease.
    """

    lease: int
    ticket: Ticket
    failure: Failure | None


class Forsake(NamedTuple):
    """Nobody waits for this ticket any more."""

    ticket: Ticket


class Register(NamedTuple):
    """All loaders this process can run for others, and which of them are tasks."""

    loaders: tuple[LoaderName, ...]
    tasks: frozenset[LoaderName] = frozenset()


class Moved(NamedTuple):
    """A thread of the application has written a key of this bucket by itself."""

    bucket: int


class Wrote(NamedTuple):
    """A thread of the application has had this key written by its owner, or tried."""

    key: bytes


class RunEnded(NamedTuple):
    """How a `RunLoader` went. Without value and failure it could not be started."""

    flight: int
    value: bytes | None
    ttl_ms: int
    failure: Failure | None


Asked: TypeAlias = (
    GetKeys | LoadKey | LoadKeys | WriteKeys | ClearCache | InvalidateTags | AskTables
)
Note: TypeAlias = Deliver | Drop | Forsake | Moved | Register | RunEnded | Wrote
Operation: TypeAlias = Asked | Note


# --- told ------------------------------------------------------------------------


class Got(NamedTuple):
    """A value, until when it is good, and the stamp a near entry of it may stand on.

    Without a stamp it must not be kept near.
    """

    value: bytes
    expires: float
    version: int
    tier: Tier
    stamp: Stamp | None


class Results(NamedTuple):
    """The outcome of `GetKeys`, in its order; None where nothing was found."""

    found: tuple[Got | None, ...]


class Granted(NamedTuple):
    """The caller shall run the loader, then `Deliver` or `Drop` the `lease`."""

    lease: int
    tier: Tier
    stamp: Stamp | None


class Raised(NamedTuple):
    """The load failed elsewhere. `recursive` tells that it would wait for itself."""

    failure: Failure
    recursive: bool = False


class TimedOut(NamedTuple):
    """The load took longer than the caller would wait."""


class Busy(NamedTuple):
    """Somebody else is loading that key: ask for it by `LoadKey`, and wait.

    Whoever holds leases delivers or drops them all before it waits.
    """


class Lot(NamedTuple):
    """The outcome of `LoadKeys`, in its order. Each lease is a load of its own."""

    outcomes: tuple[Got | Granted | Busy | Raised | TimedOut, ...]


class WriteResult(NamedTuple):
    """How one key of a write went. `number` is INCR's result, encoded."""

    status: Status
    number: bytes


class Unreached(NamedTuple):
    """Why one key of a write has no result; `unknown` if it may have been done."""

    address: str
    unknown: bool


class WriteResults(NamedTuple):
    """The outcome of `WriteKeys`, `ClearCache` or `InvalidateTags`, in order."""

    results: tuple[WriteResult | Unreached, ...]


class Tables(NamedTuple):
    """The outcome of `AskTables`: the epochs of all tables, our own first.

    None stands for a member that did not answer.
    """

    epochs: tuple[int | None, ...]


class Closed(NamedTuple):
    """The node stopped before it could answer."""


Outcome: TypeAlias = (
    Results | Got | Granted | Raised | TimedOut | Lot | WriteResults | Tables | Closed
)
