"""Errors as they travel, and as they arrive."""

from __future__ import annotations

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import Failed
from meshcache.engine.ops import Failure
from meshcache.errors import LoadError, LoadTimeout, RecursiveLoad
from meshcache.runtime.failures import (
    BUILTIN,
    MAX_ARGS,
    MAX_MESSAGE,
    MAX_TRACEBACK,
    error_of,
    failure_of,
    known,
)


class Mine(Exception):
    pass


class Unspeakable(Exception):
    def __str__(self):
        raise KeyError("no words")


def raised(error):
    """Return *error* with a traceback, as one that was raised has."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def sent(failure):
    """Return *failure* as it comes out at the other end of a connection."""
    frames = FrameCodec("c")
    return Failure(*frames.decode(frames.encode(Failed(1, *failure)))[1:])


@given(
    st.sampled_from([KeyError, ValueError, ZeroDivisionError, RuntimeError]),
    st.lists(st.one_of(st.integers(), st.text(), st.none(), st.binary()), max_size=4),
)
def test_a_builtin_error_arrives_as_itself_with_its_arguments(kind, arguments):
    error = error_of(sent(failure_of(raised(kind(*arguments)))))

    assert kind is type(error)
    assert tuple(arguments) == error.args
    assert "in raised" in error.__cause__.remote_traceback


def test_a_class_that_is_listed_arrives_as_itself_and_no_other():
    failure = sent(failure_of(raised(Mine("x", 7))))

    assert Mine is type(error_of(failure, known([Mine])))
    other = error_of(failure, known([Unspeakable]))
    assert LoadError is type(other)
    assert f"{__name__}:Mine" == other.type_name
    assert "('x', 7)" == other.remote_message


def test_what_is_listed_leaves_the_builtin_ones_known():
    failure = failure_of(raised(KeyError("k")))

    assert KeyError is type(error_of(failure, known([Mine])))
    assert KeyError is type(error_of(failure, {}))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_the_caller_s_thread_arrives_as_a_load_error(kind):
    assert LoadError is type(error_of(sent(failure_of(raised(kind(3))))))
    assert {} == known([kind])


def test_an_error_with_arguments_that_cannot_travel_arrives_as_a_load_error():
    for argument in (object(), "x" * (MAX_ARGS + 1)):
        error = error_of(sent(failure_of(raised(ValueError(argument)))))

        assert LoadError is type(error)
        assert "builtins:ValueError" == error.type_name


def test_texts_are_cut_and_the_end_of_a_traceback_is_kept():
    def deep(n):
        if n:
            deep(n - 1)
        raise ValueError("x" * 100_000)

    with pytest.raises(ValueError, match="x") as caught:
        deep(200)
    failure = failure_of(caught.value)

    assert MAX_MESSAGE == len(failure.message)
    assert MAX_TRACEBACK == len(failure.traceback)
    sent(failure)


def test_an_error_that_cannot_describe_itself_still_travels():
    failure = sent(failure_of(raised(Unspeakable("x"))))

    assert "its __str__ raised KeyError" in failure.message
    assert LoadError is type(error_of(failure))


@pytest.mark.parametrize("kind", [RecursiveLoad, LoadTimeout])
def test_our_own_errors_arrive_as_themselves(kind):
    error = error_of(sent(failure_of(raised(kind(kind.__name__, "because")))))

    assert kind is type(error)
    assert "because" in error.remote_message


def test_a_name_from_the_wire_is_never_looked_up():
    for name in ("os:system", "builtins:eval", "builtins:object", "", "x", ":"):
        error = error_of(Failure(name, "message", "", b"\xc0"))

        assert LoadError is type(error)


def test_garbage_for_arguments_is_a_load_error():
    for garbage in (b"\xff\xff", b"\x01", b"\xc1"):
        error = error_of(Failure("builtins:KeyError", "message", "", garbage))

        assert type(error) in {LoadError, KeyError}
        assert garbage == b"\x01" or LoadError is type(error)


def test_every_builtin_exception_is_known_by_the_name_it_travels_under():
    for kind in BUILTIN.values():
        assert issubclass(kind, Exception)
        assert getattr(builtins, kind.__name__) is kind


def test_a_load_error_says_where_the_loader_ran():
    error = LoadError("shop:OutOfStock", "no tea", "Traceback...")

    assert "shop:OutOfStock: no tea\n\nwhere the loader ran:\nTraceback..." == str(
        error
    )
    assert "a:B: c" == str(LoadError("a:B", "c"))
