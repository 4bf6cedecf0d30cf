"""JSON into frozen records: every field of exactly its type, and no other field.

A robot opens a bundle at every start. Pydantic, which reads everything else here, takes a quarter of that time.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


class MisreadError(Exception):
    """A field that is not what it should be: where, in dots, and why."""

    def __init__(self, place: tuple[str, ...], why: str) -> None:
        super().__init__(f"{'.'.join(place) or 'the whole'}: {why}")


def read(kind: type[Record], value: Any, place: tuple[str, ...] = ()) -> Record:
    """Return a dataclass of an object that JSON held; raises MisreadError for the first field that is wrong.

    Fields may be dataclasses, numbers, strings, truth values, literals, `tuple[X, ...]`, `dict[str, X]` and `X | None`.
    A whole number will do where a float is wanted; nothing else is converted.
    """
    given, hints = _of_type(dict, value, place), _hints(kind)
    for name in given:
        if name not in hints:
            raise MisreadError((*place, name), "no such field")
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise MisreadError((*place, field.name), "missing")
    return kind(**{name: _value(hints[name], each, (*place, name)) for name, each in given.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    found = get_type_hints(kind)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def _value(kind: Any, value: Any, place: tuple[str, ...]) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is tuple:
        return tuple(_value(inside[0], each, (*place, str(at))) for at, each in enumerate(_of_type(list, value, place)))
    if origin is dict:
        return {name: _value(inside[1], each, (*place, name)) for name, each in _of_type(dict, value, place).items()}
    if origin is Literal:
        if value not in inside:
            raise MisreadError(place, f"{value!r} is none of {', '.join(inside)}")
        return value
    if origin in (Union, UnionType):
        (other,) = (each for each in inside if each is not NoneType)
        return None if value is None else _value(other, value, place)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return read(kind, value, place)
    return _of_type(kind, float(value) if kind is float and _is_exact(value) else value, place)


def _is_exact(value: Any) -> bool:
    """Whether this is a whole number that a float can hold."""
    return type(value) is int and abs(value) <= 2**53


def _of_type(kind: type, value: Any, place: tuple[str, ...]) -> Any:
    # Not isinstance: true is an int to Python.
    if type(value) is not kind:
        raise MisreadError(place, f"{type(value).__name__} where {kind.__name__} is expected")
    return value
