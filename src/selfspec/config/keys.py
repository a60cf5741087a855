"""Values of a config that enter a key."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfspec.config.targets import source_hash


def key_values(value: Any) -> Any:
    """`value` as plain data that identifies a result.

    Left out are runtime fields, and fields that have their default: a field that is added with a default that keeps
    the old behaviour leaves every key as it was. A field whose default changes later names the first one in its
    metadata (`key_default`). An object named by `_target_` is identified by its arguments and its source file.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value) if _is_in_key(item, value)]
        return _with_source({name: key_values(getattr(value, name)) for name in names})
    if isinstance(value, dict):
        return _with_source({str(name): key_values(item) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return [key_values(item) for item in value]
    return value


def _with_source(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "source": source_hash(values)} if values.get("_target_") else values


def _is_in_key(item: dataclasses.Field[Any], owner: Any) -> bool:
    if item.metadata.get("runtime"):
        return False
    factory: Any = item.default_factory
    default = item.default if factory is dataclasses.MISSING else factory()
    default = item.metadata.get("key_default", default)
    return default is dataclasses.MISSING or getattr(owner, item.name) != default
