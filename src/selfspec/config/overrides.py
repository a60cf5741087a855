"""Typed arguments: shorthand is expanded to overrides that Hydra parses, and overrides are put before the options."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from selfspec.errors import UserError

SINGLE_GROUPS = (  # groups of which a run has one option
    *("domain", "model", "quantization", "data_size", "lora", "prompts", "generation", "retrieval", "rounds", "engine"),
    *("objective", "tuning", "strategy", "evaluation", "logger", "experiment"),
)
COMBINED_GROUPS = ("benchmark", "callbacks", "debug", "trainer", "variant")  # a list of options is allowed
OPTIONS_WITH_VALUE = (
    *("--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    *("--cfg", "-c", "--experimental-rerun"),
)
OPTIONS_WITH_OPTIONAL_VALUE = ("--info", "-i")
NUMBER = re.compile(r"(?<![\w.])\d[\d_.]*(?!\w)")
THOUSANDS = re.compile(r"(?<!\w)([\d_]+)k\b")


def arrange_arguments(arguments: Iterable[str]) -> list[str]:
    """The overrides, expanded, and then the options: argparse accepts no overrides on both sides of `-m`.

    Raises:
        UserError: several options of a group that has one.
    """
    overrides: list[str] = []
    options: list[str] = []
    for previous, argument in itertools.pairwise(["", *arguments]):
        is_value = previous in OPTIONS_WITH_VALUE or (previous in OPTIONS_WITH_OPTIONAL_VALUE and "=" not in argument)
        if argument.startswith("-") or is_value:
            options.append(argument)
        else:
            overrides += expand_shorthand(argument)
    return [*overrides, *options]


def expand_shorthand(argument: str) -> list[str]:
    """The overrides of a typed argument, which may be a shorthand.

    Hydra accepts no number as an option, so `data_size=100` becomes `data_size.examples=100`, and `rounds=2` becomes
    `rounds.count=2`. The option `data_size=default` is added to replace the sizes that an experiment sweeps.
    `+variant=judge` becomes `variant=judge`, since the group is in the defaults list.
    `evaluation.domain=finance` places an option of the group `domain` at that key. `plan.force=true` becomes
    `force=true`, since `plan` is a single value.

    Raises:
        UserError: several options of a group that has one.
    """
    key, _, value = argument.partition("=")
    if key.startswith("+") and key.lstrip("+") in (*SINGLE_GROUPS, *COMBINED_GROUPS):
        key = key.lstrip("+")
    if key.split("@")[0] in SINGLE_GROUPS and value.startswith("["):
        raise UserError(
            f"{argument}: {key} has one option; choose one, or sweep them with -m {key}={value.strip('[]')}."
        )
    has_number = bool(NUMBER.search(value)) and not value.startswith("{")
    if key == "plan.force":
        return [f"force={value}"]
    if key == "evaluation.domain":
        return [f"+domain@evaluation.domain={value}"]
    if key == "rounds" and has_number:
        return [f"rounds.count={value}"]
    if key == "data_size" and has_number:
        numbers = THOUSANDS.sub(r"\g<1>000", value)
        return ["data_size=default", f"data_size.examples={numbers}"]
    if key in SINGLE_GROUPS and NUMBER.fullmatch(value):
        return [f"{key}='{value}'"]  # as a name, so that the message on it lists the options
    return [f"{key}={value}" if value else argument]
