"""Shorthand overrides, expanded to overrides that Hydra parses."""

from __future__ import annotations


def expand_shorthand(argument: str) -> list[str]:
    """The overrides of a typed argument, which may be a shorthand.

    Hydra accepts no number as an option, so `data_size=100` becomes `data_size.examples=100`, and `rounds=2` becomes
    `rounds.count=2`. The option `data_size=default` is added to replace the sizes that an experiment sweeps.
    `evaluation.domain=finance` places an option of the group `domain` at that key. `plan.force=true` becomes
    `force=true`, since `plan` is a single value.
    """
    group, _, values = argument.partition("=")
    sizes = values.split(",")
    if group == "plan.force":
        return [f"force={values}"]
    if group == "evaluation.domain":
        return [f"+domain@evaluation.domain={values}"]
    if group == "rounds" and all(size.isdigit() for size in sizes):
        return [f"rounds.count={values}"]
    if group != "data_size" or not any(size.isdigit() for size in sizes):
        return [argument]
    numbers = [f"{size[:-1]}000" if size[:-1].isdigit() and size.endswith("k") else size for size in sizes]
    return ["data_size=default", f"data_size.examples={','.join(numbers)}"]
