"""Validation of a composed config against the schema: the first violation is raised as one sentence."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from selfspec.config.paths import make_paths_absolute
from selfspec.config.schema import Config
from selfspec.errors import UserError, did_you_mean


def validate(config: Config) -> Config:
    """The config with absolute paths and with the domain that its models are scored on."""
    config = make_paths_absolute(config)
    domain = config.evaluation.domain or config.domain
    evaluation = replace(config.evaluation, domain=replace(domain, seed_count=None))  # all seeds serve as shots
    return replace(config, evaluation=evaluation)


def check_unknown_keys(values: Any, schema: Any, path: str = "") -> None:
    """Refuse a key that the schema does not have: Hydra accepts `+lora.rr=4`.

    Args:
        values: Plain values of a config, or of a part of it.
        schema: The dataclass, or the type, that describes them.
        path: The key of that part, with a dot behind it.

    Raises:
        UserError: the first unknown key.
    """
    if not dataclasses.is_dataclass(schema) or not isinstance(values, dict):
        return
    hints = typing.get_type_hints(schema)
    for name, value in values.items():
        if name not in hints:
            raise UserError(unknown_key_message(f"{path}{name}", hints))
        check_unknown_keys(value, hints[name], f"{path}{name}.")


def unknown_key_message(key: str, allowed: Iterable[str]) -> str:
    """One sentence on a key that the schema does not have."""
    section, _, name = key.rpartition(".")
    return (
        f"There is no key {key}; {did_you_mean(name, allowed)}{section or 'the config'} has: "
        f"{', '.join(sorted(allowed))}."
    )


def check_values(values: Any, schema: Any, key: str = "") -> None:
    """Check plain values against the choices and bounds that the schema declares beside its fields.

    Args:
        values: Plain values of a config, or of a part of it: dictionaries, lists, numbers, texts.
        schema: The dataclass, or the type, that describes them.
        key: The key of that part, for messages.

    Raises:
        UserError: the first value that is not allowed, and what is.
    """
    if values is None:
        return
    if dataclasses.is_dataclass(schema):
        for name, hint in typing.get_type_hints(schema, include_extras=True).items():
            if name in values:
                check_values(values[name], hint, f"{key}.{name}".lstrip("."))
        return
    origin, arguments = typing.get_origin(schema), typing.get_args(schema)
    if origin is Annotated:
        check_values(values, arguments[0], key)
        for bound in arguments[1:]:
            _check_bound(values, bound, key)
    elif origin in (types.UnionType, typing.Union):  # `X | None` is the only union in the schema
        check_values(values, arguments[0], key)
    elif origin is Literal:
        _check_choice(values, arguments, key)
    elif origin is dict:
        for name, value in values.items():
            check_values(value, arguments[1], f"{key}.{name}")
    elif origin is tuple:
        for index, value in enumerate(values):
            check_values(value, arguments[0], f"{key}[{index}]")


def _check_choice(value: Any, choices: Sequence[str], key: str) -> None:
    if value not in choices:
        suggestion = did_you_mean(str(value), choices)
        raise UserError(f"{key}={value} is none of {', '.join(choices)}; {suggestion}choose one.")


def _check_bound(value: Any, bound: Any, key: str) -> None:
    match bound:
        case Ge(ge=least):
            is_allowed, requirement = value >= least, f"be at least {least}"
        case Gt(gt=limit):
            is_allowed, requirement = value > limit, f"be more than {limit}"
        case Le(le=most):
            is_allowed, requirement = value <= most, f"be at most {most}"
        case MinLen(min_length=length):
            is_allowed, requirement = len(value) >= length, f"have at least {length} value"
        case _:
            raise TypeError(f"{key} has a bound that is not known: {bound}")
    if not is_allowed:
        raise UserError(f"{key}={value} must {requirement}.")
