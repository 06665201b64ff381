"""Seeds that are what they say: numeric addresses, always the same."""

from __future__ import annotations

from typing import final

from meshcache.config import Address

__all__ = ["Static"]


@final
class Static:
    """A fixed list of addresses. Thread-safe."""

    __slots__ = ("_addresses",)

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self._addresses = tuple(map(str, addresses))

    def addresses(self) -> tuple[str, ...]:
        """Return the list."""
        return self._addresses
