"""The results of a run, from stored replies: each measure by model, shots and task, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from selfspec.data.records import Question
from selfspec.evaluation.intervals import (
    Array,
    bootstrap_draws,
    mean_over_tasks,
    percentile_interval,
    widen,
)
from selfspec.evaluation.judgement import judge_reply
from selfspec.evaluation.primary_metrics import DEFAULT_METRICS
from selfspec.evaluation.reported_metrics import REPORTED_METRICS, ReportedMetric, TaskReplies, task_measures

MEASURES = {name: metric.heading for name, metric in REPORTED_METRICS.items()}  # name -> heading in tables


UNCOMPARED_MEASURES = ("most_frequent",)  # neither higher nor lower is better


COMPARED_MODELS = (  # differences are the first minus the second
    ("specialized", "base"),
    ("specialized", "seeds_only"),
    ("specialized", "generic"),
    ("seeds_only", "base"),
    ("generic", "base"),
)


CustomMetrics = Mapping[str, ReportedMetric]  # by name


Answers = Sequence[Mapping[str, Any]]  # rows of a stage `scores`


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model at one number of shots.

    Attributes:
        by_task: measure -> task -> values [1 + resamples], each the mean over the draws of few-shot examples.
        by_draw: measure -> a list for each task: the value at each draw of few-shot examples.
    """

    by_task: Mapping[str, Mapping[str, Array]]
    by_draw: Mapping[str, Sequence[Sequence[float]]]

    @property
    def measures(self) -> list[str]:
        """Names of the measures: those of every report, then those of single tasks."""
        return list(dict.fromkeys([*MEASURES, *self.by_task]))


def compute_results(
    answers: Mapping[str, Answers],
    questions: Sequence[Question],
    resamples: int,
    metrics: Mapping[str, Sequence[str]] = MappingProxyType({}),
    custom_metrics: CustomMetrics = MappingProxyType({}),
) -> dict[str, Any]:
    """Compute all scores of a report, as plain data.

    Args:
        answers: Rows of the stage `scores`, by model.
        questions: The evaluation set.
        resamples: Number of bootstrap resamples.
        metrics: By task type, the primary metric and those that the field reports beside it; the default for a task
            type is the primary metric of its kind of question.
        custom_metrics: The user's metrics, by name.

    Returns:
        `measures`, name -> heading; `scores` and `differences`, one row for each model (or pair of models), number of
        shots, measure and task, where the task "all" is the mean over tasks; `closed_labels`, what guessing scores;
        `metrics`, the names by task type.
    """
    metrics = {
        question.task_type: metrics.get(question.task_type, (DEFAULT_METRICS[question.kind],)) for question in questions
    }
    scores = _score_models(answers, questions, resamples, metrics, custom_metrics)
    answered = {row["id"] for rows in answers.values() for row in rows}
    questions = [question for question in questions if question.id in answered]
    return {
        "measures": {**MEASURES, **{name: metric.heading for name, metric in custom_metrics.items()}},
        "scores": [row for (model, shots), values in scores.items() for row in _score_rows(model, shots, values)],
        "differences": _compare_models(scores),
        "closed_labels": _guessing_scores(questions),
        "metrics": {question.task_type: list(metrics[question.task_type]) for question in questions},
    }


def score_model(
    rows: Answers,
    questions: Mapping[str, Question],
    resamples: int,
    metrics: Mapping[str, Sequence[str]],
    custom_metrics: CustomMetrics = MappingProxyType({}),
) -> ModelScores:
    """Score the answers of one model at one number of shots.

    All draws of few-shot examples are scored on the same resamples of the questions.

    Args:
        rows: Rows of the stage `scores`.
        questions: The questions, by id.
        resamples: Number of bootstrap resamples.
        metrics: By task type, the primary metric and those that the field reports beside it.
        custom_metrics: The user's metrics, by name.
    """
    by_task: dict[str, dict[str, Array]] = {}
    by_draw: dict[str, list[list[float]]] = {}
    for task in dict.fromkeys(row["task_type"] for row in rows):
        draws = _split_draws([row for row in rows if row["task_type"] == task])
        num_questions = len(draws[0])
        sampled = bootstrap_draws(num_questions, resamples, task)
        measures_by_draw = [
            task_measures(_judge_replies(draw, [questions[row["id"]] for row in draw], metrics[task]), custom_metrics)
            for draw in draws
        ]
        for measure in measures_by_draw[0]:
            if not all(measure in measures for measures in measures_by_draw):  # no reply of a draw has a value
                continue
            values = [measures[measure](sampled) for measures in measures_by_draw]
            by_task.setdefault(measure, {})[task] = widen(np.mean(values, axis=0), num_questions)
            by_draw.setdefault(measure, []).append([float(value[0]) for value in values])
    return ModelScores(by_task, by_draw)


