"""Validation of a composed config against the schema: the first violation is raised as one sentence."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from selfspec.config.paths import make_paths_absolute
from selfspec.config.schema import Config
from selfspec.config.schema_types import allowed_types, field_types, section_class, walk_values
from selfspec.errors import UserError, did_you_mean

OTHER_NAMES = {  # of fields, in other programs
    **{"rank": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"},
    **{"lr": "learning_rate", "num_epochs": "epochs", "num_train_epochs": "epochs"},
}


def validate(config: Config) -> Config:
    """The config with absolute paths and with the domain that its models are scored on."""
    config = make_paths_absolute(config)
    domain = config.evaluation.domain or config.domain
    evaluation = replace(config.evaluation, domain=replace(domain, seed_count=None))  # all seeds serve as shots
    return replace(config, evaluation=evaluation)


def check_unknown_keys(values: Any, schema: Any) -> None:
    """Refuse a key that the schema does not have: Hydra accepts `+lora.rr=4`.

    Args:
        values: Plain values of a config.
        schema: The dataclass that describes them.

    Raises:
        UserError: the first unknown key.
    """
    for key, value, hint in walk_values(values, schema):
        section = section_class(hint)
        if section is None or not isinstance(value, dict):
            continue
        allowed = field_types(section)
        for name in value:
            if name not in allowed:
                raise UserError(unknown_key_message(f"{key}.{name}".lstrip("."), allowed))


def unknown_key_message(key: str, allowed: Iterable[str]) -> str:
    """One sentence on a key that the schema does not have."""
    section, _, name = key.rpartition(".")
    known = OTHER_NAMES.get(name, "")
    suggestion = f"did you mean '{section}.{known}'? " if known in allowed else did_you_mean(name, allowed)
    return f"There is no key {key}; {suggestion}{section or 'the config'} has: {', '.join(sorted(allowed))}."


def check_values(values: Any, schema: Any) -> None:
    """Check plain values against the choices and bounds that the schema declares beside its fields.

    Args:
        values: Plain values of a config.
        schema: The dataclass that describes them.

    Raises:
        UserError: the first value that is not allowed, and what is.
    """
    for key, value, hint in walk_values(values, schema):
        for allowed in allowed_types(hint) if value is not None else ():
            origin, arguments = typing.get_origin(allowed), typing.get_args(allowed)
            if origin is Annotated:
                for bound in arguments[1:]:
                    _check_bound(value, bound, key)
            elif origin is Literal:
                _check_choice(value, arguments, key)


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
