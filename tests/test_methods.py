"""Memoized methods: whose value it is, and handles that know it."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial, singledispatchmethod
from types import SimpleNamespace
from typing import get_type_hints

import pytest

import meshcache
from meshcache import MISSING, ConfigError, KeyRefused
from meshcache.methods import OF_A_CALL, OF_A_VALUE


@pytest.fixture
def cache(solo, name) -> meshcache.Cache:
    return solo.cache(name)


class Shop:
    """A shop."""

    def __init__(self, city):
        self.city = city

    def __cache_key__(self):
        return self.city

    def bare(self, item: str, discount: int = 0) -> str:
        """Say what *item* costs."""
        return f"{item} in {self.city} less {discount}"


def shops_of(cache):
    """Return a class with memoized methods of all kinds, and no name in a module."""

    class Local(Shop):
        loads = 0

        @cache.memoize(name="price")
        def price(self, item, discount=0):
            Local.loads += 1
            return f"{item} in {self.city} less {discount}"

        @cache.memoize(name="stock")
        async def stock(self, item):
            await asyncio.sleep(0)
            Local.loads += 1
            return f"{item} of {self.city}"

    # In a key a class of a function body has the name that it was registered by.
    Local.__qualname__ = "Local"
    return Local


# --- whose value it is -----------------------------------------------------------


def test_objects_are_told_apart_by_their_cache_key(cache):
    shops = shops_of(cache)
    paris, oslo = shops("Paris"), shops("Oslo")

    for shop in (paris, oslo, shops("Paris")):
        assert f"tea in {shop.city} less 2" == shop.price("tea", discount=2)
        assert f"tea in {shop.city} less 2" == shops.price(shop, "tea", 2)
    assert 2 == shops.loads


@pytest.mark.parametrize("kind", ["attribute", "property", "method"])
def test_a_cache_key_is_a_method_or_an_attribute(cache, kind):
    class Row:
        def __init__(self, number):
            self.number = number

        @cache.memoize(name="twice")
        def twice(self):
            return 2 * self.number

    Row.__qualname__ = "Row"
    Row.__cache_key__ = {
        "attribute": 7,
        "property": property(lambda row: row.number),
        "method": lambda row: row.number,
    }[kind]

    assert [14, 14] == [Row(7).twice(), Row(7).twice()]
    assert (14 if kind == "attribute" else 16) == Row(8).twice()


def test_an_object_that_says_nothing_of_itself_is_refused_with_the_remedies(cache):
    class Silent:
        @cache.memoize(name="f")
        def f(self, n):
            return n

    for call in (Silent().f, Silent().f.invalidate, partial(Silent.f, Silent())):
        with pytest.raises(KeyRefused) as caught:
            call(1)

        text = str(caught.value)
        for remedy in ("__cache_key__", 'ignore=("self",)', "key="):
            assert remedy in text
        assert "argument 'self' of " in text
        assert "nothing says which " in text


def test_what_a_cache_key_says_must_have_an_encoding_itself(cache):
    with pytest.raises(KeyRefused, match=r"'self'.*__cache_key__\(\) is of type objec"):
        shops_of(cache)(object()).price("tea")


def test_an_ignored_self_tells_nothing_apart(cache):
    class Silent:
        @cache.memoize(name="f", ignore=("self",))
        def f(self, n):
            return [n]

    assert Silent().f(1) is Silent().f(1)
    assert Silent().f.invalidate(1)
    assert MISSING is Silent().f.peek(1)


def test_dataclasses_are_told_apart_by_their_fields(cache):
    @dataclass(frozen=True)
    class Point:
        x: int

        @cache.memoize(name="double")
        def double(self):
            return 2 * self.x

    Point.__qualname__ = "Point"

    assert [2, 4, 2] == [Point(1).double(), Point(2).double(), Point(1).double()]


def test_any_argument_may_have_a_cache_key(cache):
    @cache.memoize(name="where")
    def where(shop, *more, **named):
        return shop.city

    assert ["Paris", "Oslo"] == [where(Shop("Paris")), where(Shop("Oslo"))]
    assert where.key_for(Shop("Paris"), x=Shop("A")) == where.key_for(
        Shop("Paris"), x=Shop("A")
    )


# --- the handles of a method -----------------------------------------------------


def test_the_handles_of_a_method_know_whose_it_is(cache):
    shops = shops_of(cache)
    paris, oslo = shops("Paris"), shops("Oslo")
    for shop in (paris, oslo):
        shop.price("tea", 1)

    assert shops.price.key_for(paris, "tea", 1) == paris.price.key_for(
        "tea", discount=1
    )
    assert "tea in Paris less 1" == paris.price.peek("tea", 1)
    assert paris.price.invalidate("tea", 1)
    assert MISSING is paris.price.peek("tea", 1)
    assert "tea in Oslo less 1" == oslo.price.peek("tea", 1)
    paris.price.set("free", "tea", discount=1)
    assert "free" == paris.price("tea", 1) == shops.price.peek(paris, "tea", 1)
    assert "tea in Paris less 1" == paris.price.uncached("tea", 1)
    assert "tea in Paris less 1" == paris.price.refresh("tea", 1)
    assert "tea in Paris less 1" == paris.price("tea", 1)
    assert shops.price.cache_info() == paris.price.cache_info()
    paris.price.invalidate_all()
    assert MISSING is oslo.price.peek("tea", 1)


def test_the_handles_of_an_async_method_know_whose_it_is(cache, runner):
    shops = shops_of(cache)
    paris, oslo = shops("Paris"), shops("Oslo")

    async def main():
        assert "tea of Oslo" == await oslo.stock("tea")
        assert "tea of Paris" == await paris.stock("tea")
        assert await paris.stock.ainvalidate("tea")
        assert MISSING is await paris.stock.apeek("tea")
        assert "tea of Oslo" == await oslo.stock.apeek("tea")
        await paris.stock.aset("none", "tea")
        assert "none" == await paris.stock("tea")
        assert "tea of Paris" == await paris.stock.uncached("tea")
        assert "tea of Paris" == await paris.stock.refresh("tea")
        await paris.stock.ainvalidate_all()
        assert MISSING is await oslo.stock.apeek("tea")

    runner.run(main())


def test_every_handle_is_known_to_take_a_call_or_not(cache):
    handles = {
        name
        for name, handle in vars(cache.memoize(name="f")(lambda: 0)).items()
        if callable(handle) and name != "__wrapped__"
    }
    of_all = {
        "ainvalidate_all",
        "cache_clear",
        "cache_info",
        "cache_parameters",
        "invalidate_all",
    }

    assert handles == OF_A_CALL | OF_A_VALUE | of_all


def test_a_method_of_the_parent_knows_whose_it_is(cache):
    class Child(shops_of(cache)):
        def price(self, item):
            assert super().price.invalidate(item) == (item == "known")
            return super().price(item)

    Child.__qualname__ = "Child"

    assert "tea in Rome less 0" == Child("Rome").price("tea")


def price_in(self, item):
    return f"{item} in {self.city} less 0"


def test_a_function_that_becomes_a_method_later_is_one(cache):
    class Later(Shop):
        pass

    Later.__qualname__ = "Later"
    Later.price = cache.memoize(name="price")(price_in)

    assert "tea in Rome less 0" == Later("Rome").price("tea")
    assert Later("Rome").price.invalidate("tea")
    assert not Later("Oslo").price.invalidate("tea")


# --- it is still a method --------------------------------------------------------


class Known(Shop):
    """A shop that is found by its name; its methods are not called."""

    @meshcache.memoize
    def price(self, item: str, discount: int = 0) -> str:
        """Say what *item* costs."""
        return f"{item} in {self.city} less {discount}"

    @meshcache.memoize
    async def stock(self, item: str) -> str:
        return item

    def __eq__(self, other):
        return self.city == other.city

    def __hash__(self):
        return 0


def test_a_method_says_of_itself_what_the_bare_one_says():
    shop = Known("Rome")
    for memoized_, bare in ((Known.price, Shop.bare), (shop.price, shop.bare)):
        assert inspect.signature(bare) == inspect.signature(memoized_)
        assert bare.__doc__ == memoized_.__doc__
        assert bare.__module__ == memoized_.__module__
        assert "price" == memoized_.__name__
        assert "Known.price" == memoized_.__qualname__
        assert get_type_hints(bare) == get_type_hints(memoized_)
    assert Known.price.__wrapped__ is shop.price.__wrapped__
    assert shop is shop.price.__self__
    assert "Known.price" in repr(Known.price)
    assert "Known.price of <" in repr(shop.price)
    with pytest.raises(AttributeError, match="nothing"):
        _ = shop.price.nothing


def test_an_async_method_is_seen_to_be_one():
    for method in (Known.stock, Known("Rome").stock):
        assert inspect.iscoroutinefunction(method)
        assert asyncio.iscoroutinefunction(method)
    assert not inspect.iscoroutinefunction(Known("Rome").price)


def test_methods_of_one_object_are_equal():
    rome, other = Known("Rome"), Known("Rome")

    assert rome.price == rome.price
    assert hash(rome.price) == hash(rome.price)
    assert rome.price != other.price
    assert rome.price != rome.stock
    assert rome.price != 7


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copied_method_is_what_a_copied_method_is(again):
    shop = Known("Rome")

    assert Known.price is again(Known.price)
    assert shop == again(shop.price).__self__
    assert shop == again(shop).price.__self__


def test_a_pickled_method_is_found_by_its_name():
    shop = Known("Rome")

    assert Known.price is pickle.loads(pickle.dumps(Known.price))
    assert shop == pickle.loads(pickle.dumps(shop.price)).__self__


def test_a_method_works_with_what_else_wraps_methods(cache):
    class Base(ABC):
        @cache.memoize(name="abstract")
        @abstractmethod
        def must(self): ...

    class Local(Base):
        __cache_key__ = 1

        @property
        @cache.memoize(name="twice")
        def twice(self):
            return 2

        @cached_property
        @cache.memoize(name="once")
        def once(self):
            return 1

        @cache.memoize(name="must")
        def must(self):
            return "must"

        @singledispatchmethod
        def kind(self, thing):
            return "any"

        @kind.register
        @cache.memoize(name="kind_int")
        def _(self, thing: int):
            return "int"

    Local.__qualname__ = "Local"
    local = Local()

    assert (2, 1, "must") == (local.twice, local.once, local.must())
    assert ("any", "int", "int") == (local.kind("a"), local.kind(7), local.kind(7))
    with pytest.raises(TypeError, match="abstract"):
        Base()


# --- class and static methods ----------------------------------------------------


def below(kind):
    return lambda cache, name: lambda f: kind(cache.memoize(name=name)(f))


def above(kind):
    return lambda cache, name: lambda f: cache.memoize(name=name)(kind(f))


@pytest.mark.parametrize("order", [above, below])
def test_class_methods_are_told_apart_by_their_class(cache, order):
    loads = []

    def make(cls, n=0):
        loads.append(n)
        return f"{cls.__name__} {n}"

    class Tool:
        made = order(classmethod)(cache, "made")(make)

    class Special(Tool):
        pass

    Tool.__qualname__, Special.__qualname__ = "Tool", "Special"
    for _ in range(2):
        for tool in (Tool, Special):
            assert [f"{tool.__name__} 1"] * 2 == [tool.made(1), tool().made(n=1)]
    assert [1, 1] == loads
    # The handles of a class method are the class's: they take what the function takes.
    assert "Special 1" == Tool.made.peek(Special, 1)
    assert Tool.made.invalidate(Tool, 1)
    assert MISSING is Tool().made.peek(Tool, 1)
    assert 2 == Tool.made.cache_info().misses
    assert "(n=0)" == str(inspect.signature(Tool.made))


@pytest.mark.parametrize("order", [above, below])
def test_static_methods_are_functions(cache, order):
    class Tool:
        plain = order(staticmethod)(cache, "plain")(lambda n=0: [n])

    assert [2] == Tool.plain(2)
    assert Tool.plain(2) is Tool().plain(n=2)
    assert Tool.plain.invalidate(2)
    assert MISSING is Tool().plain.peek(2)
    assert "(n=0)" == str(inspect.signature(Tool().plain))


@pytest.mark.parametrize("order", [above, below])
@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_class_and_static_methods_may_be_async(cache, runner, order, kind):
    async def plain(*args):
        return len(args)

    class Tool:
        made = order(kind)(cache, "made")(plain)

    Tool.__qualname__ = "Tool"
    expected = 2 if kind is classmethod else 1

    async def main():
        return [await Tool.made(7), await Tool().made(7)]

    assert inspect.iscoroutinefunction(Tool.made)
    assert [expected, expected] == runner.run(main())


@pytest.mark.parametrize("wrap", [property, cached_property])
def test_a_property_goes_above(cache, wrap):
    with pytest.raises(ConfigError, match=f"put @{wrap.__name__} above @memoize"):
        cache.memoize(wrap(lambda self: 1))


# --- bound methods ---------------------------------------------------------------


def test_bound_methods_are_told_apart_by_their_object(cache):
    class Local(Shop):
        def __init__(self, city):
            super().__init__(city)
            self.price = cache.memoize(self.bare)

    Local.__qualname__ = "Local"
    paris, oslo = Local("Paris"), Local("Oslo")

    assert "tea in Paris less 0" == paris.price("tea")
    assert "tea in Oslo less 0" == oslo.price("tea")
    assert paris.price.invalidate("tea")
    assert "tea in Oslo less 0" == oslo.price.peek("tea")


def test_a_bound_class_method_is_told_apart_by_its_class(cache):
    class Local:
        @classmethod
        def made(cls):
            return cls.__name__

    class Special(Local):
        pass

    for cls in (Local, Special):
        cls.__qualname__ = cls.__name__
    Local.made.__func__.__qualname__ = "Local.made"
    functions = [cache.memoize(cls.made) for cls in (Local, Special)]

    assert ["Local", "Special"] == [function() for function in functions]


def test_a_bound_method_whose_object_says_nothing_needs_a_name(cache):
    silent = SimpleNamespace(f=7)
    method = type("Silent", (), {"f": lambda self: silent.f})().f
    method.__func__.__qualname__ = "Silent.f"

    for function in (method, "abc".find, {}.get):
        with pytest.raises(ConfigError, match=r"pass name=.*__cache_key__"):
            cache.memoize(function)
    assert 7 == cache.memoize(name="f")(method)()
    assert 7 == cache.memoize(ignore=["self"])(method)()


def test_a_partial_with_a_name_of_another_needs_one_of_its_own(cache):
    adapted = functools.update_wrapper(partial(Shop.bare, Shop("Rome")), Shop.bare)

    for function in (adapted, partial(Shop.bare, Shop("Rome"))):
        with pytest.raises(ConfigError, match="pass name="):
            cache.memoize(function)


def test_a_key_of_one_s_own_takes_what_the_bound_method_takes(cache):
    made = cache.memoize(name="f", key=lambda item: item)(Shop("Rome").bare)

    assert "tea in Rome less 0" == made("tea")
    assert made.invalidate("tea")


def test_a_function_outside_of_classes_stays_a_function(cache):
    def plain(item):
        return item

    assert inspect.isfunction(cache.memoize(name="f")(plain))
