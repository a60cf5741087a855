"""Values of a config that enter a key."""

from __future__ import annotations

import dataclasses
from typing import Any


def key_values(value: Any) -> Any:
    """`value` as plain data, without its runtime fields: what enters a stage's key."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [item for item in dataclasses.fields(value) if not item.metadata.get("runtime")]
        return {item.name: key_values(getattr(value, item.name)) for item in fields}
    if isinstance(value, dict):
        return {name: key_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [key_values(item) for item in value]
    return value
