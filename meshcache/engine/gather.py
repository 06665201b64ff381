"""One operation over many keys: its parts go to several owners, its answer is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from meshcache.engine.peers import Peer

__all__ = ["Gather", "Part", "by_owner", "chunks"]

Result = TypeVar("Result")
Operation = TypeVar("Operation")
Item = TypeVar("Item")


@final
class Gather(Generic[Result]):
    """The results of one operation, in order, and what to do when all are there."""

    __slots__ = ("_done", "_left", "results")

    def __init__(
        self, count: int, default: Result, done: Callable[[tuple[Result, ...]], None]
    ) -> None:
        self.results = [default] * count
        self._left = count
        self._done = done

    def put(self, index: int, result: Result) -> None:
        """Set one result; the last one completes the operation."""
        self.results[index] = result
        self._left -= 1
        if self._left == 0:
            self._done(tuple(self.results))


@final
@dataclass(frozen=True, slots=True)
class Part(Generic[Operation, Result]):
    """What one owner does of an operation: the keys at `indexes`, by `deadline`.

    `hop` is how often these keys have been redirected.
    """

    op: Operation
    gather: Gather[Result]
    indexes: list[int]
    hop: int
    deadline: float


def by_owner(
    wanted: Iterable[tuple[int, Peer | None]],
) -> dict[Peer | None, list[int]]:
    """Group the indexes of an operation's keys by the peer that owns them."""
    groups: dict[Peer | None, list[int]] = {}
    for index, peer in wanted:
        groups.setdefault(peer, []).append(index)
    return groups


def chunks(
    items: Sequence[Item],
    size_of: Callable[[Item], int],
    max_items: int,
    max_bytes: int,
) -> Iterator[list[Item]]:
    """Cut *items* into requests of bounded length, each of at least one item."""
    chunk: list[Item] = []
    total = 0
    for item in items:
        size = size_of(item)
        if chunk and (len(chunk) >= max_items or total + size > max_bytes):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk
