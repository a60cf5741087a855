"""Shorthand overrides, expanded to the ones that Hydra parses."""

from __future__ import annotations


def expand_shorthand(argument: str) -> list[str]:
    """What users type, as Hydra spells it.

    `data_size=100` is `data_size.examples=100`, `rounds=2` is `rounds.count=2`: Hydra takes no number for an option. A
    size's option is named beside it: it takes the place of the sizes that an experiment sweeps.
    `evaluation.domain=finance` is the group `domain`, put where the scores look. `plan.force=true` is a key of its own,
    since `plan` is one.
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
    plain = [f"{size[:-1]}000" if size[:-1].isdigit() and size.endswith("k") else size for size in sizes]
    return ["data_size=default", f"data_size.examples={','.join(plain)}"]
