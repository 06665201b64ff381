from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import pytest

from meshcache.codec import types
from meshcache.codec.types import (
    MAX_NAME,
    Kind,
    class_named,
    key_name,
    register,
    registered,
)
from meshcache.errors import ConfigError

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    ROUGE = 1  # noqa: PIE796 - an alias is what is tested


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: int = 0


class Plain:
    def __init__(self, n):
        self.n = n


@pytest.fixture(autouse=True)
def empty_register(monkeypatch):
    monkeypatch.setattr(types, "_by_class", {})
    monkeypatch.setattr(types, "_by_name", {})


def test_the_default_name_is_module_and_qualified_name():
    register(Point)

    assert f"{__name__}:Point" == registered(Point).name
    assert registered(Point) is class_named(f"{__name__}:Point")


def test_a_given_name_and_the_qualified_one_both_find_the_class():
    register(Point, name="point")

    assert registered(Point) is class_named("point")
    assert registered(Point) is class_named(f"{__name__}:Point")
    assert registered(Point).name == "point"


def test_it_decorates_bare_and_called():
    @register(name="a")
    @dataclass
    class A:
        pass

    @register(name="b", encode=lambda b: b.n, decode=Plain)
    class B(Plain):
        pass

    register(Color)

    assert Kind.DATACLASS is registered(A).kind
    assert Kind.CUSTOM is registered(B).kind
    assert Kind.ENUM is registered(Color).kind


def test_an_unknown_class_is_not_found_and_nothing_is_imported():
    assert registered(Point) is None
    assert class_named("os:system") is None
    assert class_named(f"{__name__}:Point") is None


def test_a_subclass_is_not_registered_with_its_base():
    register(Point)

    class Deeper(Point):
        pass

    assert registered(Deeper) is None


@pytest.mark.parametrize("cls", [int, str, dict, tuple, type(None)])
def test_what_travels_anyway_is_not_registered(cls):
    with pytest.raises(ConfigError, match="travels as it is"):
        register(cls, encode=repr, decode=eval)


def test_what_is_no_class_is_refused():
    with pytest.raises(ConfigError, match="takes a class"):
        register(Point(1))


def test_neither_enum_nor_dataclass_is_told_to_bring_functions():
    with pytest.raises(ConfigError, match=r"encode=.*decode="):
        register(Plain)


def test_a_subclass_that_is_not_decorated_is_no_dataclass():
    class Deeper(Point):
        pass

    with pytest.raises(ConfigError, match="neither an Enum nor a dataclass"):
        register(Deeper, name="deeper")


def test_one_function_without_the_other_is_refused():
    with pytest.raises(ConfigError, match="both"):
        register(Plain, encode=vars)


def test_a_name_belongs_to_one_class():
    register(Point, name="thing")

    with pytest.raises(ConfigError, match="belongs to"):
        register(Color, name="thing")

    assert registered(Color) is None


def test_a_class_has_one_name():
    register(Point, name="thing")

    with pytest.raises(ConfigError, match="already"):
        register(Point, name="other")


def test_registering_twice_is_fine():
    register(Point)
    register(Point)

    assert Point is registered(Point).cls


def test_a_reloaded_class_takes_the_place_of_the_old_one():
    old = type("Point", (), {"__module__": __name__})
    register(old, encode=vars, decode=lambda _: old())
    register(Point)

    assert registered(old) is None
    assert Point is class_named(f"{__name__}:Point").cls


def test_a_reloaded_class_may_not_hide_behind_a_new_name():
    old = type("Point", (), {"__module__": __name__})
    register(old, encode=vars, decode=lambda _: old())
    register(Point, name="point")

    assert registered(old) is None
    assert Point is class_named(f"{__name__}:Point").cls


@pytest.mark.parametrize("name", ["", "a:b", "x" * (MAX_NAME + 1)])
def test_a_name_that_cannot_be_told_from_the_others_is_refused(name):
    with pytest.raises(ConfigError, match="no colon"):
        register(Point, name=name)


@pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
def test_a_class_of_the_main_module_needs_a_name(module):
    cls = dataclass(type("Job", (), {"__module__": module}))

    with pytest.raises(ConfigError, match='name="job"'):
        register(cls)

    assert cls is register(cls, name="job")


def test_a_class_of_a_function_needs_a_name():
    @dataclass
    class Local:
        pass

    with pytest.raises(ConfigError, match='name="local"'):
        register(Local)


def test_registering_moves_no_key():
    before = key_name(Point)
    register(Point, name="point")

    assert before == key_name(Point) == f"{__name__}:Point"


