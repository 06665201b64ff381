"""Every message that nodes exchange, on one page.

Two planes, two connections per peer, so that a large value never delays a probe.

**Control** (membership; at most 64 KiB a frame)

    A -- Ping ------> B        A <-- Ack ------- B         direct probe
    A -- PingReq ---> H -- Ping --> B -- Ack --> H -- Ack --> A    indirect probe
    A <-- Nack ------ H        the helper is well, the target is silent
    A -- Gossip ----> B        news that found no probe to ride on; a farewell
    A -- PushPull --> B        the whole member list; B answers with its own

**Data** (requests to an owner, answers, one-way notes)

    caller -- Fetch ----> owner -- Values ------------------> caller
    caller -- Load -----> owner -- Filled | Leased | Failed -> caller
                          owner -- Pending -----> caller    alive, still loading
    caller -- Fulfil ---> owner                  the value of a leased load
    caller -- Abandon --> owner                  the leased load failed or was dropped
    caller -- Cancel ---> owner                  nobody waits for this request now
    caller -- Write ----> owner -- Written -----> caller
    caller -- Borrow ---> owner -- Lent ---------> caller   many loads at once
    caller -- Clear ----> member -- Written ----> caller
    caller -- Untag ----> member -- Written ----> caller
    caller -- Survey ---> member -- Surveyed ---> caller
    owner -- NotOwner | Refused --> caller       typed, so that nothing waits in vain
    node -- Loaders ----> peer                   what this node can load for others
    owner -- Invalidate -> reader                these generations have moved

A request carries the `epoch` of the process it is meant for (ZeroMQ hands what was
queued for a dead process to its successor at the same address), the table its sender
routed by, and `hop`: how often it has been redirected, at most once. Times on the
wire are what remains, in milliseconds; no machine reads another's clock.

Each class is a tuple, packed as one; a field's `Annotated` bounds are enforced on
arrival (see `frames`). A change here changes `tests/codec/vectors/`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

from meshcache.codec.fields import (
    I64,
    MAX_ITEMS,
    MAX_UNTAGGED,
    MAX_UPDATES,
    U8,
    U32,
    U64,
    Blob,
    Bound,
    Id,
    Key,
    Millis,
    Name,
    Tags,
    Text,
    Updates,
)
from meshcache.model import Member

__all__ = [
    "CONTROL",
    "DATA",
    "STRANGER",
    "Abandon",
    "Accusation",
    "Ack",
    "Borrow",
    "Cancel",
    "Clear",
    "Control",
    "Data",
    "Failed",
    "Fetch",
    "Filled",
    "Found",
    "Fulfil",
    "Gossip",
    "Invalidate",
    "Item",
    "Leased",
    "Lent",
    "Load",
    "LoaderName",
    "Loaders",
    "Loan",
    "Message",
    "Nack",
    "NotOwner",
    "Pending",
    "Ping",
    "PingReq",
    "PushPull",
    "Reason",
    "Refused",
    "Status",
    "Stranger",
    "Survey",
    "Surveyed",
    "Untag",
    "Values",
    "Verb",
    "Write",
    "Written",
]


class Verb(IntEnum):
    """What a `Write` does to each of its items."""

    SET = 0
    ADD = 1
    TOUCH = 2
    DELETE = 3
    INCR = 4


class Status(IntEnum):
    """How one item of a `Fetch`, `Write` or `Borrow` went."""

    MISS = 0
    HIT = 1
    TOO_LARGE = 2
    NOT_A_NUMBER = 3
    NOT_OWNER = 4
    UNKNOWN = 5
    LEASED = 6
    BUSY = 7


class Reason(IntEnum):
    """Why a request is `Refused`. Each tells the caller to do without the owner."""

    WRONG_EPOCH = 0
    OVERLOADED = 1
    TIMED_OUT = 2
    LEAVING = 3


# --- control ---------------------------------------------------------------------


class Ping(NamedTuple):
    """Are you alive? Addressed to one process, not to whoever holds its address.

    `target` is empty when a seed is probed by address alone. `checksum` stands for
    the sender's member list; a difference calls for a `PushPull`.
    """

    seq: U64
    sender: Member
    target: Id
    target_epoch: U64
    checksum: U64
    updates: Updates


class PingReq(NamedTuple):
    """Please ping `target` for me; I hear nothing from it (SWIM section 3.1)."""

    seq: U64
    sender: Member
    target: Id
    target_epoch: U64
    budget_ms: U32
    updates: Updates


class Ack(NamedTuple):
    """Alive: `subject` answered the probe `seq`, itself or through a helper."""

    seq: U64
    sender: Member
    subject: Id
    checksum: U64
    updates: Updates


class Nack(NamedTuple):
    """The helper had no answer at 80 % of its budget (Lifeguard section IV.A)."""

    seq: U64
    sender: Member
    updates: Updates


class Accusation(NamedTuple):
    """`accuser` itself had no answer from `subject`; relays keep its name.

    Independent accusers shorten a suspicion (Lifeguard section IV.B), so it matters
    who accuses and not who passes it on.
    """

    subject: Id
    epoch: U64
    incarnation: U32
    accuser: Id


class Gossip(NamedTuple):
    """News of members, unasked, and who raised the suspicions among them."""

    sender: Member
    updates: Updates
    accusations: Annotated[tuple[Accusation, ...], Bound(0, MAX_UPDATES)] = ()


class PushPull(NamedTuple):
    """The sender's whole member list, in as many messages as it takes.

    `answer` asks for the receiver's list in return. `joining` marks a first contact.
    """

    sender: Member
    answer: bool
    joining: bool
    members: Updates


# --- data: requests ---------------------------------------------------------------


class Fetch(NamedTuple):
    """The values of these keys, as far as they are here. Answered by `Values`.

    `quiet` asks not to be told of later writes: the sender sees the owner's
    generations for itself, in shared memory.
    """

    rid: U64
    epoch: U64
    table: U64
    hop: U8
    budget_ms: U32
    quiet: bool
    keys: Annotated[tuple[Key, ...], Bound(1, MAX_ITEMS)]


class Load(NamedTuple):
    """The value of this key, loaded if need be, once in the whole cluster.

    With a `loader` name the owner may run it, giving it `args` (or what the key
    itself encodes, when `args` is empty); without one, or where the owner does not
    know that name and version, the caller gets a lease, which passes on when the
    member `caller` dies. `chain` holds the hashes of the keys whose loaders are
    waiting for this one. `quiet` as in `Fetch`.

    A value that is no newer than the version `than` is no answer: whoever refreshes
    what it holds asks so. `tags` are those that the value will bear.
    """

    rid: U64
    epoch: U64
    table: U64
    hop: U8
    budget_ms: U32
    quiet: bool
    caller: Id
    key: Key
    loader: Name
    loader_version: U32
    args: Blob
    chain: Annotated[tuple[U64, ...], Bound(0, 64)]
    than: U64 = 0
    tags: Tags = ()


class Borrow(NamedTuple):
    """The values of these keys, or the leases to load them. Answered by `Lent`.

    Unlike a `Load` it does not wait: of a key that somebody else is loading the answer
    says just that. `caller`, `quiet`, `tags` and `thans` are as in `Load`: the tags of
    all keys, and a version for each, or none where all have 0.
    """

    rid: U64
    epoch: U64
    table: U64
    hop: U8
    budget_ms: U32
    quiet: bool
    caller: Id
    keys: Annotated[tuple[Key, ...], Bound(1, MAX_ITEMS)]
    tags: Tags
    thans: Annotated[tuple[U64, ...], Bound(0, MAX_ITEMS)] = ()


class Item(NamedTuple):
    """One key of a `Write`.

    `ttl_ms` 0 means "do not keep" and `NO_EXPIRY` never. `delta` is read by INCR
    alone, which keeps the expiry of what is there and uses `value` as its start.
    """

    key: Key
    value: Blob
    ttl_ms: Millis
    delta: I64


class Write(NamedTuple):
    """Change these keys. Answered by `Written`, item by item."""

    rid: U64
    epoch: U64
    table: U64
    hop: U8
    budget_ms: U32
    verb: Verb
    items: Annotated[tuple[Item, ...], Bound(1, MAX_ITEMS)]


class Clear(NamedTuple):
    """Forget all that the cache `cache` holds. Goes to every owner.

    Who answers NOT_OWNER has just given up a part of its range: all are told once more.
    """

    rid: U64
    epoch: U64
    budget_ms: U32
    cache: Name


class Untag(NamedTuple):
    """Forget all that bears one of these tags. Goes to every member, as `Clear` does.

    Who answers HIT keeps copies of what owners have stored whose memory it cannot see,
    and is told `again` when all have answered: it may have copied from one that had not
    been told yet.
    """

    rid: U64
    epoch: U64
    budget_ms: U32
    tags: Annotated[tuple[U64, ...], Bound(1, MAX_UNTAGGED)]
    again: bool


class Survey(NamedTuple):
    """Which table do you go by? Answered by `Surveyed`."""

    rid: U64
    epoch: U64


class Fulfil(NamedTuple):
    """The value of a leased load; with `ttl_ms` 0 for those who wait, not kept."""

    epoch: U64
    token: U64
    value: Blob
    ttl_ms: Millis


class Abandon(NamedTuple):
    """A leased load did not end well.

    With a `type_name`, the loader raised and every waiter hears it. Without, the
    caller was cancelled or stopped, and the lease passes to the next waiter.
    """

    epoch: U64
    token: U64
    type_name: Name
    message: Text
    traceback: Text
    args: Blob


class Cancel(NamedTuple):
    """Nobody waits for the answer to request `rid` any more."""

    rid: U64


# --- data: answers ----------------------------------------------------------------


class Found(NamedTuple):
    """One key of a `Values`: what was there, its version and remaining time."""

    status: Status
    value: Blob
    ttl_ms: Millis
    version: U64


class Values(NamedTuple):
    """The answer to a `Fetch`, in the order of its keys."""

    rid: U64
    results: Annotated[tuple[Found, ...], Bound(0, MAX_ITEMS)]


class Loan(NamedTuple):
    """One key of a `Lent`: HIT with its value, LEASED under a token, or BUSY.

    MISS is neither: too much is under way, and the caller does without.
    """

    status: Status
    value: Blob
    ttl_ms: Millis
    version: U64
    token: U64


class Lent(NamedTuple):
    """The answer to a `Borrow`, in the order of its keys.

    It may end before the last key; the rest is asked for again.
    """

    rid: U64
    lease_ms: U32
    results: Annotated[tuple[Loan, ...], Bound(0, MAX_ITEMS)]


class Filled(NamedTuple):
    """The answer to a `Load` that has a value. `loaded` tells a fill from a hit."""

    rid: U64
    value: Blob
    ttl_ms: Millis
    version: U64
    loaded: bool


class Leased(NamedTuple):
    """The answer to a `Load` whose caller shall run the loader, within `lease_ms`."""

    rid: U64
    token: U64
    lease_ms: U32


class Pending(NamedTuple):
    """These requests are alive and waiting for a load. Sent while they wait."""

    rids: Annotated[tuple[U64, ...], Bound(1, MAX_ITEMS)]


class Failed(NamedTuple):
    """The answer to a `Load` whose loader raised. `args` are the error's, encoded."""

    rid: U64
    type_name: Name
    message: Text
    traceback: Text
    args: Blob


