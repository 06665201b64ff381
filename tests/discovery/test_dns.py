"""Seeds behind a name, looked up anew each time."""

import pytest

from meshcache.config import Address
from meshcache.discovery.dns import Dns, system_resolver
from meshcache.discovery.provider import ADDRESSES_MAX

MESH = Address("mesh.local", 7946)


class Zone:
    """A name server that a test can change."""

    def __init__(self, *hosts):
        self.hosts = list(hosts)
        self.asked = []

    def __call__(self, name, port):
        self.asked.append((name, port))
        return self.hosts


def test_all_addresses_behind_a_name_are_given_once():
    provider = Dns(MESH, Zone("10.0.0.7", "fd00::1", "10.0.0.7"))

    assert ["10.0.0.7:7946", "[fd00::1]:7946"] == provider.addresses()


def test_a_name_is_looked_up_each_time():
    zone = Zone("10.0.0.7")
    provider = Dns(MESH, zone)

    assert ["10.0.0.7:7946"] == provider.addresses()
    zone.hosts = ["10.0.0.8"]
    assert ["10.0.0.8:7946"] == provider.addresses()
    assert [("mesh.local", 7946)] * 2 == zone.asked


def test_a_name_that_is_not_known_now_may_be_known_later():
    def nobody(name, port):
        raise OSError("name or service not known")

    with pytest.raises(OSError, match="not known"):
        Dns(MESH, nobody).addresses()


def test_a_name_with_endless_addresses_gives_a_bounded_list():
    def endless(name, port):
        return (f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(10**9))

    found = Dns(MESH, endless).addresses()

    assert ADDRESSES_MAX == len(found)


def test_the_system_knows_the_local_host():
    found = system_resolver("localhost", 7946)

    assert set(found) & {"127.0.0.1", "::1"}


def test_what_the_system_does_not_know_is_an_os_error():
    # `.invalid` never resolves (RFC 6761), whatever the name server.
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's own
        system_resolver("x" * 63 + ".invalid", 7946)
