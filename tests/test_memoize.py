"""What a memoized function promises, plain and `async def`, on one node and on two."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from typing import Any

import pytest

import meshcache
from meshcache import (
    MISSING,
    CacheInfo,
    ConfigError,
    KeyRefused,
    LoadError,
    LoadTimeout,
    Node,
    NodeClosed,
    RecursiveLoad,
    SerializationError,
    ValueTooLarge,
)
from meshcache.hashing import key_hash


class Mesh:
    """Two nodes with the same functions, as two processes of one program have them."""

    def __init__(self, nodes: tuple[Node, Node], name: str, until: Any) -> None:
        self.nodes = nodes
        self.name = name
        self.until = until

    def memoize(self, *functions: Any, **options: Any) -> tuple[Any, Any]:
        """Memoize a function, or one for each node, and let each know the other's."""
        one, two = functions if len(functions) == 2 else functions * 2
        options = {"name": self.name, **options}
        made = tuple(
            node.cache(self.name).memoize(**options)(function)
            for node, function in zip(self.nodes, (one, two), strict=True)
        )
        if options.get("fill", "owner") == "owner":
            self.until(
                lambda: self._know(*self.nodes) and self._know(*self.nodes[::-1])
            )
        return made

    def _know(self, node: Node, other: Node) -> bool:
        peer = node._runtime.engine._core.peers.get(other.me.node_id)
        return any(self.name in name for name, _ in peer.loaders)

    def number_of(self, owner: int, function: Any, start: int = 0) -> int:
        """Return the first argument from *start* whose call the given node owns."""
        me = self.nodes[owner].me.node_id
        table = self.nodes[0].table()
        return next(
            n
            for n in range(start, start + 1000)
            if table.owner_of(key_hash(function.key_for(n))).node_id == me
        )


@pytest.fixture
def mesh(pair, name, until) -> Mesh:
    return Mesh(pair, name, until)


@pytest.fixture
def cache(solo, name) -> meshcache.Cache:
    return solo.cache(name)


class Calls(list):
    """A plain and an async function that note how they are called."""

    def plain(self, a, b=0, *args, c=None, **kwargs):
        self.append((a, b, args, c, kwargs))
        return [a, b, *args, c, kwargs]

    async def later(self, a, b=0, *args, c=None, **kwargs):
        await asyncio.sleep(0)
        return self.plain(a, b, *args, c=c, **kwargs)


class Call:
    """Calls a memoized function, and its handles, as its kind is called."""

    def __init__(self, runner: asyncio.Runner, *, is_async: bool) -> None:
        self.is_async = is_async
        self._runner = runner

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not inspect.isawaitable(result):
            return result

        async def wait() -> Any:
            return await result

        return self._runner.run(wait())

    def pick(self, plain: Any, later: Any) -> Any:
        return later if self.is_async else plain


@pytest.fixture(params=["sync", "async"])
def call(request, runner) -> Call:
    return Call(runner, is_async=request.param == "async")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def loader(calls, call) -> Any:
    """A function that counts, of the kind that is being tested."""

    def plain(n):
        calls.append(n)
        return {"n": n}

    async def later(n):
        calls.append(n)
        await asyncio.sleep(0)
        return {"n": n}

    return call.pick(plain, later)


# --- calls and their keys --------------------------------------------------------


def module_level(a, b=0):
    """Add."""
    return a + b


async def module_level_async(a, b=0):
    return a + b


@pytest.mark.parametrize("options", [None, {}, {"ttl": 60}])
@pytest.mark.parametrize("function", [module_level, module_level_async])
def test_a_function_is_memoized_bare_or_with_options(cache, runner, function, options):
    made = (
        cache.memoize(function)
        if options is None
        else cache.memoize(**options)(function)
    )
    caller = Call(runner, is_async=False)

    assert [3, 3, 3] == [
        caller(made, 1, 2),
        caller(made, 1, b=2),
        caller(made, b=2, a=1),
    ]
    assert (2, 1) == made.cache_info()[:2]


@pytest.mark.parametrize("function", [module_level, module_level_async])
def test_a_memoized_function_is_still_that_function(cache, function):
    made = cache.memoize(function)

    assert function.__name__ == made.__name__
    assert function.__doc__ == made.__doc__
    assert function.__module__ == made.__module__
    assert function is made.__wrapped__
    assert inspect.signature(function) == inspect.signature(made)
    assert inspect.iscoroutinefunction(function) is inspect.iscoroutinefunction(made)


