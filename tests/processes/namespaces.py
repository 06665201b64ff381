"""A network of our own: one Linux network namespace for each host, and a switch.

The switch is a bridge in a namespace too, so nothing of this machine's own network is
touched or can be reached. Hosts are 10.213.0.1 and up. A host that is unplugged hears
nothing and is not heard: no reset, no refusal, no carrier lost. Addresses are resolved
once and for all, as a router in between would have it, so that a failing ARP request
cannot tell what a black hole would not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import Self

__all__ = ["Network", "why_not"]

SUBNET = "10.213.0"
IP = shutil.which("ip") or "/usr/sbin/ip"


def _ip(*words: str, commands: str | None = None) -> None:
    subprocess.run(
        [IP, *words], input=commands, check=True, capture_output=True, text=True
    )


def why_not() -> str | None:
    """Return why namespaces cannot be made here, or None."""
    name = f"mc{os.getpid()}try"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "br0", "type", "bridge")
            _ip("-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        finally:
            _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", "") or str(error)
        return f"no network namespaces here: {text.strip()}"
    return None


class Network:
    """Hosts 1 to *count* on one switch. Close it, or use it as a context manager."""

    def __init__(self, count: int) -> None:
        self._name = f"mc{os.getpid()}"
        self._hub = f"{self._name}hub"
        self._made: list[str] = []
        try:
            self._add(self._hub)
            for switch in ("here", "there"):
                _ip("-n", self._hub, "link", "add", switch, "type", "bridge")
                _ip("-n", self._hub, "link", "set", switch, "up")
            for host in range(1, count + 1):
                self._add_host(host, count)
        except subprocess.CalledProcessError as error:
            self.close()
            raise RuntimeError(error.stderr) from error
        except BaseException:
            self.close()
            raise

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)

    def _add_host(self, host: int, count: int) -> None:
        name, port = self._host(host), f"p{host}"
        self._add(name)
        _ip(
            *("-n", self._hub, "link", "add", port, "type", "veth"),
            *("peer", "name", "eth0", "netns", name),
        )
        neighbours = "".join(
            f"neigh add {self.address(other)} lladdr {_mac(other)} dev eth0 "
            "nud permanent\n"
            for other in range(1, count + 1)
            if other != host
        )
        commands = (
            f"link set eth0 address {_mac(host)}\n"
            f"addr add {self.address(host)}/24 dev eth0\n"
            "link set eth0 up\n"
            "link set lo up\n"
        )
        _ip("-n", name, "-batch", "-", commands=commands + neighbours)
        _ip("-n", self._hub, "link", "set", port, "up")
        self.plug([host])

    def _host(self, host: int) -> str:
        return f"{self._name}h{host}"

    def address(self, host: int) -> str:
        """Return the address of a host."""
        return f"{SUBNET}.{host}"

    def prefix(self, host: int) -> tuple[str, ...]:
        """Return what to put before a command to run it on a host."""
        return (IP, "netns", "exec", self._host(host))

    def unplug(self, hosts: Iterable[int]) -> None:
        """Make hosts silent and deaf."""
        for host in hosts:
            _ip("-n", self._hub, "link", "set", f"p{host}", "nomaster")

    def plug(self, hosts: Iterable[int], switch: str = "here") -> None:
        """Connect hosts to a switch: to the one, or "there", to the other."""
        for host in hosts:
            _ip("-n", self._hub, "link", "set", f"p{host}", "master", switch)

    def close(self) -> None:
        """Remove everything. The processes on the hosts must have ended."""
        while self._made:
            _ip("netns", "del", self._made.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mac(host: int) -> str:
    return f"02:00:0a:d5:00:{host:02x}"
