"""Candidates pass the filters in their order; each row is counted once, by the reason for which it was dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from generation_pools import (
    BY_TYPE,
    QUESTIONS,
    SEEDS,
    candidate_rows,
    examples_context,
    raw_row,
    store_blocks,
    unique_text,
    write_rows,
)
from selfspec.data.splits import split_seeds
from selfspec.errors import UserError
from selfspec.generation.funnel import collect_examples, count_reasons
from selfspec.generation.pools import pool_keys
from selfspec.prompts.templates import prompts_hash
from selfspec.runtime.context import StageContext
from toys import prompts

FILTERS = ("form", "echo", "duplicate", "novelty", "contamination", "answer", "self_consistency", "judge", "balance")


def store_seed_margins(context: StageContext, wrong: float = -1.0) -> None:
    """Store the judge's margins of the seeds: 0 for right answers, `wrong` for corrupted ones."""
    count = len(split_seeds(SEEDS)[0]) - context.config.generation.judge.shots
    text = "".join(json.dumps({"margin": margin}) + "\n" for margin in [0.0] * count + [wrong] * count)
    key = f"{pool_keys(context.stage.values, context.stage.inputs)['judgements']}-seeds"
    context.store.make("judgements", key, {"counts": {}}, lambda _, out: write_rows(out, text))


class Case(NamedTuple):
    """A row of the pools, and the verdict that it gets."""

    raw: dict[str, Any]
    response: str
    samples: list[str]
    margin: float
    dropped_by: str
    reason: str


ENTAILS = BY_TYPE["inference"].options
CASES = [
    Case(raw_row("yesno_question", unique_text(0)), "Yes.", ["yes", "no", "yes", "Yes!", "no"], 0.0, "", ""),
    Case(raw_row("yesno_question", unique_text(1), finished=False), "yes", [], 1, "form", "truncated"),
    Case(raw_row("yesno_question", unique_text(2), instruction="Is it?"), "yes", [], 1, "form",
         "instruction too short"),
    Case(raw_row("inference", BY_TYPE["inference"].input), "x", [], 1, "echo", f"echo of {BY_TYPE['inference'].id}"),
    Case(raw_row("inference", BY_TYPE["summarization"].input), "x", [], 1, "duplicate",
         f"same input as {BY_TYPE['summarization'].id}"),
    Case(raw_row("long_question", unique_text(0).upper()), "x", [], 1, "duplicate", "same input as 00000-00"),
    Case(raw_row("yesno_question", f"{unique_text(0)} Indeed."), "yes", [], 1, "novelty", "near 00000-00"),
    Case(raw_row("summarization", f"It seems that {QUESTIONS[0][1]}"), "x", [], 1, "contamination",
         "13 words of question-1"),
    # the text of a row that `form` dropped
    Case(raw_row("summarization", unique_text(2)), "Short.", [], 3.5, "", ""),
    Case(raw_row("summarization", unique_text(9)), " ", [], 1, "answer", "empty"),
    Case(raw_row("inference", unique_text(10)), "perhaps so", [], 1, "answer", "label outside the options"),
    Case(raw_row("inference", unique_text(11)), ENTAILS[0], [*ENTAILS[:2] * 2, "?"], 1, "self_consistency",
         "no majority"),
    Case(raw_row("summarization", unique_text(12)), "Shorter.", [], -0.1, "judge", "judged wrong"),
    # the majority of the samples replaces the response
    Case(raw_row("yesno_question", unique_text(13)), "no", ["yes"] * 5, 1, "", ""),
    Case(raw_row("yesno_question", unique_text(14)), "yes", ["yes"] * 5, 1, "balance", "label yes leads"),
    Case(raw_row("yesno_question", unique_text(15)), "no", ["no"] * 5, 1, "", ""),
    Case(raw_row("yesno_question", unique_text(16)), "yes", ["yes"] * 5, 1, "", ""),
    # equal to a row that `answer` dropped
    Case(raw_row("summarization", unique_text(9)), "x", [], 1, "duplicate", "same input as 00000-09"),
    Case(raw_row("summarization", unique_text(18), instruction=f"Say this again: {QUESTIONS[0][1]}"), "So.", [], 1,
         "", ""),
]  # fmt: skip
CLOSED = ("yesno_question", "inference")
ALL_ON = [f"generation.filters.{name}=true" for name in FILTERS]