def test_a_spawned_child_calls_the_classes_of_main_as_its_parent_does():
    parent = type("Job", (), {"__module__": "__main__"})
    child = type("Job", (), {"__module__": "__mp_main__"})

    assert key_name(parent) == key_name(child) == "__main__:Job"


def test_a_class_of_a_function_has_a_key_name_only_by_registration():
    @dataclass
    class Local:
        pass

    assert key_name(Local) is None

    register(Local, name="local")

    assert key_name(Local) == "local"


def test_a_member_travels_by_name_and_an_alias_is_its_member():
    known = registered(register(Color))

    assert known.take(Color.ROUGE) == "RED"
    assert Color.RED is known.make("RED")


@pytest.mark.parametrize("token", ["BLUE", 1, None, "mro", ["RED"]])
def test_what_names_no_member_is_refused(token):
    known = registered(register(Color))

    with pytest.raises(ValueError, match="no member"):
        known.make(token)


@pytest.mark.parametrize("token", ["READ", None, 4, True])
def test_what_is_no_number_of_a_flag_is_refused(token):
    known = registered(register(Right))

    with pytest.raises(ValueError, match="Right"):
        known.make(token)


def test_flags_travel_by_number_and_so_combined():
    known = registered(register(Right))
    both = Right.READ | Right.WRITE

    assert known.take(both) == 3
    assert both is known.make(3)
    assert Right(0) is known.make(known.take(Right(0)))


@pytest.mark.parametrize("name", ["BLUE", "RED"])
def test_a_member_made_by_hand_is_refused(name):
    known = registered(register(Color))
    stray = object.__new__(Color)
    stray._name_, stray._value_ = name, 3

    with pytest.raises(ValueError, match=name):
        known.take(stray)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    a: int
    b: list = field(default_factory=list)
    c: int = field(init=False, default=9)


@dataclass
class Derived:
    raw: InitVar[int]
    double: int = field(init=False)
    hidden: str = field(default="h", compare=False, repr=False)

    def __post_init__(self, raw):
        self.double = raw * 2


@dataclass
class Checked:
    n: int

    def __post_init__(self):
        self.n += 1

    @cached_property
    def square(self):
        return self.n * self.n


@pytest.mark.parametrize(
    "instance",
    [Point(1, 2), Frozen(a=1, b=[2]), Derived(3, hidden="x"), Checked(4)],
)
def test_a_dataclass_comes_back_by_its_fields_alone(instance, fingerprint):
    known = registered(register(type(instance)))
    made = known.make(known.take(instance))

    assert instance == made
    assert fingerprint(instance) == fingerprint(made)


def test_a_cached_property_may_stay_behind():
    known = registered(register(Checked))
    instance = Checked(1)
    expected = instance.square
    made = known.make(known.take(instance))

    assert "square" not in vars(made)
    assert expected == made.square


@dataclass
class Box(Generic[T]):
    item: T


def test_a_generic_dataclass_may_leave_its_parameter_behind():
    known = registered(register(Box))

    assert Box(1) == known.make(known.take(Box[int](1)))


def test_an_attribute_that_is_no_field_is_refused():
    known = registered(register(Point))
    point = Point(1)
    point.z = 3

    with pytest.raises(ValueError, match="'z' is no field"):
        known.take(point)


def test_a_slot_that_is_no_field_is_refused():
    class Base:
        __slots__ = ("memo",)

    @dataclass(slots=True)
    class Slotted(Base):
        a: int

    known = registered(register(Slotted, name="slotted"))
    instance = Slotted(1)

    assert known.take(instance) == {"a": 1}

    instance.memo = 1

    with pytest.raises(ValueError, match="'memo' is no field"):
        known.take(instance)


def test_a_field_without_a_value_is_refused():
    known = registered(register(Derived))
    instance = object.__new__(Derived)

    with pytest.raises(ValueError, match="no value"):
        known.take(instance)


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"x": 1}, {"x": 1, "y": 2, "z": 3}, {"x": 1, "_y": 2}]
)
def test_what_are_not_its_fields_is_refused(payload):
    known = registered(register(Point))

    with pytest.raises(ValueError, match="not the fields"):
        known.make(payload)


def test_a_dataclass_upon_a_built_in_needs_functions():
    @dataclass
    class Bag(OrderedDict):
        a: int = 0

    with pytest.raises(ConfigError, match="fields alone"):
        register(Bag, name="bag")


def test_decode_must_make_the_very_class():
    class Deeper(Plain):
        pass

    register(Plain, encode=vars, decode=lambda fields: Deeper(**fields))

    with pytest.raises(ValueError, match="Deeper"):
        registered(Plain).make({"n": 1})
