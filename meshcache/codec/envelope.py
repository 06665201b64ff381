"""What a stored value says about itself, before the value: an envelope around it.

Only what stays true wherever the bytes go is written there, and no time of day: how
long before its expiry it is old, what its load took, its tags. So the owner, the arena
and the wire carry bytes and need not know, and a value without anything to say is
stored as its codec made it.

    0xC1 | kind | keep_ms | cost_ms | tags | 8 bytes for each tag | the codec's bytes

msgpack never begins with 0xC1 and JSON cannot; what does all the same, out of another
codec, is put into an envelope that says nothing.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from meshcache.codec.fields import MAX_TAGS
from meshcache.errors import SerializationError

__all__ = [
    "MARK",
    "MAX_COST_MS",
    "MAX_HEAD",
    "Envelope",
    "Kind",
    "is_error",
    "tag_hash",
    "tags_of",
    "unwrap",
]

MARK: Final = b"\xc1"
MAX_COST_MS: Final = 2**32 - 1
_HEAD: Final = Struct("<BBQIB")
MAX_HEAD: Final = _HEAD.size + 8 * MAX_TAGS
"""Bytes in which the tags are found, whatever comes after them."""
_TAGS: Final = tuple(Struct(f"<{count}Q") for count in range(MAX_TAGS + 1))


class Kind(IntEnum):
    """What the body is."""

    VALUE = 0
    ERROR = 1


_ERROR: Final = MARK + bytes((Kind.ERROR,))


class Envelope(NamedTuple):
    """A value's bytes and what is said of them.

    Attributes:
        body: the codec's bytes.
        keep_ms: for how long before its expiry the value is old, and usable still.
        cost_ms: what its load took.
        tags: the hashes of its tags, at most `MAX_TAGS`.
        kind: whether the body is a value or a remembered error.
    """

    body: bytes
    keep_ms: int = 0
    cost_ms: int = 0
    tags: tuple[int, ...] = ()
    kind: Kind = Kind.VALUE

    def wrap(self) -> bytes:
        """Return the bytes to store: just the body, if there is nothing to say."""
        body, keep_ms, cost_ms, tags, kind = self
        if not (keep_ms or cost_ms or tags or kind or body.startswith(MARK)):
            return body
        count = len(tags)
        head = _HEAD.pack(MARK[0], kind, keep_ms, min(cost_ms, MAX_COST_MS), count)
        return head + _TAGS[count].pack(*tags) + body

    def fresh_until(self, expires: float) -> float:
        """Return when the value is old, given when it will be dead."""
        return expires - self.keep_ms / 1000


def unwrap(stored: bytes) -> Envelope:
    """Return what *stored* holds, in an envelope or bare.

    Raises:
        SerializationError: it is no envelope of this layout.
    """
    if not stored.startswith(MARK):
        return Envelope(stored)
    try:
        _, kind, keep_ms, cost_ms, count = _HEAD.unpack_from(stored)
        tags = _TAGS[count].unpack_from(stored, _HEAD.size)
        body = stored[_HEAD.size + 8 * count :]
        return Envelope(body, keep_ms, cost_ms, tags, Kind(kind))
    except (StructError, ValueError, IndexError) as error:
        raise SerializationError(
            f"{stored[:40]!r} is not the envelope of a value: {error}"
        ) from error


def tags_of(stored: bytes, at: int = 0) -> tuple[int, ...]:
    """Return the tags of what begins *at*, and none of what makes no sense."""
    if not stored.startswith(MARK, at):
        return ()
    at += _HEAD.size
    try:
        return _TAGS[stored[at - 1]].unpack_from(stored, at)
    except (StructError, IndexError):
        return ()


def is_error(stored: bytes) -> bool:
    """Whether *stored* is a remembered error."""
    return stored.startswith(_ERROR)


def tag_hash(cache: str, tag: str) -> int:
    """Return what stands for *tag* in the cache *cache* and in all its parts."""
    whole = cache.partition("|")[0]
    return xxh3_64_intdigest(f"{whole}\0{tag}".encode(errors="surrogatepass"))
