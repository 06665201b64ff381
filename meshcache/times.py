"""Seconds as the application gives them: how long to keep, and how long to wait."""

from __future__ import annotations

from typing import Final, TypeAlias

from meshcache.errors import ConfigError
from meshcache.model import Unset

__all__ = ["MAX_LOAD_TIMEOUT", "MAX_TTL", "Ttl", "checked_timeout", "checked_ttl"]

Ttl: TypeAlias = float | Unset | None
"""Seconds to live; None for ever; 0 not at all; UNSET the cache's default."""

MAX_TTL: Final = 10 * 365 * 86_400.0
MAX_LOAD_TIMEOUT: Final = 86_400.0


def checked_ttl(ttl: object, what: str) -> float | None:
    """Return a time to live in seconds, or None for ever.

    Raises:
        ConfigError: it is negative, not finite, over ten years, or no number.
    """
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise ConfigError(f"{what}={ttl!r} is no number of seconds; None is for ever")
    if not 0 <= ttl <= MAX_TTL:
        raise ConfigError(f"{what}={ttl!r} is not in 0 to {MAX_TTL:g} seconds")
    return float(ttl)


def checked_timeout(timeout: object, what: str = "load_timeout") -> float:
    """Return a time to wait in seconds, or 0 for the node's setting.

    Raises:
        ConfigError: it is not positive, not finite, over a day, or no number.
    """
    if timeout is None:
        return 0.0
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout <= MAX_LOAD_TIMEOUT
    ):
        raise ConfigError(
            f"{what}={timeout!r} is no number of seconds above 0, up to "
            f"{MAX_LOAD_TIMEOUT:g}; None is the node's setting"
        )
    return float(timeout)
