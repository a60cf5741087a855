"""How a field of the schema is declared."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any


def runtime_field(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that can't change what a stage makes, and so stays out of its key."""
    return field(default=default, metadata={"runtime": True})
