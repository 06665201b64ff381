"""The one question that discovery answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Protocol

__all__ = ["ADDRESSES_MAX", "Provider", "distinct"]

ADDRESSES_MAX: Final = 1024
"""Addresses taken from one answer. They are only ways in: any of them will do."""


class Provider(Protocol):
    """A source of control addresses. Confined to the scout thread."""

    def addresses(self) -> Iterable[str]:
        """Return the addresses, `host:port`, that are known now. May block.

        Raises:
            OSError: they cannot be had now; ask again later.
            ConfigError: what was found is no address; it says what and where.
        """
        ...


def distinct(addresses: Iterable[str]) -> Iterator[str]:
    """Return the first `ADDRESSES_MAX` of *addresses*, each once."""
    return iter(dict.fromkeys(islice(addresses, ADDRESSES_MAX)))
