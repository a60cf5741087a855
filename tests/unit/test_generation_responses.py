"""Prompts of responses hold the passages that fit and that no evaluation question overlaps; the expert alone votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generation_pools import (
    QUESTIONS,
    SEEDS,
    build_pool,
    candidate_rows,
    examples_context,
    raw_row,
    store_blocks,
    unique_text,
)
from selfspec.data.records import Draft
from selfspec.data.splits import split_seeds
from selfspec.engines.contrastive import ContrastiveEngine
from selfspec.engines.protocol import TOKEN_MARGIN, Completion, PromptBatch
from selfspec.engines.transformers import TransformersEngine
from selfspec.generation.funnel import count_reasons
from selfspec.generation.pools import pool_keys
from selfspec.generation.responses import ResponseSettings, write_responses
from selfspec.generation.votes import END_TOKENS, sample_votes
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext
from selfspec.runtime.store import Store
from toys import prompts, scale_linear_weights, toy, with_random_adapter


@dataclass
class ScriptedEngine:
    """An engine that always gives the same text, counts words as tokens, and records its batches."""

    text: str = "an answer"
    finished: bool = True
    batches: list[PromptBatch] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        self.batches.append(batch)
        return [Completion(self.text, 2, self.finished) for _ in batch.items]

    def count(self, text: str) -> int:
        return len(text.split())


DRAFT = Draft("summarization", "Say in a sentence what this text tells.", "Two herons sat on a wall all day.", ())
PASSAGES = [Passage(f"p{n}", " ".join(f"word{n}x{place}" for place in range(20))) for n in range(4)]


def write_replies(
    context: StageContext, engine: ScriptedEngine, drafts: Sequence[Draft], find: Any, context_length: int
) -> list[dict[str, Any]]:
    """The responses of a block with these drafts, in their order."""
    config = context.config
    key = pool_keys(context.stage.values, context.stage.inputs)["responses"]
    pool = build_pool(key=key, context=context, name="responses", load_engine=lambda: engine)
    seeds = split_seeds(SEEDS)[0]
    settings = ResponseSettings(config.generation, config.domain, seeds, prompts(), find, context_length)
    responses = write_responses(pool, 0, list(enumerate(drafts)), settings)
    return [responses[place] for place in range(len(drafts))]


def test_the_last_passages_are_left_out_where_the_context_is_short_and_few_shot_examples_stay(tmp_path: Path) -> None:
    context, engine = examples_context(tmp_path), ScriptedEngine()

    def reply(context_length: int, passages: Sequence[Passage], name: str) -> tuple[dict[str, Any], PromptBatch]:
        with_own_store = replace(context, store=Store(tmp_path / name))
        (row,) = write_replies(with_own_store, engine, [DRAFT], lambda draft: passages, context_length)
        return row, engine.batches[-1]

    row_without, batch_without = reply(10_000, (), "without")
    items = [prompts().task(DRAFT, [passage.text for passage in PASSAGES[:n]]) for n in range(5)]
    assert batch_without.items == (items[0],)
    num_answer_tokens = context.config.generation.responses.max_new_tokens + TOKEN_MARGIN
    for count, item in enumerate(items):
        context_length = engine.count(batch_without.prefix) + engine.count(item) + num_answer_tokens
        for num_missing in (0, 1):
            row, batch = reply(context_length - num_missing, PASSAGES, f"{count}-{num_missing}")
            if count < num_missing:  # too long even without passages
                assert (row["text"], row["finished"], row["too_long"], row["documents"]) == ("", False, True, [])
                continue
            num_fitting = count - num_missing
            assert not row["too_long"]
            assert row["documents"] == [passage.id for passage in PASSAGES[:num_fitting]]
            assert batch.items == (items[num_fitting],) and batch.prefix == batch_without.prefix
            assert row["response_seeds"] == row_without["response_seeds"] and len(row["response_seeds"]) == 5


def test_each_row_records_the_documents_of_its_own_prompt(tmp_path: Path) -> None:
    passages = {unique_text(n): PASSAGES[:n] for n in range(4)}
    drafts = [replace(DRAFT, input=text) for text in passages]
    engine = ScriptedEngine()
    rows = write_replies(examples_context(tmp_path), engine, drafts, lambda draft: passages[draft.input], 10_000)
    assert [row["documents"] for row in rows] == [[f"p{n}" for n in range(count)] for count in range(4)]
    items = [item for batch in engine.batches for item in batch.items]
    for draft in drafts:
        (item,) = (item for item in items if draft.input in item)
        assert [passage.text in item for passage in PASSAGES] == [n < len(passages[draft.input]) for n in range(4)]


def test_a_passage_that_overlaps_an_evaluation_question_is_in_no_prompt(tmp_path: Path) -> None:
    passages = [
        Passage("clean", "Herons nest in spring, and the young leave in summer."),
        Passage("whole", f"It was seen that {QUESTIONS[0][1]} That was in spring."),
        Passage("part", "grey herons in the NORTHERN delta have begun: to fish"),
        Passage("too little", "Grey herons in the northern delta have flown away."),
    ]
    context, engine = examples_context(tmp_path), ScriptedEngine("An answer.")
    raw = [raw_row("summarization", unique_text(n)) for n in range(3)]
    store_blocks(context, {"instructions": [{"place": n, **row} for n, row in enumerate(raw)]})
    changes = {"load_responder": lambda: engine, "find": lambda draft: passages, "context_length": 10_000}
    rows = candidate_rows(context, **changes).block(0)
    assert [row.documents for row in rows] == [("clean", "too little")] * 3
    text = "".join(item for batch in engine.batches for item in batch.items)
    assert passages[0].text in text and passages[3].text in text
    assert passages[1].text not in text and passages[2].text not in text


def sample_scripted_votes(folder: Path, engine: ScriptedEngine, drafts: Sequence[Draft]) -> dict[int, list[str]]:
    """The votes of a block with these drafts, two for each."""
    context = examples_context(folder, "generation.responses.shots=1", "generation.self_consistency.samples=2")
    pool = build_pool(key="votes", context=context, name="votes", load_engine=lambda: engine)
    config, seeds = context.config, split_seeds(SEEDS)[0]
    settings = ResponseSettings(config.generation, config.domain, seeds, prompts(), lambda draft: (), 10_000)
    return sample_votes(pool, 0, list(enumerate(drafts)), settings)


def test_a_vote_may_have_as_many_tokens_as_all_options_of_its_task_and_a_stop_text(tmp_path: Path) -> None:
    long_options = tuple(f"label {number} of many" for number in range(12))
    drafts = [Draft("inference", "So?", unique_text(n), names) for n, names in enumerate([("a", "b"), long_options])]
    drafts += [Draft("yesno_question", "Is it so?", unique_text(2), ("yes", "no"))]
    engine = ScriptedEngine("no")
    sample_scripted_votes(tmp_path, engine, drafts)
    limits = {"Is it so?" in batch.items[0]: batch.sampling.max_new_tokens for batch in engine.batches}
    longest = {False: 12 * 4, True: 2}  # words of the options of the task type; "yes, no" has two
    assert limits == {is_question: count + END_TOKENS for is_question, count in longest.items()}


def test_a_vote_that_was_cut_at_its_limit_does_not_count(tmp_path: Path) -> None:
    drafts = [Draft("yesno_question", "Is it so?", unique_text(0), ("yes", "no"))]
    assert sample_scripted_votes(tmp_path / "one", ScriptedEngine("yes"), drafts) == {0: ["yes", "yes"]}
    assert sample_scripted_votes(tmp_path / "two", ScriptedEngine("yes", finished=False), drafts) == {0: ["", ""]}


def test_a_task_that_is_longer_than_the_context_is_not_asked_and_is_dropped(tmp_path: Path) -> None:
    context, engine = examples_context(tmp_path, "generation.responses.shots=1"), ScriptedEngine("An answer.")
    long_text = " ".join(unique_text(number) for number in range(3, 600))
    raw = [raw_row("summarization", text) for text in (unique_text(1), long_text, unique_text(2))]
    store_blocks(context, {"instructions": [{"place": n, **row} for n, row in enumerate(raw)]})
    rows = candidate_rows(context, load_responder=lambda: engine).block(0)
    assert [row.output for row in rows] == ["An answer.", "", "An answer."]
    assert [any(row.verdicts.values()) for row in rows] == [False, True, False]
    assert count_reasons(rows) == {"context": {"task longer than the context": 1}}
    assert sum(len(batch.items) for batch in engine.batches) == 2


# A toy model


def test_votes_on_labels_are_sampled_from_the_expert_alone_under_contrastive_decoding(tmp_path: Path) -> None:
    model, tokenizer = toy("llama-2-7b")
    model = with_random_adapter(scale_linear_weights(model)).eval()
    engines = (TransformersEngine(model, tokenizer), ContrastiveEngine(model, tokenizer, 2.0, 0.9))
    drafts = [(n, Draft("yesno_question", "Is it so?", unique_text(n), ("yes", "no"))) for n in range(2)]
    votes = []
    for number, engine in enumerate(engines):
        small = ("generation.responses.shots=1", "generation.self_consistency.samples=2")
        context = examples_context(tmp_path / str(number), *small)
        pool = build_pool(key="votes", context=context, name="votes", load_engine=lambda engine=engine: engine)
        settings = ResponseSettings(
            context.config.generation, context.config.domain, split_seeds(SEEDS)[0], prompts(), lambda draft: (), 10_000
        )
        votes.append(sample_votes(pool, 0, drafts, settings))
    assert votes[0] == votes[1]
