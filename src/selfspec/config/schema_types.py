"""The types in the schema: the types that one value may have, and the types of the entries of a section."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

field_types = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))


def allowed_types(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union without None, each type with bounds also without them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return (hint, *allowed_types(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        members = (argument for argument in arguments if argument is not types.NoneType)
        return tuple(allowed for member in members for allowed in allowed_types(member))
    return (hint,)


def section_class(hint: Any) -> Any:
    """The dataclass of a section, which may be optional; None if `hint` is no section."""
    return next((member for member in allowed_types(hint) if dataclasses.is_dataclass(member)), None)


def entry_type(hint: Any, name: Any) -> Any:
    """The type of one entry of a section, a dictionary or a list; None if the schema does not describe it."""
    if section := section_class(hint):
        return field_types(section).get(name)
    for member in allowed_types(hint):
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
        if typing.get_origin(member) is tuple:
            return typing.get_args(member)[0]
    return None


def walk_values(value: Any, hint: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value, type) of `value` and of all values in it that the schema describes, parents first.

    Args:
        value: Plain values of a config, or of a part of it: dictionaries, lists, numbers, texts.
        hint: The type that describes them.
        key: The key of that part.
    """
    yield key, value, hint
    if isinstance(value, dict):
        entries = [(f"{key}.{name}".lstrip("."), name, item) for name, item in value.items()]
    else:
        entries = [(f"{key}[{i}]", i, item) for i, item in enumerate(value)] if isinstance(value, list) else []
    for entry_key, name, item in entries:
        if (entry_hint := entry_type(hint, name)) is not None:
            yield from walk_values(item, entry_hint, entry_key)
