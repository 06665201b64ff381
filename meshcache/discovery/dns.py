"""Seeds behind a name, looked up anew each time.

Names move: pods are replaced, and a record that did not exist when the first node
started exists when the second does. So no answer is kept, and the transport is given
numbers only, because a slow look-up inside ZeroMQ's I/O thread would hold up every
connection of the process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias, final

from meshcache.config import Address
from meshcache.discovery.provider import distinct

__all__ = ["Dns", "Resolver", "system_resolver"]

Resolver: TypeAlias = Callable[[str, int], Iterable[str]]
"""From a name and a port to the IP addresses behind it, or an `OSError`."""


def system_resolver(name: str, port: int) -> list[str]:
    """Return what the operating system says: A and AAAA records, the hosts file."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in found]


@final
class Dns:
    """Every address behind one name. Confined to the scout thread."""

    __slots__ = ("_port", "_resolve", "name")

    def __init__(self, address: Address, resolve: Resolver = system_resolver) -> None:
        self.name = address.host
        self._port = address.port
        self._resolve = resolve

    def addresses(self) -> list[str]:
        """Look the name up and return all of its addresses.

        Raises:
            OSError: the name is not known, or nobody answers, at this moment.
        """
        hosts = distinct(self._resolve(self.name, self._port))
        return [str(Address(host, self._port)) for host in hosts]
