"""Where a node listens: `host:port`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.config.address import Address, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7946", Address("127.0.0.1", 7946)),
        ("[::1]:7946", Address("::1", 7946)),
        ("[0:0::0001]:1", Address("::1", 1)),
        ("[fe80::1%eth0]:1", Address("fe80::1%eth0", 1)),
        ("Cache-1.Example.com.:65535", Address("cache-1.example.com", 65_535)),
        ("my_service:1", Address("my_service", 1)),
    ],
)
def test_an_address_has_one_spelling(text, expected):
    found = parse(text)

    assert expected == found
    assert expected == parse(str(found))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.7", r"write 10\.0\.0\.7:7946"),
        ("", "no port"),
        (":7946", "neither an IP address nor a host name"),
        ("10.0.0.7:0", "from 1 to 65535"),
        ("10.0.0.7:65536", "from 1 to 65535"),
        ("10.0.0.7:7946x", "from 1 to 65535"),
        ("10.0.0.7:-1", "from 1 to 65535"),
        ("10.0.0.7:٣", "from 1 to 65535"),
        ("10.0.0.7:" + "1" * 5000, "from 1 to 65535"),
        ("10.0.0:7946", "neither an IP address nor a host name"),
        ("-cache:7946", "neither an IP address nor a host name"),
        ("a..b:7946", "neither an IP address nor a host name"),
        ("bücher.de:7946", "neither an IP address nor a host name"),
        ("a" * 64 + ":7946", "neither an IP address nor a host name"),
        ("a." * 127 + "b:7946", "neither an IP address nor a host name"),
        ("::1:7946", "needs brackets"),
        ("[::1]7946", "is written"),
        ("[::1", "is written"),
        ("[cache]:7946", "neither an IP address nor a host name"),
        ("[10.0.0.7]:7946", "only IPv6"),
        ("[fe80::1%a b]:7946", "network interface"),
        ("tcp://10.0.0.7:7946", "without a scheme"),
    ],
)
def test_what_is_no_address_is_refused_with_a_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse(text)


def test_port_0_is_an_answer_where_any_port_is():
    found = parse("127.0.0.1:0", any_port=True)

    assert Address("127.0.0.1", 0) == found


@pytest.mark.parametrize("text", ["10.0.0.7", "10.0.0.7:7946"])
def test_a_host_that_stands_alone_takes_the_default_port(text):
    found = parse(text, default_port=7946)

    assert Address("10.0.0.7", 7946) == found


@pytest.mark.parametrize(
    ("text", "numeric", "loopback", "wildcard"),
    [
        ("127.0.0.1:1", True, True, False),
        ("127.9.9.9:1", True, True, False),
        ("[::1]:1", True, True, False),
        ("localhost:1", False, True, False),
        ("a.localhost:1", False, True, False),
        ("localhost.example.com:1", False, False, False),
        ("0.0.0.0:1", True, False, True),
        ("[::]:1", True, False, True),
        ("10.0.0.7:1", True, False, False),
        ("cache-1:1", False, False, False),
        ("[::ffff:127.0.0.1]:1", True, False, False),
    ],
)
def test_an_address_knows_who_can_connect_to_it(text, numeric, loopback, wildcard):
    found = parse(text)

    assert (numeric, loopback, wildcard) == (
        found.numeric,
        found.loopback,
        found.wildcard,
    )


@given(st.text(max_size=60) | st.text("0123456789abc:.[]%/-_", max_size=30))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        found = parse(text, any_port=True)
    except ValueError:
        return

    assert found == parse(str(found), any_port=True)
    assert found.loopback in {True, False}
