"""Filters of the user's own: classes that `generation.filters.extra` names by `_target_`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from selfspec.config.targets import build_target, find_target
from selfspec.errors import UserError
from selfspec.filters.context import FilterContext
from selfspec.filters.protocol import PHASES, Filter

KEY = "generation.filters.extra"

Spec = Mapping[str, Any]  # {_target_: package.module.Class, argument: value}


def check_custom_filters(specs: Sequence[Spec]) -> None:
    """Check that each filter can be imported, has what a filter must have, and takes its arguments.

    Raises:
        UserError: The first that does not.
    """
    for place, spec in enumerate(specs):
        key = f"{KEY}[{place}]"
        target = find_target(key, spec)
        if reason := _missing_part(target) or _wrong_arguments(target, spec):
            raise UserError(f"{key}: {spec['_target_']} {reason}.")


def build_custom_filters(specs: Sequence[Spec], context: FilterContext, used_names: Iterable[str]) -> dict[str, Filter]:
    """The user's filters by name, in the given order; a name that another filter has gets a number.

    Raises:
        UserError: One can't be imported or created.
    """
    filters: dict[str, Filter] = {}
    used = set(used_names)
    for place, spec in enumerate(specs):
        key = f"{KEY}[{place}]"
        built = build_target(key, spec, **context.select(find_target(key, spec)))
        name = filter_name(built)
        number = next(n for n in range(1, len(used) + 2) if _numbered(name, n) not in used)
        filters[_numbered(name, number)] = built
        used.add(_numbered(name, number))
    return filters


def filter_name(custom: Filter) -> str:
    """The filter's attribute `name`, else its class name in snake case."""
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(custom).__name__).lower()
    return str(getattr(custom, "name", snake_case))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _missing_part(target: Any) -> str:
    if not inspect.isclass(target):
        return "is not a class; name a class with an attribute phase and a method check"
    if getattr(target, "phase", None) not in PHASES:
        return 'needs an attribute phase = "task" (runs before the answer) or phase = "answer" (runs after it)'
    if not callable(getattr(target, "check", None)):
        return "needs a method check(self, candidate) that returns a reason, or an empty string"
    allowed = [item.name for item in fields(FilterContext)]
    if unknown := sorted(set(getattr(target, "needs", ())) - set(allowed)):
        return f"needs {unknown[0]!r}, which is none of {', '.join(allowed)}"
    return ""


def _wrong_arguments(target: Any, spec: Spec) -> str:
    arguments = {str(name): value for name, value in spec.items() if not str(name).startswith("_")}
    try:
        inspect.signature(target).bind(**arguments, **dict.fromkeys(getattr(target, "needs", ())))
    except TypeError as error:
        return f"can't be created ({error}); check its arguments"
    return ""
