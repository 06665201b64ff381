"""The fields of messages: what they are made of, and the bounds that they are held to.

A field's `Annotated` bounds are enforced on arrival (see `frames`).
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, TypeAlias

from meshcache.model import Member

__all__ = [
    "I64",
    "MAX_ITEMS",
    "MAX_TAGS",
    "MAX_UNTAGGED",
    "MAX_UPDATES",
    "NO_EXPIRY",
    "U8",
    "U32",
    "U64",
    "U64_MAX",
    "Blob",
    "Bound",
    "Id",
    "Key",
    "Millis",
    "Name",
    "Tags",
    "Text",
    "Updates",
]

U64_MAX: Final = 2**64 - 1
NO_EXPIRY: Final = -1
"""The remaining time of what never expires, and of "keep the expiry it has"."""

MAX_UPDATES: Final = 1024
MAX_ITEMS: Final = 100_000
MAX_TAGS: Final = 16
"""Tags of one value."""
MAX_UNTAGGED: Final = 4096
"""Tags that one message invalidates."""


class Bound(NamedTuple):
    """The least and greatest value of an integer, or length of anything else."""

    low: int
    high: int


U8: TypeAlias = Annotated[int, Bound(0, 255)]
U32: TypeAlias = Annotated[int, Bound(0, 2**32 - 1)]
U64: TypeAlias = Annotated[int, Bound(0, U64_MAX)]
I64: TypeAlias = Annotated[int, Bound(-(2**63), 2**63 - 1)]
Millis: TypeAlias = Annotated[int, Bound(NO_EXPIRY, 2**53)]
Id: TypeAlias = Annotated[bytes, Bound(0, 16)]
"""A node id; empty where the sender knows an address and nothing more."""
Key: TypeAlias = Annotated[bytes, Bound(2, 65_536)]
Blob: TypeAlias = Annotated[bytes, Bound(0, 2**31)]
Name: TypeAlias = Annotated[str, Bound(0, 1024)]
Text: TypeAlias = Annotated[str, Bound(0, 65_536)]
Tags: TypeAlias = Annotated[tuple[U64, ...], Bound(0, MAX_TAGS)]
"""The hashes of a value's tags."""
Updates: TypeAlias = Annotated[tuple[Member, ...], Bound(0, MAX_UPDATES)]
