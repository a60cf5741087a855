"""Keys of the pools that a generation stage draws from: each depends on the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfspec.config.hashing import digest
from selfspec.pipeline.stage import Stage

POOL_VERSIONS = {"instructions": 3, "responses": 2, "votes": 4, "judgements": 3}


def pool_keys(stage: Stage) -> dict[str, str]:
    """Keys of the pools that a stage `examples` or `iteration` draws from, by name: each depends on the one before."""
    return pool_keys_from(stage.slice, stage.inputs)


def pool_keys_from(config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """The same from the slice of the config and the inputs, as a manifest has them."""
    generation = config["generation"]
    filters = dict(generation["filters"])
    of_answers = {name: filters.pop(name) for name in ("answer", "self_consistency", "judge", "balance")}
    first = {name: config[name] for name in ("domain", "engine", "model", "seed", "weights", "prompts")}
    first |= {name: generation[name] for name in ("instructions", "demonstrations")}
    first["seeds"] = inputs["seeds"]
    rounds = dict(config.get("rounds", {}))
    if rounds.get("decoding", "plain") == "plain":
        rounds = {name: value for name, value in rounds.items() if name not in ("contrast", "plausible")}
    if rounds.get("instructions") == "new":
        first["round"] = inputs["adapter"]
    answered = {
        "filters": filters,
        "contamination": generation["contamination"],
        "responses": generation["responses"],
        "rounds": rounds,
        "retrieval": config["retrieval"],
        **{name: inputs.get(name) for name in ("against", "index", "adapter")},
    }
    steps = {
        "instructions": first,
        "responses": answered,
        "votes": {"answer": of_answers["answer"], "self_consistency": generation["self_consistency"]},
        "judgements": {"voted": of_answers["self_consistency"], "judge": generation["judge"]},
    }
    keys: dict[str, str] = {}
    for name, own in steps.items():
        keys[name] = digest({"version": POOL_VERSIONS[name], **own, "before": list(keys.values())[-1:]})
    return keys