class Written(NamedTuple):
    """The answer to a `Write`, `Clear` or `Untag`.

    A status and, for INCR, the new number.
    """

    rid: U64
    results: Annotated[tuple[Found, ...], Bound(0, MAX_ITEMS)]


class Surveyed(NamedTuple):
    """The answer to a `Survey`: the epoch of the member's table."""

    rid: U64
    table: U64


class NotOwner(NamedTuple):
    """The key is not ours; by our `table` it belongs to `owner` (empty: nobody)."""

    rid: U64
    owner: Id
    table: U64


class Refused(NamedTuple):
    """The request is not served. The caller does without."""

    rid: U64
    reason: Reason


# --- data: notes ------------------------------------------------------------------


class LoaderName(NamedTuple):
    """A loader's name and version."""

    name: Name
    version: U32


class Loaders(NamedTuple):
    """What the sender can load for others; replaces what it said before."""

    sender: Id
    sender_epoch: U64
    loaders: Annotated[tuple[LoaderName, ...], Bound(0, 4096)]


class Invalidate(NamedTuple):
    """These generation buckets of the sender's have moved.

    Numbered from 1 for each connection of a reader. A gap, or `everything`, drops all
    that the reader keeps of the sender's. One without buckets repeats the number last
    used, and so tells a reader that it has missed nothing.
    """

    sender: Id
    sender_epoch: U64
    number: U64
    everything: bool
    buckets: Annotated[tuple[Annotated[int, Bound(0, 4095)], ...], Bound(0, 4096)]


