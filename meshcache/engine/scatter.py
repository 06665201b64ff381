"""One operation over many keys: its parts go to the owners, its answer is one.

What is ours is done at once. The rest goes as one request to each owner, in as many
pieces as the limits want. A key that its supposed owner disowns is asked for once
more, where the newer table says, and never a third time. Each key ends with exactly
one result, whatever is lost on the way, and with the last one the operation is done.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from meshcache.codec.messages import Data, Found, Loan, Status
from meshcache.engine.calls import Answer, Calls, Loss
from meshcache.engine.core import Core
from meshcache.engine.peers import Peer

__all__ = ["Part", "Scatter"]

Item = TypeVar("Item")
One = TypeVar("One", Found, Loan)
Result = TypeVar("Result")


class Part(NamedTuple):
    """What one owner is asked for in one request: the items at these indexes.

    `hop` is how often they have been redirected; `before` is what was noted of each
    before the request went out.
    """

    peer: Peer
    indexes: list[int]
    hop: int
    before: tuple[object, ...]


class Scatter(ABC, Generic[Item, One, Result]):
    """One operation under way; a subclass says what is done with one item.

    An owner answers with a `One` for each item, and that becomes its `Result`.

    Confined to the driver thread.

    Args:
        core: of the engine.
        calls: likewise.
        items: what the operation is about, each with the hash of its key.
        done: takes the results, in order, when all are there.
    """

    def __init__(
        self,
        core: Core,
        calls: Calls,
        items: Sequence[tuple[Item, int]],
        done: Callable[[tuple[Result, ...]], None],
    ) -> None:
        self.core = core
        self.items = items
        self._calls = calls
        self._done = done
        self._results: dict[int, Result] = {}
        self._deadline = core.now + core.config.request_timeout

    # --- what a subclass says ----------------------------------------------------

    @abstractmethod
    def own(self, item: Item, hashed: int) -> Result:
        """Do it here: the key is ours."""

    @abstractmethod
    def size(self, item: Item) -> int:
        """Return how many bytes of a request the item takes."""

    @abstractmethod
    def before(self, peer: Peer, index: int, hop: int) -> object:
        """Note what must be noted of an item before the request goes out."""

    @abstractmethod
    def message(self, part: Part, budget_ms: int, rid: int) -> Data:
        """Return the request for *part*."""

    @abstractmethod
    def found(self, part: Part, answer: Answer) -> tuple[One, ...] | None:
        """Return what the owner answered; None if it refused."""

    @abstractmethod
    def take(self, found: One, noted: object) -> Result:
        """Return the result of one item from what the owner answered of it."""

    @abstractmethod
    def lost(self, item: Item, peer: Peer | None, why: Loss) -> Result:
        """Return the result of an item whose owner did not do it."""

    # --- how it goes -------------------------------------------------------------

    def start(self) -> None:
        """Do what is ours, and ask the owners of the rest."""
        if not self.items:
            self._done(())
        self._go(list(range(len(self.items))), 0, None)

    def _go(self, indexes: list[int], hop: int, asked: Peer | None) -> None:
        """Have these items done by whoever owns them now, but not by *asked* again."""
        by_owner: dict[Peer, list[int]] = {}
        for index in indexes:
            item, hashed = self.items[index]
            peer = self.core.peer_of(hashed)
            if self.core.ranges.mine(hashed):
                self._put(index, self.own(item, hashed))
            elif peer is None or peer is asked:
                self._put(index, self.lost(item, peer, Loss.AVOIDED))
            else:
                by_owner.setdefault(peer, []).append(index)
        for peer, theirs in by_owner.items():
            for piece in self._pieces(theirs):
                self._ask(peer, piece, hop)

    def _pieces(self, indexes: list[int]) -> Iterator[list[int]]:
        """Cut a part into requests of bounded size, each of at least one item."""
        config = self.core.config
        piece: list[int] = []
        total = 0
        for index in indexes:
            size = self.size(self.items[index][0])
            full = len(piece) >= config.max_batch_keys
            if piece and (full or total + size > config.max_batch_bytes):
                yield piece
                piece, total = [], 0
            piece.append(index)
            total += size
        yield piece

    def _ask(self, peer: Peer, indexes: list[int], hop: int) -> None:
        before = tuple(self.before(peer, index, hop) for index in indexes)
        part = Part(peer, indexes, hop, before)
        budget_ms = max(1, int((self._deadline - self.core.now) * 1000))
        started = self._calls.start(
            peer,
            partial(self.message, part, budget_ms),
            self._deadline,
            partial(self._answered, part),
            partial(self._lose, part),
        )
        if started is None:
            self._lose(part, Loss.AVOIDED)

    def _answered(self, part: Part, answer: Answer) -> None:
        found = self.found(part, answer)
        if not found:
            self._lose(part, Loss.AVOIDED)
            return
        disowned: list[int] = []
        for index, one, noted in zip(part.indexes, found, part.before, strict=False):
            if one.status is not Status.NOT_OWNER:
                self._put(index, self.take(one, noted))
                continue
            self.core.counters.not_owner_received += 1
            if part.hop:
                item = self.items[index][0]
                self._put(index, self.lost(item, part.peer, Loss.AVOIDED))
            else:
                disowned.append(index)
        self._go(disowned, 1, part.peer)
        rest = part.indexes[len(found) :]
        if rest:
            self._ask(part.peer, rest, part.hop)

    def _lose(self, part: Part, why: Loss) -> None:
        for index in part.indexes:
            item = self.items[index][0]
            self._put(index, self.lost(item, part.peer, why))

    def _put(self, index: int, result: Result) -> None:
        assert index not in self._results
        self._results[index] = result
        if len(self._results) == len(self.items):
            self._done(tuple(self._results[i] for i in range(len(self.items))))
