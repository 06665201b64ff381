"""The page of the reference that describes the wire, made from the messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import IntEnum
from inspect import cleandoc
from typing import Annotated, Any, Final, get_args, get_origin

from meshcache.codec import messages
from meshcache.codec.fields import Bound
from meshcache.codec.frames import (
    MAGIC,
    MAX_LABEL,
    PROTOCOL,
    PROTOCOL_OLDEST,
    hints,
)
from meshcache.codec.messages import (
    CONTROL,
    DATA,
    STRANGER,
    Accusation,
    Found,
    Item,
    LoaderName,
    Loan,
    Reason,
    Status,
    Stranger,
    Verb,
)
from meshcache.model import Member, State

__all__ = ["page"]

_INTRODUCTION: Final = f"""\
# The wire protocol

<!-- Made by `python -m meshcache.codec.describe > docs/reference/wire.md`. -->

Everything that two nodes say to each other is a frame over ZeroMQ, and a frame is one
message in one part. This is protocol {PROTOCOL}.

## Frames

| bytes | what |
|---|---|
| {len(MAGIC)} | `{MAGIC.decode()}` |
| 1 | the newest protocol the sender understands, here {PROTOCOL} |
| 1 | the oldest, here {PROTOCOL_OLDEST} |
| 1 | the length of the label, at most {MAX_LABEL} |
| as many | the label: the cluster's name, in UTF-8 |
| 1 | the kind of the message |
| the rest | its fields, in order, as one msgpack array |

Two nodes talk when their protocol ranges meet and their labels are equal. A frame that
does not fit is dropped, and counted under one of these reasons:

| reason | what did not fit |
|---|---|
| `magic` | it is no frame of meshcache, or ends within its header |
| `cluster` | its label names another cluster |
| `protocol` | the protocol ranges do not meet |
| `kind` | there is no such message |
| `body` | its rest is not msgpack, or holds what no message holds |
| `field` | a field has another type, or is out of its bounds |

Whoever receives a frame for `cluster` or `protocol` reasons answers with a `Stranger`,
whose header tells the sender the same.

In msgpack a record, as each message is, is an array of its fields; an enum is its
number; text is UTF-8. Lengths count bytes, the characters of a text, or the items of a
list. Maps, floats and extensions are not used.
"""

_RECORDS: Final = (Member, Accusation, Item, Found, Loan, LoaderName)
_ENUMS: Final[tuple[type[IntEnum], ...]] = (State, Verb, Status, Reason)
_NAMES: Final[dict[Any, str]] = {int: "integer", bytes: "bytes", str: "text"}


def page() -> str:
    """Return the whole page, in Markdown."""
    theory = cleandoc(messages.__doc__ or "").partition("\n\n")[2]
    parts = [_INTRODUCTION, "## Who says what\n", f"{theory}\n"]
    for title, kinds in (("Control", CONTROL), ("Data", DATA)):
        parts += [f"## {title} messages\n", *_messages(kinds)]
    parts += ["## Between strangers\n", *_messages({STRANGER: Stranger})]
    parts += ["## Records\n"]
    for record in _RECORDS:
        parts += [f"### {record.__name__}\n", *_record(record)]
    return "\n".join([*parts, *_enums()])


def _messages(kinds: dict[int, type[Any]]) -> Iterator[str]:
    for kind, message in kinds.items():
        yield f"### {kind} {message.__name__}\n"
        yield from _record(message)


def _record(record: type[Any]) -> Iterator[str]:
    yield f"{cleandoc(record.__doc__ or '')}\n"
    fields = hints(record)
    if not fields:
        yield "It has no fields.\n"
        return
    yield "| field | type | bounds |"
    yield "|---|---|---|"
    for name, hint in fields.items():
        kind, bounds = _type(hint)
        yield f"| `{name}` | {kind} | {bounds} |"
    yield ""


def _type(hint: Any) -> tuple[str, str]:
    """Return what a field is called, and between what it must lie."""
    if get_origin(hint) is not Annotated:
        if hint is bool:
            return "boolean", "true or false"
        return f"`{hint.__name__}`", "see below"
    inner, bound = get_args(hint)[:2]
    if get_origin(inner) is tuple:
        item, bounds = _type(get_args(inner)[0])
        of = "" if bounds == "see below" else f" of {bounds}"
        return f"list of {item}{of}", f"{_length(bound)} items"
    if inner is int:
        return _NAMES[int], f"{_number(bound.low)} to {_number(bound.high)}"
    unit = "bytes" if inner is bytes else "characters"
    return _NAMES[inner], f"{_length(bound)} {unit}"


def _length(bound: Bound) -> str:
    if bound.low == bound.high:
        return f"{bound.low:,}"
    return f"{bound.low:,} to {bound.high:,}"


_READABLE: Final = 100_000


def _number(value: int) -> str:
    """Return *value* as people read it: the large ones by their power of two."""
    if abs(value) <= _READABLE:
        return f"{value:,}"
    sign, size = "-" if value < 0 else "", abs(value)
    if size & (size + 1) == 0:
        return f"{sign}2^{size.bit_length()} - 1"
    assert size & (size - 1) == 0
    return f"{sign}2^{size.bit_length() - 1}"


def _enums() -> Iterator[str]:
    yield "## Enums\n"
    for enum in _ENUMS:
        yield f"### {enum.__name__}\n"
        yield f"{cleandoc(enum.__doc__ or '')}\n"
        yield "| number | name |"
        yield "|---|---|"
        for member in enum:
            yield f"| {member.value} | {member.name} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