def test_equal_calls_meet_and_unequal_ones_never_do(cache, calls, call):
    function = cache.memoize(name="f")(call.pick(calls.plain, calls.later))
    same = [
        [((1,), {}), ((), {"a": 1}), ((1, 0), {}), ((1,), {"b": 0, "c": None})],
        [((True,), {})],
        [((1.0,), {})],
        [(("1",), {})],
        [((None,), {})],
        [((1, 0, 5), {})],
        [((1, 0, 5, 6), {})],
        [((1, 0, (5, 6)), {})],
        [((1,), {"x": 1, "y": 2}), ((1,), {"y": 2, "x": 1})],
        [((1,), {"c": 1})],
        [(([1],), {})],
        [(({1: (2,)},), {})],
    ]
    for _ in range(2):
        for group in same:
            results = [call(function, *args, **kwargs) for args, kwargs in group]
            assert [results[0]] * len(group) == results

    assert len(same) == len(calls)


DIFFERENT = [1, True, 1.0, "1", b"1", (1,), None, 0, False, 0.0, "", "None", -0.0]


@pytest.mark.parametrize(
    "functions",
    [
        (lambda a: [a], lambda a: [a]),
        (lambda a, b=None: [a], lambda *a: [a[0]]),
        (lambda b=1, *, a: [a], lambda **a: [a["a"]]),
    ],
)
def test_arguments_of_different_types_never_meet(cache, call, functions):
    for number, function in enumerate(functions):

        async def later(*args, function=function, **kwargs):
            return function(*args, **kwargs)

        later.__signature__ = inspect.signature(function)
        made = cache.memoize(name=f"f{number}")(call.pick(function, later))
        named = "**" in str(later.__signature__) or "*," in str(later.__signature__)
        for _ in range(3):
            for value in DIFFERENT:
                [found] = call(made, a=value) if named else call(made, value)

                assert (type(value), repr(value)) == (type(found), repr(found))
        assert len(DIFFERENT) == made.cache_info().misses


def test_what_has_expired_is_loaded_again(mesh, loader, calls, call, until):
    made, far = mesh.memoize(loader, ttl=0.1)
    for function in (made, far):
        call(function, 1)
        call(function, 1)

    until(lambda: len(call(made, 1)) and len(calls) > 1, 2.0)


SIGNATURES = [
    (lambda: (), [((), {})]),
    (lambda a: (a,), [((1,), {}), ((), {"a": 1})]),
    (lambda a, /: (a,), [((1,), {})]),
    (lambda *, a: (a,), [((), {"a": 1})]),
    (lambda a, /, b, *, c=3: (a, b, c), [((1, 2), {}), ((1,), {"b": 2, "c": 3})]),
    (lambda *a: a, [((1, 2), {})]),
    (lambda **a: sorted(a.items()), [((), {"x": 1, "y": 2}), ((), {"y": 2, "x": 1})]),
    (lambda _mesh_entry=1: _mesh_entry, [((), {}), ((1,), {})]),
    (lambda a=1, _default_of_a=2: (a, _default_of_a), [((), {}), ((1, 2), {})]),
]


@pytest.mark.parametrize(("function", "ways"), SIGNATURES)
def test_every_signature_is_answered_as_the_function_would(cache, function, ways):
    made = cache.memoize(name="f")(function)

    for args, kwargs in ways:
        for _ in range(2):
            assert function(*args, **kwargs) == made(*args, **kwargs)
    assert 1 == made.cache_info().misses


@pytest.mark.parametrize("function", [module_level, module_level_async])
@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1})])
def test_a_wrong_call_is_the_type_error_of_that_function(
    cache, runner, function, arguments
):
    made, caller = cache.memoize(function), Call(runner, is_async=False)
    args, kwargs = arguments

    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) "):
        caller(made, *args, **kwargs)
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) "):
        made.invalidate(*args, **kwargs)


@pytest.mark.parametrize("argument", [object(), [object()], lambda: 0])
def test_an_argument_without_stable_encoding_is_refused_by_name(cache, argument, call):
    made = cache.memoize(call.pick(module_level, module_level_async))

    with pytest.raises(KeyRefused, match=r"argument 'b' of module_level"):
        call(made, 1, argument)


