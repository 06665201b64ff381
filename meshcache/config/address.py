"""Where a node listens: a host and a port, written `host:port`.

IPv6 addresses stand in brackets, and numeric addresses are brought to their one
canonical spelling, so that equal addresses are equal strings.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, NamedTuple

__all__ = ["Address", "host_name", "parse"]

_PORT_MAX: Final = 65_535
_NAME_MAX: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class Address(NamedTuple):
    """A host, by number or by name, and a port; port 0 stands for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def numeric(self) -> bool:
        """Whether the host is an IP address, so that nothing has to be looked up."""
        return ":" in self.host or self.host.rpartition(".")[2].isdigit()

    @property
    def loopback(self) -> bool:
        """Whether only processes of this machine can connect to it."""
        if self.numeric:
            return ip_address(self.host).is_loopback
        return self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def wildcard(self) -> bool:
        """Whether it stands for every interface, so that no peer can connect to it."""
        return self.numeric and ip_address(self.host).is_unspecified


def parse(
    text: str, *, any_port: bool = False, default_port: int | None = None
) -> Address:
    """Read `host:port`, or raise `ValueError` with what is wrong and what to write.

    Args:
        text: what somebody wrote.
        any_port: whether port 0, any free port, is an answer.
        default_port: the port of a host that stands alone; None makes one required.
    """
    if "/" in text:
        raise ValueError("an address is host:port, without a scheme or a path")
    host, bracket, port = _split(text)
    if not port and default_port is not None:
        return Address(host_name(host, ipv6=bracket), default_port)
    if not port:
        raise ValueError(f"no port; write {host or 'host'}:7946, for example")
    return Address(host_name(host, ipv6=bracket), _port(port, any_port=any_port))


def host_name(host: str, *, ipv6: bool = False) -> str:
    """Return the canonical spelling of a host, or raise `ValueError`.

    Args:
        host: an IP address without brackets, or a name.
        ipv6: whether it stood in brackets, and so can only be an IPv6 address.
    """
    try:
        found = ip_address(host)
    except ValueError:
        return _name(host, ipv6=ipv6)
    zone = host.partition("%")[2]
    if zone and not _LABEL.fullmatch(zone.lower()):
        raise ValueError(f"{host!r:.80} names no network interface after its %")
    if ipv6 and found.version != 6:  # noqa: PLR2004 - it is the name of the thing
        raise ValueError("only IPv6 addresses stand in brackets")
    return str(found)


def _name(host: str, *, ipv6: bool) -> str:
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    fits = len(name) <= _NAME_MAX and all(map(_LABEL.fullmatch, labels))
    # A name never ends in digits alone, so this one was meant as an IPv4 address.
    if ipv6 or not fits or labels[-1].isdigit():
        raise ValueError(f"{host!r:.80} is neither an IP address nor a host name")
    return name


def _split(text: str) -> tuple[str, bool, str]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is written [::1]:7946")
        return host, True, rest[1:]
    if text.count(":") > 1:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:7946")
    host, _, port = text.partition(":")
    return host, False, port


def _port(text: str, *, any_port: bool) -> int:
    lowest = 0 if any_port else 1
    if text.isascii() and text.isdigit() and len(text) <= len(str(_PORT_MAX)):
        port = int(text)
        if lowest <= port <= _PORT_MAX:
            return port
    raise ValueError(f"the port is a number from {lowest} to {_PORT_MAX}")
