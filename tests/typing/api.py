"""What type checkers make of the public names. Checked, never run.

A line that must be refused is marked with an ignore, which the checkers report if it
is not needed.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, assert_type

import meshcache
from meshcache import (
    MISSING,
    AsyncMemoized,
    Cache,
    CacheEntry,
    CacheInfo,
    Explanation,
    Member,
    Memoized,
    Node,
)
from meshcache.handles import AsyncBoundMemoized, BoundMemoized
from meshcache.model import Missing

users = Cache("users", ttl=300, near_ttl=None, jitter=0.1, codec="msgpack")


class User:
    name: str = ""


# --- plain functions -------------------------------------------------------------


@meshcache.memoize
def bare(user_id: int, *, full: bool = False) -> User:
    raise NotImplementedError


@users.memoize()
def called(user_id: int, *, full: bool = False) -> User:
    raise NotImplementedError


def seconds_of(user: Any) -> float:
    return 60.0


def tags_of(user_id: int, *, full: bool = False) -> list[str]:
    return [f"user:{user_id}"]


@users.memoize(
    ttl=seconds_of,
    ignore=["full"],
    fill="caller",
    errors=[KeyError],
    version=2,
    tags=tags_of,
    stale=60,
    early=1,
    stale_if_error=3600,
    none_ttl=5,
    error_ttl=1,
    cache_if=bool,
    soft_timeout=0.1,
)
def optioned(user_id: int, *, full: bool = False) -> User:
    raise NotImplementedError


def plain_function() -> None:
    for function in (bare, called, optioned):
        assert_type(function(7), User)
        assert_type(function(user_id=7, full=True), User)
        assert_type(function.peek(7), User | Missing)
        assert_type(function.refresh(7), User)
        assert_type(function.uncached(7, full=True), User)
        assert_type(function.invalidate(7, full=True), bool)
        assert_type(function.key_for(7), bytes)
        assert_type(function.cache_info(), CacheInfo)
        assert_type(function.cache_info().hits, int)
        assert_type(function.cache_parameters()["maxsize"], int | None)
        assert_type(function.cache_parameters()["typed"], bool)
        function.__wrapped__(7)
        function.set(User(), 7, full=True)
        function.invalidate_all()
        function.cache_clear()
        assert_type(function.__name__, str)

    function("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    function(7, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    function.invalidate("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function.peek(user=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    function.refresh()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    function.set(User())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    function.key_for("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function.uncached(7, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    users.memoize(maxsize=128)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    users.memoize(ttl="60")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def a_lambda_and_a_class() -> None:
    assert_type(users.memoize(name="double")(lambda: 2)(), int)
    made = users.memoize(User)
    assert_type(made(), User)


@users.memoize
def several(first: str, /, *rest: int, last: bytes = b"", **named: float) -> User:
    raise NotImplementedError


def all_kinds_of_parameters() -> None:
    several("a", 1, 2, last=b"c", x=1.5)
    several.invalidate("a", 1, x=1)
    several(first="a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    several("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    several.peek("a", x="b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def what_peek_returns_is_told_apart() -> str:
    found = bare.peek(7)
    if found is MISSING:
        return "nothing"
    return found.name


def as_an_argument(function: Memoized[[int], User]) -> User:
    return function(7)


# --- async functions -------------------------------------------------------------


@meshcache.memoize
async def abare(user_id: int) -> User:
    raise NotImplementedError


@users.memoize(ttl=60)
async def acalled(user_id: int) -> User:
    raise NotImplementedError


async def async_function() -> None:
    for function in (abare, acalled):
        waiting = assert_type(function(7), Coroutine[Any, Any, User])
        await waiting
        assert_type(await function(7), User)
        assert_type(await function.refresh(7), User)
        assert_type(await function.uncached(7), User)
        assert_type(function.peek(7), User | Missing)
        assert_type(await function.apeek(7), User | Missing)
        assert_type(await function.ainvalidate(7), bool)
        await function.aset(User(), 7)
        await function.ainvalidate_all()
        assert_type(function.cache_info(), CacheInfo)

    await function("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await function.ainvalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def as_an_async_argument(function: AsyncMemoized[[int], User]) -> None:
    function.invalidate(7)


# --- methods ---------------------------------------------------------------------


class Shop:
    @users.memoize
    def price(self, item: str, discount: int = 0) -> float:
        raise NotImplementedError

    @users.memoize(ttl=5)
    async def stock(self, item: str) -> int:
        raise NotImplementedError

    @classmethod
    @users.memoize
    def named(cls, name: str) -> str:
        raise NotImplementedError

    @staticmethod
    @users.memoize
    def free(name: str) -> str:
        raise NotImplementedError

    @users.memoize(ttl=5)
    @classmethod
    def also_named(cls, name: str) -> str:
        raise NotImplementedError

    @users.memoize
    @staticmethod
    def also_free(name: str) -> str:
        raise NotImplementedError

    @users.memoize(name="later")
    @classmethod
    async def named_later(cls, name: str) -> str:
        raise NotImplementedError


async def methods(shop: Shop) -> None:
    assert_type(shop.price("tea", discount=2), float)
    assert_type(await shop.stock("tea"), int)
    assert_type(Shop.price(shop, "tea"), float)
    assert_type(Shop.price.invalidate(shop, "tea"), bool)
    assert_type(await Shop.stock.apeek(shop, "tea"), int | Missing)
    assert_type(Shop.free("tea"), str)
    assert_type(Shop.named("tea"), str)
    assert_type(shop.named("tea"), str)
    assert_type(Shop.also_named("tea"), str)
    assert_type(Shop.also_free("tea"), str)
    assert_type(await Shop.named_later("tea"), str)
    assert_type(Shop.also_named.invalidate(Shop, "tea"), bool)
    assert_type(Shop.also_free.invalidate("tea"), bool)
    shop.price(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.price()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await shop.stock(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def handles_of_methods(shop: Shop) -> None:
    assert_type(shop.price.invalidate("tea", discount=2), bool)
    assert_type(shop.price.peek("tea"), float | Missing)
    assert_type(shop.price.refresh("tea"), float)
    assert_type(shop.price.uncached("tea"), float)
    assert_type(shop.price.key_for("tea"), bytes)
    assert_type(shop.price.cache_info(), CacheInfo)
    shop.price.set(1.5, "tea", 2)
    shop.price.invalidate_all()
    assert_type(await shop.stock.ainvalidate("tea"), bool)
    assert_type(await shop.stock.apeek("tea"), int | Missing)
    assert_type(await shop.stock.refresh("tea"), int)
    await shop.stock.aset(3, "tea")

    shop.price.invalidate(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.price.peek()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.price.set(1.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await shop.stock.refresh(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Shop.price.invalidate("tea")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]


def as_a_bound_argument(
    price: BoundMemoized[[str, int], float], stock: AsyncBoundMemoized[[str], int]
) -> float:
    stock.invalidate("tea")
    return price("tea", 2) + price.refresh("tea", 2)


# --- caches ----------------------------------------------------------------------


def number() -> int:
    return 1


async def later() -> str:
    return ""


def operations() -> None:
    assert_type(users.get_or_load("a", number), int)
    assert_type(users.get_or_load("a", lambda: [1], ttl=5, load_timeout=1), list[int])
    users.set("a", 1, ttl=None)
    assert_type(users.add("a", 1, ttl=0), bool)
    assert_type(users.touch("a"), bool)
    assert_type(users.delete("a"), bool)
    assert_type(users.incr("a", 2, initial=3), int)
    assert_type(users.set_many({"a": 1}), list[Any])
    assert_type(users.delete_many(["a"]), int)
    assert_type("a" in users, bool)
    users.set("a", 1, ttl="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Cache("users", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def async_operations() -> None:
    assert_type(await users.aget_or_load("a", number), int)
    assert_type(await users.aget_or_load("a", later), str)
    assert_type(await users.aadd("a", 1), bool)
    assert_type(await users.adelete("a"), bool)
    assert_type(await users.aincr("a"), int)
    assert_type(await users.acontains("a"), bool)


# --- freshness, tags, many keys --------------------------------------------------

fresh = Cache("fresh", stale=30, stale_if_error=300, early=1, soft_timeout=0.1)


class Token(NamedTuple):
    text: str
    life: float


def tags_of_token(user: int, *, team: int = 0) -> tuple[str, ...]:
    return f"user:{user}", f"team:{team}"


@fresh.memoize(
    ttl=lambda token: token.life,
    none_ttl=5,
    errors=(LookupError, OSError),
    error_ttl=5,
    cache_if=bool,
    stale=0,
    tags=tags_of_token,
)
def load_token(user: int, *, team: int = 0) -> Token:
    return Token("", 60)


@fresh.memoize_many
def load_rows(keys: list[int]) -> dict[int, str]:
    return dict.fromkeys(keys, "")


@fresh.memoize_many(ttl=5, tags="rows")
async def aload_rows(keys: list[str]) -> Mapping[str, float]:
    return dict.fromkeys(keys, 0.0)


def squares(numbers: list[int]) -> dict[int, float]:
    return {number: number**2 for number in numbers}


async def asquares(numbers: list[int]) -> dict[int, float]:
    return squares(numbers)


def freshness() -> None:
    assert_type(load_token(7, team=1), Token)
    assert_type(load_rows([1, 2]), dict[int, str])
    assert_type(load_rows.invalidate(1, 2), int)
    assert_type(fresh.get_or_load_many([1, 2], squares), dict[int, float])
    assert_type(fresh.get_or_load("a", number, tags="red", ttl=float), int)
    assert_type(fresh.get_entry("a"), CacheEntry | None)
    fresh.set("a", 1, tags=["red", "blue"])
    fresh.invalidate_tags("red", "blue")
    with meshcache.bypass():
        load_token(7)
    load_token("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    load_rows(["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    fresh.memoize(stale="30")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    fresh.memoize_many(key=str)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    fresh.get_or_load_many(["a"], squares)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_freshness() -> None:
    assert_type(await aload_rows(["a"]), dict[str, float])
    assert_type(await fresh.aget_or_load_many([1], asquares), dict[int, float])
    assert_type(await fresh.aget_entry("a"), CacheEntry | None)
    await fresh.ainvalidate_tags("red")


# --- nodes -----------------------------------------------------------------------


def nodes() -> None:
    assert_type(meshcache.start(cluster="c", max_bytes="64MB"), Node)
    assert_type(meshcache.node(), Node)
    with Node(cluster="c", seeds=["10.0.0.7:7946"]) as node:
        assert_type(node.wait_ready(peers=2, timeout=10), Node)
        assert_type(node.members(), list[Member])
        assert_type(node.owner("users", 42), Member | None)
        assert_type(node.explain("users", 42), Explanation)
        assert_type(node.cache("users", ttl=300), Cache)
        assert_type(node.ready, bool)
    Node(claster="c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    meshcache.start(near_entries="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
