"""The primary metric of a task by its name, as a measure over bootstrap resamples.

A metric is one entry of `METRICS`. Besides those names there are `F1 of LABEL`, and for single labels `NAME by topic`:
the mean of an F1 over the topics of the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from selfspec.errors import UserError, did_you_mean
from selfspec.evaluation.intervals import (
    Measure,
    f1_measure,
    mean_measure,
    mean_of_measures,
    weighted_f1_measure,
)
from selfspec.evaluation.judgement import Counts, Judgement

DEFAULT_METRICS = {  # kind of question -> its primary metric, where the task does not name one
    "label": "macro F1",
    "labels": "micro F1",
    "short": "exact match",
    "list": "mean list F1",
    "entities": "micro F1 of (entity, type)",
    "number": "within 0.01",
    "text": "ROUGE-L F1",
}

ONE_LABEL, BY_TOPIC = "F1 of ", " by topic"  # prefix, suffix
Judgements = Sequence[Judgement]


@dataclass(frozen=True)
class PrimaryMetric:
    """A metric that a task can name.

    Attributes:
        kinds: The kinds of questions that it applies to.
        measure: Its value over the judgements of one task, for each resample.
    """

    kinds: tuple[str, ...]
    measure: Callable[[Judgements], Measure]


def _mean(value: Callable[[Judgement], float | None]) -> Callable[[Judgements], Measure]:
    return lambda judgements: mean_measure([value(judgement) or 0.0 for judgement in judgements])


def _macro_f1(judgements: Judgements) -> Measure:
    return f1_measure([judgement.counts_by_label or judgement.counts for judgement in judgements])


def _micro_f1(judgements: Judgements) -> Measure:
    return f1_measure([{"": _summed(judgement.counts.values())} for judgement in judgements])


def _weighted_f1(judgements: Judgements) -> Measure:
    return weighted_f1_measure([judgement.counts for judgement in judgements])


_PRIMARY_VALUE = _mean(lambda judgement: judgement.primary_value)

METRICS: Mapping[str, PrimaryMetric] = {
    "accuracy": PrimaryMetric(("label", "labels"), _mean(lambda judgement: judgement.label_correct)),
    "macro F1": PrimaryMetric(("label", "labels"), _macro_f1),
    "micro F1": PrimaryMetric(("label", "labels"), _micro_f1),
    "weighted F1": PrimaryMetric(("label",), _weighted_f1),
    "strict accuracy": PrimaryMetric(("short",), _PRIMARY_VALUE),
    "lenient accuracy": PrimaryMetric(("short",), _mean(lambda judgement: judgement.lenient_correct)),
    "exact match": PrimaryMetric(("short",), _PRIMARY_VALUE),
    "mean list F1": PrimaryMetric(("list",), _PRIMARY_VALUE),
    "micro F1 of (entity, type)": PrimaryMetric(("entities",), _micro_f1),
    "within 0.01": PrimaryMetric(("number",), _PRIMARY_VALUE),
    "ROUGE-L F1": PrimaryMetric(("text",), _PRIMARY_VALUE),
}


def check_metric(metric: str, kind: str, options: Sequence[str]) -> None:
    """Refuse a metric that is unknown or does not apply to this kind of questions.

    Raises:
        UserError: the metric can't be computed.
    """
    known = [name for name, entry in METRICS.items() if kind in entry.kinds]
    name = metric.removesuffix(BY_TOPIC)
    if name.startswith(ONE_LABEL) and kind == "label":
        if (label := name.removeprefix(ONE_LABEL)) not in options:
            raise UserError(f"The metric '{metric}' needs one of the labels {', '.join(options)}, not '{label}'.")
    elif name not in known or (name != metric and not (kind == "label" and "F1" in name)):
        raise UserError(
            f"'{metric}' is no metric of {kind}; {did_you_mean(metric, known)}there are {', '.join(known)}."
        )


def metric_measure(metric: str, judgements: Judgements, topics: Sequence[str] = ()) -> Measure:
    """The metric over the judgements of one task.

    Args:
        metric: A name that `check_metric` accepts.
        judgements: One for each reply.
        topics: The topic of each question, for a metric by topic.
    """
    if metric.endswith(BY_TOPIC):
        name = metric.removesuffix(BY_TOPIC)
        return mean_of_measures(
            [metric_measure(name, _only_topic(judgements, topics, topic)) for topic in sorted(set(topics))]
        )
    if metric.startswith(ONE_LABEL):
        label = metric.removeprefix(ONE_LABEL)
        return f1_measure(
            [{label: judgement.counts[label]} if label in judgement.counts else {} for judgement in judgements]
        )
    return METRICS[metric].measure(judgements)


def _only_topic(judgements: Judgements, topics: Sequence[str], topic: str) -> list[Judgement]:
    """The judgements with the counts of other topics' questions removed."""
    no_counts: Counts = {}
    return [
        judgement if of_question == topic else replace(judgement, counts=no_counts)
        for judgement, of_question in zip(judgements, topics, strict=True)
    ]


def _summed(counts: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    table = list(counts)
    return sum(c[0] for c in table), sum(c[1] for c in table), sum(c[2] for c in table)
