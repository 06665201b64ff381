"""What people do with a function under `functools.lru_cache`, under both decorators.

And the README's program, of which one line changes: before and after print the same.
"""

from __future__ import annotations

import copy
import doctest
import functools
import inspect
import operator
import os
import pickle
import re
import subprocess
import sys
import weakref
from functools import singledispatch
from pathlib import Path
from typing import get_type_hints

import pytest

import meshcache

ROOT = Path(__file__).parents[1]
DIFF = re.compile(r"^```diff\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=["lru_cache", "memoize"])
def decorate(request, solo, name):
    """A decorator as it comes, bare: theirs, or ours in its place."""
    if request.param == "lru_cache":
        return functools.lru_cache
    return solo.cache(name).memoize


def area(width: int, height: int = 1, *, unit: str = "m") -> str:
    """Say how much it is.

    >>> area(2, height=3)
    '6 m'
    """
    return f"{width * height} {unit}"


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def boom(n):
    boom.calls.append(n)
    raise LookupError(n)


def nothing(n):
    nothing.calls.append(n)


# --- calls -----------------------------------------------------------------------


def test_equal_calls_share_and_are_counted(decorate):
    made = decorate(area)

    assert ["6 m", "6 m", "6 cm"] == [made(2, 3), made(2, 3), made(2, 3, unit="cm")]
    info = made.cache_info()
    assert (1, 2, 2) == (info.hits, info.misses, info.currsize)
    hits, misses, maxsize, currsize = info
    assert f"CacheInfo({hits=}, {misses=}, {maxsize=}, {currsize=})" == repr(info)


def test_it_may_be_called_with_nothing_first(decorate):
    assert "6 m" == decorate()(area)(2, 3)


def test_clearing_forgets_and_counts_from_nothing(decorate):
    made = decorate(area)
    made(2)
    made.cache_clear()

    assert (0, 0) == made.cache_info()[:2]
    made(2)
    assert (0, 1, 1) == operator.itemgetter(0, 1, 3)(made.cache_info())


def test_the_parameters_say_how_it_was_made(decorate):
    made = decorate(area)

    assert {"maxsize", "typed"} == set(made.cache_parameters())
    made(1)
    assert made.cache_info().maxsize == made.cache_parameters()["maxsize"]


def test_an_error_is_raised_each_time_and_not_kept(decorate):
    made, boom.calls = decorate(boom), []
    for _ in range(2):
        with pytest.raises(LookupError, match="7"):
            made(7)

    assert [7, 7] == boom.calls


def test_none_is_a_result_like_any_other(decorate):
    made, nothing.calls = decorate(nothing), []

    assert [None, None] == [made(7), made(7)]
    assert [7] == nothing.calls


def test_a_result_is_the_same_object_each_time(decorate):
    made = decorate(sorted_letters)

    assert ["a", "b"] == made("ba")
    assert made("ba") is made("ba")


def sorted_letters(word):
    return sorted(word)


def test_recursion_goes_a_hundred_deep(decorate, monkeypatch):
    monkeypatch.setitem(globals(), "fib", decorate(fib))

    assert 354224848179261915075 == fib(100)
    assert (98, 101) == fib.cache_info()[:2]


@pytest.mark.parametrize("builtin", [len, max, sorted, abs, divmod])
def test_a_builtin_may_be_decorated(decorate, builtin):
    args = {abs: (-7,), divmod: (7, 2)}.get(builtin, ((3, 1, 2),))
    made = decorate(builtin)

    assert [builtin(*args)] * 2 == [made(*args), made(*args)]
    assert (1, 1) == made.cache_info()[:2]


SHADOWS = """
def all_kinds(type, /, int, *tuple, str=0, sorted=1, **dict):
    return [type, int, tuple, str, sorted, dict]

def plain(type, int, str=0):
    return [type, int, str]
"""


def test_names_of_builtins_may_be_those_of_arguments(decorate):
    scope = {"__name__": __name__}
    exec(SHADOWS, scope)
    made, short = decorate(scope["all_kinds"]), decorate(scope["plain"])

    assert [1, 2, (3,), 4, 5, {"len": 6}] == made(1, 2, 3, str=4, sorted=5, len=6)
    assert [[1, 2, 0]] * 2 == [short(1, 2), short(1, 2)]
    assert 1 == short.cache_info().hits


# --- it is that function ---------------------------------------------------------


def test_it_says_of_itself_what_the_function_says(decorate):
    made = decorate(area)

    for name in functools.WRAPPER_ASSIGNMENTS:
        assert getattr(area, name, None) == getattr(made, name, None)
    assert inspect.signature(area) == inspect.signature(made)
    assert inspect.getsource(area) == inspect.getsource(made)
    assert inspect.getdoc(area) == inspect.getdoc(made)
    assert get_type_hints(area) == get_type_hints(made)
    assert area is made.__wrapped__ is inspect.unwrap(made)
    assert callable(made)


def test_its_doctests_are_found(decorate):
    made = decorate(area)

    (found,) = doctest.DocTestFinder().find(made, "area", globs={"area": made})
    assert 1 == len(found.examples)
    assert (0, 1) == doctest.DocTestRunner().run(found)


def test_it_takes_attributes_and_weak_references(decorate):
    made = decorate(area)
    made.extra = 7

    assert 7 == made.extra
    assert made is weakref.ref(made)()
    assert 1 == {made: 1}[made]


def test_it_can_be_wrapped_again(decorate):
    made = decorate(area)

    @functools.wraps(made)
    def louder(*args, **kwargs):
        return made(*args, **kwargs).upper()

    assert ("6 M", "6 m") == (louder(2, 3), functools.partial(made, 2)(3))
    assert ["2 m", "3 m"] == list(map(made, [2, 3]))
    assert made.cache_info() == louder.__wrapped__.cache_info()


@functools.lru_cache
def pickled_theirs(n):
    return n


@meshcache.memoize
def pickled_ours(n):
    return n


@pytest.mark.parametrize("made", [pickled_theirs, pickled_ours], ids=["lru", "ours"])
def test_it_is_pickled_by_its_name_and_copied_as_itself(made):
    assert made is pickle.loads(pickle.dumps(made))
    assert made is copy.copy(made)
    assert made is copy.deepcopy(made)


# --- what stands above and below -------------------------------------------------


def test_implementations_of_a_generic_function_are_decorated(decorate):
    calls = []

    @singledispatch
    def kind(thing):
        return "any"

    def of_int(thing: int):
        calls.append(thing)
        return "int"

    name = {} if decorate is functools.lru_cache else {"name": "of_int"}
    kind.register(decorate(**name)(of_int))

    assert ["any", "int", "int"] == [kind("a"), kind(7), kind(7)]
    assert [7] == calls


@singledispatch
def shape(thing):
    return "any"


@shape.register
def _(thing: int):
    return "int"


def test_a_generic_function_is_decorated(decorate):
    made = decorate(shape)

    assert ["any", "int", "int"] == [made("a"), made(7), made(7)]
    assert shape.registry == made.registry
    assert 1 == made.cache_info().hits


def name_of(cls):
    return cls.__name__


def free(item):
    return f"{item} for nothing"


class Shop:
    """What methods under both decorators are made of."""

    def __init__(self, city):
        self.city = city

    def __cache_key__(self):
        return self.city

    def __hash__(self):
        return hash(self.city)

    def __eq__(self, other):
        return self.city == other.city

    def price(self, item, discount=0):
        return f"{item} in {self.city} less {discount}"

    def size(self):
        return len(self.city)


class Chain(Shop):
    """A shop whose methods a test decorates."""


def test_methods_work_as_methods(decorate, monkeypatch):
    monkeypatch.setattr(Chain, "price", decorate(Shop.price))
    paris, oslo = Chain("Paris"), Chain("Oslo")

    for _ in range(2):
        assert "tea in Paris less 2" == paris.price("tea", discount=2)
        assert "tea in Oslo less 0" == oslo.price("tea")
        assert "tea in Oslo less 0" == Chain.price(oslo, "tea")
    assert (4, 2) == paris.price.cache_info()[:2]
    assert Shop.price is paris.price.__wrapped__
    assert "(item, discount=0)" == str(inspect.signature(paris.price))
    paris.price.cache_clear()
    assert (0, 0) == Chain.price.cache_info()[:2]


def test_class_and_static_methods_stand_above(decorate, monkeypatch):
    monkeypatch.setattr(Chain, "made", classmethod(decorate(name_of)), raising=False)
    monkeypatch.setattr(Chain, "free", staticmethod(decorate(free)), raising=False)
    monkeypatch.setattr(Chain, "size", property(decorate(Shop.size)))

    for _ in range(2):
        assert ("Chain", "Chain") == (Chain.made(), Chain("Oslo").made())
        assert "tea for nothing" == Chain.free("tea") == Chain("Oslo").free("tea")
        assert 4 == Chain("Oslo").size
    assert (3, 1) == Chain.made.cache_info()[:2]
    assert (3, 1) == Chain.free.cache_info()[:2]


def test_a_bound_method_is_decorated_for_its_object(decorate):
    paris, oslo = (decorate(Shop(city).price) for city in ("Paris", "Oslo"))

    assert "tea in Paris less 0" == paris("tea") == paris("tea")
    assert "tea in Oslo less 0" == oslo("tea")


# --- the README's program --------------------------------------------------------


def programs():
    """Return the README's program as it was, and with what it shows changed."""
    (diff,) = DIFF.findall((ROOT / "README.md").read_text())
    lines = diff.splitlines()
    changed = [line for line in lines if line[:1] in {"+", "-"}]
    before = [line[1:] for line in lines if line[:1] != "+"]
    after = [line[1:] for line in lines if line[:1] != "-"]
    return changed, "\n".join(before), "\n".join(after)


def test_the_program_changes_in_one_line():
    changed, before, after = programs()

    assert ["-", "+"] == [line[0] for line in changed]
    assert "functools" in before
    assert "functools" not in after
    assert "meshcache" in after


@pytest.mark.slow
@pytest.mark.processes
def test_the_program_prints_the_same_with_memoize_in_place_of_lru_cache(
    tmp_path, cluster
):
    outputs = [printed(program, tmp_path, cluster) for program in programs()[1:]]

    assert outputs[0] == outputs[1]
    assert 3 <= len(outputs[0].splitlines())


def printed(program, place, cluster):
    (place / "program.py").write_text(program)
    run = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=place,
        env={
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "MESHCACHE_CLUSTER": cluster,
            "MESHCACHE_RUNTIME_DIR": str(place),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (0, "") == (run.returncode, run.stderr)
    return run.stdout
