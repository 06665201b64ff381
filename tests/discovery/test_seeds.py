"""From seeds to the providers that look them up."""

import pytest

from meshcache.config import Config
from meshcache.discovery import providers
from meshcache.discovery.dns import Dns
from meshcache.discovery.provider import ADDRESSES_MAX
from meshcache.discovery.seeds import Call
from meshcache.discovery.static import Static
from meshcache.errors import ConfigError

ZONE = {"mesh": ["10.0.0.1", "10.0.0.2"], "cache-1": ["10.0.0.3"]}


def resolve(name, port):
    if name not in ZONE:
        raise OSError(f"{name} is not known")
    return ZONE[name]


def addresses(*seeds):
    found = providers(Config(seeds=seeds).seeds, resolve)
    return [address for each in found for address in each.addresses()]


def test_no_seeds_need_no_provider():
    assert [] == providers(())


def test_each_kind_of_seed_has_its_provider():
    found = providers(
        Config(seeds=["10.0.0.7:1", "dns://mesh:2", list, "[::1]:3"]).seeds
    )

    assert [Static, Dns, Call] == [type(each) for each in found]
    assert ("10.0.0.7:1", "[::1]:3") == found[0].addresses()


def test_a_name_is_looked_up_with_or_without_a_scheme():
    assert ["10.0.0.3:1"] == addresses("cache-1:1") == addresses("dns://cache-1:1")


def test_a_number_is_not_looked_up_even_with_a_scheme():
    assert ["10.0.0.9:1"] == addresses("dns://10.0.0.9:1")


def test_a_function_may_return_all_kinds_of_seeds():
    def find():
        return {"[0::1]:1", "dns://mesh:2"}

    assert ["10.0.0.1:2", "10.0.0.2:2", "[::1]:1"] == sorted(addresses(find))


def test_a_function_is_called_each_time():
    answers = iter([["10.0.0.7:1"], ["10.0.0.8:1"]])
    provider = Call(lambda: next(answers))

    assert ["10.0.0.7:1"] == provider.addresses()
    assert ["10.0.0.8:1"] == provider.addresses()


def test_a_function_that_returns_one_string_meant_one_seed():
    assert ["10.0.0.7:1"] == addresses(lambda: "10.0.0.7:1")


def test_one_address_is_given_once():
    assert ["10.0.0.3:1"] == addresses(lambda: ["cache-1:1", "10.0.0.3:1"])


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("10.0.0.7", "'10.0.0.7' is no seed: no port"),
        (7946, "7946, which is no string"),
        (["a:1"], r"\['a:1'\], which is no string"),
    ],
)
def test_a_bad_item_is_named_with_the_function_that_returned_it(item, reason):
    def find_peers():
        return ["10.0.0.7:1", item]

    with pytest.raises(ConfigError, match=rf"find_peers\(\) returned {reason}"):
        Call(find_peers).addresses()


def test_whatever_a_function_raises_is_an_os_error_with_its_cause():
    def find_peers():
        yield "10.0.0.7:1"
        raise KeyError("region")

    with pytest.raises(OSError, match=r"find_peers\(\) raised KeyError") as caught:
        Call(find_peers).addresses()

    assert isinstance(caught.value.__cause__, KeyError)


def test_a_function_that_returns_nothing_iterable_is_told_so():
    with pytest.raises(OSError, match="raised TypeError"):
        Call(lambda: None).addresses()


@pytest.mark.parametrize(
    "error", [ConnectionError("api is down"), ConfigError("no key")]
)
def test_errors_of_the_contract_pass_as_they_are(error):
    def find_peers():
        raise error

    with pytest.raises(type(error)) as caught:
        Call(find_peers).addresses()

    assert error is caught.value


def test_one_name_that_fails_does_not_hide_the_others():
    assert ["10.0.0.3:1"] == addresses(lambda: ["gone:1", "cache-1:1"])


def test_names_that_all_fail_are_an_os_error():
    with pytest.raises(OSError, match="gone is not known"):
        addresses(lambda: ["gone:1"])


def test_an_endless_answer_is_cut_short():
    def endless():
        return (f"10.0.0.7:{port % 60_000 + 1}" for port in range(10**9))

    found = Call(endless).addresses()

    assert ADDRESSES_MAX == len(found)


def test_a_callable_without_a_name_is_shown_as_it_is():
    class Finder:
        def __call__(self):
            return [1]

        def __repr__(self):
            return "<finder>"

    with pytest.raises(ConfigError, match=r"<finder>\(\) returned 1"):
        Call(Finder()).addresses()
