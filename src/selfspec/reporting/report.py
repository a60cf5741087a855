"""The report of a finished run: `results.json` and `report.html`, from stored outputs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfspec.config.schema import Config
from selfspec.data.jsonl import read_jsonl
from selfspec.data.reading import read_all_questions, read_examples, read_seeds
from selfspec.data.records import Question
from selfspec.evaluation.reported_metrics import build_custom_metrics
from selfspec.generation.passages import passage_finder
from selfspec.pipeline.build import Pipeline
from selfspec.reporting.harness_table import compare_harness_results
from selfspec.reporting.notes import build_notes
from selfspec.reporting.overlap import overlap_report
from selfspec.reporting.page import render_page
from selfspec.reporting.results import compute_results
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store


def experiment_title(config: Config) -> str:
    """Describe the run in a line: `biomedicine, gemma-3-270m, 64 examples, LoRA rank 8`."""
    toy = " (toy)" if config.model.toy else ""
    return (
        f"{config.domain.name}, {config.model.name}{toy}, {config.data_size.examples} examples, "
        f"LoRA rank {config.lora.r}"
    )


def build_report(config: Config, pipeline: Pipeline, store: Store, title: str, command: str) -> dict[str, Any]:
    """Build the content of `results.json`; all scores are computed anew from stored replies.

    Args:
        config: The run's config.
        pipeline: Its stages, all of them finished.
        store: Where their outputs are.
        title: Title of the page and of the tables.
        command: Repeats the run.
    """
    resamples = config.evaluation.resamples
    metrics = {name: (item.metric, *item.also) for name, item in config.evaluation.sets.items()}
    custom_metrics = build_custom_metrics(config.evaluation.metrics)
    questions, answers = read_answers(store, pipeline.scores)
    examples, rounds = kept_round(pipeline, store)
    report = {
        "title": title,
        "subtitle": f"{len(questions)} questions; weights: {examples.values['weights']}; seed {config.seed}",
        "command": command,
        **_describe_stages(pipeline, store),
        "held_out_loss": rounds["losses"][rounds["kept"] - 1],
        "rounds": rounds,
        "funnel": _read_json(store, examples, "funnel.json"),
        "overlap": overlap_report(_training_texts(store, examples), questions, answers, resamples, metrics),
        **compute_results(answers, questions, resamples, metrics, custom_metrics),
    }
    if pipeline.off_domain:
        off_domain_questions, off_domain_answers = read_answers(store, pipeline.off_domain)
        scores = compute_results(off_domain_answers, off_domain_questions, resamples, custom_metrics=custom_metrics)
        report["off_domain"] = {"name": config.general.name, **scores}
    if pipeline.harness:
        rows = {model: _read_json(store, stage, "results.json") for model, stage in pipeline.harness.items()}
        report["harness"] = compare_harness_results(rows)
    report.update(_count_short_contexts(answers))
    report["notes"] = [*build_notes(report, config.seed), *config.evaluation.notes]
    return report


def _count_short_contexts(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Answers with fewer shots than requested, by model, and questions that no context could hold."""
    fewer = {
        model: sum(row["shots_shown"] < row["shots"] and not row["too_long"] for row in rows)
        for model, rows in answers.items()
    }
    too_long = {row["id"] for rows in answers.values() for row in rows if row["too_long"]}
    return {"fewer_shots": {model: count for model, count in fewer.items() if count}, "too_long": len(too_long)}


def output_folder(store: Store, stage: Stage) -> Path:
    """The folder in the store that holds a stage's output."""
    return store.output_folder(stage.name, stage.key)


def read_answers(store: Store, scores: Mapping[str, Stage]) -> tuple[list[Question], dict[str, list[dict[str, Any]]]]:
    """Read the questions that were answered, and the answers of each model.

    Args:
        store: Where the outputs are.
        scores: A stage `scores` by model, with the base among them; all have the same questions.

    Returns:
        The questions in the order of their files, and the rows of `answers.jsonl` by model.
    """
    answers = {
        model: list(read_jsonl(output_folder(store, stage) / "answers.jsonl")) for model, stage in scores.items()
    }
    answered = {row["id"] for rows in answers.values() for row in rows}
    stage = scores["base"]
    domain, files = stage.config.evaluation.domain, stage.files["questions"]
    assert domain is not None and isinstance(files, tuple)
    return [question for question in read_all_questions(files, domain.tasks) if question.id in answered], answers


def kept_round(pipeline: Pipeline, store: Store) -> tuple[Stage, dict[str, Any]]:
    """The stage whose examples the specialized model was tuned on, and `rounds.json`: the losses and the kept round."""
    rounds = _read_json(store, pipeline.adapters["specialized"], "rounds.json")
    return pipeline.rounds[rounds["kept"] - 1][0], rounds


def write_page(pipeline: Pipeline, store: Store, report: Mapping[str, Any], folder: Path) -> None:
    """Write `report.html` into a run's folder.

    Args:
        pipeline: The run's stages, all of them finished.
        store: Where their outputs are.
        report: What `results.json` holds.
        folder: The run's folder.
    """
    examples, rounds = kept_round(pipeline, store)
    rows = read_examples(output_folder(store, examples) / "rows.jsonl")
    adapters = {**pipeline.adapters, "specialized": pipeline.rounds[rounds["kept"] - 1][1]}
    curves = {model: _read_json(store, stage, "curve.json") for model, stage in adapters.items()}
    (folder / "report.html").write_text(render_page(report, rows, curves), encoding="utf-8")


def plain_config(config: Config) -> dict[str, Any]:
    """The config as JSON can hold it: dictionaries and lists instead of dataclasses and tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def _describe_stages(pipeline: Pipeline, store: Store) -> dict[str, Any]:
    """`keys`, label -> key; `stages`, what their manifests hold on time and counts."""
    manifests = [store.manifest(stage.name, stage.key) for stage in pipeline.stages]
    return {
        "keys": {stage.label: stage.key for stage in pipeline.stages},
        "stages": [{name: row[name] for name in ("label", "key", "seconds", "counts")} for row in manifests],
    }


def _training_texts(store: Store, examples: Stage) -> dict[str, list[str]]:
    """Texts that the specialized model may have seen in prompts or training data, by source."""
    seeds = read_seeds(Path(examples.config.domain.seeds), examples.config.domain.tasks)
    rows = read_examples(output_folder(store, examples) / "examples.jsonl")
    texts = {
        "seeds": [seed.input for seed in seeds],
        "examples": [text for row in rows for text in (row.input, row.output)],
    }
    indexes = [parent for parent in examples.parents if parent.name == "index"]
    if indexes:  # rows hold only the ids of their passages: the same search finds the texts again
        find_passages = passage_finder(output_folder(store, indexes[0]), examples.config.retrieval.passages)
        texts["passages"] = [
            passage.text for row in rows for passage in find_passages(row) if passage.id in row.documents
        ]
    return texts


def _read_json(store: Store, stage: Stage, name: str) -> Any:
    """A JSON file in a stage's output."""
    return json.loads((output_folder(store, stage) / name).read_text(encoding="utf-8"))
