"""The metrics equal those of the field's packages, or of an independent implementation."""

import string
import warnings
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from seqeval.metrics import f1_score as tagged_f1
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.preprocessing import MultiLabelBinarizer

from questions import FIELDS, YESNO, make_question
from selfspec.data.records import SEPARATOR
from selfspec.evaluation.intervals import auc_measure, bootstrap_draws, f1_measure
from selfspec.evaluation.judgement import judge_reply
from selfspec.evaluation.text_overlap import normalize_answer, rouge_l, token_f1

ROUGE = RougeScorer(["rougeL"], use_stemmer=False)


@pytest.mark.parametrize(
    ("reply", "answer", "value"),
    [
        ("The cat sat.", "a CAT, sat", 1.0),  # articles, punctuation and case are ignored
        ("IL-6", "IL6", 1.0),  # removed punctuation leaves no space
        ("theatre", "the theatre", 1.0),
        ("theatre", "tre", 0.0),  # articles inside words are kept
        ("yes it is", "yes", 0.5),
        ("cat cat dog dog", "cat cat dog", 6 / 7),  # a repeated word counts as often as it is in both
        ("cat cat cat", "cat", 0.5),
        ("dog", "cat", 0.0),
        ("yes or no", "yes", 0.5),  # every further word lowers the score, right or wrong
        ("The answer is: yes, there was an effect", "yes", 2 / 7),  # six words without the articles
        ("naïve café", "NAÏVE CAFÉ", 1.0),  # case is ignored, accents are not
        ("cafe", "café", 0.0),
        ("3.5 %", "35", 1.0),  # punctuation is removed from numbers too
        ("“yes”", "yes", 1.0),  # in every script
        ("a-the-b", "atheb", 1.0),  # punctuation is removed before articles
        ("yes\n\tno", "yes no", 1.0),
        ("the", "a!", 0.0),  # where nothing else is left, articles count
        ("a.", "A", 1.0),
        ("", "A", 0.0),  # an empty reply is never right
        ("", "%", 0.0),
        ("%", "%", 1.0),  # where nothing else is left, punctuation counts
        ("", "cat", 0.0),
        ("cat", "the", 0.0),
    ],
)
def test_token_f1_is_that_of_squad(reply: str, answer: str, value: float) -> None:
    assert token_f1(reply, answer) == pytest.approx(value)


PIECE = st.sampled_from(["a", "The", "AN", "cat", "dog", "Cat's", "i.e.", "_", "-", "  ", "12.5", "'a'"])
ASCII = st.characters(max_codepoint=127)
WORDY = st.text(ASCII, max_size=20) | st.lists(PIECE, max_size=12).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda gap: gap.join(parts))
)


def bare(text: str) -> list[str]:
    """The words of SQuAD's script, letter by letter: without ASCII punctuation, then without separate articles."""
    kept = [letter for letter in text.lower() if letter not in string.punctuation]
    runs: list[str] = []  # of letters and digits, or of one other sign
    for letter in kept:
        if runs and letter.isalnum() and runs[-1][-1].isalnum():
            runs[-1] += letter
        else:
            runs.append(letter)
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


@settings(deadline=None, max_examples=400)
@given(WORDY, WORDY)
def test_token_f1_is_that_of_an_independent_implementation(reply: str, answer: str) -> None:
    prediction, reference = bare(reply), bare(answer)
    assume(prediction and reference)  # else articles or punctuation count
    assert normalize_answer(reply).split() == prediction
    unmatched = list(reference)
    for word in prediction:
        if word in unmatched:
            unmatched.remove(word)
    common = len(reference) - len(unmatched)
    if common == 0:
        expected = 0.0
    else:
        precision, recall = common / len(prediction), common / len(reference)
        expected = 2 * precision * recall / (precision + recall)
    assert token_f1(reply, answer) == pytest.approx(expected, abs=1e-12)
    assert token_f1(answer, reply) == token_f1(reply, answer)


@given(WORDY, st.lists(WORDY, min_size=1, max_size=4))
def test_the_best_of_several_answers_counts(reply: str, answers: list[str]) -> None:
    judgement = judge_reply(make_question(*answers), reply, True)
    assert judgement.token_f1 == max(token_f1(reply.strip(), answer) for answer in answers)
    assert judgement.rouge_l == max(rouge_l(reply.strip(), answer) for answer in answers)


WORD = st.sampled_from(["a", "B", "c-d", "e_f", "12.5"])
TEXT = st.text(ASCII, max_size=30) | st.lists(WORD, max_size=15).map(" ".join)


