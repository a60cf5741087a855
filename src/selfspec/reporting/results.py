"""The results of a run, from stored replies: every measure by model, shots and task, and differences in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selfspec.config import DomainConfig
from selfspec.records import Question
from selfspec.scoring import intervals
from selfspec.scoring.intervals import Array, Interval
from selfspec.scoring.tasks import Judgement, judge

MEASURES = {  # name -> how a table heads it
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "proper": "proper metric",
    "compliant": "format",
    "label_accuracy": "label accuracy",
    "option_accuracy": "option accuracy",
    "option_auc": "option AUC",
    "commonest": "commonest answer",
}
Answers = Sequence[Mapping[str, Any]]  # rows of a stage `scores`


@dataclass(frozen=True)
class Scored:
    """One model at one number of shots: values of all draws, by measure and task."""

    by_task: Mapping[str, Mapping[str, Array]]

    def overall(self, measure: str) -> Array | None:
        """The mean over the tasks in which the measure has a meaning."""
        tasks = self.by_task.get(measure)
        return intervals.mean_over_tasks(tasks) if tasks else None


def results(
    answers: Mapping[str, Answers], questions: Sequence[Question], domain: DomainConfig, resamples: int
) -> dict[str, Any]:
    """Everything a report says of scores, as plain data.

    Args:
        answers: Rows of the stage `scores` of each model.
        questions: The evaluation set.
        domain: For each task's kind.
        resamples: Of the bootstrap.
    """
    asked = {question.id: question for question in questions}
    shots = sorted({row["shots"] for rows in answers.values() for row in rows})
    scored = {
        (model, k): score([row for row in rows if row["shots"] == k], asked, domain, resamples)
        for model, rows in answers.items()
        for k in shots
    }
    cells = []
    for (model, k), mine in scored.items():
        for measure in MEASURES:
            cells += _cells({"model": model, "shots": k, "measure": measure}, mine, measure)
    differences = []
    for one, other in (("specialized", "base"), ("seeds_only", "base"), ("specialized", "seeds_only")):
        for k in shots:
            if (one, k) in scored and (other, k) in scored:
                differences += _differences(one, other, k, scored[one, k], scored[other, k])
    answered = {row["id"] for rows in answers.values() for row in rows}
    return {
        "scores": cells,
        "differences": differences,
        "lines": _lines([question for question in questions if question.id in answered], domain),
    }


def score(rows: Answers, asked: Mapping[str, Question], domain: DomainConfig, resamples: int) -> Scored:
    """Every measure of one model at one number of shots, for all draws of the bootstrap."""
    by_task: dict[str, dict[str, Array]] = {}
    for task in dict.fromkeys(row["task_type"] for row in rows):
        mine = [row for row in rows if row["task_type"] == task]
        kind = domain.tasks[task].kind
        drawn = intervals.draws(len(mine), resamples, task)
        for measure, compute in _measures(mine, [asked[row["id"]] for row in mine], kind).items():
            by_task.setdefault(measure, {})[task] = compute(drawn)
    return Scored(by_task)


def _measures(rows: Answers, questions: Sequence[Question], kind: str) -> dict[str, intervals.Measure]:
    """What can be measured on the questions of one task."""
    judged = [judge(q, kind, row["reply"], row["finished"]) for q, row in zip(questions, rows, strict=True)]
    measures = {
        "token_f1": intervals.mean([j.token_f1 for j in judged]),
        "rouge_l": intervals.mean([j.rouge_l for j in judged]),
        "compliant": intervals.mean([j.compliant for j in judged]),
        "proper": _proper(judged),
    }
    correct = [j.label_correct for j in judged if j.label_correct is not None]
    if correct:
        measures["label_accuracy"] = intervals.mean(correct)
    if kind == "label":
        logprobs = [
            dict(zip(q.options, row["option_logprobs"], strict=True)) for q, row in zip(questions, rows, strict=True)
        ]
        gold = [question.answers[0] for question in questions]
        chosen = [max(options, key=lambda option: options[option]) for options in logprobs]
        hits = [float(choice == answer) for choice, answer in zip(chosen, gold, strict=True)]
        measures["option_accuracy"] = intervals.mean(hits)
        if len({frozenset(question.options) for question in questions}) == 1:  # margins compare within one set alone
            measures["option_auc"] = intervals.auc([margins(options) for options in logprobs], gold)
        measures["commonest"] = intervals.commonest(chosen)
    return measures


def margins(logprobs: Mapping[str, float]) -> dict[str, float]:
    """By how much each option's log-probability exceeds that of the others together."""

    def others(option: str) -> float:
        rest = [value for name, value in logprobs.items() if name != option]
        top = max(rest)
        return top + math.log(sum(math.exp(value - top) for value in rest))

    return {option: value - others(option) for option, value in logprobs.items()}


def _proper(judged: Sequence[Judgement]) -> intervals.Measure:
    if judged[0].counts:
        return intervals.f1([j.counts for j in judged])
    return intervals.mean([j.proper or 0.0 for j in judged])


def _cells(place: Mapping[str, Any], scored: Scored, measure: str) -> list[dict[str, Any]]:
    tasks = scored.by_task.get(measure, {})
    cells = [{**place, "task": task, **asdict(intervals.interval(values))} for task, values in tasks.items()]
    overall = scored.overall(measure)
    if overall is not None:
        cells.append({**place, "task": "all", **asdict(intervals.interval(overall))})
    return cells


def _differences(one: str, other: str, shots: int, mine: Scored, theirs: Scored) -> list[dict[str, Any]]:
    """`one` minus `other`, question by question the same draws."""
    found = []
    for measure in MEASURES:
        if measure == "commonest":
            continue
        place = {"model": one, "minus": other, "shots": shots, "measure": measure}
        for task, values in mine.by_task.get(measure, {}).items():
            gap: Interval = intervals.interval(values - theirs.by_task[measure][task])
            found.append({**place, "task": task, **asdict(gap)})
        overall, other_overall = mine.overall(measure), theirs.overall(measure)
        if overall is not None and other_overall is not None:
            gap = intervals.interval(overall - other_overall)
            found.append({**place, "task": "all", **asdict(gap)})
    return found


def _lines(questions: Sequence[Question], domain: DomainConfig) -> dict[str, dict[str, float]]:
    """For tasks with closed labels: what guessing gives, and what always saying the commonest answer gives."""
    lines = {}
    for task in dict.fromkeys(question.task_type for question in questions):
        if domain.tasks[task].kind != "label":
            continue
        mine = [question for question in questions if question.task_type == task]
        gold = [question.answers[0] for question in mine]
        chance = sum(1 / len(question.options) for question in mine) / len(mine)
        lines[task] = {
            "chance": chance,
            "commonest": max(gold.count(a) for a in gold) / len(gold),
            "count": len(mine),
        }
    return lines
