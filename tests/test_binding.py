"""From a call's arguments to one tuple, and back: checked against Python itself."""

from __future__ import annotations

import inspect
from inspect import Parameter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcache.binding import RESERVED, Binder
from meshcache.codec.keys import decode_key
from meshcache.errors import ConfigError, KeyRefused

KINDS = [
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.VAR_POSITIONAL,
    Parameter.KEYWORD_ONLY,
    Parameter.VAR_KEYWORD,
]
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3))


def function_of(parameters):
    """Return a function of that signature that returns what it was called with."""
    scope = {}
    exec(f"def function{inspect.Signature(parameters)}: return locals()", scope)
    return scope["function"]


@st.composite
def signatures(draw):
    """Any legal list of up to six parameters."""
    kinds = sorted(
        draw(st.lists(st.sampled_from(KINDS), max_size=6)), key=lambda kind: kind.value
    )
    parameters, seen, optional = [], set(), False
    for index, kind in enumerate(kinds):
        several = kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
        if several and kind in seen:
            continue
        seen.add(kind)
        positional = kind.value <= Parameter.POSITIONAL_OR_KEYWORD.value
        has_default = not several and (draw(st.booleans()) or (positional and optional))
        optional = optional or (positional and has_default)
        default = draw(VALUES) if has_default else Parameter.empty
        parameters.append(Parameter(f"p{index}", kind, default=default))
    return parameters


@st.composite
def calls(draw):
    """A signature and the arguments of a call, which may not fit it."""
    parameters = draw(signatures())
    args = draw(st.lists(VALUES, max_size=5))
    names = st.sampled_from([p.name for p in parameters] + ["x", "y"])
    return parameters, tuple(args), draw(st.dictionaries(names, VALUES, max_size=4))


@pytest.mark.slow
@given(calls())
def test_a_call_binds_exactly_if_the_function_would_take_it(call):
    parameters, args, kwargs = call
    function = function_of(parameters)
    binder = Binder(function, ())

    try:
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            binder.bind(*args, **kwargs)
        return

    canonical = tuple(
        tuple(sorted(expected[p.name].items()))
        if p.kind is Parameter.VAR_KEYWORD
        else expected[p.name]
        for p in parameters
    )
    assert canonical == binder.bind(*args, **kwargs)


def typed(arguments):
    """Return arguments in a form in which 1 and True differ and order does not."""
    return {
        name: typed(value) if isinstance(value, dict) else repr(value)
        for name, value in arguments.items()
    }


@pytest.mark.slow
@given(calls())
def test_a_call_can_be_made_again_from_its_key(call):
    parameters, args, kwargs = call
    function = function_of(parameters)
    binder = Binder(function, ())
    try:
        expected = function(*args, **kwargs)
    except TypeError:
        return

    again, named = binder.call(decode_key(binder.encode(binder.bind(*args, **kwargs))))

    assert typed(expected) == typed(function(*again, **named))


@pytest.mark.slow
@given(calls())
def test_a_defined_function_takes_what_the_function_takes(call):
    parameters, args, kwargs = call
    function = function_of(parameters)
    binder = Binder(function, ())
    if binder.names is None:
        return
    values = "".join(f"{name}, " for name in binder.names)
    body = f"    return {RESERVED}spread(({values}))"
    scope = {f"{RESERVED}spread": binder.spread}
    defined = binder.define(body, scope, is_async=False)

    try:
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            defined(*args, **kwargs)
        return

    again, named = defined(*args, **kwargs)
    assert expected == function(*again, **named)


def sample(a, /, b, *, c=1, _mesh_d=2):
    return a, b, c, _mesh_d


def test_ignored_arguments_are_left_out_and_keep_the_call_from_being_made_again():
    binder = Binder(sample, ["b", "_mesh_d"])

    assert (1, 3) == binder.bind(1, 2, c=3)
    assert ("a", "c") == binder.kept
    assert not binder.whole
    with pytest.raises(ValueError, match="not the arguments"):
        binder.call((1, 3))


def test_an_argument_of_a_reserved_name_keeps_the_others_from_being_named():
    assert None is Binder(sample, ()).names
    assert None is Binder(lambda *args: args, ()).names
    assert ("a", "b") == Binder(lambda a, b=0: a, ()).names


def test_ignoring_what_is_no_argument_says_what_there_is():
    with pytest.raises(ConfigError, match=r"\['x', 'y'\].*sample\(\).*a, b, c"):
        Binder(sample, ["y", "x", "a"])


def test_an_argument_that_has_no_encoding_is_named():
    binder = Binder(sample, ())

    with pytest.raises(KeyRefused, match=r"argument 'b' of sample\(\)"):
        binder.encode(binder.bind(1, object()))
    with pytest.raises(KeyRefused, match=r"argument 'c' of sample\(\)"):
        binder.encode(binder.bind(1, 2, c=[lambda: 0]))


def test_an_object_is_told_apart_by_what_it_says_of_itself():
    class Shop:
        def price(self, item): ...

        def named(cls): ...  # noqa: N805 - what a class method is below its decorator

    for method, first in ((Shop.price, Shop()), (Shop.named, Shop)):
        name = "self" if method is Shop.price else "cls"
        binder = Binder(method, ())
        with pytest.raises(KeyRefused) as caught:
            binder.encode((first, "tea")[: len(binder.kept)])
        assert f"argument {name!r} of " in str(caught.value)
        assert "Shop this is in a way" in str(caught.value)
        assert f'ignore=("{name}",)' in str(caught.value)

    with pytest.raises(KeyRefused, match=r"argument 'item'.*stable encoding"):
        Binder(lambda item: item, ()).encode((Shop(),))


def test_a_builtin_that_does_not_tell_its_arguments_takes_any():
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(max)

    binder = Binder(max, ())

    assert ((1, 2), (("default", 0), ("key", None))) == binder.bind(
        1, 2, key=None, default=0
    )
    assert ((1, 2), {"key": None}) == binder.call(binder.bind(1, 2, key=None))


def test_an_argument_may_have_the_name_of_a_builtin():
    scope = {}
    exec("def f(sorted, *tuple, dict=0, **type): ...", scope)
    binder = Binder(scope["f"], ())
    bound = binder.bind(1, 2, dict=3, b=5, a=4)

    assert (1, (2,), 3, (("a", 4), ("b", 5))) == bound
    assert ((1, 2), {"dict": 3, "a": 4, "b": 5}) == binder.call(bound)


@pytest.mark.parametrize("bound", [(), (1,), (1, 2, 3, 4, 5)])
def test_a_tuple_of_another_length_is_no_call(bound):
    with pytest.raises(ValueError, match="not the arguments"):
        Binder(sample, ()).call(bound)


def test_a_wrong_call_is_blamed_on_the_function():
    with pytest.raises(TypeError, match=r"^sample\(\) missing 1 required"):
        Binder(sample, ()).bind(1)
