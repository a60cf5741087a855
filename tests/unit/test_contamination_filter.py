"""The filter of contamination reports runs of words that a text shares with an evaluation question."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filter_candidates import of
from selfspec.data.reading import read_question_texts
from selfspec.data.records import Draft, Seed
from selfspec.filters.contamination import Contamination

QUESTION = [f"q{n}" for n in range(40)]
OTHER_WORDS = st.lists(st.integers(0, 99).map(lambda n: f"x{n}"), max_size=15)


def longest_run(length: int, question: int, least: int) -> int:
    """The longest run that counts in `length` consecutive words of a question of `question` words."""
    sizes = {min(size, question) for size in (least, 13, 8) if size >= least}
    return max((size for size in sizes if 5 <= size <= length), default=0)


@settings(deadline=None)
@example(13, 27, 13, [], [], 8, 0)
@example(8, 0, 8, ["x1"], ["x1"], 8, 0)
@example(12, 3, 40, [], [], 8, 0)
@example(7, 3, 40, [], [], 8, 0)
@given(
    st.integers(1, 20),
    st.integers(0, 40),
    st.integers(1, 40),
    OTHER_WORDS,
    OTHER_WORDS,
    st.sampled_from([8, 8, 8, 5, 10, 13, 20]),
    st.randoms(use_true_random=False),
)
def test_a_run_of_a_questions_words_is_reported_with_its_length_and_question(
    length: int, start: int, question: int, before: list[str], after: list[str], least: int, rng: object
) -> None:
    question_words = QUESTION[:question]
    run = question_words[start : start + length]
    separators = random.Random(repr(rng)).choices([" ", ", ", "\n", " - "], k=200)
    text = "".join(word.upper() + mark for word, mark in zip([*before, *run, *after], separators, strict=False))
    other = ("other", " ".join(f"y{n}" for n in range(30)))
    size = longest_run(len(run), question, least)
    contamination = Contamination([other, ("q1", " ".join(question_words))], least)
    assert contamination.check_passage(text) == (f"{size} words of q1" if size else "")
    assert contamination.check(of(Draft("summary", " ".join(question_words), text, ()))) == contamination.check_passage(
        text
    )
    assert contamination.overlapping([text, "x1 x2"]) == ({"q1"} if size else set())


@settings(deadline=None)
@given(st.integers(8, 40), st.lists(st.integers(1, 7), min_size=1, max_size=30), st.integers(0, 33))
def test_a_text_that_has_a_questions_words_but_no_run_of_eight_passes(
    question: int, lengths: list[int], start: int
) -> None:
    pieces = [QUESTION[(start + 5 * n) % 33 :][:length] for n, length in enumerate(lengths)]
    text = " x ".join(" ".join(piece) for piece in pieces)
    assert Contamination([("q1", " ".join(QUESTION[:question]))], 8).check_passage(text) == ""


@pytest.mark.parametrize("count", range(1, 10))
def test_a_question_under_eight_words_counts_as_a_whole_and_one_under_five_never(count: int) -> None:
    contamination = Contamination([("q1", " ".join(QUESTION[:count]))], 8)
    whole = " ".join(["x", *QUESTION[:count], "x"])
    assert contamination.check_passage(whole) == ("" if count < 5 else f"{count} words of q1")
    assert contamination.check_passage(" ".join(QUESTION[: min(count, 8) - 1])) == ""


@pytest.mark.parametrize(
    ("of_seed", "length", "reason"),
    [
        (0, 8, "8 words of q1"),
        (7, 8, "8 words of q1"),  # the seed has no whole run
        (8, 8, ""),
        (8, 9, "8 words of q1"),  # the second eight are in no seed
        (12, 13, "13 words of q1"),
        (13, 13, ""),
        (20, 13, ""),
    ],
)
def test_a_run_that_a_seed_has_too_does_not_count(of_seed: int, length: int, reason: str) -> None:
    texts = ["A text of another kind.", f"x {' '.join(QUESTION[:of_seed])} x"]
    seeds = [Seed(f"s{n}", "summary", "Shorten it.", text, "Words.") for n, text in enumerate(texts)]
    contamination = Contamination([("q1", " ".join(QUESTION)), ("other", "y " * 20)], 8, seeds)
    assert contamination.check_passage(f"z, {' '.join(QUESTION[:length]).upper()}!") == reason
    assert contamination.overlapping([" ".join(QUESTION[:length])]) == ({"q1"} if reason else set())


def test_a_question_is_compared_by_its_input_or_without_one_by_its_instruction(tmp_path: Path) -> None:
    instruction, text = (
        "Which of the two drugs lowered the risk most?",
        "In the trial both drugs lowered it by a third.",
    )
    rows = [
        {"id": "q1", "instruction": instruction, "input": text},
        {"id": "q2", "instruction": "Name the largest river of Europe"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    contamination = Contamination(read_question_texts(path), 8)
    assert contamination.check_passage(instruction) == ""
    assert contamination.check_passage(text) == "10 words of q1"
    assert contamination.check_passage("Please name the largest river of Europe!") == "6 words of q2"
