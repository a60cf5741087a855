"""Held: measures equal hand-worked values and the field's own packages, and intervals behave as a bootstrap must."""

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score, roc_auc_score

from selfspec.config import DomainConfig, TaskType
from selfspec.records import SEPARATOR, Question
from selfspec.reporting.results import MEASURES, margins, results
from selfspec.scoring import intervals, metrics
from selfspec.scoring.intervals import draws, interval
from selfspec.scoring.tasks import compliant, judge, lenient_label

ROUGE = RougeScorer(["rougeL"], use_stemmer=False)
CAUSAL = ("causal", "not causal")
YESNO = ("yes", "no")
FIELDS = ("infection", "cancer", "heart")


def asked(*answers: str, options: tuple[str, ...] = ()) -> Question:
    """A question with these answers."""
    return Question("q1", "task", "Tell.", "A text.", answers, options=options)


@pytest.mark.parametrize(
    ("reply", "answer", "value"),
    [
        ("The cat sat.", "a CAT, sat", 1.0),  # articles, punctuation and case count for nothing
        ("IL-6", "IL6", 1.0),  # punctuation goes without a gap
        ("theatre", "the theatre", 1.0),
        ("theatre", "tre", 0.0),  # an article inside a word is none
        ("yes it is", "yes", 0.5),
        ("cat cat dog dog", "cat cat dog", 6 / 7),  # a repeated word counts as often as both have it
        ("cat cat cat", "cat", 0.5),
        ("dog", "cat", 0.0),
        ("the", "a!", 1.0),  # both empty
        ("", "cat", 0.0),
        ("cat", "the", 0.0),
    ],
)
def test_token_f1_is_that_of_squad(reply: str, answer: str, value: float) -> None:
    assert metrics.token_f1(reply, answer) == pytest.approx(value)


WORD = st.sampled_from(["a", "B", "c-d", "é", "naïve", "12.5"])
TEXT = st.text(max_size=30) | st.lists(WORD, max_size=15).map(" ".join)


@settings(deadline=None, max_examples=300)
@given(TEXT, TEXT)
def test_rouge_l_is_that_of_rouge_score(reply: str, answer: str) -> None:
    assert metrics.rouge_l(reply, answer) == pytest.approx(ROUGE.score(answer, reply)["rougeL"].fmeasure, abs=1e-12)


@pytest.mark.parametrize(
    ("reply", "options", "label"),
    [
        ("Yes, no doubt.", YESNO, "yes"),  # begins with a label, whatever follows
        ("The answer is no.", YESNO, "no"),
        ("No\nyes", YESNO, "no"),
        ("I can't say.\nyes", YESNO, ""),  # only the first line speaks
        ("It may be yes or no.", YESNO, ""),
        ("yes/no", YESNO, "yes"),
        ("I know nothing of yesterday.", YESNO, ""),  # inside longer words
        ("", YESNO, ""),
        ("not causal", CAUSAL, "not causal"),
        ("Causal.", CAUSAL, "causal"),
        ("The text is NOT causal", CAUSAL, "not causal"),
        ("The text is causal, surely", CAUSAL, "causal"),
        ("Is it causal, or not causal?", CAUSAL, ""),
    ],
)
def test_a_lenient_label_is_said_and_not_guessed(reply: str, options: tuple[str, ...], label: str) -> None:
    assert lenient_label(reply, options) == label
    assert lenient_label(reply, options[::-1]) == label


DRUG = "aspirin (drug)"


@pytest.mark.parametrize(
    ("kind", "gold", "reply", "right", "counts"),
    [
        ("label", "infection", "Infection.", 1.0, {"infection": (1, 0, 0), "cancer": (0, 0, 0), "heart": (0, 0, 0)}),
        ("label", "infection", "heart", 0.0, {"infection": (0, 0, 1), "cancer": (0, 0, 0), "heart": (0, 1, 0)}),
        ("label", "infection", "who knows", 0.0, {"infection": (0, 0, 1), "cancer": (0, 0, 0), "heart": (0, 0, 0)}),
        ("labels", "infection; cancer", "cancer; infection", 1.0, {"": (2, 0, 0)}),
        ("labels", "infection; cancer", "Cancer, heart", 0.0, {"": (1, 1, 1)}),
        ("labels", "infection; cancer", "none", 0.0, {"": (0, 0, 2)}),
        ("labels", "none", "None.", 1.0, {"": (0, 0, 0)}),
        ("labels", "none", "heart", 0.0, {"": (0, 1, 0)}),
        ("labels", "none", "I can't tell.", 0.0, {"": (0, 0, 0)}),  # who names nothing has not said that none fits
        ("labels", "none", "", 0.0, {"": (0, 0, 0)}),
        ("entities", f"{DRUG}; ulcer (disease)", "Ulcer (Disease); ASPIRIN (drug)", None, {"": (2, 0, 0)}),
        ("entities", f"{DRUG}; ulcer (disease)", f"{DRUG}; {DRUG}", None, {"": (1, 1, 1)}),
        ("entities", f"{DRUG}; {DRUG}", DRUG, None, {"": (1, 0, 1)}),
        ("entities", DRUG, "aspirin (disease)", None, {"": (0, 1, 1)}),  # mention and type must both be right
        ("entities", DRUG, "aspirin", None, {"": (0, 0, 1)}),
        ("entities", "interleukin 6 (IL-6) (gene)", "interleukin 6 (IL-6) (gene)", None, {"": (1, 0, 0)}),
        ("entities", "none", "none", None, {"": (0, 0, 0)}),
    ],
)
def test_labels_count_by_class_or_as_sets_and_entities_as_multisets(
    kind: str, gold: str, reply: str, right: float | None, counts: dict[str, Any]
) -> None:
    judged = judge(asked(gold, options=() if kind == "entities" else FIELDS), kind, reply, True)
    assert (judged.label_correct, judged.counts, judged.proper) == (right, counts, None)


