"""The database: 28,000 real airports in SQLite, built once from `airportsdata`.

Each airport also carries its place as a point on the unit sphere. The distance of
two such points orders airports as the great circle does, and it is plain arithmetic,
so a query runs inside SQLite from start to end and lets other threads work.
"""

from __future__ import annotations

import math
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import airportsdata

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EARTH_KM",
    "build",
    "cache_folder",
    "codes",
    "connect",
    "countries",
    "point",
]

EARTH_KM: Final = 6371.0088
"""Mean radius of the Earth (IUGG)."""

_LAYOUT: Final = 1  # part of the file's name: raise it when the tables change

_TABLES: Final = """
CREATE TABLE airport (
    icao TEXT PRIMARY KEY, iata TEXT, name TEXT, city TEXT, region TEXT,
    country TEXT, elevation REAL, lat REAL, lon REAL, x REAL, y REAL, z REAL
) WITHOUT ROWID;
CREATE UNIQUE INDEX airport_iata ON airport (iata) WHERE iata <> '';
CREATE INDEX airport_lat ON airport (lat);
CREATE INDEX airport_country ON airport (country);
"""

Row = tuple[str | float, ...]


def build(folder: Path | None = None) -> Path:
    """Return the database's path, building it first where it does not exist.

    Several processes may do so at once: each writes a file of its own and renames it
    into place, so whoever looks finds either nothing or a whole database.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / f"airports-{airportsdata.__version__}-{_LAYOUT}.sqlite"
    if path.exists():
        return path
    handle, draft = tempfile.mkstemp(prefix=path.name, suffix=".draft", dir=folder)
    os.close(handle)
    try:
        _write(Path(draft))
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """Return a folder of this user for files that may be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home) / "meshcache"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        # A service account may have no home it can write to.
        folder = Path(tempfile.gettempdir()) / f"meshcache-demo-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def connect(path: Path) -> sqlite3.Connection:
    """Open the database for reading. Confined to the thread that opened it."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def codes(path: Path) -> list[str]:
    """Return the IATA codes in the database, sorted: the airports people ask for."""
    return _column(path, "SELECT iata FROM airport WHERE iata <> '' ORDER BY iata")


def countries(path: Path) -> list[str]:
    """Return the countries in the database, sorted."""
    return _column(path, "SELECT DISTINCT country FROM airport ORDER BY country")


def point(lat: float, lon: float) -> tuple[float, float, float]:
    """Return a place as a point on the unit sphere."""
    phi, lam = math.radians(lat), math.radians(lon)
    return (
        math.cos(phi) * math.cos(lam),
        math.cos(phi) * math.sin(lam),
        math.sin(phi),
    )


def _column(path: Path, query: str) -> list[str]:
    with closing(connect(path)) as connection:
        return [str(row[0]) for row in connection.execute(query)]


def _write(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_TABLES)
        marks = ",".join("?" * 12)
        # The place-holders are counted, not taken from data.
        connection.executemany(
            f"INSERT INTO airport VALUES ({marks})",  # noqa: S608
            _rows(),
        )


def _rows() -> Iterator[Row]:
    for icao, airport in sorted(airportsdata.load("ICAO").items()):
        yield (
            icao,
            airport["iata"],
            airport["name"],
            airport["city"],
            airport["subd"],
            airport["country"],
            airport["elevation"],
            airport["lat"],
            airport["lon"],
            *point(airport["lat"], airport["lon"]),
        )
