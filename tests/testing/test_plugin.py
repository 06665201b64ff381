"""The fixtures, as a test suite of an application has them."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

APPLICATION = """
    import meshcache

    users = meshcache.Cache("plugin-users")
    loads = []

    @users.memoize(ttl=60)
    def load_user(user_id):
        loads.append(user_id)
        return {"id": user_id}
"""


@pytest.fixture
def suite(pytester):
    """Run tests of an application; return what came of them."""
    pytester.makepyfile(application=APPLICATION)
    pytester.syspathinsert()

    def run(tests, *options):
        pytester.makepyfile(tests)
        arguments = ("-p", "meshcache.testing.plugin", "-p", "no:cacheprovider")
        return pytester.runpytest_inprocess(*arguments, *options)

    return run


def test_each_test_finds_an_empty_cache(suite):
    result = suite(
        """
        import pytest
        from application import loads, load_user, users

        @pytest.mark.parametrize("number", range(3))
        def test_it(meshcache_node, number):
            loads.clear()
            assert users.get("k") is None
            users.set("k", 1)
            load_user(7), load_user(7)
            assert loads == [7]
            assert load_user.cache_info()[:2] == (1, 1)
            assert meshcache_node is users.node

        @pytest.mark.meshcache(near_ttl=5)
        def test_settings(meshcache_node):
            assert meshcache_node.config.near_ttl == 5

        def test_time(meshcache_time):
            loads.clear()
            load_user(7)
            meshcache_time.advance(61)
            load_user(7)
            assert loads == [7, 7]
        """,
        "--strict-markers",
    )

    result.assert_outcomes(passed=5)


def test_the_configuration_can_isolate_every_test(suite, pytester):
    pytester.makeini("[pytest]\nmeshcache_isolate = true\n")
    result = suite(
        """
        import pytest
        from application import users
        from meshcache.testing import time_travel

        @pytest.mark.parametrize("number", range(2))
        def test_it(number):
            assert users.get("k") is None
            users.set("k", 1)

        def test_a_test_that_uses_no_cache_starts_nothing(meshcache_node):
            pass

        def test_the_node(meshcache_node):
            assert meshcache_node.state.value == "new"
        """
    )

    result.assert_outcomes(passed=4)


def test_what_a_failed_test_stored_is_gone(suite):
    result = suite(
        """
        from application import users

        def test_that_fails(meshcache_time):
            users.set("k", 1)
            meshcache_time.advance(5)
            assert False

        def test_after_it(meshcache_node):
            assert users.get("k") is None
        """
    )

    result.assert_outcomes(passed=1, failed=1)


def test_without_being_asked_it_does_nothing(suite):
    result = suite(
        """
        from meshcache.default import _default
        import meshcache

        def test_it(request):
            before = _default.node
            assert "meshcache_node" not in request._pyfuncitem.funcargs
            assert not _default.stands_in
        """
    )

    result.assert_outcomes(passed=1)
