"""The application: the three questions, memoized over the mesh.

This is all a program has to do to share its loads with every other process of the
cluster. Around each load stands a witness that the launcher provides: so the number
of loads in the summary is the application's own count, not the cache's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, final

from airports.queries import Queries
from airports.stream import Request

if TYPE_CHECKING:
    from pathlib import Path

    import meshcache

__all__ = ["Application", "Loader", "Witness"]

Loader = Callable[..., Any]

Witness = Callable[[Request], AbstractContextManager[None]]
"""Entered around each load, on whatever thread runs it."""

_TTL_S: Final = 300  # far beyond a run, so that a second load has no excuse


@final
class Application:
    """The memoized loaders of one process. Thread-safe."""

    def __init__(self, node: meshcache.Node, database: Path, witness: Witness) -> None:
        self._queries = queries = Queries(database)
        cache = node.cache("airports", ttl=_TTL_S)

        @cache.memoize(name="within")
        def within(code: str, km: int) -> dict[str, Any]:
            with witness(Request("within", (code, km))):
                return queries.within(code, km)

        @cache.memoize(name="nearest")
        def nearest(code: str, above_ft: int) -> list[dict[str, Any]]:
            with witness(Request("nearest", (code, above_ft))):
                return queries.nearest(code, above_ft)

        @cache.memoize(name="country")
        def country(code: str) -> dict[str, Any]:
            with witness(Request("country", (code,))):
                return queries.country(code)

        self.loaders: dict[str, Loader] = {
            "within": within,
            "nearest": nearest,
            "country": country,
        }

    def is_right(self, request: Request, answer: Any) -> bool:
        """Return whether the database itself would have answered so."""
        return bool(getattr(self._queries, request.loader)(*request.args) == answer)
