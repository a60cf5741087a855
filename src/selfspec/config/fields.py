"""How a field of the schema is declared: its bounds, and whether it enters a key.

Bounds are metadata of `annotated_types`, choices are `Literal`. `validation` reads both from the schema.
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
PositiveFraction = Annotated[float, Gt(0), Le(1)]


def runtime_field(default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that can't change the result of a stage, such as a path or a device: it is in no key."""
    return field(default=default, metadata={"runtime": True})
