"""Writes by the host wire: what is sent, what is made of the answer, what follows.

The sibling is a script on a thread of its own, behind a real socket.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import meshcache
from meshcache.clock import monotonic
from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import (
    Found,
    Item,
    Reason,
    Refused,
    Status,
    Stranger,
    Survey,
    Verb,
    Write,
    Written,
)
from meshcache.config import Config
from meshcache.engine.ops import (
    Closed,
    Unreached,
    WriteKeys,
    WriteResult,
    WriteResults,
    Wrote,
)
from meshcache.hashing import partition_of
from meshcache.model import Member, NodeId, State
from meshcache.runtime.wire import MAX_ITEMS, HostWire
from meshcache.transport.host import MAX_FRAME, HostListener, HostRoute

PATIENCE = 10.0
OWNER = Member(NodeId(b"o" * 16), 7, 0, State.ALIVE, "h:1", "h:2", "h", 1)
OTHER = OWNER._replace(node_id=NodeId(b"p" * 16))
DONE = WriteResult(Status.HIT, b"")
UNKNOWN = Unreached("h:2", unknown=True)


class World:
    """What a wire has around it: an owner that follows *answer*, and this node."""

    def __init__(self, directory, timeout: float = PATIENCE) -> None:
        self.answer: Callable[[Write], Any] = done
        self.asked: list[Write] = []
        self.told: list[Any] = []
        self.ordinary: list[WriteKeys] = []
        self.outcome: Any = WriteResults(())
        self.loading: set[bytes] = set()
        self.avoided = False
        self.closed = False
        self.ranges = SimpleNamespace(
            sibling=self.sibling, table=SimpleNamespace(), lane=lambda _: self.lane
        )
        self.lane: Any = None
        self.ranges.table.epoch = 3
        self.frames = FrameCodec("t")
        self._listener = HostListener(directory, OWNER.node_id)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        config = Config(cluster="t", request_timeout=timeout, load_timeout=60)
        self.wire = HostWire(config, directory, self, self, self.ask, listener=None)

    def _serve(self) -> None:
        while not self._listener.stopped:
            self._listener.serve(self._take)

    def _take(self, frame: bytes, route: HostRoute) -> bytes | None:
        message = self.frames.decode(frame)
        self.asked.append(message)
        answer = self.answer(message)
        if answer is None or isinstance(answer, bytes):
            return answer
        return self.frames.encode(answer)

    def close(self) -> None:
        self._listener.stop()
        self._thread.join(PATIENCE)
        self.wire.close()
        self._listener.close()

    # what the engine is asked
    def sibling(self, hashed: int) -> Member | None:
        return None if self.avoided else {1: OWNER, 2: OTHER}.get(hashed)

    def is_loading(self, key: bytes) -> bool:
        return key in self.loading

    def silent(self, member: Member, now: float) -> list[Any]:
        self.avoided = True
        return []

    # what the driver is asked
    def note(self, operation: Any) -> None:
        self.told.append(operation)

    def post(self, post: Callable[..., Any]) -> None:
        post(self, 0.0)

    # the ordinary way
    def ask(self, operation: WriteKeys) -> Any:
        self.ordinary.append(operation)
        return self.outcome


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def written(message: Write, *statuses: Status) -> Written:
    return Written(message.rid, tuple(Found(s, b"", 0, 0) for s in statuses))


def done(message: Write) -> Written:
    return written(message, *[Status.HIT for _ in message.items])


def write(*keys: bytes, hashed: int = 1) -> WriteKeys:
    return WriteKeys(Verb.SET, tuple((Item(k, b"v", -1, 0), hashed) for k in keys))


def test_a_write_is_sent_as_the_engine_would_send_it(world):
    results = world.wire.write(write(b"k1", b"k2"))

    assert WriteResults((DONE, DONE)) == results
    (asked,) = world.asked
    assert (7, 3, 0, 10_000) == (asked.epoch, asked.table, asked.hop, asked.budget_ms)
    assert (Verb.SET, [b"k1", b"k2"]) == (asked.verb, [i.key for i in asked.items])


def test_what_a_counter_is_now_comes_back(world):
    world.answer = lambda m: Written(m.rid, (Found(Status.HIT, b"\x07", 0, 0),))

    assert WriteResults((WriteResult(Status.HIT, b"\x07"),)) == world.wire.write(
        write(b"k1")
    )


@pytest.mark.parametrize(
    "operation",
    [
        WriteKeys(Verb.SET, ()),
        write(b"k1", hashed=0),
        WriteKeys(Verb.SET, write(b"k1").items + write(b"k2", hashed=2).items),
        WriteKeys(Verb.SET, write(b"k1").items + write(b"k2", hashed=0).items),
        write(*[b"k%d" % i for i in range(MAX_ITEMS + 1)]),
        write(b"k" * MAX_FRAME),
        write(b"k" * (MAX_FRAME - 10)),
    ],
)
def test_what_is_not_for_the_wire_goes_the_ordinary_way(world, operation):
    assert world.wire.write(operation) is None
    assert [] == world.asked


def test_what_no_frame_can_hold_is_not_even_encoded(world):
    world.wire.write(write(b"k" * MAX_FRAME))

    assert 0 == world.wire.stats()["sent"]


def test_an_owner_that_is_avoided_is_not_asked(world):
    world.avoided = True

    assert world.wire.write(write(b"k1")) is None
    assert [] == world.asked


@pytest.mark.parametrize(
    "answer",
    [
        lambda m: written(m, Status.NOT_OWNER, Status.NOT_OWNER),
        lambda m: Refused(m.rid, Reason.LEAVING),
        lambda _: Stranger(),
    ],
)
def test_what_the_owner_has_not_done_goes_the_ordinary_way(world, answer):
    world.answer = answer

    assert world.wire.write(write(b"k1", b"k2")) is None
    assert 1 == world.wire.stats()["fallbacks"]


def test_of_a_write_done_in_part_only_the_rest_goes_the_ordinary_way(world):
    world.answer = lambda m: written(m, Status.HIT, Status.NOT_OWNER, Status.MISS)
    world.outcome = WriteResults((WriteResult(Status.TOO_LARGE, b""),))
    results = world.wire.write(write(b"k1", b"k2", b"k3"))

    assert [write(b"k2")] == world.ordinary
    statuses = [Status.HIT, Status.TOO_LARGE, Status.MISS]
    assert statuses == [result.status for result in results.results]


def test_a_rest_that_nobody_took_is_not_known(world):
    world.answer = lambda m: written(m, Status.HIT, Status.NOT_OWNER)
    world.outcome = Closed()

    assert WriteResults((DONE, Unreached("", unknown=True))) == world.wire.write(
        write(b"k1", b"k2")
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda m: written(m._replace(rid=m.rid + 1), Status.HIT),
        lambda m: written(m, Status.HIT, Status.HIT),
        lambda m: Refused(m.rid - 1, Reason.LEAVING),
        lambda m: Survey(m.rid, 0),
        lambda _: b"no frame",
    ],
)
def test_an_answer_to_something_else_leaves_the_write_unknown(world, answer):
    world.answer = answer
    results = world.wire.write(write(b"k1"))
    world.answer = done

    assert WriteResults((UNKNOWN,)) == results
    assert 1 == world.wire.stats()["garbage"]
    assert WriteResults((DONE,)) == world.wire.write(write(b"k2"))


def test_a_silent_owner_costs_one_time_out_and_is_avoided_by_then(tmp_path):
    world = World(tmp_path, timeout=0.01)
    world.answer = lambda _: None
    first, second = world.wire.write(write(b"k1")), world.wire.write(write(b"k1"))
    world.close()

    assert WriteResults((UNKNOWN,)) == first
    assert second is None
    assert 1 == len(world.asked)
    assert 1 == world.wire.stats()["timeouts"]


def test_an_owner_that_ends_the_connection_leaves_the_write_unknown(world):
    world.answer = lambda _: b"x" * (MAX_FRAME + 1)

    assert WriteResults((UNKNOWN,)) == world.wire.write(write(b"k1"))
    assert 1 == world.wire.stats()["lost"]
    assert not world.avoided


@pytest.mark.parametrize("answer", [done, lambda _: b"no frame"])
def test_a_load_begun_before_the_write_is_not_joined_after_it(world, answer):
    world.answer = answer
    world.loading = {b"k1"}
    world.wire.write(write(b"k1", b"k2"))

    assert [Wrote(b"k1")] == world.told


# --- one key ----------------------------------------------------------------------


def write_one(world: World, key: bytes = b"k1", hashed: int = 1) -> Any:
    return world.wire.write_one(Verb.SET, Item(key, b"v", -1, 0), hashed)


def test_one_key_is_written_like_any(world):
    assert DONE == write_one(world)
    (asked,) = world.asked
    assert (7, 3, 0, 10_000) == (asked.epoch, asked.table, asked.hop, asked.budget_ms)
    assert (Item(b"k1", b"v", -1, 0),) == asked.items


@pytest.mark.parametrize(("key", "hashed"), [(b"k1", 0), (b"k" * MAX_FRAME, 1)])
def test_one_key_that_is_not_for_the_wire_is_not_sent(world, key, hashed):
    assert write_one(world, key, hashed) is None
    assert [] == world.asked
    assert 0 == world.wire.stats()["sent"]


def test_one_key_that_the_owner_has_not_written_goes_the_ordinary_way(world):
    world.answer = lambda m: written(m, Status.NOT_OWNER)

    assert write_one(world) is None
    assert 1 == world.wire.stats()["fallbacks"]


def test_one_key_without_a_proper_answer_is_not_known(world):
    world.answer = lambda _: b"no frame"

    assert UNKNOWN == write_one(world)
    assert 1 == world.wire.stats()["garbage"]


# --- between two nodes ------------------------------------------------------------


def key_of(node: meshcache.Node, owner: meshcache.Node) -> int:
    found = (k for k in range(1000) if node.owner("c", k).node_id == owner.me.node_id)
    return next(found)


def wire_of(node: meshcache.Node) -> dict[str, int]:
    return node.stats()["host_wire"]


@pytest.mark.slow
def test_threads_write_to_a_sibling_by_the_wire(make_pair):
    one, two = make_pair()
    key = key_of(one, two)
    cache = one.cache("c")
    cache.set(key, 1)
    assert 3 == cache.incr(key, 2)
    assert 3 == cache.get(key)
    assert not cache.add(key, 9)
    assert cache.touch(key, 60)
    assert cache.delete(key)
    assert cache.get(key) is None
    assert 0 == cache.delete_many([key])

    assert (6, 0) == (wire_of(one)["sent"], wire_of(one)["fallbacks"])
    assert 6 == wire_of(two)["received"]


@pytest.mark.slow
def test_an_owner_that_holds_a_write_back_answers_it_later_along_its_way(make_pair):
    one, two = make_pair(request_timeout=0.6)
    key = key_of(one, two)
    _, hashed = one.cache("c").region.full(None, key)
    handover = two._runtime._engine._core.handover
    held = threading.Event()

    def hold_back(engine, now: float) -> list[Any]:
        engine.ranges.tenures[partition_of(hashed)] = engine.ranges._closed
        handover.expect(partition_of(hashed), now)
        held.set()
        return []

    two._runtime._driver.post(hold_back)
    assert held.wait(PATIENCE)
    began = monotonic()
    one.cache("c").set(key, 1)

    assert 0.2 < monotonic() - began
    assert (1, 0) == (wire_of(one)["sent"], wire_of(one)["timeouts"])
    assert 1 == two.cache("c").get(key)


async def aset(cache: meshcache.Cache, key: int) -> None:
    await cache.aset(key, 1)


@pytest.mark.slow
def test_tasks_do_not_wait_for_a_socket(make_pair):
    one, two = make_pair()
    asyncio.run(aset(one.cache("c"), key_of(one, two)))

    assert 0 == wire_of(one)["sent"]


@pytest.mark.slow
def test_without_the_host_lane_there_is_no_wire(make_pair):
    one, two = make_pair(host_lane=False)
    one.cache("c").set(key_of(one, two), 1)

    assert {} == wire_of(one)


@pytest.mark.slow
def test_a_frame_that_is_no_write_ends_the_connection(make_pair, until):
    one, two = make_pair()
    one.cache("c").set(key_of(one, two), 1)
    frames = FrameCodec(one.config.cluster)
    caller = one._runtime._wire._caller
    frame = frames.encode(Survey(1, two.me.epoch))
    with pytest.raises(Exception, match="lost"):
        caller.call(two.me.node_id, frame, PATIENCE, lambda answer: answer)

    assert 1 == wire_of(two)["garbage"]


@pytest.mark.slow
def test_a_stopped_node_leaves_no_socket(make_pair, tmp_path):
    one, two = make_pair()
    assert 2 == len(list(tmp_path.rglob("*.sock")))
    one.cache("c").set(key_of(one, two), 1)
    two.stop()
    one.stop()

    assert [] == list(tmp_path.rglob("*.sock"))
