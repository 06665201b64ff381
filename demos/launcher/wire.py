"""What launcher and worker say to each other: one JSON object a line, over pipes.

    launcher -> worker   Replay  Pause  Sync  Stop
    worker -> launcher   Started  View  Progress  Asked  Loaded  Paused  Synced  Trouble

A pipe keeps order and outlives its writer, so what a worker said before SIGKILL is
read all the same. End of file tells either side that the other is gone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Final, get_args

__all__ = [
    "Asked",
    "Loaded",
    "Message",
    "Pause",
    "Paused",
    "Progress",
    "Replay",
    "Started",
    "Stop",
    "Sync",
    "Synced",
    "Trouble",
    "View",
    "decode",
    "encode",
]


@dataclass(frozen=True, slots=True)
class Replay:
    """Replay requests. With a limit, begin again after so many: ask nothing new."""

    limit: int | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Finish the request in hand, then rest; answered by `Paused`."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Answer with `Synced`: everything said before has then been read."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the cluster and end."""


@dataclass(frozen=True, slots=True)
class Started:
    """The node is open."""

    node: str


@dataclass(frozen=True, slots=True)
class View:
    """What a node believes: the members, and who owns which partition.

    `owners` has one letter per partition: its owner's place in `order`, from
    `chr(48)` on. While nobody owns anything it is empty.
    """

    epoch: int
    states: dict[str, str]
    order: list[str]
    owners: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters since the process began; `latency` is buckets by tier."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    latency: dict[str, dict[str, int]] = field(default_factory=dict)
    slowest_read_ns: int = 0
    slowest_load_ns: int = 0
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys that this process asked for the first time."""

    keys: list[str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loader ran in this process."""

    key: str


@dataclass(frozen=True, slots=True)
class Paused:
    """The replay rests, after so many requests of the stream."""

    position: int


@dataclass(frozen=True, slots=True)
class Synced:
    """The answer to `Sync`."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request raised."""

    text: str


Message = (
    Replay
    | Pause
    | Sync
    | Stop
    | Started
    | View
    | Progress
    | Asked
    | Loaded
    | Paused
    | Synced
    | Trouble
)
"""Anything that goes over the pipe."""

_KINDS: Final[dict[str, type[Message]]] = {
    kind.__name__: kind for kind in get_args(Message)
}


def encode(message: Message) -> str:
    """Return a message as one line."""
    return json.dumps({"is": type(message).__name__, **asdict(message)}) + "\n"


def decode(line: str) -> Message:
    """Return the message in a line."""
    fields = json.loads(line)
    return _KINDS[fields.pop("is")](**fields)