@pytest.mark.parametrize(
    ("gold", "kind", "reply", "value"),
    [
        ("copper", "short", "The Copper.", 1.0),
        ("copper", "short", "Cu", 1.0),  # any answer is right
        ("copper", "short", "copper ion", 0.0),
        ("iron; zinc; copper", "list", "Zinc; the iron; copper", 1.0),
        ("iron; zinc; copper", "list", "zinc; iron; lead", 2 / 3),
        ("iron; zinc; copper", "list", "zinc", 0.5),
        ("iron; zinc", "list", "iron; iron", 2 / 3),  # said twice is said once
        ("iron; zinc", "list", "Iron; iron", 2 / 3),
        ("iron; zinc", "list", "", 0.0),
        ("1234", "number", "1,234", 1.0),
        ("-1234567", "number", "about -1,234,567 dollars", 1.0),
        ("1498.37", "number", "1,498.37", 1.0),
        ("1498.37", "number", "$1498.37", 1.0),
        ("12", "number", "12%", 1.0),
        ("0.5", "number", "It is .5", 1.0),
        ("-12.5", "number", "-12.5", 1.0),
        ("-12.5", "number", "12.5", 0.0),
        ("17.6", "number", "17.61", 1.0),
        ("17.6", "number", "17.62", 0.0),
        ("17.6", "number", "seventeen", 0.0),
        ("rates rose and fell", "text", "rates fell", 2 / 3),
    ],
)
def test_the_proper_metric_is_worked_out_by_hand(gold: str, kind: str, reply: str, value: float) -> None:
    answers = (gold, "Cu") if kind == "short" else (gold,)
    judged = judge(asked(*answers), kind, f" {reply}\n", True)
    assert judged.proper == pytest.approx(value)
    assert (judged.label_correct, judged.counts) == (None, {})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("label", ["yes", "No."], ["yes it is", "", "maybe"]),
        ("short", ["copper", "one two three four five six seven eight"], ["", "a\nb", "a b c d e f g h i"]),
        ("list", ["iron; zinc"], ["", "iron\nzinc"]),
        ("entities", ["aspirin (drug); ulcer (disease)", "none"], ["aspirin", "", "aspirin (drug); ulcer"]),
        ("number", ["17.6", "-3", "1,234", "1,234,567.8"], ["", "about 3", "3 dollars", "1.2.3"]),
        ("text", ["Rates rose."], ["", "Rates\nrose."]),
    ],
)
def test_a_reply_has_the_form_asked_for_or_has_not(kind: str, good: list[str], bad: list[str]) -> None:
    question = asked("yes", options=YESNO if kind == "label" else ())
    assert [compliant(question, kind, reply) for reply in good] == [True] * len(good)
    assert [compliant(question, kind, reply) for reply in bad] == [False] * len(bad)
    assert judge(question, kind, "yes", False).compliant == 0.0  # unfinished


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "?"])), min_size=1, max_size=20))
def test_macro_f1_is_that_of_sklearn_over_the_labels_that_occur(pairs: list[tuple[str, str]]) -> None:
    judged = [judge(asked(gold, options=("a", "b", "c")), "label", reply, True) for gold, reply in pairs]
    rows = draws(len(pairs), 3, "task")
    for row, value in zip(rows, intervals.f1([j.counts for j in judged])(rows), strict=True):
        gold, replies = [pairs[i][0] for i in row], [pairs[i][1] for i in row]
        occur = sorted({*gold, *replies} - {"?"})
        assert value == pytest.approx(f1_score(gold, replies, labels=occur, average="macro", zero_division=0))


