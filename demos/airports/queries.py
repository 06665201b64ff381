"""The queries: three questions about airports, each a few milliseconds of SQLite.

Nothing here knows of a cache. Thread-safe: every thread has its own connection.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Final, final

from airports.database import EARTH_KM, connect

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

__all__ = ["Queries"]

_KM_PER_DEGREE: Final = math.pi * EARTH_KM / 180
_LISTED: Final = 12

_PLACE: Final = "SELECT icao, lat, x, y, z FROM airport WHERE iata = ?"

_WITHIN: Final = """
SELECT icao, name, city, country,
       (x - :x) * (x - :x) + (y - :y) * (y - :y) + (z - :z) * (z - :z) AS chord2,
       count(*) OVER () AS found
FROM airport
WHERE lat BETWEEN :south AND :north AND icao <> :icao AND chord2 <= :limit
ORDER BY chord2, icao
LIMIT :listed
"""

_NEAREST: Final = """
SELECT icao, name, city, country,
       (x - :x) * (x - :x) + (y - :y) * (y - :y) + (z - :z) * (z - :z) AS chord2
FROM airport
WHERE icao <> :icao AND elevation >= :above
ORDER BY chord2, icao
LIMIT :listed
"""

_COUNTRY: Final = """
SELECT region, count(*) AS airports, avg(elevation) AS mean_ft, max(elevation) AS top_ft
FROM airport WHERE country = ? GROUP BY region ORDER BY airports DESC, region
"""


@final
class Queries:
    """The three questions, asked of one database file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def within(self, code: str, km: int) -> dict[str, Any]:
        """Return how many airports lie within *km* of one, and the nearest of them."""
        place = self._place(code)
        band = km / _KM_PER_DEGREE
        values = dict(place) | {
            "south": place["lat"] - band,
            "north": place["lat"] + band,
            "limit": (2 * math.sin(km / EARTH_KM / 2)) ** 2,
            "listed": _LISTED,
        }
        rows = self._all(_WITHIN, values)
        found = rows[0]["found"] if rows else 0
        return {"found": found, "nearest": [_airport(row) for row in rows]}

    def nearest(self, code: str, above_ft: int) -> list[dict[str, Any]]:
        """Return the airports nearest to one among those at least so high."""
        values = dict(self._place(code)) | {"above": above_ft, "listed": _LISTED}
        return [_airport(row) for row in self._all(_NEAREST, values)]

    def country(self, code: str) -> dict[str, Any]:
        """Return a country's airports counted by region, with their elevation."""
        rows = self._all(_COUNTRY, (code,))
        return {
            "airports": sum(row["airports"] for row in rows),
            "top_ft": max((row["top_ft"] for row in rows), default=None),
            "regions": [dict(row) for row in rows[:_LISTED]],
        }

    def _place(self, code: str) -> sqlite3.Row:
        rows = self._all(_PLACE, (code,))
        if not rows:
            raise LookupError(f"no airport has the IATA code {code!r}")
        return rows[0]

    def _all(self, query: str, values: Any) -> list[sqlite3.Row]:
        connection: sqlite3.Connection | None
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path)
        return connection.execute(query, values).fetchall()


def _airport(row: sqlite3.Row) -> dict[str, Any]:
    km = 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(row["chord2"]) / 2))
    return {
        "icao": row["icao"],
        "name": row["name"],
        "city": row["city"],
        "country": row["country"],
        "km": round(km, 1),
    }
