"""The stages of a config, in an order in which they can run, with their keys. Nothing heavy is imported.

Only what a stage declares (`runtime.stage`), with its version, enters its key: a stage cannot read what its key does
not contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from selfspec.config.hashing import Files, digest, file_hash, hash_files
from selfspec.config.keys import key_values
from selfspec.config.schema import Config, RetrievalConfig
from selfspec.models.weights import weights_identity
from selfspec.runtime.stage import Stage
from selfspec.stages.registry import STAGES


@dataclass(frozen=True)
class Pipeline:
    """The stages of a config, in an order in which they can run, and what each is for."""

    stages: tuple[Stage, ...]
    rounds: tuple[tuple[Stage, Stage], ...]  # (examples, adapter) of each round of self-specialization
    adapters: Mapping[str, Stage]  # by model: seeds_only, generic, specialized
    scores: Mapping[str, Stage]  # by model: base and the adapters
    off_domain: Mapping[str, Stage]  # scores of base and specialized on the general questions
    harness: Mapping[str, Stage]  # of base and specialized, on tasks of lm-evaluation-harness


def build_pipeline(config: Config) -> Pipeline:
    """The stages of one experiment."""
    return _Builder(config).pipeline()


@dataclass
class _Builder:
    """Collects the stages of one experiment."""

    config: Config
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Several stages share the same files: each is hashed once."""
        self.hash_files = cache(hash_files)

    def pipeline(self) -> Pipeline:
        config = self.config
        harness = {}
        if config.evaluation.tasks:  # first, since only this stage finds a wrong task name
            harness["base"] = self._stage("harness", "lm_eval (base)", config, {})
        rounds = self._rounds()
        adapters = {}
        if config.baselines.seeds_only:
            adapters["seeds_only"] = self._stage("adapter", "adapter (seeds only)", config, _seed_file(config))
        if config.baselines.generic and config.domain.name != config.general.name:
            adapters["generic"] = self._generic()
        adapters["specialized"] = rounds[-1][1]
        scores = self._score_models("scores", config, adapters)
        off_domain = {}
        pair = {"specialized": adapters["specialized"]}
        expert = {config.domain.name, config.evaluation.domain.name if config.evaluation.domain else ""}
        if config.baselines.off_domain and config.general.name not in expert:
            elsewhere = replace(config.evaluation, domain=config.general, files=(), shot_files=(), sets={}, tasks=())
            off_domain = self._score_models("off-domain scores", replace(config, evaluation=elsewhere), pair)
        if harness:
            specialized = adapters["specialized"]
            harness["specialized"] = self._stage(
                "harness", "lm_eval (specialized)", config, {}, {"adapter": specialized}
            )
        return Pipeline(tuple(self.stages), tuple(rounds), adapters, scores, off_domain, harness)

    def _rounds(self) -> list[tuple[Stage, Stage]]:
        """The base writes, answers, and is tuned; then, round by round, the specialized model answers."""
        config = self.config
        parents = {}
        if config.retrieval.name != "none":
            parents["index"] = self._stage("index", "index", config, {})
        examples = self._stage("examples", "examples", config, _generation_files(config), parents)
        adapter = self._stage("adapter", "adapter (specialized)", config, _seed_file(config), {"examples": examples})
        rounds = [(examples, adapter)]
        for number in range(2, config.rounds.count + 1):
            previous = rounds[-1][1]
            note = f"(round {number})"
            new = number if config.rounds.instructions == "new" else 1
            examples = self._stage(
                "round_examples",
                f"examples {note}",
                config,
                _generation_files(config),
                {"adapter": previous, **parents},
                new,
            )
            inputs = {"examples": examples, "previous": previous}
            rounds.append((examples, self._stage("adapter", f"adapter {note}", config, _seed_file(config), inputs)))
        return rounds

    def _generic(self) -> Stage:
        """The first round of the recipe from general seeds, without retrieval (the paper's preliminary baseline)."""
        config = replace(self.config, domain=self.config.general, retrieval=RetrievalConfig("none"))
        examples = self._stage("examples", "examples (generic)", config, _generation_files(config))
        return self._stage("adapter", "adapter (generic)", config, _seed_file(config), {"examples": examples})

    def _score_models(self, label: str, config: Config, adapters: Mapping[str, Stage]) -> dict[str, Stage]:
        files = _evaluation_files(config)
        scores = {"base": self._stage("scores", f"{label} (base)", config, files)}
        for model, adapter in adapters.items():
            scores[model] = self._stage(
                "scores", f"{label} ({model.replace('_', ' ')})", config, files, {"adapter": adapter}
            )
        return scores

    def _stage(
        self,
        name: str,
        label: str,
        config: Config,
        files: Mapping[str, Files],
        parents: Mapping[str, Stage] | None = None,
        round_number: int = 1,
    ) -> Stage:
        definition, parents = STAGES[name], parents or {}
        values = {section: key_values(getattr(config, section)) for section in definition.sections}
        if "model" in values:
            values["weights"] = weights_identity(config.model)
        if round_number > 1:  # new instructions: this round draws other numbers
            values["round"] = round_number
        if definition.identity:
            values |= definition.identity(config)
        inputs = {name: self.hash_files(paths) for name, paths in files.items()}
        inputs |= {name: parent.key for name, parent in parents.items()}
        key = digest({"stage": name, "version": definition.version, "values": values, "inputs": inputs})
        stage = Stage(definition, label, key, config, values, inputs, tuple(parents.values()), files)
        self.stages.append(stage)
        return stage


def _seed_file(config: Config) -> dict[str, Files]:
    return {"seeds": Path(config.domain.seeds)}


def _generation_files(config: Config) -> dict[str, Files]:
    """The seeds, and the questions that synthetic data must not overlap with: each content once."""
    by_content = {file_hash(path): path for path in map(Path, config.generation.contamination.against)}
    return {**_seed_file(config), "against": tuple(by_content[content] for content in sorted(by_content))}


def _evaluation_files(config: Config) -> dict[str, Files]:
    """The questions, and the files that shots are drawn from."""
    evaluation = config.evaluation
    assert evaluation.domain is not None  # set by validation
    questions = evaluation.files or (evaluation.domain.evaluation,)
    shots = {"shots": tuple(map(Path, evaluation.shot_files))} if evaluation.shot_files else {}
    return {"seeds": Path(evaluation.domain.seeds), "questions": tuple(map(Path, questions)), **shots}
