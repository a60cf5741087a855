"""Write public sets as files of questions and few-shot examples, once, into the cache."""

from __future__ import annotations

import json
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
from selfspec.data.records import Question, Seed
from selfspec.data.text import count_noun
from selfspec.errors import UserError, did_you_mean, explain_disk_errors
from selfspec.evaluation.benchmarks.fields import BadRow
from selfspec.evaluation.benchmarks.rows import few_shot_example, questions_from_rows
from selfspec.evaluation.benchmarks.sources import SourceMissing, SplitMissing, read_split, source_identity
from selfspec.evaluation.primary_metrics import check_metric
from selfspec.runtime.files import atomic_folder

READER_VERSION = 2  # of the modules beside this one: raise it when they make other questions of the same rows
MAX_SHOT_ROWS = 200  # rows of the few-shot split that are read
MAX_BAD_SHARE = 0.01  # of rows that do not fit the schema; they are left out, with a note


@dataclass(frozen=True)
class PreparedBenchmark:
    """A set as files that `selfspec.data` reads."""

    name: str
    folder: Path
    config: BenchmarkConfig

    @property
    def questions(self) -> Path:
        """The evaluation questions, in the published order."""
        return self.folder / "questions.jsonl"

    @property
    def shots(self) -> Path | None:
        """The few-shot examples, or None if they come from the seeds."""
        return self.folder / "shots.jsonl" if self.facts["shots"] else None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Numbers of rows, questions, shots and bad rows, and the error of the first bad row."""
        return dict(json.loads((self.folder / "facts.json").read_text(encoding="utf-8")))

    def notes(self) -> list[str]:
        """How the set differs from the published one, for readers of its scores."""
        notes, rows, bad = [], self.facts["rows"], self.facts["bad"]
        if self.config.rows is not None and rows != self.config.rows:
            notes.append(
                f"The set {self.name} has {count_noun(rows, 'row')}, and {self.config.rows} were published: its scores "
                "can't be compared with others'."
            )
        if bad:
            verb = "is" if bad == 1 else "are"
            notes.append(f"{count_noun(bad, 'row')} of the set {self.name} {verb} left out: {self.facts['first_bad']}.")
        if self.config.shots_split and not self.shots:
            notes.append(f"The set {self.name} has no rows for few-shot examples; they come from the seeds.")
        return notes


def task_types(sets: Mapping[str, BenchmarkConfig]) -> dict[str, TaskType]:
    """One task type for each set, as `selfspec.data` needs them to read the files."""
    return {name: TaskType(config.kind, name) for name, config in sets.items()}


def prepare_benchmarks(config: EvaluationConfig, domain: str, cache: Path) -> tuple[list[PreparedBenchmark], list[str]]:
    """Prepare the sets of a domain that are available.

    Returns:
        The sets, and notes: which ones are missing and how to get them, and how the others differ from the published.

    Raises:
        UserError: no set is available, or an available one can't be used.
    """
    of_domain = {name: item for name, item in config.sets.items() if item.domain == domain}
    if config.sets and not of_domain:
        known = sorted({item.domain for item in config.sets.values()})
        raise UserError(
            f"No set of evaluation={config.name} is of the domain {domain}; "
            f"{did_you_mean(domain, known)}there are sets of {', '.join(known)}."
        )
    benchmarks, notes = list[PreparedBenchmark](), list[str]()
    for name, item in of_domain.items():
        try:
            benchmark = prepare_benchmark(name, item, cache)
        except SourceMissing as error:
            notes.append(str(error))
            continue
        benchmarks.append(benchmark)
        notes += benchmark.notes()
    if of_domain and not benchmarks:
        raise UserError(f"None of the sets of evaluation={config.name} is available. " + " ".join(notes))
    return benchmarks, notes


def prepare_benchmark(name: str, config: BenchmarkConfig, cache: Path) -> PreparedBenchmark:
    """The set as files under `cache`, which are written if they do not exist.

    Raises:
        SourceMissing: the set is not available; the message says how to get it.
        UserError: its YAML or its rows can't be used.
    """
    check_metrics(config)
    key = digest([name, key_values(config), source_identity(name, config), READER_VERSION])[:12]
    prepared = PreparedBenchmark(name, cache / "benchmarks" / f"{name}-{key}", config)
    if not prepared.folder.exists():
        with explain_disk_errors(cache):
            _write_benchmark(prepared)
    return prepared


def check_metrics(config: BenchmarkConfig) -> None:
    """Refuse a metric that does not exist or does not apply to the set.

    Raises:
        UserError: the first such metric.
    """
    for metric in (config.metric, *config.also):
        check_metric(metric, config.kind, config.options)


def _write_benchmark(prepared: PreparedBenchmark) -> None:
    """Write the set's folder atomically."""
    questions, facts = _read_questions(prepared.name, prepared.config)
    shots = _read_shots(prepared.name, prepared.config, questions)
    with atomic_folder(prepared.folder) as draft:
        write_jsonl(draft / "questions.jsonl", questions)
        write_jsonl(draft / "shots.jsonl", shots)
        facts = {"name": prepared.name, "licence": prepared.config.licence, **facts, "shots": len(shots)}
        (draft / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _read_questions(name: str, config: BenchmarkConfig) -> tuple[list[Question], dict[str, Any]]:
    """The questions of the evaluated split, and the facts about its rows."""
    rows = list(read_split(name, config, config.split))
    if not rows:
        condition = f" with {config.where}" if config.where else ""
        raise UserError(f"The split '{config.split}' of the set {name} has no rows{condition}.")
    results = list(questions_from_rows(name, config, rows))
    bad = [item for item in results if isinstance(item, BadRow)]
    questions = [item for item in results if isinstance(item, Question)]
    if len(bad) > MAX_BAD_SHARE * len(rows) or not questions:
        first = bad[0] if bad else f"every answer is one of {', '.join(config.leave_out)}"
        raise UserError(f"{len(bad)} of {len(rows)} rows do not fit conf/benchmark/{name}.yaml: {first}.")
    first_bad = str(bad[0]) if bad else ""
    return questions, {"rows": len(rows), "questions": len(questions), "bad": len(bad), "first_bad": first_bad}


def _read_shots(name: str, config: BenchmarkConfig, questions: list[Question]) -> list[Seed]:
    """Few-shot examples from the first rows of their split, without those whose input is that of a test question."""
    if not config.shots_split:
        return []
    try:
        rows = list(islice(read_split(name, config, config.shots_split), MAX_SHOT_ROWS))
    except SplitMissing:
        return []
    test_inputs = {question.input for question in questions}
    candidates = [item for item in questions_from_rows(name, config, rows) if isinstance(item, Question)]
    return [few_shot_example(question) for question in candidates if question.input not in test_inputs]