def test_ignored_arguments_do_not_tell_calls_apart(mesh, calls, call):
    def plain(n, connection, *, log=None):
        calls.append(connection)
        return n

    async def later(n, connection, *, log=None):
        return plain(n, connection, log=log)

    made, far = mesh.memoize(call.pick(plain, later), ignore=["connection", "log"])
    asked = [node.stats()["engine"]["runs"] for node in mesh.nodes]
    for n in range(6):
        assert n == call(made, n, "first", log=object())
        assert n == call(far, n, object())

    assert ["first"] * 6 == calls
    # Nobody was asked to run what only the caller can.
    assert asked == [node.stats()["engine"]["runs"] for node in mesh.nodes]


def test_key_makes_the_key_in_place_of_the_arguments(mesh, calls, call):
    def plain(user, flag):
        calls.append(user)
        return user["id"]

    async def later(user, flag):
        return plain(user, flag)

    made, far = mesh.memoize(
        call.pick(plain, later), key=lambda user, flag: (user["id"], flag)
    )
    for n in range(6):
        assert n == call(made, {"id": n, "seen": object()}, True)
        assert n == call(far, {"id": n}, True)
        assert n == call(far, {"id": n}, True)

    assert 6 == len(calls)
    assert call(made, {"id": 1}, 1) == 1
    assert 7 == len(calls)


def test_what_key_returns_must_have_an_encoding(cache):
    made = cache.memoize(key=lambda a, b=0: object())(module_level)

    with pytest.raises(KeyRefused, match="what key= returned"):
        made(1)


def test_keys_in_the_cluster_are_the_arguments(mesh):
    made, far = mesh.memoize(module_level)

    assert made.key_for(1) == far.key_for(a=1, b=0)
    assert made.key_for(1) != made.key_for(True)


# --- methods ---------------------------------------------------------------------


@dataclass(frozen=True)
class Shop:
    city: str

    def __cache_key__(self):
        return self.city

    def price(self, item, discount=0):
        return f"{item} in {self.city} less {discount}"

    async def aprice(self, item, discount=0):
        return self.price(item, discount)


class Chain(Shop):
    """A shop whose methods a test memoizes."""


def test_methods_are_told_apart_by_what_self_says_of_itself(cache, call, monkeypatch):
    monkeypatch.setattr(Chain, "price", cache.memoize(Shop.price))
    monkeypatch.setattr(Chain, "aprice", cache.memoize(Shop.aprice))
    paris, oslo = Chain("Paris"), Chain("Oslo")
    for _ in range(2):
        for shop in (paris, oslo, Chain("Paris")):
            method = call.pick(shop.price, shop.aprice)
            assert f"tea in {shop.city} less 2" == call(method, "tea", discount=2)

    memoized = call.pick(Chain.price, Chain.aprice)
    assert 2 == memoized.cache_info().misses
    assert memoized.invalidate(paris, "tea", 2)
    assert MISSING is memoized.peek(paris, "tea", 2)
    assert memoized.peek(oslo, "tea", 2)


def test_class_and_static_methods_wrap_the_memoized_function(cache):
    class Tool:
        @classmethod
        @cache.memoize(name="made", ignore=["cls"])
        def made(cls, n):
            return f"{cls.__name__} {n}"

        @staticmethod
        @cache.memoize(name="plain")
        def plain(n):
            return n

    assert ["Tool 1", "Tool 1", 2, 2] == [
        Tool.made(1),
        Tool().made(1),
        Tool.plain(2),
        Tool().plain(n=2),
    ]


# --- what cannot be memoized -----------------------------------------------------


def generator(n):
    yield n


async def async_generator(n):
    yield n


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_generator_is_refused(cache, function):
    with pytest.raises(ConfigError, match="returns a list"):
        cache.memoize(function)


def test_a_function_that_others_could_not_name_needs_a_name(cache):
    value = 1

    def closure():
        return value

    class Callable:
        def __call__(self):
            return value

    for function in (lambda: value, closure, Callable(), functools.partial(closure)):
        with pytest.raises(ConfigError, match="pass name="):
            cache.memoize(function)

        assert 1 == cache.memoize(name="given")(function)()