def _split_draws(rows: Answers) -> list[Answers]:
    """The rows of each draw of few-shot examples, with the questions in one order."""
    rows = sorted(rows, key=lambda row: str(row["id"]))
    return [[row for row in rows if row["draw"] == draw] for draw in sorted({row["draw"] for row in rows})]


def _judge_replies(rows: Answers, questions: Sequence[Question], metrics: Sequence[str]) -> TaskReplies:
    pairs = list(zip(questions, rows, strict=True))
    return TaskReplies(
        questions,
        replies=[row["reply"] for row in rows],
        judgements=[judge_reply(question, row["reply"], row["finished"]) for question, row in pairs],
        option_logprobs=[
            dict(zip(question.options, row["option_logprobs"], strict=True)) if row["option_logprobs"] else {}
            for question, row in pairs
        ],
        metrics=metrics,
    )


def _score_models(
    answers: Mapping[str, Answers],
    questions: Sequence[Question],
    resamples: int,
    metrics: Mapping[str, Sequence[str]],
    custom_metrics: CustomMetrics,
) -> dict[tuple[str, int], ModelScores]:
    """The scores by model and number of shots."""
    by_id = {question.id: question for question in questions}
    shot_counts = sorted({row["shots"] for rows in answers.values() for row in rows})
    return {
        (model, shots): score_model(
            [row for row in rows if row["shots"] == shots], by_id, resamples, metrics, custom_metrics
        )
        for model, rows in answers.items()
        for shots in shot_counts
    }


def _score_rows(model: str, shots: int, scores: ModelScores) -> list[dict[str, Any]]:
    rows = []
    for measure in scores.measures:
        columns = {"model": model, "shots": shots, "measure": measure}
        if by_task := scores.by_task.get(measure):
            rows += [{**columns, "task": task, **_clipped_interval(values)} for task, values in by_task.items()]
            draws = [float(value) for value in np.mean(scores.by_draw[measure], axis=0)]
            rows.append({**columns, "task": "all", **_clipped_interval(mean_over_tasks(by_task)), "draws": draws})
    return rows


def _clipped_interval(values: Array) -> dict[str, float]:
    """A value and its interval, clipped to the range of every measure, [0, 1]."""
    interval = percentile_interval(values)
    return {"value": interval.value, "low": max(interval.low, 0.0), "high": min(interval.high, 1.0)}


def _compare_models(scores: Mapping[tuple[str, int], ModelScores]) -> list[dict[str, Any]]:
    """The rows of differences of all pairs of models that have scores."""
    rows = []
    for model, other in COMPARED_MODELS:
        for shots in sorted({shots for _, shots in scores}):
            if (model, shots) in scores and (other, shots) in scores:
                columns = {"model": model, "minus": other, "shots": shots}
                rows += [{**columns, **row} for row in _difference_rows(scores[model, shots], scores[other, shots])]
    return rows


def _difference_rows(scores: ModelScores, other: ModelScores) -> list[dict[str, Any]]:
    """Paired differences: each resample has the same questions for both models."""
    rows = []
    for measure in (name for name in scores.measures if name not in UNCOMPARED_MEASURES):
        by_task, other_by_task = scores.by_task.get(measure, {}), other.by_task.get(measure, {})
        tasks = [task for task in by_task if task in other_by_task]
        differences = {task: by_task[task] - other_by_task[task] for task in tasks}
        if tasks:
            means = [mean_over_tasks({task: values[task] for task in tasks}) for values in (by_task, other_by_task)]
            differences["all"] = means[0] - means[1]
        for task, values in differences.items():
            rows.append({"measure": measure, "task": task, **asdict(percentile_interval(values))})
    return rows


def _guessing_scores(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """For each task with closed labels: accuracy of guessing and of always giving the most frequent answer."""
    questions = [question for question in questions if question.kind == "label"]
    scores = {}
    for task in dict.fromkeys(question.task_type for question in questions):
        of_task = [question for question in questions if question.task_type == task]
        references = [question.answers[0] for question in of_task]
        scores[task] = {
            "chance": sum(1 / len(question.options) for question in of_task) / len(of_task),
            "most_frequent": max(references.count(answer) for answer in references) / len(references),
            "count": len(of_task),
        }
    return scores
