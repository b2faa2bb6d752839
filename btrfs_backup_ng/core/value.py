"""Values: classes whose fields are their annotations, as with ``dataclasses``.

``dataclasses`` writes and compiles the methods of each class at every start, and needs
``inspect``: that was half of the time in which the program started. Here the methods
are written once, for all classes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, dataclass_transform

#: A default for a field: all values share it.
EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass_transform(frozen_default=True)
class Value:
    """The base of values: they never change, and are equal if their fields are.

    A field with a default may be left out; a ``ClassVar`` is no field.
    """

    #: The fields, each with its default, or None if it has none.
    _fields: ClassVar[dict[str, Any]] = {}
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        names = [
            name
            for name, form in cls.__annotations__.items()
            if getattr(form, "__origin__", form) is not ClassVar
        ]
        given = {name: vars(cls)[name] for name in names if name in vars(cls)}
        cls._defaults = cls._defaults | given
        cls._fields = cls._fields | dict.fromkeys(names) | given

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = vars(self)
        fields.update(self._defaults)
        fields.update(zip(self._fields, values))
        fields.update(named)
        if fields.keys() != self._fields.keys() or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has the fields {[*self._fields]}")
        self._check()

    def _check(self) -> None:
        """Raise if the fields contradict each other; for classes to override."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of a {type(self).__name__} never changes")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of a {type(self).__name__} never changes")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(map(vars(self).get, self._fields)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={vars(self)[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"


#: With the class itself: to compile a text, as for ``bound="Value"``, takes long.
T = TypeVar("T", bound=Value)


def replace(value: T, /, **changes: Any) -> T:
    """Return a value with other values in some of its fields."""
    return type(value)(**{**vars(value), **changes})


def defaults_of(kind: type[Value]) -> dict[str, Any]:
    """Return the fields of a class, each with its default, or None if it has none."""
    return dict(kind._fields)
