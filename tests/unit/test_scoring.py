"""A reply is judged as worked out by hand; `test_references` compares the metrics with other packages."""

from typing import Any

import pytest

from questions import FIELDS, YESNO, make_question
from selfspec.evaluation.judgement import is_compliant, judge_reply
from selfspec.evaluation.parsing import lenient_label

CAUSAL = ("causal", "not causal")


@pytest.mark.parametrize(
    ("reply", "options", "label"),
    [
        ("Yes, no doubt.", YESNO, "yes"),  # begins with a label, whatever follows
        ("The answer is no.", YESNO, "no"),
        ("No\nyes", YESNO, "no"),
        ("I can't say.\nyes", YESNO, ""),  # only the first line counts
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
def test_a_lenient_label_is_stated_and_not_guessed(reply: str, options: tuple[str, ...], label: str) -> None:
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
        ("labels", "none", "I can't tell.", 0.0, {"": (0, 0, 0)}),  # a reply without labels does not state "none"
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
def test_single_labels_count_by_class_label_sets_as_sets_and_entities_as_multisets(
    kind: str, gold: str, reply: str, right: float | None, counts: dict[str, Any]
) -> None:
    judgement = judge_reply(make_question(gold, kind=kind, options=() if kind == "entities" else FIELDS), reply, True)
    assert (judgement.label_correct, judgement.counts, judgement.primary_value) == (right, counts, None)


@pytest.mark.parametrize(
    ("gold", "kind", "reply", "value"),
    [
        ("copper", "short", "The Copper.", 1.0),
        ("copper", "short", "Cu", 1.0),  # any answer is right
        ("copper", "short", "copper ion", 0.0),
        ("iron; zinc; copper", "list", "Zinc; the iron; copper", 1.0),
        ("iron; zinc; copper", "list", "zinc; iron; lead", 2 / 3),
        ("iron; zinc; copper", "list", "zinc", 0.5),
        ("iron; zinc", "list", "iron; iron", 2 / 3),  # repeated items count once
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
def test_the_primary_value_is_that_worked_out_by_hand(gold: str, kind: str, reply: str, value: float) -> None:
    answers = (gold, "Cu") if kind == "short" else (gold,)
    judgement = judge_reply(make_question(*answers, kind=kind), f" {reply}\n", True)
    assert judgement.primary_value == pytest.approx(value)
    assert (judgement.label_correct, judgement.counts) == (None, {})


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
def test_a_reply_complies_with_the_requested_format_or_not(kind: str, good: list[str], bad: list[str]) -> None:
    question = make_question("yes", kind=kind, options=YESNO if kind == "label" else ())
    assert [is_compliant(question, reply) for reply in good] == [True] * len(good)
    assert [is_compliant(question, reply) for reply in bad] == [False] * len(bad)
    assert judge_reply(question, "yes", False).compliant == 0.0  # unfinished