@pytest.mark.parametrize("text", ["", "a|b", "a\nb", "x" * 401, 7])
def test_a_name_is_printable_text_of_bounded_length(cache, text):
    with pytest.raises(ConfigError, match="name="):
        cache.memoize(name=text)(module_level)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1},
        {"fill": "nobody"},
        {"version": "2"},
        {"version": -1},
        {"version": True},
        {"ignore": ["nothing"]},
        {"errors": [7]},
        {"errors": [KeyboardInterrupt]},
        {"load_timeout": 0},
        {"load_timeout": float("nan")},
        {"version": 2**32},
        {"stale": -1},
        {"stale_if_error": None},
        {"early": -1},
        {"soft_timeout": 0},
        {"none_ttl": -1},
        {"error_ttl": -1},
        {"cache_if": "always"},
        {"stales": 5},
    ],
)
def test_an_option_out_of_bounds_is_refused_when_decorating(cache, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        cache.memoize(**options)(module_level)


@pytest.mark.parametrize(
    "options",
    [
        {"version": 2**32 - 1},
        {"version": 0},
        {"soft_timeout": None, "stale_if_error": 0},
        {"error_ttl": None, "errors": KeyError},
        {"none_ttl": None},
        {"name": "x" * 400},
    ],
)
def test_an_option_at_its_bound_is_taken(cache, options):
    assert 7 == cache.memoize(**options)(module_level)(7)


def test_one_ignored_argument_may_stand_alone(cache):
    load = cache.memoize(name="f", ignore="connection")(lambda connection, key: key)

    assert load.key_for(1, "k") == load.key_for(connection=2, key="k")


def test_a_function_within_another_that_takes_nothing_of_it_needs_no_name(cache):
    def inner(number):
        return number

    assert 7 == cache.memoize(inner)(7)


def test_an_object_that_is_called_is_of_the_kind_of_its_call(cache, runner):
    class Later:
        async def __call__(self, n):
            return [n]

    class Generator:
        def __call__(self, n):
            yield n

    made = cache.memoize(name="f")(Later())

    async def main():
        return await made(7) is await made(7)

    assert runner.run(main())
    with pytest.raises(ConfigError, match="returns a list"):
        cache.memoize(name="g")(Generator())


def test_an_option_passed_as_the_function_says_so(cache):
    with pytest.raises(ConfigError, match="60 is no function"):
        cache.memoize(60)


def test_what_turns_out_to_be_async_is_no_plain_function(cache):
    def hidden(n):
        return module_level_async(n)

    with pytest.raises(TypeError, match="write it as `async def`"):
        cache.memoize(name="f")(hidden)(1)


# --- names -----------------------------------------------------------------------

PROGRAM = """
    import meshcache

    cache = meshcache.Cache("c", node=lambda: node)

    def load(n):
        return n

    class Thing:
        def method(self, n):
            return n

    if __name__ == "__main__":
        node = meshcache.Node(cluster="c", directory=False)
        print(cache.memoize(load).key_for(1))
        print(cache.memoize(Thing.method).key_for(1, 2))
        node.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", [["shop/prices.py"], ["-m", "shop.prices"]])
def test_a_script_s_functions_have_the_name_they_have_when_imported(tmp_path, way):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "prices.py").write_text(textwrap.dedent(PROGRAM))
    module = "prices" if way[0].endswith(".py") else "shop.prices"

    run = subprocess.run(
        [sys.executable, *way],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join([*filter(None, sys.path), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    expected = [f"c|{module}:load|1", f"c|{module}:Thing.method|1"]
    assert expected == [
        line[2:].partition(r"\x00")[0] for line in run.stdout.splitlines()
    ]


@pytest.mark.slow
def test_a_function_typed_at_a_prompt_needs_a_name():
    run = subprocess.run(
        [sys.executable, "-c", "import meshcache\n@meshcache.memoize\ndef f(n): ..."],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert "pass name=" in run.stderr


def test_another_version_is_another_function(mesh, calls, call):
    old, _ = mesh.memoize(call.pick(calls.plain, calls.later), version=1)
    new, _ = mesh.memoize(call.pick(calls.plain, calls.later), version=2)
    call(old, 1)
    call(new, 1)

    assert 2 == len(calls)
    assert new.key_for(1) != old.key_for(1)
    assert old.invalidate(1)
    assert MISSING is not new.peek(1)


# --- who loads -------------------------------------------------------------------


def test_a_call_is_loaded_once_for_both_nodes(mesh, loader, calls, call):
    made, far = mesh.memoize(loader)

    for n in range(8):
        for function in (made, far, made, far):
            assert {"n": n} == call(function, n)
    assert list(range(8)) == sorted(calls)


def where(node: Node):
    def plain(n, m=0):
        return [node.me.name, n, m]

    async def later(n, m=0):
        return plain(n, m)

    return plain, later


def test_the_owner_runs_its_own_copy_of_the_function(mesh, pair):
    one, two = pair
    made, far = mesh.memoize(where(one)[0], where(two)[0])
    mine, theirs = mesh.number_of(0, made), mesh.number_of(1, made)

    assert [one.me.name, mine, 0] == made(mine)
    assert [two.me.name, theirs, 0] == made(theirs)
    again = mesh.number_of(1, made, theirs + 1)
    assert [two.me.name, again, 0] == made(n=again, m=0)
    assert (0, 1) == far.cache_info()[:2] or far.cache_info().misses == 0


def test_a_caller_that_fills_runs_the_function_itself(mesh, pair):
    one, two = pair
    made, far = mesh.memoize(where(one)[0], where(two)[0], fill="caller")
    mine, theirs = mesh.number_of(0, made), mesh.number_of(1, made)

    assert [one.me.name, theirs, 0] == made(theirs)
    assert [one.me.name, theirs, 0] == far(theirs)
    assert [two.me.name, mine, 0] == far(mine)
    assert [two.me.name, mine, 0] == made(mine)


def test_an_owner_with_a_key_of_our_making_is_sent_the_arguments(mesh, pair):
    one, two = pair
    made, _ = mesh.memoize(where(one)[0], where(two)[0], key=lambda n, m=0: f"{n}-{m}")
    theirs = mesh.number_of(1, made)

    assert [two.me.name, theirs, 0] == made(theirs)


def test_an_owner_that_lacks_the_function_lets_the_caller_load(pair, name, until):
    one, _ = pair
    made = one.cache(name).memoize(name=name)(where(one)[0])
    mesh = Mesh(pair, name, until)
    theirs = mesh.number_of(1, made)

    assert [one.me.name, theirs, 0] == made(theirs)


def test_an_async_owner_loads_on_the_loop_it_was_last_used_on(mesh, pair):
    one, two = pair
    made, far = mesh.memoize(where(one)[1], where(two)[1])
    theirs = mesh.number_of(1, made)
    ended, ready = threading.Event(), threading.Event()

    async def serve():
        await far(mesh.number_of(1, made, theirs + 1))
        ready.set()
        await asyncio.to_thread(ended.wait, 10)

    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    ready.wait(10)
    result = asyncio.run(made(theirs))
    ended.set()
    server.join(10)

    assert [two.me.name, theirs, 0] == result


def test_an_async_owner_without_a_loop_lets_the_caller_load(mesh, pair):
    one, two = pair
    made, _ = mesh.memoize(where(one)[1], where(two)[1])
    theirs = mesh.number_of(1, made)

    assert [one.me.name, theirs, 0] == asyncio.run(made(theirs))


def test_many_threads_and_tasks_make_one_load(mesh, together, until):
    loads, arrived = [], []

    def load(n):
        loads.append(n)
        until(lambda: len(arrived) == 8)
        return n

    made, far = mesh.memoize(load)

    def ask(index):
        arrived.append(index)
        return (made, far)[index % 2](5)

    assert [5] * 8 == together(8, ask)
    assert [5] == loads


# --- errors ----------------------------------------------------------------------


class OutOfStock(Exception):
    def __init__(self, item, count):
        super().__init__(item, count)
        self.item = item


class Stubborn(Exception):
    def __init__(self):
        super().__init__("cannot be", "made again")


def failing(error):
    def plain(n):
        raise error

    return plain


@pytest.mark.parametrize(
    "error",
    [KeyError("k"), ValueError(1, "two"), OutOfStock("tea", 3), ZeroDivisionError()],
)
def test_an_error_of_the_owner_is_raised_as_itself(mesh, error):
    made, _ = mesh.memoize(failing(error), errors=[OutOfStock])
    theirs = mesh.number_of(1, made)

    with pytest.raises(type(error)) as caught:
        made(theirs)

    assert error.args == caught.value.args
    cause = caught.value.__cause__
    assert LoadError is type(cause)
    assert "in plain" in cause.remote_traceback
    assert MISSING is made.peek(theirs)


def test_a_single_class_of_errors_may_stand_alone(mesh):
    made, _ = mesh.memoize(failing(OutOfStock("tea", 1)), errors=OutOfStock)

    with pytest.raises(OutOfStock):
        made(mesh.number_of(1, made))


@pytest.mark.parametrize("error", [OutOfStock("tea", 3), Stubborn()])
def test_an_error_the_caller_did_not_list_arrives_as_a_load_error(mesh, error):
    errors = [Stubborn] if isinstance(error, Stubborn) else []
    made, _ = mesh.memoize(failing(error), errors=errors)

    with pytest.raises(LoadError) as caught:
        made(mesh.number_of(1, made))

    assert caught.value.type_name.endswith(type(error).__name__)
    assert str(error) == caught.value.remote_message
    assert "in plain" in str(caught.value)


def test_an_error_is_not_kept_and_the_next_call_loads_again(mesh, call):
    loads = []

    def plain(n):
        loads.append(n)
        if len(loads) % 2:
            raise ValueError(n)
        return n

    async def later(n):
        return plain(n)

    made, far = mesh.memoize(call.pick(plain, later))
    for owner in (0, 1):
        n = mesh.number_of(owner, made)
        with pytest.raises(ValueError, match=str(n)):
            call(made, n)

        assert [n, n] == [call(made, n), call(far, n)]
    assert 4 == len(loads)


def test_a_call_that_stops_its_thread_does_not_stop_the_owner(mesh):
    made, _ = mesh.memoize(failing(SystemExit(3)))
    theirs = mesh.number_of(1, made)

    for _ in range(8):
        with pytest.raises(LoadError, match="SystemExit"):
            made(theirs)


def test_a_result_that_cannot_be_shared_is_refused_everywhere(mesh):
    made, far = mesh.memoize(lambda n: object())
    for owner in (0, 1):
        n = mesh.number_of(owner, made)
        for function in (made, far):
            with pytest.raises((SerializationError, LoadError), match="object"):
                function(n)


def test_a_function_that_calls_itself_with_the_same_arguments_is_told(mesh, call):
    made: list[Any] = []

    def plain(n):
        return made[0](n)

    async def later(n):
        return await made[0](n)

    made += mesh.memoize(call.pick(plain, later))
    for owner in (0, 1):
        with pytest.raises(RecursiveLoad):
            call(made[0], mesh.number_of(owner, made[0]))


def test_a_circle_through_two_functions_and_both_nodes_is_found(pair, name, until):
    ends: dict[str, Any] = {}
    here = Mesh(pair, f"{name}a", until)
    there = Mesh(pair, f"{name}b", until)
    ends["ping"] = here.memoize(lambda n: [ends["pong"][1](n)])
    ends["pong"] = there.memoize(lambda n: [ends["ping"][0](n)])

    for owner in (0, 1):
        for function in (*ends["ping"], *ends["pong"]):
            n = here.number_of(owner, ends["ping"][0])
            with pytest.raises(RecursiveLoad):
                function(n)


def test_recursion_goes_deeper_than_a_message_can_say(mesh):
    made, _ = mesh.memoize(lambda n: 0 if n == 0 else 1 + made(n - 1))

    assert 100 == made(100)


def test_recursion_over_other_arguments_is_no_circle(mesh, call):
    made: list[Any] = []

    def plain(n):
        return n if n < 2 else made[n % 2](n - 1) + made[1 - n % 2](n - 2)

    async def later(n):
        return n if n < 2 else await made[0](n - 1) + await made[0](n - 2)

    made += mesh.memoize(call.pick(plain, later))

    assert 6765 == call(made[0], 20)
    assert 6765 == call(made[1], 20)


def test_a_load_that_takes_too_long_elsewhere_times_out(mesh):
    release = threading.Event()

    def slow(n):
        release.wait(20)
        return n

    made, _ = mesh.memoize(slow, load_timeout=0.2)
    theirs = mesh.number_of(1, made)
    try:
        with pytest.raises(LoadTimeout, match="raise load_timeout="):
            made(theirs)
    finally:
        release.set()


def test_a_large_result_is_returned_and_not_stored(node, call, calls):
    size = node.config.max_value_bytes + 1

    def plain(n):
        calls.append(n)
        return b"x" * size

    async def later(n):
        return plain(n)

    made = node.cache("c").memoize(name="f")(call.pick(plain, later))

    assert [size, size] == [len(call(made, 1)), len(call(made, 1))]
    assert [1, 1] == calls
    with pytest.raises(ValueTooLarge, match="max_value_bytes"):
        made.set(b"x" * size, 1)


# --- handles ---------------------------------------------------------------------

TWINS = ("invalidate", "peek", "set", "invalidate_all")


@pytest.fixture(params=["plain handles", "async handles"])
def use(request, runner) -> Any:
    """Uses a handle, or its async twin where it has one."""

    def use(function: Any, handle: str, *args: Any, **kwargs: Any) -> Any:
        later = request.param == "async handles" and handle in TWINS
        caller = Call(runner, is_async=False)
        name = f"a{handle}" if later else handle
        return caller(getattr(function, name), *args, **kwargs)

    return use


def test_invalidate_forgets_one_call(mesh, loader, calls, call, use):
    made, far = mesh.memoize(loader)
    for n in range(6):
        call(made, n)
        call(far, n)

        assert use(made, "invalidate", n)
        assert not use(made, "invalidate", n=n)
        assert MISSING is use(made, "peek", n)
        assert {"n": n} == call(made, n)
        assert [n, n] == calls[2 * n :]


def test_peek_never_loads(mesh, loader, calls, call, use):
    made, far = mesh.memoize(loader)
    for n in range(6):
        assert MISSING is use(made, "peek", n)
        assert MISSING is use(far, "peek", n)
        call(made, n)

        assert {"n": n} == use(made, "peek", n) == use(far, "peek", n)
    assert list(range(6)) == calls


def test_set_stands_for_a_load(mesh, loader, calls, call, use):
    made, far = mesh.memoize(loader)
    for n in range(6):
        assert None is use(made, "set", "given", n)

        assert "given" == call(made, n) == call(far, n)
    assert [] == calls


def test_refresh_loads_now_and_for_all(mesh, loader, calls, call, until):
    made, far = mesh.memoize(loader)
    for n in range(6):
        made.set("old", n)
        far.peek(n)

        assert {"n": n} == call(made.refresh, n)
        assert {"n": n} == made.peek(n)
        until(lambda n=n: far.peek(n) == {"n": n}, 2.0)
    assert list(range(6)) == calls


def test_uncached_is_the_function_itself(cache, loader, calls, call):
    made = cache.memoize(name="f")(loader)

    assert {"n": 1} == call(made.uncached, 1) == call(made.uncached, 1)
    assert [1, 1] == calls
    assert MISSING is made.peek(1)


def test_invalidate_all_forgets_this_function_alone(mesh, loader, calls, call, use):
    made, far = mesh.memoize(loader)
    other, _ = mesh.memoize(loader, name=f"{mesh.name}-other")
    for n in range(6):
        call(made, n)
        call(far, n)
        call(other, n)
    calls.clear()

    assert None is use(made, "invalidate_all")

    assert [MISSING] * 6 == [made.peek(n) for n in range(6)]
    assert [MISSING] * 6 == [far.peek(n) for n in range(6)]
    assert [{"n": 3}, []] == [call(other, 3), calls]


def test_clearing_the_cache_forgets_its_functions(mesh, loader, call):
    made, far = mesh.memoize(loader)
    for n in range(6):
        call(made, n)

    mesh.nodes[0].cache(mesh.name).clear()

    assert [MISSING] * 6 == [far.peek(n) for n in range(6)]


@pytest.mark.parametrize("by", ["invalidate", "set", "invalidate_all"])
def test_a_write_during_a_load_wins(mesh, together, until, by):
    begun, written = threading.Event(), threading.Event()

    def slow(n):
        begun.set()
        written.wait(10)
        return "from before"

    made, far = mesh.memoize(slow)
    for owner in (0, 1):
        n = mesh.number_of(owner, made)
        begun.clear()
        written.clear()

        def work(index, n=n):
            if index == 0:
                return made(n)
            begun.wait(10)
            arguments = {"invalidate": (n,), "set": ("newer", n), "invalidate_all": ()}
            getattr(far, by)(*arguments[by])
            return written.set()

        assert "from before" == together(2, work)[0]
        expected = "newer" if by == "set" else MISSING
        assert expected == far.peek(n)
        # The loading node hears of the write by a note, which may be on its way.
        until(lambda n=n, expected=expected: made.peek(n) == expected, 2.0)


# --- a drop-in for lru_cache -----------------------------------------------------


def test_cache_info_has_the_fields_of_lru_cache(cache, loader, call):
    made = cache.memoize(name="f")(loader)
    for n in (1, 2, 1, 1):
        call(made, n)

    assert functools.lru_cache(len).cache_info()._fields == CacheInfo._fields
    assert CacheInfo(2, 2, cache.node.config.near_entries, 2) == made.cache_info()


def test_cache_clear_resets_everything(mesh, loader, calls, call):
    made, far = mesh.memoize(loader)
    for n in (1, 2, 1, 1):
        call(made, n)
    call(far, 1)

    made.cache_clear()

    assert (0, 0, 0) == (*made.cache_info()[:2], made.cache_info().currsize)
    assert MISSING is far.peek(1)
    calls.clear()
    call(made, 1)
    assert [1] == calls


LRU = """
    from functools import lru_cache
    import meshcache
    {replaced}

    class Grid:
        def __init__(self, size):
            self.size = size

        @lru_cache(maxsize=None)
        def paths(self, x, y):
            if x == self.size and y == self.size:
                return 1
            right = self.paths(x + 1, y) if x < self.size else 0
            return right + (self.paths(x, y=y + 1) if y < self.size else 0)

        def __cache_key__(self):
            return self.size

    @lru_cache
    def fib(n):
        if n < 0:
            raise ValueError("below zero")
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    if __name__ == "__main__":
        print(fib(40), Grid(8).paths(0, 0))
        try:
            fib(-1)
        except ValueError as error:
            print(error, error.__cause__)
        info = fib.cache_info()
        print(info.hits, info.misses, info.currsize, fib.__wrapped__(1))
        fib.cache_clear()
        print(fib.cache_info()[:2], fib(3), fib.cache_info().misses)
"""
REPLACED = """
    def lru_cache(function=None, maxsize=0):
        return meshcache.memoize(function) if function else meshcache.memoize()
"""


@pytest.mark.slow
def test_a_program_runs_unchanged_with_memoize_in_place_of_lru_cache(tmp_path):
    outputs = []
    for replaced in ("", REPLACED):
        program = tmp_path / "program.py"
        program.write_text(
            textwrap.dedent(LRU).format(replaced=textwrap.dedent(replaced))
        )
        run = subprocess.run(
            [sys.executable, "-W", "error", str(program)],
            env={
                "PYTHONPATH": ":".join(filter(None, sys.path)),
                "MESHCACHE_CLUSTER": "lru",
                "MESHCACHE_RUNTIME_DIR": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (0, "") == (run.returncode, run.stderr)
        outputs.append(run.stdout)

    assert outputs[0] == outputs[1]


# --- nodes that come, go, and are off --------------------------------------------


def test_a_stopped_node_runs_the_function_and_refuses_writes(node, loader, calls, call):
    made = node.cache("c").memoize(name="f")(loader)
    call(made, 1)
    node.stop()

    assert [{"n": 1}, {"n": 1}] == [call(made, 1), call(made, 1)]
    assert [1, 1, 1] == calls
    assert MISSING is made.peek(1)
    for write in (made.invalidate, functools.partial(made.set, 2)):
        with pytest.raises(NodeClosed):
            write(1)

    node.start()
    call(made, 1)
    call(made, 1)
    assert 4 == len(calls)


def test_a_function_on_a_node_that_a_callable_returns_is_shared(pair, name, until):
    one, two = pair
    mesh = Mesh(pair, name, until)
    caches = [meshcache.Cache(name, node=lambda n=n: n) for n in pair]
    made, far = (c.memoize(name=name)(where(c.node)[0]) for c in caches)
    far(mesh.number_of(1, far))
    until(lambda: mesh._know(one, two))

    theirs = mesh.number_of(1, made, mesh.number_of(1, made) + 1)
    assert [two.me.name, theirs, 0] == made(theirs)


def test_a_function_decorated_again_is_loaded_by_its_latest_form(node):
    cache = node.cache("c")
    for value in range(50):
        made = cache.memoize(name="f")(lambda n, value=value: value)

    assert 1 == len(node._loaders)
    assert 49 == made(1)
