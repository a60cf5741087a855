"""The stages of a config, in an order in which they can run. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest, file_hash, hash_files
from selfspec.config.schema import Config, RetrievalConfig
from selfspec.evaluation.harness import harness_identity
from selfspec.models.weights import weights_identity
from selfspec.pipeline.keys import key_values
from selfspec.pipeline.stage import VERSIONS, Files, Pipeline, Stage, _sections
from selfspec.prompts.templates import template_hash
from selfspec.retrieval.corpus import corpus_identity


def build_pipeline(config: Config) -> Pipeline:
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
            adapters["seeds_only"] = self._stage("adapter", "adapter (seeds only)", config, _seed_file(config))
        if config.baselines.generic and config.domain.name != config.general.name:
            adapters["generic"] = self._generic()
        adapters["specialized"] = rounds[-1][1]
        scores = self._scored("scores", config, adapters)
        off_domain = {}
        pair = {"specialized": adapters["specialized"]}
        expert = {config.domain.name, config.evaluation.domain.name if config.evaluation.domain else ""}
        if config.baselines.off_domain and config.general.name not in expert:
            elsewhere = replace(config.evaluation, domain=config.general, files=(), shot_files=(), sets={}, tasks=())
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
        examples = self._stage("examples", "examples", config, _generation_files(config), **parents)
        adapter = self._stage("adapter", "adapter (specialized)", config, _seed_file(config), examples=examples)
        rounds = [(examples, adapter)]
        for number in range(2, config.rounds.count + 1):
            previous = rounds[-1][1]
            told = f"(round {number})"
            examples = self._stage(
                "round_examples", f"examples {told}", config, _generation_files(config), adapter=previous, **parents
            )
            tuned = {"examples": examples, "previous": previous}
            rounds.append((examples, self._stage("adapter", f"adapter {told}", config, _seed_file(config), **tuned)))
        return rounds

    def _generic(self) -> Stage:
        """The recipe's first round from general seeds, without retrieval (paper, its preliminary baseline)."""
        config = replace(self.config, domain=self.config.general, retrieval=RetrievalConfig("none"))
        examples = self._stage("examples", "examples (generic)", config, _generation_files(config))
        return self._stage("adapter", "adapter (generic)", config, _seed_file(config), examples=examples)

    def _scored(self, what: str, config: Config, adapters: Mapping[str, Stage]) -> dict[str, Stage]:
        files = _evaluation_files(config)
        scores = {"base": self._stage("scores", f"{what} (base)", config, files)}
        for model, adapter in adapters.items():
            scores[model] = self._stage("scores", f"{what} ({model.replace('_', ' ')})", config, files, adapter=adapter)
        return scores

    def _stage(self, name: str, label: str, config: Config, files: Mapping[str, Files], **parents: Stage) -> Stage:
        known = self._known(config)
        taken = {section: known[section] for section in (*_sections(name), "weights", "prompts")}
        if name == "index":  # how many passages are shown is no business of it
            indexed = {n: value for n, value in taken["retrieval"].items() if n not in ("name", "passages")}
            taken = {**indexed, "corpus": corpus_identity(config.retrieval)}
        elif name == "harness":
            taken = {**taken, "evaluation": harness_identity(config.evaluation), "prompts": None}
        inputs = {n: self._hash(some) for n, some in files.items()}
        inputs |= {n: parent.key for n, parent in parents.items()}
        key = digest({"stage": name, "version": VERSIONS[name], "slice": taken, "inputs": inputs})
        made = Stage(name, label, key, config, taken, inputs, tuple(parents.values()), files)
        self.stages.append(made)
        return made

    def _known(self, config: Config) -> dict[str, Any]:
        if id(config) not in self.known:
            shared = {"weights": weights_identity(config.model), "prompts": template_hash()}
            self.known[id(config)] = {**key_values(config), **shared}
        return self.known[id(config)]

    def _hash(self, files: Files) -> str:
        if files not in self.hashes:
            self.hashes[files] = hash_files(files)
        return self.hashes[files]


def _seed_file(config: Config) -> dict[str, Files]:
    return {"seeds": Path(config.domain.seeds)}


def _generation_files(config: Config) -> dict[str, Files]:
    """What synthetic data is made from, and may not overlap with: files, each content once, wherever it lies."""
    by_content = {file_hash(path): path for path in map(Path, config.generation.contamination.against)}
    return {**_seed_file(config), "against": tuple(by_content[content] for content in sorted(by_content))}


def _evaluation_files(config: Config) -> dict[str, Files]:
    """Questions, and the seeds that are shown as shots."""
    evaluation = config.evaluation
    assert evaluation.domain is not None  # the door has filled it in
    questions = evaluation.files or (evaluation.domain.evaluation,)
    shots = {"shots": tuple(map(Path, evaluation.shot_files))} if evaluation.shot_files else {}
    return {"seeds": Path(evaluation.domain.seeds), "questions": tuple(map(Path, questions)), **shots}
