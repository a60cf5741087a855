"""Which stages a config needs, in order, and their keys. Nothing heavy is imported, no model is touched.

A stage is a function in `selfspec.stages`, of sections of the config and of inputs. Its signature says which: a
parameter named like a section gets that section, one named like an input gets that input's path (a tuple of them where
an input is several files). Just these, with the stage's version, enter its key, so a stage can't read what its key
does not know.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from selfspec import prompts
from selfspec.config import Config, RetrievalConfig, keyed
from selfspec.models import weights
from selfspec.retrieval import corpus
from selfspec.scoring import harness
from selfspec.store import digest, file_hash

# Raise one when what its stage makes changes.
VERSIONS = {"index": 1, "examples": 5, "iteration": 4, "adapter": 4, "scores": 3, "harness": 3}
DISTRIBUTED = ("examples", "iteration", "adapter", "scores")  # several processes share them; others take one device
POOL_VERSIONS = {"instructions": 3, "responses": 2, "votes": 4, "judgements": 3}
Files = Path | tuple[Path, ...]


@dataclass(frozen=True)
class Stage:
    """One node of the graph."""

    name: str  # the function in selfspec.stages
    label: str  # for people: "adapter (seeds only)"
    key: str
    config: Config  # which its sections are of: a baseline's differs from the experiment's
    slice: Mapping[str, Any]  # what of the config can change the result
    inputs: Mapping[str, str]  # input -> key of its stage, or hash of its files
    parents: tuple[Stage, ...]
    files: Mapping[str, Files]  # inputs that are files of the user


@dataclass(frozen=True)
class Pipeline:
    """A config's stages, in an order in which they can run, and what each is for."""

    stages: tuple[Stage, ...]
    rounds: tuple[tuple[Stage, Stage], ...]  # (examples, adapter) of each round of self-specialization
    adapters: Mapping[str, Stage]  # by model: seeds_only, generic, specialized
    scores: Mapping[str, Stage]  # by model: base and the adapters
    off_domain: Mapping[str, Stage]  # scores of base and specialized on the general questions
    harness: Mapping[str, Stage]  # of base and specialized, on tasks of lm-evaluation-harness


def build(config: Config) -> Pipeline:
    """The stages of one experiment."""
    return _Builder(config).pipeline()


@dataclass
class _Builder:
    """Stages in the making."""

    config: Config
    stages: list[Stage] = field(default_factory=list)
    known: dict[int, dict[str, Any]] = field(default_factory=dict)  # by config: what may enter a key
    hashes: dict[Files, str] = field(default_factory=dict)

    def pipeline(self) -> Pipeline:
        config = self.config
        harnessed = {}
        if config.evaluation.tasks:  # first of all, since a name that is wrong is only told there
            harnessed["base"] = self._stage("harness", "lm_eval (base)", config, {})
        rounds = self._rounds()
        adapters = {}
        if config.baselines.seeds_only:
            adapters["seeds_only"] = self._stage("adapter", "adapter (seeds only)", config, _seeds(config))
        if config.baselines.generic and config.domain.name != config.general.name:
            adapters["generic"] = self._generic()
        adapters["specialized"] = rounds[-1][1]
        scores = self._scored("scores", config, adapters)
        off_domain = {}
        pair = {"specialized": adapters["specialized"]}
        expert = {config.domain.name, config.evaluation.domain.name if config.evaluation.domain else ""}
        if config.baselines.off_domain and config.general.name not in expert:
            elsewhere = replace(config.evaluation, domain=config.general, files=(), shown=(), sets={}, tasks=())
            off_domain = self._scored("off-domain scores", replace(config, evaluation=elsewhere), pair)
        if harnessed:
            tuned = {"adapter": adapters["specialized"]}
            harnessed["specialized"] = self._stage("harness", "lm_eval (specialized)", config, {}, **tuned)
        return Pipeline(tuple(self.stages), tuple(rounds), adapters, scores, off_domain, harnessed)

    def _rounds(self) -> list[tuple[Stage, Stage]]:
        """The base writes, answers, and is tuned; then, round by round, the specialized model answers."""
        config = self.config
        parents = {}
        if config.retrieval.name != "none":
            parents["index"] = self._stage("index", "index", config, {})
        examples = self._stage("examples", "examples", config, _written(config), **parents)
        adapter = self._stage("adapter", "adapter (specialized)", config, _seeds(config), examples=examples)
        rounds = [(examples, adapter)]
        for number in range(2, config.rounds.count + 1):
            previous = rounds[-1][1]
            told = f"(round {number})"
            examples = self._stage(
                "iteration", f"examples {told}", config, _written(config), adapter=previous, **parents
            )
            tuned = {"examples": examples, "previous": previous}
            rounds.append((examples, self._stage("adapter", f"adapter {told}", config, _seeds(config), **tuned)))
        return rounds

    def _generic(self) -> Stage:
        """The recipe's first round from general seeds, without retrieval (paper, its preliminary baseline)."""
        config = replace(self.config, domain=self.config.general, retrieval=RetrievalConfig("none"))
        examples = self._stage("examples", "examples (generic)", config, _written(config))
        return self._stage("adapter", "adapter (generic)", config, _seeds(config), examples=examples)

    def _scored(self, what: str, config: Config, adapters: Mapping[str, Stage]) -> dict[str, Stage]:
        files = _asked_files(config)
        scores = {"base": self._stage("scores", f"{what} (base)", config, files)}
        for model, adapter in adapters.items():
            scores[model] = self._stage("scores", f"{what} ({model.replace('_', ' ')})", config, files, adapter=adapter)
        return scores

    def _stage(self, name: str, label: str, config: Config, files: Mapping[str, Files], **parents: Stage) -> Stage:
        known = self._known(config)
        taken = {section: known[section] for section in (*_sections(name), "weights", "prompts")}
        if name == "index":  # how many passages are shown is no business of it
            indexed = {n: value for n, value in taken["retrieval"].items() if n not in ("name", "passages")}
            taken = {**indexed, "corpus": corpus.identity(config.retrieval)}
        elif name == "harness":
            taken = {**taken, "evaluation": harness.identity(config.evaluation), "prompts": None}
        inputs = {n: self._hash(some) for n, some in files.items()}
        inputs |= {n: parent.key for n, parent in parents.items()}
        key = digest({"stage": name, "version": VERSIONS[name], "slice": taken, "inputs": inputs})
        made = Stage(name, label, key, config, taken, inputs, tuple(parents.values()), files)
        self.stages.append(made)
        return made

    def _known(self, config: Config) -> dict[str, Any]:
        if id(config) not in self.known:
            shared = {"weights": weights.identity(config.model), "prompts": prompts.template_hash()}
            self.known[id(config)] = {**keyed(config), **shared}
        return self.known[id(config)]

    def _hash(self, files: Files) -> str:
        if files not in self.hashes:
            self.hashes[files] = hashed(files)
        return self.hashes[files]


