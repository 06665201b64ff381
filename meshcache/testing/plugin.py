"""Fixtures for pytest, which finds this module by its entry point.

Where it does not, as without an install, the top-level `conftest.py` says
`pytest_plugins = ["meshcache.testing.plugin"]`.

Nothing here is used by anything but pytest, so that the package needs no pytest.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshcache.node import Node
from meshcache.testing.isolation import isolated
from meshcache.testing.timetravel import Time, time_travel

__all__ = [
    "meshcache_node",
    "meshcache_time",
    "pytest_addoption",
    "pytest_configure",
]

_EVERY_TEST = "meshcache_isolate"
_MARKER = "meshcache(**settings): settings of this test's default node of meshcache"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what can be said in the configuration file."""
    text = "give every test a default node of meshcache of its own"
    parser.addini(_EVERY_TEST, text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def meshcache_node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """The default node, for this test alone: empty at its start, gone at its end.

    `@pytest.mark.meshcache(near_ttl=5)` gives it settings.
    """
    marker = request.node.get_closest_marker("meshcache")
    settings = {} if marker is None else marker.kwargs
    with isolated(**settings) as node:
        yield node


@pytest.fixture
def meshcache_time(
    meshcache_node: Node,  # noqa: ARG001 - ours, so that no other is stopped at the end
) -> Iterator[Time]:
    """The time of caches, to be moved by `advance(seconds)`, on a node of its own."""
    with time_travel() as time:
        yield time


@pytest.fixture(autouse=True)
def _meshcache_isolate(request: pytest.FixtureRequest) -> None:
    """Isolate each test, where the configuration file wants that."""
    if request.config.getini(_EVERY_TEST):
        request.getfixturevalue("meshcache_node")
