"""The results of a run, from stored replies: every measure by model, shots and task, and differences in pairs."""

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


OwnMetrics = Mapping[str, ReportedMetric]


PAIRS = (
    ("specialized", "base"),
    ("specialized", "seeds_only"),
    ("specialized", "generic"),
    ("seeds_only", "base"),
    ("generic", "base"),
)


Answers = Sequence[Mapping[str, Any]]  # rows of a stage `scores`


@dataclass(frozen=True)
class Scored:
    """One model at one number of shots: values of all draws, by measure and task."""

    by_task: Mapping[str, Mapping[str, Array]]
    by_draw: Mapping[str, Sequence[Sequence[float]]]  # of each measure: a task's value at each draw of the shots

    @property
    def measures(self) -> list[str]:
        """Those of all reports, then what else the field reports of a task."""
        return list(dict.fromkeys([*MEASURES, *self.by_task]))

    def overall(self, measure: str) -> Array | None:
        """The mean over the tasks in which the measure has a meaning."""
        tasks = self.by_task.get(measure)
        return mean_over_tasks(tasks) if tasks else None


def compute_results(
    answers: Mapping[str, Answers],
    questions: Sequence[Question],
    resamples: int,
    metrics: Mapping[str, Sequence[str]] = MappingProxyType({}),
    own_metrics: OwnMetrics = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything a report says of scores, as plain data.

    Args:
        answers: Rows of the stage `scores` of each model.
        questions: The evaluation set.
        resamples: Of the bootstrap.
        metrics: By task type, the primary metric and what else the field reports; without it the kind decides.
        own_metrics: The user's metrics, by name.
    """
    metrics = {
        question.task_type: metrics.get(question.task_type, (DEFAULT_METRICS[question.kind],)) for question in questions
    }
    asked = {question.id: question for question in questions}
    shots = sorted({row["shots"] for rows in answers.values() for row in rows})
    scored = {
        (model, k): score_model([row for row in rows if row["shots"] == k], asked, resamples, metrics, own_metrics)
        for model, rows in answers.items()
        for k in shots
    }
    cells = []
    for (model, k), mine in scored.items():
        for measure in mine.measures:
            cells += _cells({"model": model, "shots": k, "measure": measure}, mine, measure)
    differences = []
    for one, other in PAIRS:
        for k in shots:
            if (one, k) in scored and (other, k) in scored:
                differences += _differences(one, other, k, scored[one, k], scored[other, k])
    answered = {row["id"] for rows in answers.values() for row in rows}
    questions = [question for question in questions if question.id in answered]
    return {
        "measures": {**MEASURES, **{name: metric.heading for name, metric in own_metrics.items()}},
        "scores": cells,
        "differences": differences,
        "lines": _lines(questions),
        "metrics": {question.task_type: list(metrics[question.task_type]) for question in questions},
    }


def score_model(
    rows: Answers,
    asked: Mapping[str, Question],
    resamples: int,
    metrics: Mapping[str, Sequence[str]],
    own_metrics: OwnMetrics = MappingProxyType({}),
) -> Scored:
    """Every measure of one model at one number of shots, for all bootstrap samples: the mean over draws of shots."""
    by_task: dict[str, dict[str, Array]] = {}
    by_draw: dict[str, list[list[float]]] = {}
    for task in dict.fromkeys(row["task_type"] for row in rows):
        mine = sorted((row for row in rows if row["task_type"] == task), key=lambda row: str(row["id"]))
        draws = [[row for row in mine if row["draw"] == draw] for draw in sorted({row["draw"] for row in mine})]
        drawn = bootstrap_draws(len(draws[0]), resamples, task)  # the same questions of each draw
        measured = [
            task_measures(_task_replies(some, [asked[row["id"]] for row in some], metrics[task]), own_metrics)
            for some in draws
        ]
        for measure in measured[0]:
            if not all(measure in each for each in measured):  # no reply of a draw has a value
                continue
            values = [each[measure](drawn) for each in measured]
            by_task.setdefault(measure, {})[task] = widen(np.mean(values, axis=0), len(draws[0]))
            by_draw.setdefault(measure, []).append([float(value[0]) for value in values])
    return Scored(by_task, by_draw)


def _task_replies(rows: Answers, questions: Sequence[Question], metrics: Sequence[str]) -> TaskReplies:
    """The stored replies to the questions of one task, judged."""
    pairs = list(zip(questions, rows, strict=True))
    return TaskReplies(
        questions,
        replies=[row["reply"] for row in rows],
        judgements=[judge_reply(question, row["reply"], row["finished"]) for question, row in pairs],
        option_logprobs=[
            dict(zip(question.options, row["option_logprobs"], strict=True)) if question.kind == "label" else {}
            for question, row in pairs
        ],
        metrics=metrics,
    )


def _cells(place: Mapping[str, Any], scored: Scored, measure: str) -> list[dict[str, Any]]:
    tasks = scored.by_task.get(measure, {})
    cells = [{**place, "task": task, **_within(values)} for task, values in tasks.items()]
    overall = scored.overall(measure)
    if overall is not None:
        draws = [float(value) for value in np.mean(scored.by_draw[measure], axis=0)]
        cells.append({**place, "task": "all", **_within(overall), "draws": draws})
    return cells


def _within(values: Array) -> dict[str, float]:
    """A value and its interval, which stays in [0, 1] as every measure does."""
    found = percentile_interval(values)
    return {"value": found.value, "low": max(found.low, 0.0), "high": min(found.high, 1.0)}


def _differences(one: str, other: str, shots: int, mine: Scored, theirs: Scored) -> list[dict[str, Any]]:
    """`one` minus `other`, question by question the same draws."""
    found = []
    for measure in mine.measures:
        if measure == "commonest":
            continue
        place = {"model": one, "minus": other, "shots": shots, "measure": measure}
        one_by_task, other_by_task = mine.by_task.get(measure, {}), theirs.by_task.get(measure, {})
        tasks = [task for task in one_by_task if task in other_by_task]
        gaps = {task: one_by_task[task] - other_by_task[task] for task in tasks}
        if tasks:
            overalls = [
                mean_over_tasks({task: values[task] for task in tasks}) for values in (one_by_task, other_by_task)
            ]
            gaps["all"] = overalls[0] - overalls[1]
        found += [{**place, "task": task, **asdict(percentile_interval(gap))} for task, gap in gaps.items()]
    return found


def _lines(questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """For tasks with closed labels: what guessing gives, and what always saying the commonest answer gives."""
    lines = {}
    for task in dict.fromkeys(question.task_type for question in questions):
        mine = [question for question in questions if question.task_type == task]
        if mine[0].kind != "label":
            continue
        gold = [question.answers[0] for question in mine]
        chance = sum(1 / len(question.options) for question in mine) / len(mine)
        lines[task] = {
            "chance": chance,
            "commonest": max(gold.count(a) for a in gold) / len(gold),
            "count": len(mine),
        }
    return lines
