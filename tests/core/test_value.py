"""Values behave as frozen dataclasses do."""

from typing import ClassVar

import pytest

from btrfs_backup_ng.core.value import EMPTY, Value, defaults_of, replace


class Point(Value):
    x: int
    y: int = 0
    kind: ClassVar = "point"


class Named(Point):
    name: str = ""


class Other(Value):
    x: int
    y: int = 0


def test_fields_come_by_place_or_name_and_may_have_defaults():
    assert (Point(1).x, Point(1).y, Point(1, 2).y) == (1, 0, 2)
    assert Point(y=2, x=1) == Point(1, 2)
    assert repr(Point(y=2, x=1)) == "Point(x=1, y=2)"
    assert defaults_of(Point) == {"x": None, "y": 0}


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((), {"y": 1}), ((1,), {"z": 1}), ((1, 2, 3), {}), ((1,), {"kind": 2})],
)
def test_fields_that_are_missing_or_unknown_are_an_error(values, named):
    with pytest.raises(TypeError):
        Point(*values, **named)


def test_a_value_never_changes():
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del point.x
    assert replace(point, y=3) == Point(1, 3) and point == Point(1)
    with pytest.raises(TypeError):
        replace(point, z=1)


def test_values_are_equal_if_type_and_fields_are():
    assert Point(1) != Other(1) and Point(1) != (1, 0) and Point(1) != Point(2)
    assert len({Point(1), Point(1, 0), Point(x=1), Point(2)}) == 2


def test_a_class_has_the_fields_of_its_base_too():
    named = Named(1, name="a")
    assert (named.x, named.y, named.name) == (1, 0, "a")
    assert named != Point(1) and replace(named, y=2) == Named(1, 2, "a")


def test_an_empty_default_cannot_change():
    with pytest.raises(TypeError):
        EMPTY["x"] = 1  # type: ignore[index]