def pool_keys(stage: Stage) -> dict[str, str]:
    """Keys of the pools that a stage `examples` or `iteration` draws from, by name: each depends on the one before."""
    return pools_of(stage.slice, stage.inputs)


def pools_of(config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """The same from the slice of the config and the inputs, as a manifest has them."""
    generation = config["generation"]
    filters = dict(generation["filters"])
    of_answers = {name: filters.pop(name) for name in ("answer", "self_consistency", "judge", "balance")}
    first = {name: config[name] for name in ("domain", "engine", "model", "seed", "weights", "prompts")}
    first |= {name: generation[name] for name in ("instructions", "demonstrations")}
    first["seeds"] = inputs["seeds"]
    rounds = dict(config.get("rounds", {}))
    if rounds.get("decoding") == "plain":
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


def hashed(files: Files) -> str:
    """What a file of the user, or several, count by: their contents."""
    return file_hash(files) if isinstance(files, Path) else digest([file_hash(path) for path in files])


def function(stage_name: str) -> Callable[..., dict[str, Any]]:
    """The function of a stage."""
    module = importlib.import_module(f"selfspec.stages.{stage_name}")
    return getattr(module, stage_name)  # type: ignore[no-any-return]


def sections(stage: Stage) -> dict[str, Any]:
    """The sections of its config that a stage's signature asks for."""
    return {name: getattr(stage.config, name) for name in _sections(stage.name)}


@cache
def _sections(stage_name: str) -> tuple[str, ...]:
    """Names of the sections in a stage's signature."""
    names = {item.name for item in fields(Config)} & set(inspect.signature(function(stage_name)).parameters)
    return tuple(sorted(names))


def _seeds(config: Config) -> dict[str, Files]:
    return {"seeds": Path(config.domain.seeds)}


def _written(config: Config) -> dict[str, Files]:
    """What synthetic data is made from, and may not overlap with: files, each content once, wherever it lies."""
    by_content = {file_hash(path): path for path in map(Path, config.generation.contamination.against)}
    return {**_seeds(config), "against": tuple(by_content[content] for content in sorted(by_content))}


def _asked_files(config: Config) -> dict[str, Files]:
    """Questions, and the seeds that are shown as shots."""
    evaluation = config.evaluation
    assert evaluation.domain is not None  # the door has filled it in
    questions = evaluation.files or (evaluation.domain.evaluation,)
    shots = {"shots": tuple(map(Path, evaluation.shown))} if evaluation.shown else {}
    return {"seeds": Path(evaluation.domain.seeds), "questions": tuple(map(Path, questions)), **shots}
