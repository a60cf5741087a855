"""The primary metric of a task by its name (METHOD, Proper metrics), as a measure over the bootstrap's draws.

Besides the names below there are `F1 of LABEL` (of one label alone), and `NAME by topic`: the mean over the topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selfspec.errors import UserError, did_you_mean
from selfspec.evaluation.intervals import (
    Counts,
    Measure,
    f1_measure,
    mean_measure,
    mean_of_measures,
    weighted_f1_measure,
)
from selfspec.evaluation.judgement import Judgement

METRICS: Mapping[str, tuple[str, ...]] = {  # name -> the kinds of answers that it is a metric of
    "accuracy": ("label", "labels"),
    "macro F1": ("label", "labels"),
    "micro F1": ("label", "labels"),
    "weighted F1": ("label",),
    "strict accuracy": ("short",),
    "lenient accuracy": ("short",),
    "exact match": ("short",),
    "mean list F1": ("list",),
    "micro F1 of (entity, type)": ("entities",),
    "within 0.01": ("number",),
    "ROUGE-L F1": ("text",),
}


ONE_LABEL, BY_TOPIC = "F1 of ", " by topic"


def check_metric(metric: str, kind: str, options: Sequence[str]) -> None:
    """Refuse a metric that is unknown, or none of this kind of answers.

    Raises:
        UserError: it is.
    """
    known = [name for name, kinds in METRICS.items() if kind in kinds]
    name = metric.removesuffix(BY_TOPIC)
    if name.startswith(ONE_LABEL) and kind == "label":
        if (label := name.removeprefix(ONE_LABEL)) not in options:
            raise UserError(f"The metric '{metric}' is of '{label}', which is none of {', '.join(options)}.")
    elif name not in known or (name != metric and not (kind == "label" and "F1" in name)):
        raise UserError(
            f"'{metric}' is no metric of {kind}; {did_you_mean(metric, known)}there are {', '.join(known)}."
        )


def metric_measure(metric: str, judged: Sequence[Judgement], topics: Sequence[str] = ()) -> Measure:
    """The metric of these replies.

    Args:
        metric: One that `check` let through.
        judged: A judgement a reply.
        topics: The topic of each question, for a metric by topic.
    """
    if metric.endswith(BY_TOPIC):
        name = metric.removesuffix(BY_TOPIC)
        return mean_of_measures(
            [_counts_measure(name, _of_topic(judged, topics, topic)) for topic in sorted(set(topics))]
        )
    if metric == "accuracy":
        return mean_measure([judgement.label_correct or 0.0 for judgement in judged])
    if metric == "lenient accuracy":
        return mean_measure([judgement.lenient or 0.0 for judgement in judged])
    if judged[0].counts:
        return _counts_measure(metric, [_counts(metric, judgement) for judgement in judged])
    return mean_measure([judgement.primary or 0.0 for judgement in judged])


def _counts_measure(metric: str, counts: Sequence[Counts]) -> Measure:
    if metric.startswith(ONE_LABEL):
        label = metric.removeprefix(ONE_LABEL)
        return f1_measure([{label: count[label]} if label in count else {} for count in counts])
    if metric == "weighted F1":
        return weighted_f1_measure(counts)
    if metric.startswith("micro F1"):
        return f1_measure([{"": _pooled(count.values())} for count in counts])
    return f1_measure(counts)


def _counts(metric: str, judgement: Judgement) -> Counts:
    return judgement.by_label if metric == "macro F1" and judgement.by_label else judgement.counts


def _pooled(counts: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    table = list(counts)
    return sum(c[0] for c in table), sum(c[1] for c in table), sum(c[2] for c in table)


def _of_topic(judged: Sequence[Judgement], topics: Sequence[str], topic: str) -> list[Counts]:
    """The counts of one topic's questions; all the others count for nothing."""
    return [judgement.counts if mine == topic else {} for judgement, mine in zip(judged, topics, strict=True)]