def case_blocks(off: str = "") -> dict[str, list[dict[str, Any]]]:
    """The pools' blocks of `CASES`, where the filter `off` drops no row."""

    def reaching(name: str) -> list[int]:
        later = ("", off, *FILTERS[FILTERS.index(name) :])
        return [place for place, case in enumerate(CASES) if case.dropped_by in later]

    source = {"finished": True, "too_long": False, "response_seeds": [SEEDS[0].id], "documents": ["d1"]}
    closed = [n for n in reaching("self_consistency") if CASES[n].raw["request"]["task_type"] in CLOSED]
    blocks: dict[str, list[dict[str, Any]]] = {
        "instructions": [{"place": n, **case.raw} for n, case in enumerate(CASES)],
        "responses": [{"place": n, "text": CASES[n].response, **source} for n in reaching("answer")],
        "votes": [{"place": n, "samples": CASES[n].samples} for n in closed],
        "judgements": [{"place": n, "margin": CASES[n].margin} for n in reaching("judge")],
    }
    pool_of_filter = {"judge": "judgements", "self_consistency": "votes"}
    return {name: rows for name, rows in blocks.items() if name != pool_of_filter.get(off)}


def test_a_row_gets_the_verdicts_up_to_the_filter_that_drops_it(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON)
    store_blocks(context, case_blocks())
    store_seed_margins(context)
    rows = candidate_rows(context).block(0)
    assert [row.id for row in rows] == [f"00000-{place:02d}" for place in range(len(CASES))]
    for row, case in zip(rows, CASES, strict=True):
        is_closed = row.task_type in CLOSED
        chain = [name for name in FILTERS if is_closed or name not in ("self_consistency", "balance")]
        names = list(row.verdicts)
        assert names == (chain[: chain.index(case.dropped_by) + 1] if case.dropped_by else chain)
        reasons = {name: reason for name, reason in row.verdicts.items() if reason}
        assert reasons == ({case.dropped_by: case.reason} if case.dropped_by else {})
        assert (row.instruction, row.input) == (case.raw["instruction"], case.raw["input"])
        assert row.seeds == tuple(case.raw["seeds"])
        is_answered = "answer" in names
        assert row.documents == (("d1",) if is_answered else ())
        assert row.response_seeds == ((SEEDS[0].id,) if is_answered else ())
        assert bool(row.output) == (is_answered and bool(case.response.strip()))
        assert row.topic == "cardiology" and row.sampler_seed == 7 and row.prompt == prompts_hash(prompts().templates)
    outputs = {place: rows[place].output for place in (0, 8, 13, 15)}
    assert outputs == {0: "yes", 8: "Short.", 13: "yes", 15: "no"}


def test_the_funnel_counts_each_row_once_by_its_reason(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON)
    store_blocks(context, case_blocks())
    store_seed_margins(context)
    rows = candidate_rows(context).block(0)
    counts = count_reasons(rows)
    assert list(counts) == [name for name in FILTERS if name in counts] == list(FILTERS)
    assert counts["form"] == {"truncated": 1, "instruction too short": 1}
    assert counts["echo"] == {"echo": 1}
    assert counts["duplicate"] == {"same input": 3} and counts["novelty"] == {"near duplicate": 1}
    assert counts["contamination"] == {"13 words": 1}
    num_dropped = sum(sum(reasons.values()) for reasons in counts.values())
    assert num_dropped == sum(any(row.verdicts.values()) for row in rows)
    assert num_dropped == sum(bool(case.dropped_by) for case in CASES)


@pytest.mark.parametrize("off", ["contamination", "self_consistency", "judge", "balance"])
def test_a_filter_that_is_off_gives_no_verdict_and_drops_no_row(tmp_path: Path, off: str) -> None:
    context = examples_context(tmp_path, *ALL_ON, f"generation.filters.{off}=false")
    store_blocks(context, case_blocks(off))
    store_seed_margins(context)
    rows = candidate_rows(context).block(0)
    assert all(off not in row.verdicts for row in rows)
    passed = {place for place, row in enumerate(rows) if not any(row.verdicts.values())}
    assert passed >= {place for place, case in enumerate(CASES) if case.dropped_by in ("", off)}


