"""What is known about one setting: how it is read, what it may be, what it means.

A section of `Config` declares its fields with `seconds(...)`, `size(...)` and so on.
Each is a `dataclasses.field` whose metadata holds a `Setting`, from which come the
checks, the error messages and the reference; so the three cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any, Final, NamedTuple, final

from meshcache.config import units
from meshcache.errors import ConfigError

__all__ = ["Setting", "Unit", "count", "flag", "refuse", "seconds", "setting", "size"]

_KEY: Final = "setting"
_SHOWN: Final = 80
"""Characters of a refused value that its error repeats."""


class Unit(NamedTuple):
    """A kind of value: its name for people, and how it is read, measured and shown.

    `measure` is what the bounds apply to; None for what has no bounds.
    """

    name: str
    read: Callable[[object], Any]
    show: Callable[[Any], str] = str
    measure: Callable[[Any], float] | None = None


def _itself(value: float) -> float:
    return value


COUNT: Final = Unit("count", units.count, "{:,}".format, _itself)
SIZE: Final = Unit("bytes", units.size, units.show_size, _itself)
SECONDS: Final = Unit("seconds", units.seconds, units.show_seconds, _itself)
FLAG: Final = Unit("yes or no", units.flag, lambda value: str(value).lower())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything about a setting but its name and its default. Thread-safe.

    Attributes:
        unit: the kind of value.
        meaning: what it is, in one sentence.
        choose: how to choose it, in one sentence.
        low: the least value, or length, allowed.
        high: the greatest.
        none: what None stands for; empty where None is not allowed.
        hidden: whether its value must never be shown.
    """

    unit: Unit
    meaning: str
    choose: str
    low: float = 0
    high: float = 0
    none: str = ""
    hidden: bool = False

    @staticmethod
    def of(spec: Field[Any]) -> Setting:
        """Return the setting that a field of `Config` was declared with."""
        found = spec.metadata[_KEY]
        assert isinstance(found, Setting)
        return found

    def read(self, name: str, value: object) -> Any:
        """Return *value* as this setting holds it, or raise `ConfigError`.

        Reading what was read before changes nothing.
        """
        if value is None and self.none:
            return None
        try:
            result = self.unit.read(value)
        except ValueError as error:
            raise self._refusal(name, value, str(error)) from None
        measured = self.unit.measure(result) if self.unit.measure else self.low
        # Written so that a NaN, which is neither above nor below, fails too.
        if not self.low <= measured <= self.high:
            raise self._refusal(name, value, f"allowed is {self.bound}. {self.choose}")
        return result

    @property
    def bound(self) -> str:
        """The least and the greatest value, for people."""
        if self.unit.measure is None:
            return self.unit.name
        # What is measured but not itself a number is bounded by its length.
        show = self.unit.show if self.unit.measure is _itself else COUNT.show
        suffix = "" if self.unit.measure is _itself else f" {self.unit.name}"
        if self.low == self.high:
            return show(self.low) + suffix
        return f"{show(self.low)} to {show(self.high)}{suffix}"

    def show(self, value: Any) -> str:
        """Return *value* as a person would write it; a hidden one as three dots."""
        if value is None:
            return "None"
        return "..." if self.hidden else self.unit.show(value)

    def _refusal(self, name: str, value: object, problem: str) -> ConfigError:
        return refuse(name, "..." if self.hidden else value, problem)


def refuse(name: str, value: object, problem: str) -> ConfigError:
    """Return the error for a setting: its name, its value, what to do about it."""
    return ConfigError(f"{name}={value!r:.{_SHOWN}}: {problem}")


def setting(default: Any, **about: Any) -> Any:
    """Declare a field of any unit; *about* is what `Setting` takes."""
    metadata = {_KEY: Setting(**about)}
    return field(default=default, metadata=metadata, repr=not about.get("hidden"))


def count(default: int, low: int, high: int, meaning: str, choose: str) -> Any:
    """Declare a field that is a whole number."""
    return setting(
        default, unit=COUNT, low=low, high=high, meaning=meaning, choose=choose
    )


def seconds(default: float, low: float, high: float, meaning: str, choose: str) -> Any:
    """Declare a field that is a duration."""
    return setting(
        default, unit=SECONDS, low=low, high=high, meaning=meaning, choose=choose
    )


def size(
    default: str | None,
    low: str,
    high: str,
    meaning: str,
    choose: str,
    *,
    none: str = "",
) -> Any:
    """Declare a field that is a number of bytes."""
    return setting(
        default,
        unit=SIZE,
        low=units.size(low),
        high=units.size(high),
        meaning=meaning,
        choose=choose,
        none=none,
    )


def flag(*, default: bool, meaning: str, choose: str) -> Any:
    """Declare a field that is yes or no."""
    return setting(default, unit=FLAG, meaning=meaning, choose=choose)
