"""The report of a finished experiment: `results.json` and `report.html`, from stored outputs."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfspec.config.schema import Config
from selfspec.data.jsonl import read_jsonl
from selfspec.data.reading import read_all_questions, read_examples, read_seeds
from selfspec.data.records import Question
from selfspec.evaluation.reported_metrics import build_own_metrics
from selfspec.generation.passages import passage_finder
from selfspec.pipeline.build import Pipeline
from selfspec.reporting.harness_table import compare_harness_results
from selfspec.reporting.overlap import overlap_report
from selfspec.reporting.page import render_page
from selfspec.reporting.results import compute_results
from selfspec.reporting.tables import reading_notes
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store


def experiment_title(config: Config) -> str:
    """`biomedicine, gemma-3-270m, 64 examples, LoRA rank 8`."""
    toy = " (toy)" if config.model.toy else ""
    return (
        f"{config.domain.name}, {config.model.name}{toy}, {config.data_size.examples} examples, "
        f"LoRA rank {config.lora.r}"
    )


def build_report(config: Config, stages: Pipeline, store: Store, title: str) -> dict[str, Any]:
    """What `results.json` holds; figures are computed from stored replies."""
    resamples = config.evaluation.resamples
    questions, answers = read_answers(store, stages.scores)
    examples, rounds = kept_round(stages, store)
    metrics = {name: (item.metric, *item.also) for name, item in config.evaluation.sets.items()}
    own_metrics = build_own_metrics(config.evaluation.metrics)
    manifests = [store.manifest(stage.name, stage.key) for stage in stages.stages]
    report = {
        "title": title,
        "subtitle": f"{len(questions)} questions; weights: {examples.values['weights']}; seed {config.seed}",
        "keys": {stage.label: stage.key for stage in stages.stages},
        # Lines for a cluster's shell may hold a proxy's password, and a report is for sharing.
        "command": shlex.join(["python", "run.py", *(text for text in sys.argv[1:] if "hydra.launcher." not in text)]),
        "stages": [{name: m[name] for name in ("label", "key", "seconds", "counts")} for m in manifests],
        "held_out_loss": rounds["losses"][rounds["kept"] - 1],
        "rounds": rounds,
        "funnel": json.loads((output_folder(store, examples) / "funnel.json").read_text()),
        "overlap": overlap_report(_training_texts(store, examples), questions, answers, resamples, metrics),
        **compute_results(answers, questions, resamples, metrics, own_metrics),
    }
    if stages.off_domain:
        asked, replies = read_answers(store, stages.off_domain)
        scores = compute_results(replies, asked, resamples, own_metrics=own_metrics)
        report["off_domain"] = {"name": config.general.name, **scores}
    if stages.harness:
        found = {
            m: json.loads((output_folder(store, s) / "results.json").read_text()) for m, s in stages.harness.items()
        }
        report["harness"] = compare_harness_results(found)
    fewer = {model: sum(row["shots_shown"] < row["shots"] for row in rows) for model, rows in answers.items()}
    report["fewer_shots"] = {model: count for model, count in fewer.items() if count}
    report["reading"] = [*reading_notes(report), *config.evaluation.notes]
    return report


def output_folder(store: Store, stage: Stage) -> Path:
    return store.root / stage.name / stage.key


def read_answers(store: Store, scores: Mapping[str, Stage]) -> tuple[list[Question], dict[str, list[dict[str, Any]]]]:
    """The questions that were asked, and each model's replies."""
    answers = {
        model: list(read_jsonl(output_folder(store, stage) / "answers.jsonl")) for model, stage in scores.items()
    }
    asked = {row["id"] for rows in answers.values() for row in rows}
    stage = scores["base"]
    domain, files = stage.config.evaluation.domain, stage.files["questions"]
    assert domain is not None and isinstance(files, tuple)
    return [question for question in read_all_questions(files, domain.tasks) if question.id in asked], answers


def kept_round(stages: Pipeline, store: Store) -> tuple[Stage, dict[str, Any]]:
    """The stage whose examples made the specialized model, and what each round gave."""
    rounds = json.loads((output_folder(store, stages.adapters["specialized"]) / "rounds.json").read_text())
    return stages.rounds[rounds["kept"] - 1][0], rounds


def _training_texts(store: Store, examples: Stage) -> dict[str, list[str]]:
    """Texts that the specialized model may have seen, by where they are from."""
    seeds = read_seeds(Path(examples.config.domain.seeds), examples.config.domain.tasks)
    rows = read_examples(output_folder(store, examples) / "examples.jsonl")
    seen = {
        "seeds": [seed.input for seed in seeds],
        "examples": [text for row in rows for text in (row.input, row.output)],
    }
    indexes = [parent for parent in examples.parents if parent.name == "index"]
    if indexes:  # found again as they were then
        find = passage_finder(output_folder(store, indexes[0]), examples.config.retrieval.passages)
        seen["passages"] = [found.text for row in rows for found in find(row) if found.id in row.documents]
    return seen


def write_page(config: Config, stages: Pipeline, store: Store, report: dict[str, Any], folder: Path) -> None:
    examples, rounds = kept_round(stages, store)
    rows = read_examples(output_folder(store, examples) / "rows.jsonl")
    adapters = {**stages.adapters, "specialized": stages.rounds[rounds["kept"] - 1][1]}
    curves = {model: json.loads((output_folder(store, s) / "curve.json").read_text()) for model, s in adapters.items()}
    (folder / "report.html").write_text(render_page(report, rows, curves), encoding="utf-8")


def plain_config(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]