class Stranger(NamedTuple):
    """The answer to a frame of another cluster or protocol; its header says which."""


Control: TypeAlias = Ping | PingReq | Ack | Nack | Gossip | PushPull
Data: TypeAlias = (
    Fetch
    | Load
    | Write
    | Borrow
    | Clear
    | Untag
    | Survey
    | Fulfil
    | Abandon
    | Cancel
    | Values
    | Filled
    | Leased
    | Lent
    | Pending
    | Failed
    | Written
    | Surveyed
    | NotOwner
    | Refused
    | Loaders
    | Invalidate
)
Message: TypeAlias = Control | Data | Stranger

CONTROL: Final[dict[int, type[Control]]] = {
    1: Ping,
    2: PingReq,
    3: Ack,
    4: Nack,
    5: Gossip,
    6: PushPull,
}
DATA: Final[dict[int, type[Data]]] = {
    16: Fetch,
    17: Load,
    18: Write,
    19: Clear,
    20: Fulfil,
    21: Abandon,
    22: Cancel,
    23: Survey,
    24: Borrow,
    25: Untag,
    32: Values,
    33: Filled,
    34: Leased,
    35: Pending,
    36: Failed,
    37: Written,
    38: NotOwner,
    39: Refused,
    40: Surveyed,
    41: Lent,
    48: Loaders,
    49: Invalidate,
}
STRANGER: Final = 255
