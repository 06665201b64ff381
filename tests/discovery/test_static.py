"""Seeds that are what they say."""

from meshcache.config import Address
from meshcache.discovery.static import Static


def test_a_static_provider_always_gives_its_own_list():
    provider = Static((Address("10.0.0.7", 7946), Address("::1", 1)))

    assert ("10.0.0.7:7946", "[::1]:1") == provider.addresses() == provider.addresses()
