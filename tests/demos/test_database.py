from __future__ import annotations

import math
import sqlite3
import threading

import pytest
from airports.database import EARTH_KM, build, codes, connect, countries
from airports.queries import Queries

pytestmark = pytest.mark.slow  # the database takes a third of a second to build


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return build(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def queries(database):
    return Queries(database)


def test_holds_the_world(database):
    assert len(codes(database)) > 7000
    assert len(countries(database)) > 200


def test_is_built_once_and_then_found(database):
    built = database.stat()

    assert database == build(database.parent)
    assert built.st_mtime_ns == database.stat().st_mtime_ns


def test_builds_at_the_same_time_leave_one_whole_database(tmp_path):
    builders = [threading.Thread(target=build, args=(tmp_path,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()

    (path,) = tmp_path.iterdir()
    assert len(codes(path)) > 7000


def test_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("airports.database._TABLES", "this is no SQL")

    with pytest.raises(sqlite3.Error):
        build(tmp_path)

    assert [] == list(tmp_path.iterdir())


def test_is_opened_for_reading_only(database):
    with (
        pytest.raises(sqlite3.OperationalError, match="readonly"),
        connect(database) as connection,
    ):
        connection.execute("DELETE FROM airport")
    connection.close()


def test_radius_query_finds_le_bourget_nine_kilometres_from_charles_de_gaulle(queries):
    answer = queries.within("CDG", 20)
    nearest = answer["nearest"][0]

    assert ("LFPB", 9.3) == (nearest["icao"], nearest["km"])
    assert answer["found"] == len(answer["nearest"])


def test_radius_query_agrees_with_asking_every_airport(database, queries):
    # Around Nadi in Fiji, so that the date line lies within the radius.
    with connect(database) as connection:
        lons = connection.execute(
            "SELECT there.lon FROM airport AS there, airport AS here"
            " WHERE here.iata = 'NAN' AND there.icao <> here.icao AND"
            " there.x * here.x + there.y * here.y + there.z * here.z >= :cosine",
            {"cosine": math.cos(1000 / EARTH_KM)},
        ).fetchall()
    connection.close()

    assert len(lons) == queries.within("NAN", 1000)["found"]
    assert any(lon < 0 for (lon,) in lons)
    assert any(lon > 0 for (lon,) in lons)


def test_nearest_come_in_order_and_high_enough(queries):
    found = queries.nearest("GVA", 3000)

    assert 12 == len(found)
    assert found == sorted(found, key=lambda row: row["km"])


def test_country_counts_all_its_airports(database, queries):
    with connect(database) as connection:
        (airports,) = connection.execute(
            "SELECT count(*) FROM airport WHERE country = 'CH'"
        ).fetchone()
    connection.close()

    assert airports == queries.country("CH")["airports"] > 50


def test_unknown_code_is_refused_by_name(queries):
    with pytest.raises(LookupError, match="XXX1"):
        queries.within("XXX1", 100)
