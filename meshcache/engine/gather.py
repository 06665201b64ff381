"""One question to several members: the answers, in order, once all are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

__all__ = ["Gather"]

Result = TypeVar("Result")


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
