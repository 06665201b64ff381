"""The exact bytes of single values: dates, zones, decimals, UUIDs, complex numbers.

One table serves keys and values alike: each class has a code (an ASCII letter), a
function to bytes and one back. The first raises ValueError for an instance that would
not come back the same. The second takes bytes from anywhere: it returns an instance or
raises, and costs no more than its input is long.

The bytes are part of every key, so a change here orphans what a running cluster holds
(tests/codec/vectors/keys.txt).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SCALARS", "Scalar"]


class Scalar(NamedTuple):
    """One class of `SCALARS`."""

    code: int
    cls: type[Any]
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], object]


_DAY: Final = Struct(">HBB")
_CLOCK: Final = Struct(">BBBIB")
_MOMENT: Final = Struct(">HBBBBBIB")
_SPAN: Final = Struct(">iIi")
_OFFSET: Final = Struct(">q")
_COMPLEX: Final = Struct(">dd")

_MICROSECOND: Final = timedelta(microseconds=1)
_ZONE_KEY: Final = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
"""IANA's zone names. `ZoneInfo` looks for a file and a module of the name it is given,
so a name from elsewhere must not hold dots."""


# --- time zones ------------------------------------------------------------------


def _pack_offset(zone: timezone) -> bytes:
    # The only way to tell a name that was given from one made up from the offset.
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    data = _OFFSET.pack(offset // _MICROSECOND)
    return data + b"=" + name[0].encode("utf-8", "surrogatepass") if name else data


def _unpack_offset(data: bytes) -> timezone:
    (microseconds,) = _OFFSET.unpack_from(data)
    offset, rest = timedelta(microseconds=microseconds), data[_OFFSET.size :]
    if not rest:
        return timezone(offset)
    if rest[:1] != b"=":
        raise ValueError("not a fixed offset")
    return timezone(offset, rest[1:].decode("utf-8", "surrogatepass"))


def _pack_region(zone: ZoneInfo) -> bytes:
    # A zone made by ZoneInfo.from_file has None for a key, whatever typeshed says.
    if not _ZONE_KEY.fullmatch(zone.key or ""):
        raise ValueError(f"{zone!r} has no IANA name that other processes could find")
    return zone.key.encode()


def _unpack_region(data: bytes) -> ZoneInfo:
    key = data.decode("ascii")
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError("not an IANA zone name")
    return ZoneInfo(key)


def _pack_zone(zone: tzinfo | None) -> bytes:
    """Return nothing for a naive time, else a letter and the zone."""
    if zone is None:
        return b""
    if type(zone) is timezone:
        return b"O" + _pack_offset(zone)
    if type(zone) is ZoneInfo:
        return b"Z" + _pack_region(zone)
    cls = type(zone)
    raise ValueError(
        f"its zone is a {cls.__module__}.{cls.__qualname__}; only datetime.timezone "
        "and zoneinfo.ZoneInfo come back the same"
    )


def _unpack_zone(data: bytes) -> tzinfo | None:
    if not data:
        return None
    if data[:1] == b"O":
        return _unpack_offset(data[1:])
    if data[:1] == b"Z":
        return _unpack_region(data[1:])
    raise ValueError("not a time zone")


# --- dates and times -------------------------------------------------------------


def _pack_date(value: date) -> bytes:
    return _DAY.pack(value.year, value.month, value.day)


def _unpack_date(data: bytes) -> date:
    return date(*_DAY.unpack(data))


def _pack_datetime(value: datetime) -> bytes:
    moment = _MOMENT.pack(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.fold,
    )
    return moment + _pack_zone(value.tzinfo)


def _unpack_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, micro, fold = _MOMENT.unpack_from(data)
    zone = _unpack_zone(data[_MOMENT.size :])
    return datetime(year, month, day, hour, minute, second, micro, zone, fold=fold)


def _pack_time(value: time) -> bytes:
    clock = _CLOCK.pack(
        value.hour, value.minute, value.second, value.microsecond, value.fold
    )
    return clock + _pack_zone(value.tzinfo)


def _unpack_time(data: bytes) -> time:
    hour, minute, second, micro, fold = _CLOCK.unpack_from(data)
    zone = _unpack_zone(data[_CLOCK.size :])
    return time(hour, minute, second, micro, zone, fold=fold)


def _pack_timedelta(value: timedelta) -> bytes:
    return _SPAN.pack(value.days, value.seconds, value.microseconds)


def _unpack_timedelta(data: bytes) -> timedelta:
    return timedelta(*_SPAN.unpack(data))


# --- numbers and names -----------------------------------------------------------


def _pack_decimal(value: Decimal) -> bytes:
    # Exact in every context; only the case of the E follows Context.capitals.
    return str(value).replace("e", "E").encode()


def _unpack_decimal(data: bytes) -> Decimal:
    value = Decimal(data.decode("ascii"))
    if _pack_decimal(value) != data:
        # Where the context traps nothing, nonsense is a NaN.
        raise ValueError("not a decimal as it is written")
    return value


def _pack_complex(value: complex) -> bytes:
    return _COMPLEX.pack(value.real, value.imag)


def _unpack_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


def _pack_uuid(value: UUID) -> bytes:
    return value.bytes


def _unpack_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


SCALARS: Final = (
    Scalar(ord("D"), date, _pack_date, _unpack_date),
    Scalar(ord("M"), datetime, _pack_datetime, _unpack_datetime),
    Scalar(ord("H"), time, _pack_time, _unpack_time),
    Scalar(ord("P"), timedelta, _pack_timedelta, _unpack_timedelta),
    Scalar(ord("O"), timezone, _pack_offset, _unpack_offset),
    Scalar(ord("Z"), ZoneInfo, _pack_region, _unpack_region),
    Scalar(ord("Q"), Decimal, _pack_decimal, _unpack_decimal),
    Scalar(ord("U"), UUID, _pack_uuid, _unpack_uuid),
    Scalar(ord("C"), complex, _pack_complex, _unpack_complex),
)

assert timezone(timedelta(0)) is UTC
