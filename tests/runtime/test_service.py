"""What is done for siblings on the thread of the host wire, and what the driver does.

The engine is a node's own; the driver and the listener write down what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshcache.clock import monotonic
from meshcache.codec.frames import FrameCodec
from meshcache.codec.messages import (
    Found,
    Item,
    Reason,
    Refused,
    Status,
    Survey,
    Verb,
    Write,
    Written,
)
from meshcache.engine.ops import Moved
from meshcache.fill.flight import Phase
from meshcache.hashing import bucket_of, key_hash, partition_of
from meshcache.runtime.driver import GIVE_WAY, IN_VAIN_MAX
from meshcache.runtime.service import HostService
from meshcache.store.generations import Tenure
from meshcache.transport.host import HostRoute, NotTaken
from meshcache.transport.letters import PLAINLY_DONE, RING

KEY = b"c\0sk"
HASHED = key_hash(KEY)
ROUTE = HostRoute(1)
FRAMES = FrameCodec("t")
ONE, SIX = b"\x01", b"\x06"


class World:
    """A service before the engine of a node that is alone, and so owns all."""

    def __init__(self, node: Any) -> None:
        self.engine = node._runtime._engine
        self.core = self.engine._core
        self.store = self.engine.store
        self.arrived: list[bytes] = []
        self.noted: list[Any] = []
        self.dropped: list[HostRoute] = []
        self.room = True
        self.driver = driver = SimpleNamespace(
            arrived=self._arrived, note=self.noted.append, errors=0
        )
        listener = SimpleNamespace(drop=self.dropped.append)
        self.service = HostService(listener, self.engine, driver, FRAMES)

    def _arrived(self, arrival: Any) -> bool:
        self.arrived.append(arrival.frame)
        return self.room

    def write(self, verb: Verb = Verb.SET, value: bytes = ONE, **fields: Any) -> Any:
        """Return what a write of KEY is answered; None if the driver has it."""
        item = Item(KEY, value, -1, 5)
        message = Write(9, self.engine.me.epoch, 0, 0, 2000, verb, (item,))
        frame = FRAMES.encode(message._replace(**fields))
        answer = self.service.take(frame, ROUTE)
        assert ([] if answer and self.room else [frame]) == self.arrived
        return answer and FRAMES.decode(answer)

    def stored(self) -> bytes | None:
        entry = self.store.get(KEY, HASHED, monotonic())
        return entry and entry.value


@pytest.fixture
def world(make_node) -> World:
    return World(make_node().wait_ready())


def answer(status: Status, number: bytes = b"") -> Written:
    return Written(9, (Found(status, number, 0, 0),))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "status", "number", "after"),
    [
        (Verb.SET, Status.HIT, b"", b"\x02"),
        (Verb.ADD, Status.MISS, b"", ONE),
        (Verb.TOUCH, Status.HIT, b"", ONE),
        (Verb.DELETE, Status.HIT, b"", None),
        (Verb.INCR, Status.HIT, SIX, SIX),
    ],
)
def test_a_write_is_done_when_it_is_answered(world, verb, status, number, after):
    world.write()
    generation = world.store.generations.table[bucket_of(HASHED)]

    assert answer(status, number) == world.write(verb, b"\x02")
    assert after == world.stored()
    moved = world.store.generations.table[bucket_of(HASHED)] - generation
    assert (status is Status.HIT) == bool(moved)
    assert [] == world.noted


def wrong_epoch(world: World) -> Any:
    return world.write(epoch=world.engine.me.epoch + 1)


def two_keys(world: World) -> Any:
    return world.write(items=(Item(KEY, ONE, -1, 0),) * 2)


def read_elsewhere(world: World) -> Any:
    world.core.readers.add("a reader", monotonic())
    return world.write()


def being_loaded(world: World) -> Any:
    world.core.flights.open(KEY, HASHED, Phase.LEASED, monotonic())
    return world.write()


def arriving(world: World) -> Any:
    world.engine.owner.wrote = set()
    return world.write()


def moved_away(world: World) -> Any:
    world.engine.ranges.tenures[partition_of(HASHED)] = Tenure([0])
    return world.write()


def sealed(world: World) -> Any:
    world.store.revoke(partition_of(HASHED))
    return world.write()


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        wrong_epoch,
        two_keys,
        read_elsewhere,
        being_loaded,
        arriving,
        moved_away,
        sealed,
    ],
)
def test_what_takes_more_than_the_store_is_for_the_driver(world, act):
    assert act(world) is None
    assert world.stored() is None
    assert [] == world.dropped


@pytest.mark.slow
@pytest.mark.parametrize("frame", [b"no frame", FRAMES.encode(Survey(1, 2))])
def test_what_is_no_write_is_for_the_driver_to_judge(world, frame):
    assert world.service.take(frame, ROUTE) is None
    assert [frame] == world.arrived


@pytest.mark.slow
def test_what_the_driver_has_no_room_for_is_refused_or_ends_the_connection(world):
    world.room = False

    assert Refused(9, Reason.OVERLOADED) == sealed(world)
    assert world.stored() is None
    assert [] == world.dropped
    assert world.service.take(b"no frame", ROUTE) is None
    assert [ROUTE] == world.dropped


@pytest.mark.slow
def test_a_reader_that_came_while_it_was_written_is_told(world):
    direct = world.service._direct

    def meanwhile(*args: Any) -> Any:
        world.core.readers.add("a reader", monotonic())
        return direct(*args)

    world.service._direct = meanwhile

    assert answer(Status.HIT) == world.write()
    assert [Moved(bucket_of(HASHED))] == world.noted


@pytest.mark.slow
def test_the_bell_is_silent_when_it_was_heard(world):
    world.store.bell[0] = 1
    world.write()

    assert 0 == world.store.bell[0]


# --- letters ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_letter_that_is_plainly_done_takes_no_frame(world):
    item = Item(KEY, ONE, -1, 5)
    message = Write(9, world.engine.me.epoch, 0, 0, 2000, Verb.SET, (item,))
    answered = world.service._open(FRAMES.encode(message), ROUTE)
    counted = world.service._open(
        FRAMES.encode(message._replace(verb=Verb.INCR)), ROUTE
    )

    assert answered is PLAINLY_DONE
    assert answer(Status.HIT, SIX) == FRAMES.decode(counted)
    assert SIX == world.stored()


@pytest.mark.slow
def test_a_letter_found_in_the_middle_of_a_write_of_this_thread_is_left(world):
    with world.store.lock, pytest.raises(NotTaken):
        world.write()

    assert world.stored() is None


@pytest.mark.slow
def test_the_bell_for_a_letter_goes_on_when_a_frame_is_taken(world):
    world.store.bell[0] = RING
    world.write()

    assert RING == world.store.bell[0]


@pytest.mark.slow
def test_who_hears_the_bell_for_a_letter_does_not_wait(make_node):
    runtime = make_node().wait_ready()._runtime
    driver, bell = runtime._driver, runtime._engine.store.bell
    heard = []
    driver.attend = lambda: heard.append(bell[0])
    bell[0] = 1
    driver.heed()
    bell[0] = RING
    driver.heed()
    runtime.give_way()

    assert [RING, RING] == heard


@pytest.mark.slow
def test_letters_are_looked_for_after_the_bell_is_silenced(world):
    bells = []
    world.service._listener.attend = lambda _, heard: bells.append(
        (heard(), world.store.bell[0])
    )
    world.store.bell[0] = RING
    world.service.attend()

    assert [(None, 0)] == bells


def fails() -> None:
    raise ValueError


def goes_too_deep() -> None:
    goes_too_deep()


def find_letters_that(world: World, act: Callable[[], None]) -> None:
    """Pass by at a letter whose write does *act*."""

    def attend(take: Any, _heard: Any) -> None:
        item = Item(KEY, ONE, -1, 5)
        message = Write(9, world.engine.me.epoch, 0, 0, 2000, Verb.SET, (item,))
        take(FRAMES.encode(message), ROUTE)

    world.service._listener.attend = attend
    world.service._direct = lambda *_: act()
    world.service.attend()


@pytest.mark.slow
def test_a_letter_that_fails_is_counted_and_not_the_applications_affair(
    world, monkeypatch
):
    # All that runs is this package's own, and so is this module for now.
    monkeypatch.setitem(globals(), "__name__", "meshcache.test")
    find_letters_that(world, fails)

    assert 1 == world.driver.errors


@pytest.mark.slow
def test_where_a_letter_goes_too_deep_the_application_goes_on(world):
    find_letters_that(world, goes_too_deep)

    assert 1 == world.driver.errors


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_signals_handler_of_the_application_raises_is_its_affair(world, error):
    def handle(*_: object) -> None:
        raise error

    with pytest.raises(error):
        find_letters_that(world, handle)

    assert 0 == world.driver.errors


# --- giving way -------------------------------------------------------------------


@pytest.fixture
def driver(make_node) -> Any:
    return make_node().wait_ready()._runtime._driver


def time_to_give_way(driver: Any) -> float:
    began = monotonic()
    driver.give_way()
    return monotonic() - began


@pytest.mark.slow
def test_a_way_that_was_given_too_late_is_not_taken_for_the_next_one(driver):
    driver.give_way()
    driver.way_was_given()

    assert GIVE_WAY <= time_to_give_way(driver)


@pytest.mark.slow
def test_a_bell_is_believed_a_few_times(driver):
    bell = driver._engine.store.bell
    bell[0] = 1
    heard = []
    for _ in range(IN_VAIN_MAX):
        heard.append(bell[0])
        driver.give_way()

    assert [1] * IN_VAIN_MAX == heard
    assert 0 == bell[0]
