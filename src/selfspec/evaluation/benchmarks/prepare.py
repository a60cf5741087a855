"""Public sets as files of questions and few-shot examples: made once, kept in the cache, told when they are missing."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest
from selfspec.config.keys import key_values
from selfspec.config.schema import BenchmarkConfig, EvaluationConfig, TaskType
from selfspec.data.jsonl import write_jsonl
from selfspec.data.records import KINDS, Question, Seed
from selfspec.errors import UserError, did_you_mean
from selfspec.evaluation.benchmarks.rows import ROW_FORMS, BadRow, few_shot_example, questions_from_rows
from selfspec.evaluation.benchmarks.sources import SourceMissing, SplitMissing, read_split, source_identity
from selfspec.evaluation.primary_metrics import check_metric
from selfspec.runtime.files import explain_disk_errors

READER = 1  # version of `sources` and `rows`: raised when they make other questions of the same rows


SHOTS_FILE = 200  # rows of the few-shot split that are looked at


TOLERATED = 0.01  # share of rows that may not fit the schema: left out, and told


@dataclass(frozen=True)
class PreparedBenchmark:
    """A set that can be asked: files in the forms of `records`."""

    name: str
    folder: Path
    config: BenchmarkConfig

    @property
    def questions(self) -> Path:
        """Evaluation questions, in the published order."""
        return self.folder / "questions.jsonl"

    @property
    def shots(self) -> Path | None:
        """Few-shot examples, or None: then they come from the seeds."""
        return self.folder / "shots.jsonl" if self.facts["shots"] else None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Counts: rows, questions, shots, and what was wrong with rows."""
        return dict(json.loads((self.folder / "facts.json").read_text(encoding="utf-8")))

    def notes(self) -> list[str]:
        """What a reader of the scores should know."""
        told = []
        if self.config.rows is not None and self.facts["rows"] != self.config.rows:
            told.append(
                f"The set {self.name} has {self.facts['rows']} rows, and {self.config.rows} were published: its scores "
                "can't be held against others'."
            )
        if self.facts["bad"]:
            told.append(f"{self.facts['bad']} rows of the set {self.name} are left out: {self.facts['first_bad']}.")
        if self.config.shots_split and not self.shots:
            told.append(f"The set {self.name} has no rows for few-shot examples; they come from the seeds.")
        return told


def task_types(sets: Mapping[str, BenchmarkConfig]) -> dict[str, TaskType]:
    """A task type a set, as the readers of `records` want them."""
    return {name: TaskType(config.kind, name) for name, config in sets.items()}


def prepare_benchmarks(config: EvaluationConfig, domain: str, cache: Path) -> tuple[list[PreparedBenchmark], list[str]]:
    """(the sets of a domain, what is to be told of them). Missing ones are told, and the others go on.

    Raises:
        UserError: no set is at hand, or one that is at hand can't be used.
    """
    mine = {name: item for name, item in config.sets.items() if item.domain == domain}
    if config.sets and not mine:
        known = sorted({item.domain for item in config.sets.values()})
        raise UserError(
            f"No set of evaluation={config.name} is of the domain {domain}; "
            f"{did_you_mean(domain, known)}there are sets of {', '.join(known)}."
        )
    found, told = list[PreparedBenchmark](), list[str]()
    for name, item in mine.items():
        try:
            found.append(prepare_benchmark(name, item, cache))
            told += found[-1].notes()
        except SourceMissing as error:
            told.append(str(error))
    if mine and not found:
        raise UserError(f"None of the sets of evaluation={config.name} is at hand. " + " ".join(told))
    return found, told


def prepare_benchmark(name: str, config: BenchmarkConfig, cache: Path) -> PreparedBenchmark:
    """The set as files under `cache`, made if they are not there.

    Raises:
        Missing: the set is not at hand; how to get it.
        UserError: its YAML or its rows can't be used.
    """
    check_benchmark(name, config)
    key = digest([name, key_values(config), source_identity(name, config), READER])[:12]
    prepared = PreparedBenchmark(name, cache / "benchmarks" / f"{name}-{key}", config)
    if not prepared.folder.exists():
        with explain_disk_errors(cache):
            _make(prepared)
    return prepared


def check_benchmark(name: str, config: BenchmarkConfig) -> None:
    """Refuse values that no set can have."""
    for key, allowed in (("kind", KINDS), ("form", ROW_FORMS)):
        value = getattr(config, key)
        if value not in allowed:
            raise UserError(f"evaluation.sets.{name}.{key}={value} is none of {', '.join(allowed)}.")
    for metric in (config.metric, *config.also):
        check_metric(metric, config.kind, config.options)


def _make(prepared: PreparedBenchmark) -> None:
    """Write the set's folder, whole or not at all."""
    draft = prepared.folder.with_name(f".{prepared.folder.name}.{uuid.uuid4().hex}")
    asked, facts = _asked(prepared.name, prepared.config)
    shots = _shots(prepared.name, prepared.config, asked)
    draft.mkdir(parents=True)
    try:
        write_jsonl(draft / "questions.jsonl", asked)
        write_jsonl(draft / "shots.jsonl", shots)
        facts = {"name": prepared.name, "licence": prepared.config.licence, **facts, "shots": len(shots)}
        (draft / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        with contextlib.suppress(OSError):  # another process made the same
            draft.rename(prepared.folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _asked(name: str, config: BenchmarkConfig) -> tuple[list[Question], dict[str, Any]]:
    rows = list(read_split(name, config, config.split))
    if not rows:
        raise UserError(f"The split '{config.split}' of the set {name} has no rows{_which(config)}.")
    made = list(questions_from_rows(name, config, rows))
    bad = [item for item in made if isinstance(item, BadRow)]
    asked = [item for item in made if isinstance(item, Question)]
    if len(bad) > TOLERATED * len(rows) or not asked:
        first = bad[0] if bad else f"every answer is one of {', '.join(config.leave_out)}"
        raise UserError(f"{len(bad)} of {len(rows)} rows do not fit conf/benchmark/{name}.yaml: {first}.")
    facts = {"rows": len(rows), "questions": len(asked), "bad": len(bad), "first_bad": str(bad[0]) if bad else ""}
    return asked, facts


def _which(config: BenchmarkConfig) -> str:
    return f" with {config.where}" if config.where else ""


def _shots(name: str, config: BenchmarkConfig, asked: list[Question]) -> list[Seed]:
    """Few-shot examples: of the first rows of their split, those that fit and are no test question."""
    if not config.shots_split:
        return []
    try:
        rows = list(islice(read_split(name, config, config.shots_split), SHOTS_FILE))
    except SplitMissing:
        return []
    taken = {question.input for question in asked}
    made = [item for item in questions_from_rows(name, config, rows) if isinstance(item, Question)]
    return [few_shot_example(question) for question in made if question.input not in taken]