def rouge(reply: str, answer: str) -> float:
    """ROUGE-L F1 of the package rouge_score."""
    return float(ROUGE.score(answer, reply)["rougeL"].fmeasure)


@settings(deadline=None, max_examples=300)
@given(TEXT, TEXT)
def test_rouge_l_is_that_of_rouge_score(reply: str, answer: str) -> None:
    assert rouge_l(reply, answer) == pytest.approx(rouge(reply, answer), abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_rouge_l_of_long_texts_that_share_much_is_that_of_rouge_score(data: Any) -> None:
    answer = data.draw(st.lists(st.integers(0, 40).map(lambda n: f"w{n}"), min_size=20, max_size=120))
    kept = data.draw(st.lists(st.booleans(), min_size=len(answer), max_size=len(answer)))
    reply = [word for word, keep in zip(answer, kept, strict=True) if keep]
    turn = data.draw(st.integers(0, len(reply)))
    reply = [*reply[turn:], *data.draw(st.lists(WORD, max_size=10)), *reply[:turn]]
    texts = " ".join(reply), " ".join(answer)
    assert rouge_l(*texts) == pytest.approx(rouge(*texts), abs=1e-12)


MENTION = st.tuples(st.sampled_from(["BRCA1", "brca1", "p53", "heart failure"]), st.sampled_from(["gene", "disease"]))


def answer_of(entities: Sequence[tuple[str, str]]) -> str:
    """`mention (type); ...`, the format of our answers."""
    return SEPARATOR.join(f"{mention} ({kind})" for mention, kind in entities) or "none"


@given(st.lists(MENTION, max_size=5), st.lists(MENTION, max_size=5))
def test_the_matching_of_entities_is_the_best_one_to_one_matching(
    predicted: list[tuple[str, str]], gold: list[tuple[str, str]]
) -> None:
    """Brute force: all orders of the longer list against the shorter."""
    few, many = sorted(([(m.lower(), k) for m, k in side] for side in (predicted, gold)), key=len)
    right = max(sum(one == other for one, other in zip(few, order, strict=False)) for order in permutations(many))
    judgement = judge_reply(make_question(answer_of(gold), kind="entities"), answer_of(predicted), True)
    assert judgement.counts == {"": (right, len(predicted) - right, len(gold) - right)}


TAGS = st.lists(st.sampled_from(["O", "O", "B-gene", "B-drug", "I"]), min_size=1, max_size=9)


def spread(tags: list[str]) -> list[str]:
    """Well-formed BIO tags: `I` continues the entity before it, or is outside."""
    spread_tags: list[str] = []
    for tag in tags:
        before = spread_tags[-1][2:] if spread_tags else ""
        spread_tags.append(tag if tag != "I" else f"I-{before}" if before else "O")
    return spread_tags


def answer_from(tags: list[str], words: Sequence[str] = [f"word{n}" for n in range(9)]) -> str:
    """The entities of a tagged sentence in the format of our answers; where all words differ, mentions are unique."""
    entities: list[tuple[list[str], str]] = []
    for word, tag in zip(words, tags, strict=False):
        if tag.startswith("B-"):
            entities.append(([word], tag[2:]))
        elif tag.startswith("I-"):
            entities[-1][0].append(word)
    return answer_of([(" ".join(mention), kind) for mention, kind in entities])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8))