SUBSETS = st.sets(st.sampled_from(FIELDS))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SUBSETS, SUBSETS), min_size=1, max_size=20))
def test_micro_f1_is_that_of_sklearn(pairs: list[tuple[set[str], set[str]]]) -> None:
    texts = [(SEPARATOR.join(sorted(gold)) or "none", SEPARATOR.join(sorted(mine)) or "none") for gold, mine in pairs]
    judged = [judge(asked(gold, options=FIELDS), "labels", reply, True) for gold, reply in texts]
    rows = draws(len(pairs), 3, "task")
    gold, mine = (np.asarray([[name in side[n] for name in FIELDS] for side in pairs]) for n in (0, 1))
    for row, value in zip(rows, intervals.f1([j.counts for j in judged])(rows), strict=True):
        assert value == pytest.approx(f1_score(gold[row], mine[row], average="micro", zero_division=0))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(YESNO), st.integers(-3, 3)), min_size=2, max_size=20))
def test_auc_of_two_options_is_that_of_sklearn_with_ties(pairs: list[tuple[str, int]]) -> None:
    gold = [label for label, _ in pairs]
    rows = draws(len(pairs), 5, "task")
    values = intervals.auc([{"yes": float(m), "no": -float(m)} for _, m in pairs], gold)(rows)
    for row, value in zip(rows, values, strict=True):
        positive = [gold[i] == "yes" for i in row]
        known = len(set(positive)) == 2
        assert value == pytest.approx(roc_auc_score(positive, [pairs[i][1] for i in row]) if known else 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_auc_of_three_options_is_that_of_sklearn_one_against_the_rest(seed: int) -> None:
    chance = np.random.default_rng(seed)
    shares = chance.multinomial(6, [0.4, 0.3, 0.3], size=40) / 6  # few values, so many ties
    gold = [FIELDS[n] for n in [0, 1, 2, *chance.integers(0, 3, 37)]]
    rows = draws(40, 20, "task")
    values = intervals.auc([dict(zip(FIELDS, map(float, row), strict=True)) for row in shares], gold)(rows)
    places = [FIELDS.index(label) for label in gold]
    for row, value in zip(rows, values, strict=True):
        assert value == pytest.approx(roc_auc_score(np.take(places, row), shares[row], multi_class="ovr"))


def test_a_margin_is_the_log_odds_of_an_option() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    for option, margin in margins({name: math.log(share) - 700 for name, share in shares.items()}).items():
        assert margin == pytest.approx(math.log(shares[option] / (1 - shares[option])))


def test_the_commonest_choice_is_found_anew_in_each_draw() -> None:
    rows = np.asarray([[0, 1, 2], [2, 2, 2], [2, 0, 2]])
    assert intervals.commonest(["a", "a", "b"])(rows).tolist() == pytest.approx([2 / 3, 1, 2 / 3])


def test_draws_are_fixed_by_the_name_of_the_task() -> None:
    mine = draws(12, 4, "sentiment")
    assert mine.shape == (5, 12)
    assert mine[0].tolist() == list(range(12))
    assert set(mine.flat) <= set(range(12))
    assert mine[1:].tolist() != draws(12, 4, "inference")[1:].tolist()
    code = "from selfspec.scoring.intervals import draws; print(draws(12, 4, 'sentiment').tolist())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(mine.tolist())


def test_the_interval_of_a_mean_shrinks_with_the_root_of_the_count() -> None:
    for count in (100, 400, 1600):
        found = interval(intervals.mean([0.0, 1.0] * (count // 2))(draws(count, 4000, "task")))
        assert found.value == 0.5
        assert found.low < 0.5 < found.high
        assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(count), rel=0.1)


def test_a_model_differs_from_itself_by_exactly_nothing() -> None:
    tasks = {"verdict": TaskType("label", "a verdict"), "figure": TaskType("number", "a figure")}
    domain = DomainConfig("d", "an expert", tasks, seeds="", evaluation="")
    questions = [Question(f"v{n}", "verdict", "Is it?", "x", (YESNO[n % 2],), options=YESNO) for n in range(20)]
    questions += [Question(f"n{n}", "figure", "How many?", "x", (str(n),)) for n in range(20)]
    rows = [
        {
            "id": question.id,
            "task_type": question.task_type,
            "shots": shots,
            "reply": ["yes", "3", "no", "7 or so"][place % 4],
            "finished": place % 5 > 0,
            "option_logprobs": [-1.0 - place % 3, -2.0] if question.options else [],
        }
        for shots in (0, 5)
        for place, question in enumerate(questions)
    ]
    report = results({"base": rows, "specialized": rows}, questions, domain, 200)
    overall = [cell for cell in report["scores"] if cell["task"] == "all"]
    assert {cell["measure"] for cell in overall} == set(MEASURES)
    assert all(cell["low"] < cell["high"] for cell in overall)
    assert {gap["measure"] for gap in report["differences"]} == set(MEASURES) - {"commonest"}
    assert {(gap["value"], gap["low"], gap["high"]) for gap in report["differences"]} == {(0.0, 0.0, 0.0)}
