"""The metrics of a report: the built-in ones by name, and those of the user's own (`evaluation.metrics`).

They are computed from stored replies whenever a report is written, so none of them is in the key of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfspec.config.targets import build_target
from selfspec.data.records import Question
from selfspec.errors import UserError
from selfspec.evaluation.intervals import (
    Measure,
    auc_measure,
    commonest_share,
    mean_measure,
    mean_of_known_measure,
)
from selfspec.evaluation.judgement import Judgement
from selfspec.evaluation.primary_metrics import BY_TOPIC, METRICS, ONE_LABEL, metric_measure


class ReplyMetric(Protocol):
    """A metric of one reply. Its name is its attribute `name`, or else that of its class or function."""

    def __call__(self, question: Question, reply: str) -> float | None:
        """A value in [0, 1], or None where the metric does not apply; the report has the mean of the values."""
        ...


@dataclass(frozen=True)
class TaskReplies:
    """A model's replies to the questions of one task; the sequences are parallel.

    Attributes:
        questions: The questions, with their reference answers.
        replies: The generated texts.
        judgements: The replies as judged by kind.
        option_logprobs: Log-probability of each option; empty where the question has no single label or was not sent to
            the model.
        metrics: Names of the primary metric and of those that the field reports beside it.
    """

    questions: Sequence[Question]
    replies: Sequence[str]
    judgements: Sequence[Judgement]
    option_logprobs: Sequence[Mapping[str, float]]
    metrics: Sequence[str]


@dataclass(frozen=True)
class ReportedMetric:
    """A metric that a report has for each task.

    Attributes:
        heading: Its name in tables.
        measure: Its value over the replies of one task, for each resample; None where it does not apply.
    """

    heading: str
    measure: Callable[[TaskReplies], Measure | None]


def build_custom_metrics(specs: Sequence[Mapping[str, Any]]) -> dict[str, ReportedMetric]:
    """The metrics of `evaluation.metrics`, by name.

    Raises:
        UserError: one can't be created, or its name is taken.
    """
    metrics: dict[str, ReportedMetric] = {}
    for number, spec in enumerate(specs):
        key = f"evaluation.metrics[{number}]"
        metric = build_target(key, spec)
        if not callable(metric):
            raise UserError(f"{key}: {spec['_target_']} can't be called; write __call__(self, question, reply).")
        name = _metric_name(metric)
        if name in metrics or _is_built_in(name):
            raise UserError(f"{key}: the name '{name}' is taken; give the metric another attribute `name`.")
        metrics[name] = ReportedMetric(name, _mean_of_replies(name, metric))
    return metrics


def task_measures(replies: TaskReplies, custom_metrics: Mapping[str, ReportedMetric]) -> dict[str, Measure]:
    """Every metric that applies to one task, by name."""
    measures = {name: metric.measure(replies) for name, metric in {**REPORTED_METRICS, **custom_metrics}.items()}
    beside_primary = {name: _named_measure(name, replies) for name in replies.metrics[1:]}
    return {name: measure for name, measure in {**measures, **beside_primary}.items() if measure is not None}


def option_margins(logprobs: Mapping[str, float]) -> dict[str, float]:
    """The log-odds of each option: its log-probability minus that of all others together."""

    def others(option: str) -> float:
        rest = [value for name, value in logprobs.items() if name != option]
        top = max(rest)
        return top + math.log(sum(math.exp(value - top) for value in rest))

    return {option: value - others(option) for option, value in logprobs.items()}


def _metric_name(metric: Any) -> str:
    named = getattr(metric, "func", metric)  # of a functools.partial, which `_partial_: true` makes
    return str(getattr(named, "name", None) or getattr(named, "__name__", type(named).__name__))


def _is_built_in(name: str) -> bool:
    return name in REPORTED_METRICS or name in METRICS or name.startswith(ONE_LABEL) or name.endswith(BY_TOPIC)


def _mean_of_replies(name: str, metric: ReplyMetric) -> Callable[[TaskReplies], Measure | None]:
    """The mean of a user's metric, whose values are checked."""

    def value(question: Question, reply: str) -> float | None:
        try:
            result = metric(question, reply.strip())
            if result is None or 0 <= result <= 1:
                return result
            problem = f"returned {result}, not a number in [0, 1] or None"
        except Exception as error:
            problem = f"failed ({type(error).__name__}: {error})"
        raise UserError(f"The metric {name} of evaluation.metrics {problem} on the question {question.id}.")

    def measure(replies: TaskReplies) -> Measure | None:
        return mean_of_known_measure([value(*pair) for pair in zip(replies.questions, replies.replies, strict=True)])

    return measure


