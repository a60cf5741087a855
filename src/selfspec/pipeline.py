"""Which stages a config needs, in order, and their keys. Nothing heavy is imported, no model is touched.

A stage is a function in `selfspec.stages`, of sections of the config and of inputs. Its signature says which: a
parameter named like a section gets that section, one named like an input gets that input's path. Just these, with
the stage's version, enter its key, so a stage can't read what its key does not know.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

from selfspec import prompts
from selfspec.config import Config, keyed
from selfspec.models import weights
from selfspec.store import digest, file_hash

VERSIONS = {"examples": 1, "adapter": 1, "scores": 1}  # raise one when what its stage makes changes
DISTRIBUTED = ("adapter",)  # stages that several processes share; the others take one device
POOL_VERSIONS = {"instructions": 1, "responses": 1}


@dataclass(frozen=True)
class Stage:
    """One node of the graph."""

    name: str  # the function in selfspec.stages
    label: str  # for people: "adapter (seeds only)"
    key: str
    slice: Mapping[str, Any]  # what of the config can change the result
    inputs: Mapping[str, str]  # input -> key of its stage, or hash of its file
    parents: tuple[Stage, ...]
    files: Mapping[str, Path]  # inputs that are files of the user


@dataclass(frozen=True)
class Pipeline:
    """A config's stages, in an order in which they can run."""

    examples: Stage
    adapters: Mapping[str, Stage]  # by model: seeds_only, specialized
    scores: Mapping[str, Stage]  # by model: base, seeds_only, specialized

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, parents first."""
        return (self.examples, *self.adapters.values(), *self.scores.values())


def build(config: Config) -> Pipeline:
    """The stages of one experiment."""
    seeds = {"seeds": Path(config.domain.seeds)}
    questions = {**seeds, "questions": Path(config.domain.evaluation)}
    # What all stages share is hashed once.
    known = {**keyed(config), "weights": weights.identity(config.model), "prompts": prompts.template_hash()}
    stage = partial(_stage, known, {path: file_hash(path) for path in questions.values()})
    examples = stage("examples", "examples", seeds)
    adapters = {}
    if config.baselines.seeds_only:
        adapters["seeds_only"] = stage("adapter", "adapter (seeds only)", seeds)
    adapters["specialized"] = stage("adapter", "adapter (specialized)", seeds, examples=examples)
    scores = {"base": stage("scores", "scores (base)", questions)}
    for model, adapter in adapters.items():
        scores[model] = stage("scores", f"scores ({model.replace('_', ' ')})", questions, adapter=adapter)
    return Pipeline(examples, adapters, scores)


def pool_keys(config: Mapping[str, Any], seeds_hash: str) -> tuple[str, str]:
    """Keys of the pool of instructions and of the pool of responses.

    Args:
        config: The slice of the stage `examples`.
        seeds_hash: sha256 of the seeds file.
    """
    generation = config["generation"]
    shared = {name: config[name] for name in ("domain", "engine", "model", "seed", "weights", "prompts")}
    instructions = {
        **shared,
        "version": POOL_VERSIONS["instructions"],
        "instructions": generation["instructions"],
        "seeds": seeds_hash,
    }
    first = digest(instructions)
    filters = {name: value for name, value in generation["filters"].items() if name != "answer"}
    responses = {
        "version": POOL_VERSIONS["responses"],
        "instructions": first,
        "filters": filters,
        "responses": generation["responses"],
    }
    return first, digest(responses)


def function(stage_name: str) -> Callable[..., dict[str, Any]]:
    """The function of a stage."""
    module = importlib.import_module(f"selfspec.stages.{stage_name}")
    return getattr(module, stage_name)  # type: ignore[no-any-return]


def sections(config: Config, stage_name: str) -> dict[str, Any]:
    """The sections of the config that a stage's signature asks for."""
    return {name: getattr(config, name) for name in _asked(stage_name)}


@cache
def _asked(stage_name: str) -> tuple[str, ...]:
    """Names of the sections in a stage's signature."""
    names = {item.name for item in fields(Config)} & set(inspect.signature(function(stage_name)).parameters)
    return tuple(sorted(names))


def _stage(
    known: Mapping[str, Any],
    hashes: Mapping[Path, str],
    name: str,
    label: str,
    files: Mapping[str, Path],
    **parents: Stage,
) -> Stage:
    taken = {section: known[section] for section in (*_asked(name), "weights", "prompts")}
    inputs = {**{n: hashes[p] for n, p in files.items()}, **{n: parent.key for n, parent in parents.items()}}
    key = digest({"stage": name, "version": VERSIONS[name], "slice": taken, "inputs": inputs})
    return Stage(name, label, key, taken, inputs, tuple(parents.values()), files)
