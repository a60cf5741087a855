"""Every primary metric equals that of scikit-learn, or a value worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from selfspec.data.records import Question
from selfspec.errors import UserError
from selfspec.evaluation.intervals import bootstrap_draws
from selfspec.evaluation.judgement import Judgement, judge_reply
from selfspec.evaluation.primary_metrics import check_metric, metric_measure

SENTIMENTS = ("positive", "negative", "neutral")


def make_question(kind: str, *answers: str, options: tuple[str, ...] = ()) -> Question:
    return Question("q", "task", kind, "Tell.", "A text.", answers, options=options)


def value(metric: str, judgements: list[Judgement], topics: list[str] | None = None) -> float:
    """The estimate; the values of all resamples are checked to be in [0, 1]."""
    measure = metric_measure(metric, judgements, topics or [])
    values = measure(bootstrap_draws(len(judgements), 50, "task"))
    assert values.shape == (51,) and ((values >= 0) & (values <= 1)).all()
    return float(values[0])


def random_labels(count: int, seed: int) -> tuple[list[str], list[str], list[Judgement]]:
    """Random answers and replies, some of which state no label."""
    rng = random.Random(seed)
    gold = rng.choices(SENTIMENTS, weights=(6, 1, 3), k=count)
    predicted = [rng.choice([answer, answer, *SENTIMENTS, "well"]) for answer in gold]
    judgements = [
        judge_reply(make_question("label", g, options=SENTIMENTS), s, True)
        for g, s in zip(gold, predicted, strict=True)
    ]
    return gold, predicted, judgements


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_single_labels_are_those_of_scikit_learn(seed: int) -> None:
    gold, predicted, judgements = random_labels(60, seed)
    for average in ("macro", "micro", "weighted"):
        expected = f1_score(gold, predicted, labels=SENTIMENTS, average=average, zero_division=0)
        assert value(f"{average} F1", judgements) == pytest.approx(expected)
    assert value("accuracy", judgements) == pytest.approx(accuracy_score(gold, predicted))
    for number, label in enumerate(SENTIMENTS):
        expected = f1_score(gold, predicted, labels=SENTIMENTS, average=None, zero_division=0)[number]
        assert value(f"F1 of {label}", judgements) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_metric_by_topic_is_the_mean_over_the_topics(seed: int) -> None:
    gold, predicted, judgements = random_labels(90, seed)
    topics = [f"t{number % 3}" for number in range(90)]
    for average in ("macro", "weighted"):
        expected = [
            f1_score(gold[start::3], predicted[start::3], labels=SENTIMENTS, average=average, zero_division=0)
            for start in range(3)
        ]
        assert value(f"{average} F1 by topic", judgements, topics) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_of_label_sets_are_those_of_scikit_learn(seed: int) -> None:
    rng = random.Random(seed)
    gold = [[label for label in SENTIMENTS if rng.random() < 0.4] for _ in range(40)]
    predicted = [[label for label in SENTIMENTS if rng.random() < 0.5] for _ in range(40)]
    judgements = [
        judge_reply(make_question("labels", "; ".join(g) or "none", options=SENTIMENTS), "; ".join(s) or "none", True)
        for g, s in zip(gold, predicted, strict=True)
    ]
    flags = [[[int(label in labels) for label in SENTIMENTS] for labels in table] for table in (gold, predicted)]
    for average in ("macro", "micro"):
        expected = f1_score(*map(np.asarray, flags), average=average, zero_division=0)
        assert value(f"{average} F1", judgements) == pytest.approx(expected)
    assert value("accuracy", judgements) == pytest.approx(
        np.mean([g == s for g, s in zip(gold, predicted, strict=True)])
    )


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("Insulin", 1, 1),
        ("the INS.", 1, 1),
        ("glucagon; insulin", 0, 1),
        ("a, b, c, d, insulin", 0, 1),
        ("a, b, c, d, e, insulin", 0, 0),  # the sixth candidate
        ("insulin or glucagon", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_short_answer_is_right_by_strict_or_lenient_accuracy(reply: str, strict: float, lenient: float) -> None:
    judgements = [judge_reply(make_question("short", "insulin", "INS"), reply, True)]
    assert (value("strict accuracy", judgements), value("lenient accuracy", judgements)) == (strict, lenient)


def test_metrics_of_the_other_kinds_are_those_worked_out_by_hand() -> None:
    lists = [
        judge_reply(make_question("list", "iron; zinc", "iron; Zn"), reply, True) for reply in ("iron; zn", "iron", "")
    ]
    assert value("mean list F1", lists) == pytest.approx((1 + 2 / 3 + 0) / 3)
    numbers = [judge_reply(make_question("number", "0.14"), reply, True) for reply in ("0.15", "0.2", "about 0.14")]
    assert value("within 0.01", numbers) == pytest.approx(2 / 3)
    gold = "red heart (anatomy); eye (anatomy)"
    entities = [
        judge_reply(make_question("entities", gold), reply, True)
        for reply in ("eye (anatomy)", "Red heart (anatomy); a (b)")
    ]
    assert value("micro F1 of (entity, type)", entities) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    texts = [judge_reply(make_question("text", "rest helps"), reply, True) for reply in ("rest helps", "no")]
    assert value("ROUGE-L F1", texts) == pytest.approx(0.5)


def test_large_sets_are_measured_one_resample_at_a_time() -> None:
    """20,000 questions with 200 resamples do not need gigabytes."""
    judgements = [Judgement(0, 0, 1, 1.0, counts={"yes": (1, 0, 0), "no": (0, 0, 0)})] * 20_000
    values = metric_measure("weighted F1", judgements)(bootstrap_draws(20_000, 200, "task"))
    assert (values == 1).all()


@pytest.mark.parametrize(
    ("metric", "kind", "message"),
    [
        ("macro F1", "text", "'macro F1' is no metric of text; there are ROUGE-L F1."),
        (
            "accuracyy",
            "label",
            "'accuracyy' is no metric of label; did you mean 'accuracy'? there are accuracy, macro F1",
        ),
        (
            "F1 of maybe",
            "label",
            "The metric 'F1 of maybe' needs one of the labels positive, negative, neutral, not 'maybe'.",
        ),
    ],
)
def test_a_metric_of_another_kind_is_refused(metric: str, kind: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_metric(metric, kind, SENTIMENTS)
    assert str(error.value).startswith(message)