def _mean_of_judgements(value: Callable[[Judgement], float | None]) -> Callable[[TaskReplies], Measure | None]:
    """The mean of a judgement's value, which all replies of a task have, or none."""

    def measure(replies: TaskReplies) -> Measure | None:
        values = [value(judgement) for judgement in replies.judgements]
        known = [number for number in values if number is not None]
        return mean_measure(known) if known else None

    return measure


def _named_measure(name: str, replies: TaskReplies) -> Measure:
    return metric_measure(name, replies.judgements, [question.topic for question in replies.questions])


def _primary_metric(replies: TaskReplies) -> Measure:
    return _named_measure(replies.metrics[0], replies)


def _option_accuracy(replies: TaskReplies) -> Measure | None:
    """Accuracy of the most probable option, which needs no format."""
    if not _has_options(replies):
        return None
    pairs = zip(_most_probable_options(replies), replies.questions, strict=True)
    return mean_measure([float(choice == question.answers[0]) for choice, question in pairs])


def _option_auc(replies: TaskReplies) -> Measure | None:
    """AUC of the options' log-odds, which neither format nor a bias to one label can raise."""
    option_sets = {frozenset(question.options) for question in replies.questions}
    if not _has_options(replies) or len(option_sets) > 1:  # log-odds of different sets can't be compared
        return None
    gold = [question.answers[0] for question in replies.questions]
    return auc_measure([_margins(*pair) for pair in zip(replies.option_logprobs, replies.questions, strict=True)], gold)


def _margins(logprobs: Mapping[str, float], question: Question) -> dict[str, float]:
    """The log-odds of each option; the worst ones for a question that was not sent to the model."""
    worst = {option: -math.inf if option == question.answers[0] else math.inf for option in question.options}
    return option_margins(logprobs) if logprobs else worst


def _commonest_share(replies: TaskReplies) -> Measure | None:
    return commonest_share(_most_probable_options(replies)) if _has_options(replies) else None


def _has_options(replies: TaskReplies) -> bool:
    return replies.questions[0].kind == "label"


def _most_probable_options(replies: TaskReplies) -> list[str]:
    """The most probable option of each question, or an empty string for a question that was not sent to the model."""
    return [
        max(logprobs, key=lambda option: logprobs[option]) if logprobs else "" for logprobs in replies.option_logprobs
    ]


REPORTED_METRICS: Mapping[str, ReportedMetric] = {  # in the order of the tables
    "token_f1": ReportedMetric("token F1", _mean_of_judgements(lambda judgement: judgement.token_f1)),
    "rouge_l": ReportedMetric("ROUGE-L", _mean_of_judgements(lambda judgement: judgement.rouge_l)),
    "primary_metric": ReportedMetric("primary metric", _primary_metric),
    "format": ReportedMetric("format", _mean_of_judgements(lambda judgement: judgement.compliant)),
    "label_accuracy": ReportedMetric("label accuracy", _mean_of_judgements(lambda judgement: judgement.label_correct)),
    "option_accuracy": ReportedMetric("option accuracy", _option_accuracy),
    "option_auc": ReportedMetric("option AUC", _option_auc),
    "most_frequent": ReportedMetric("most frequent answer", _commonest_share),
}