def test_without_echo_the_filter_of_duplicates_drops_a_repeated_seed(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON, "generation.filters.echo=false")
    store_blocks(context, case_blocks())
    store_seed_margins(context)
    row = candidate_rows(context).block(0)[3]
    assert row.verdicts == {"form": "", "duplicate": f"same input as {BY_TYPE['inference'].id}"}


def test_a_judge_that_cannot_tell_right_from_wrong_seeds_drops_nothing(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON)
    store_blocks(context, case_blocks())
    store_seed_margins(context, wrong=0.0)
    rows = candidate_rows(context).block(0)
    assert {row.verdicts["judge"] for row in rows if "judge" in row.verdicts} == {""}


def test_a_stored_block_with_other_rows_than_passed_raises(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON)
    blocks = case_blocks()
    store_blocks(context, {**blocks, "responses": blocks["responses"][1:]})
    with pytest.raises(RuntimeError, match="other rows than passed"):
        candidate_rows(context).block(0)


def test_labels_are_balanced_in_a_block_and_rows_of_earlier_blocks_count_for_novelty(tmp_path: Path) -> None:
    context = examples_context(tmp_path, *ALL_ON)
    for number in range(2):
        block = [raw_row("yesno_question", unique_text(100 * number + place)) for place in range(3)]
        block.append(raw_row("summarization", unique_text(0)))
        answered = [0, 1, 2]
        source = {"finished": True, "too_long": False, "response_seeds": [], "documents": []}
        store_blocks(context, {
            "instructions": [{"place": n, **raw} for n, raw in enumerate(block)],
            "responses": [{"place": n, "text": "yes", **source} for n in answered],
            "votes": [{"place": n, "samples": ["yes"] * 5} for n in answered],
            "judgements": [{"place": n, "margin": 1.0} for n in answered],
        }, number)  # fmt: skip
    store_seed_margins(context)
    rows = candidate_rows(context)
    for number in range(2):
        verdicts = [row.verdicts for row in rows.block(number)]
        assert [names.get("balance") for names in verdicts[:3]] == ["", "", "label yes leads"]
        assert verdicts[3]["duplicate"] == "same input as 00000-00"


def test_fewer_attempts_than_one_block_has_are_refused_in_one_sentence(tmp_path: Path) -> None:
    rows = candidate_rows(examples_context(tmp_path, "generation.max_attempts=63"))
    with pytest.raises(UserError) as caught:
        collect_examples(rows, 5)
    assert str(caught.value) == "generation.max_attempts=63 is less than one block of 64 attempts; raise it."


def test_without_an_accepted_example_no_smaller_data_size_is_recommended(tmp_path: Path) -> None:
    context = examples_context(tmp_path, "generation.max_attempts=64", "generation.filters.form=true")
    raw = [raw_row("summarization", unique_text(n), finished=False) for n in range(64)]
    store_blocks(context, {"instructions": [{"place": n, **row} for n, row in enumerate(raw)], "responses": []})
    with pytest.raises(UserError) as caught:
        collect_examples(candidate_rows(context), 5)
    assert str(caught.value) == (
        "No example passed in 64 attempts (most were dropped for form: truncated (64)); they are kept, so change what "
        "drops them, or raise generation.max_attempts=64 to continue from there."
    )


def test_a_run_answers_no_task_that_may_be_among_its_own_few_shot_examples(tmp_path: Path) -> None:
    context = examples_context(tmp_path, "generation.filters.duplicate=true")
    seeds = split_seeds(SEEDS)[0]
    raw = [raw_row(seed.task_type, seed.input.upper(), instruction=seed.instruction) for seed in seeds]
    store_blocks(context, {"instructions": [{"place": n, **row} for n, row in enumerate(raw)], "responses": []})
    rows = candidate_rows(context).block(0)  # it has no engine, so an answer would fail
    assert all(any(row.verdicts.values()) for row in rows) and rows
