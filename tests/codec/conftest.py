"""What a value is, to the last bit: the judge of every round trip in this folder."""

from __future__ import annotations

import dataclasses
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from struct import pack
from zoneinfo import ZoneInfo

import pytest


def _float(value):
    return [pack(">d", value).hex()]


def _moment(value):
    bare = value.replace(tzinfo=None, fold=0)
    return [repr(bare), value.fold, _fingerprint(value.tzinfo)]


def _object(value):
    if isinstance(value, Enum | type):
        return [id(value)]
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [_fingerprint(getattr(value, field.name)) for field in fields]
    if isinstance(value, tuple):
        return [_fingerprint(item) for item in value]
    return [_fingerprint(vars(value)) if hasattr(value, "__dict__") else repr(value)]


_PARTS = {
    float: _float,
    complex: lambda value: _float(value.real) + _float(value.imag),
    list: lambda value: [_fingerprint(item) for item in value],
    tuple: lambda value: [_fingerprint(item) for item in value],
    set: lambda value: sorted(_fingerprint(item) for item in value),
    frozenset: lambda value: sorted(_fingerprint(item) for item in value),
    dict: lambda value: [_fingerprint(item) for item in value.items()],
    datetime: _moment,
    time: _moment,
    ZoneInfo: lambda value: [value.key],
    Decimal: lambda value: [value.as_tuple()],
}


def _fingerprint(value):
    """Return a text that two values share only if nothing tells them apart.

    It sees what `==` does not: the type at every depth, the sign of a zero, the fold
    and the zone of a time, the zeros of a decimal, the bits of a NaN, the order of a
    dict.
    """
    cls = type(value)
    parts = _PARTS.get(cls, _object)(value)
    return str([cls.__module__, cls.__qualname__, id(cls), *parts])


@pytest.fixture(scope="session")
def fingerprint():
    return _fingerprint
