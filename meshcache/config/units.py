"""Sizes, durations, counts and flags, as people write them.

A reader takes what a caller or an environment variable gave, and returns the value
or raises `ValueError` with a sentence that says what would have been understood. A
`show_` function is its inverse, for the reference and for error messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from fractions import Fraction
from math import inf
from typing import Final

__all__ = ["count", "flag", "seconds", "show_seconds", "show_size", "size", "text"]

_SIZES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE_NAMES: Final = ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB")
_DURATIONS: Final = {
    "": Fraction(1),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
}
_FLAGS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_QUANTITY: Final = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-z]*)", re.ASCII)
_LONGEST: Final = 40
"""Characters of a number and its unit; Python's own limit on digits is far above."""


def count(value: object) -> int:
    """Read a whole number: `8`, `"8"` or `"10_000"`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST:
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError("not a whole number; write one such as 8 or 10_000")


def size(value: object) -> int:
    """Read a number of bytes: `1000`, `"64MB"` (10^6) or `"1GiB"` (2^30)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    scaled = _scaled(value, _SIZES)
    if scaled is None or scaled.denominator != 1:
        raise ValueError("not a size; write bytes, or a unit such as 64MB or 1GiB")
    return scaled.numerator


def seconds(value: object) -> float:
    """Read a duration: `1.5`, `"500ms"`, `"2s"`, `"5m"` or a `timedelta`."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        return inf
    scaled = _scaled(value, _DURATIONS)
    if scaled is None:
        raise ValueError("not a duration; write seconds, or a unit such as 500ms or 5m")
    return float(scaled)


def flag(value: object) -> bool:
    """Read yes or no: a `bool`, or `true`, `yes`, `on`, `1` and their opposites."""
    if isinstance(value, bool):
        return value
    known = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        raise ValueError("neither yes nor no; write true or false")
    return known


def text(value: object) -> str:
    """Read a string. Nothing else is one, whatever `str()` would make of it."""
    if not isinstance(value, str):
        raise ValueError("not a string")  # noqa: TRY004 - one error for every reader
    return value


def _scaled(value: object, units: Mapping[str, Fraction | int]) -> Fraction | None:
    """Return number times unit, exactly: 35ms is the float 0.035 and no other."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    match = _QUANTITY.fullmatch(value.strip().lower())
    if match is None or match[2] not in units:
        return None
    return Fraction(match[1].replace("_", "")) * units[match[2]]


def show_size(value: int) -> str:
    """Return the shortest exact way to write a number of bytes."""
    for name in _SIZE_NAMES:
        whole, rest = divmod(value, _SIZES[name.lower()])
        if whole and not rest:
            return f"{whole}{name}"
    return str(value)


def show_seconds(value: float) -> str:
    """Return a short, exact way to write a duration."""
    for unit in ("d", "h", "m"):
        whole, rest = divmod(Fraction(value), _DURATIONS[unit])
        if whole and not rest:
            return f"{whole}{unit}"
    millis = f"{value * 1000:.0f}ms"
    if 0 < value < 1 and seconds(millis) == value:
        return millis
    whole_seconds = f"{value:.0f}"
    return f"{whole_seconds}s" if float(whole_seconds) == value else f"{value!r}s"