def test_entity_f1_is_that_of_seqeval_on_tagged_sentences(pairs: list[tuple[list[str], list[str]]]) -> None:
    lengths = [min(len(gold), len(predicted)) for gold, predicted in pairs]
    golds, predictions = ([spread(pair[side])[:n] for pair, n in zip(pairs, lengths, strict=True)] for side in (0, 1))
    counts = [
        judge_reply(make_question(answer_from(gold), kind="entities"), answer_from(predicted), True).counts
        for gold, predicted in zip(golds, predictions, strict=True)
    ]
    rows = bootstrap_draws(len(pairs), 3, "task")
    for row, value in zip(rows, f1_measure(counts)(rows), strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing to find
            expected = tagged_f1(
                [golds[i] for i in row], [predictions[i] for i in row], mode="strict", scheme=IOB2, zero_division=0
            )
        assert value == pytest.approx(expected)


def test_answers_count_a_repeated_mention_and_tags_distinguish_its_positions() -> None:
    words, gold, other, both = (
        ["aspirin", "or", "aspirin"],
        ["B-drug", "O", "O"],
        ["O", "O", "B-drug"],
        ["B-drug", "O", "B-drug"],
    )
    assert tagged_f1([gold], [other], mode="strict", scheme=IOB2) == 0.0
    assert tagged_f1([gold], [both], mode="strict", scheme=IOB2) == pytest.approx(2 / 3)
    counts = [
        judge_reply(
            make_question(answer_from(gold, words), kind="entities"), answer_from(predicted, words), True
        ).counts
        for predicted in (other, both)
    ]
    assert counts == [{"": (1, 0, 0)}, {"": (1, 1, 0)}]


ITEMS = st.sets(st.sampled_from(["iron", "zinc", "copper", "lead"]))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(ITEMS.filter(bool), ITEMS), min_size=1, max_size=12))
def test_list_f1_is_that_of_sklearn_averaged_over_samples(pairs: list[tuple[set[str], set[str]]]) -> None:
    values = [
        judge_reply(
            make_question(SEPARATOR.join(sorted(gold)), kind="list"),
            SEPARATOR.join(sorted(predicted, reverse=True)),
            True,
        ).primary_value
        for gold, predicted in pairs
    ]
    table = MultiLabelBinarizer(classes=["copper", "iron", "lead", "zinc"])
    gold, predicted = (table.fit_transform([pair[side] for pair in pairs]) for side in (0, 1))
    expected = f1_score(gold, predicted, average="samples", zero_division=0)
    assert np.mean([value or 0.0 for value in values]) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "?"])), min_size=1, max_size=20))
def test_macro_f1_is_that_of_sklearn_over_the_labels_that_occur(pairs: list[tuple[str, str]]) -> None:
    judgements = [
        judge_reply(make_question(gold, kind="label", options=("a", "b", "c")), reply, True) for gold, reply in pairs
    ]
    rows = bootstrap_draws(len(pairs), 3, "task")
    for row, value in zip(rows, f1_measure([j.counts for j in judgements])(rows), strict=True):
        gold, replies = [pairs[i][0] for i in row], [pairs[i][1] for i in row]
        occur = sorted({*gold, *replies} - {"?"})
        assert value == pytest.approx(f1_score(gold, replies, labels=occur, average="macro", zero_division=0))


SUBSETS = st.sets(st.sampled_from(FIELDS))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SUBSETS, SUBSETS), min_size=1, max_size=20))
def test_micro_f1_of_sets_of_labels_and_their_accuracy_are_those_of_sklearn(
    pairs: list[tuple[set[str], set[str]]],
) -> None:
    texts = [
        (SEPARATOR.join(sorted(gold)) or "none", SEPARATOR.join(sorted(labels)) or "none") for gold, labels in pairs
    ]
    judgements = [judge_reply(make_question(gold, kind="labels", options=FIELDS), reply, True) for gold, reply in texts]
    rows = bootstrap_draws(len(pairs), 3, "task")
    gold, predicted = (np.asarray([[name in side[n] for name in FIELDS] for side in pairs]) for n in (0, 1))
    for row, value in zip(rows, f1_measure([j.counts for j in judgements])(rows), strict=True):
        assert value == pytest.approx(f1_score(gold[row], predicted[row], average="micro", zero_division=0))
    assert np.mean([j.label_correct or 0.0 for j in judgements]) == pytest.approx(accuracy_score(gold, predicted))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(YESNO), st.integers(-3, 3)), min_size=2, max_size=20))
def test_auc_of_two_options_is_that_of_sklearn_with_ties(pairs: list[tuple[str, int]]) -> None:
    gold = [label for label, _ in pairs]
    rows = bootstrap_draws(len(pairs), 5, "task")
    values = auc_measure([{"yes": float(m), "no": -float(m)} for _, m in pairs], gold)(rows)
    for row, value in zip(rows, values, strict=True):
        positive = [gold[i] == "yes" for i in row]
        known = len(set(positive)) == 2
        assert value == pytest.approx(roc_auc_score(positive, [pairs[i][1] for i in row]) if known else 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_auc_of_three_options_is_that_of_sklearn_one_against_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(6, [0.4, 0.3, 0.3], size=40) / 6  # few values, so many ties
    gold = [FIELDS[n] for n in [0, 1, 2, *rng.integers(0, 3, 37)]]
    rows = bootstrap_draws(40, 20, "task")
    values = auc_measure([dict(zip(FIELDS, map(float, row), strict=True)) for row in shares], gold)(rows)
    places = [FIELDS.index(label) for label in gold]
    for row, value in zip(rows, values, strict=True):
        assert value == pytest.approx(roc_auc_score(np.take(places, row), shares[row], multi_class="ovr"))
