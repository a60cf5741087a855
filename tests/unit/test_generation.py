"""Generation: requests are spread evenly, candidates pass the filters in order, and few-shot examples have priority.

The runs of the command line are in `tests/integration/test_generation_runs.py`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from selfspec.config.schema import DomainConfig, TaskType
from selfspec.config.validation import validate
from selfspec.data.few_shot import draw_few_shot
from selfspec.data.reading import read_seeds
from selfspec.data.records import Draft, Seed
from selfspec.data.splits import split_seeds
from selfspec.engines.contrastive import ContrastiveEngine
from selfspec.engines.protocol import Completion, PromptBatch
from selfspec.engines.transformers import TransformersEngine
from selfspec.generation.candidates import CandidateRows, GenerationInputs
from selfspec.generation.funnel import count_reasons
from selfspec.generation.instructions import plan_requests
from selfspec.generation.pools import BLOCK_SIZE, Pool, pool_keys
from selfspec.generation.responses import TOKEN_MARGIN, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.templates import prompts_hash
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from toys import PROJECT, prompts, scale_linear_weights, toy, toy_experiment, with_random_adapter

FILTERS = ("form", "echo", "duplicate", "novelty", "contamination", "answer", "self_consistency", "judge", "balance")


def examples_context(folder: Path, *overrides: str) -> StageContext:
    """The context of the stage `examples` of an experiment, before the stage runs."""
    config = validate(toy_experiment(folder, *overrides))
    (stage,) = (stage for stage in build_pipeline(config).stages if stage.label == "examples")
    (folder / "output").mkdir(parents=True, exist_ok=True)
    quiet = Progress(Console(quiet=True))
    return StageContext(stage, Store(folder / "store"), folder / "work", folder / "output", config, quiet, StopFlag())


def build_pool(seed: int = 0, **fields: Any) -> Pool:
    """A pool with the given fields; without any, only its random streams can be used."""
    context = SimpleNamespace(stage=SimpleNamespace(values={}))
    defaults = {
        "context": context,
        "name": "instructions",
        "key": "key",
        "batch_size": 16,
        "load_engine": fail_to_load_engine,
    }
    return Pool(**{**defaults, "seed": seed, **fields})


# Requests


def build_domain(num_types: int, num_topics: int) -> tuple[DomainConfig, list[Seed]]:
    """A domain and its seeds; for every second task type the options differ from seed to seed."""
    tasks = {f"type {n}": TaskType("label" if n % 2 else "text", "about") for n in range(num_types)}
    seeds = [
        Seed(f"{name} {n}", name, "Do it.", "A text.", "a", options=("a", f"b{n}") if task.kind == "label" else ())
        for name, task in tasks.items()
        for n in range(3)
    ]
    topics = tuple(f"topic {n}" for n in range(num_topics))
    tasks["without a seed"] = TaskType("text", "about")
    return DomainConfig("d", "an expert", tasks, seeds="", evaluation="", topics=topics), seeds


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 15), st.integers(1, 6), st.integers(0, 99))
def test_every_task_type_is_combined_with_every_topic_equally_often(
    num_types: int, num_topics: int, num_blocks: int, seed: int
) -> None:
    domain, seeds = build_domain(num_types, num_topics)
    pairs = {(f"type {n}", topic): 0 for n in range(num_types) for topic in domain.topics or ("",)}
    for block in range(num_blocks):
        requests = plan_requests(domain, seeds, build_pool(seed), block)
        assert len(requests) == BLOCK_SIZE
        counts = Counter(request.task_type for request in requests)
        assert len(counts) == num_types and max(counts.values()) - min(counts.values()) <= 1
        for request in requests:
            pairs[request.task_type, request.topic] += 1
        assert max(pairs.values()) - min(pairs.values()) <= 1
        allowed = {(seed.task_type, seed.options) for seed in seeds}
        assert {(request.task_type, request.options) for request in requests} <= allowed


def test_requests_depend_on_the_experiment_seed_and_the_block_alone() -> None:
    domain, seeds = build_domain(4, 7)

    def plan_all(key: str) -> list[Any]:
        return [
            plan_requests(domain, seeds, build_pool(seed, key=key), block) for seed in (0, 1) for block in (0, 1, 2)
        ]

    plans = plan_all("one")
    random.seed(7)
    assert plan_all("other") == plans
    assert all(one != other for index, one in enumerate(plans) for other in plans[:index])


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 15), st.booleans(), st.integers(0, 99))
def test_few_shot_examples_of_the_requested_type_come_first_and_without_a_type_all_are_random(
    num_requested: int, num_others: int, count: int, has_type: bool, state: int
) -> None:
    num_seeds = num_requested + num_others
    seeds = [Seed(f"s{n}", "requested" if n < num_requested else "other", "Do it.", "", "a") for n in range(num_seeds)]
    task_type = "requested" if has_type else ""
    drawn = draw_few_shot(seeds, task_type, count, random.Random(state))
    assert len(drawn) == len({seed.id for seed in drawn}) == min(count, len(seeds))
    if has_type:
        assert sum(seed.task_type == "requested" for seed in drawn) == min(num_requested, count)
    assert drawn == draw_few_shot(seeds, task_type, count, random.Random(state))


def test_random_few_shot_examples_are_of_any_type_and_in_any_order() -> None:
    seeds = [Seed(f"s{n}", str(n % 4), "Do it.", "", "a") for n in range(20)]
    counts = Counter[tuple[int, str]]()
    for state in range(2000):
        drawn = draw_few_shot(seeds, "", 3, random.Random(state))
        counts.update((position, seed.id) for position, seed in enumerate(drawn))
    assert len(counts) == 60 and min(counts.values()) > 50  # the expected count is 100
    first = {draw_few_shot(seeds, "1", 3, random.Random(state))[0].id for state in range(200)}
    assert first == {seed.id for seed in seeds if seed.task_type == "1"}


# The filter chain, on rows that a model might have written


@dataclass
class ScriptedEngine:
    """An engine that always gives the same text, counts words as tokens, and records its batches."""

    text: str = "an answer"
    batches: list[PromptBatch] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        self.batches.append(batch)
        return [Completion(self.text, 2, True) for _ in batch.items]

    def count(self, text: str) -> int:
        return len(text.split())


def fail_to_load_engine() -> Any:
    raise AssertionError("no engine is needed")


def store_blocks(context: StageContext, blocks: Mapping[str, Sequence[Mapping[str, Any]]], number: int = 0) -> None:
    """Store block `number` of the pools, as if a model had written it."""
    keys = pool_keys(context.stage.values, context.stage.inputs)
    for name, rows in blocks.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        key = f"{keys[name]}-{number:05d}"
        context.store.make(name, key, {"counts": {}}, lambda _, out, text=text: write_rows(out, text))


def write_rows(folder: Path, text: str) -> None:
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def store_seed_margins(context: StageContext, wrong: float = -1.0) -> None:
    """Store the judge's margins of the seeds: 0 for right answers, `wrong` for corrupted ones."""
    count = len(split_seeds(SEEDS)[0]) - context.config.generation.judge.shots
    text = "".join(json.dumps({"margin": margin}) + "\n" for margin in [0.0] * count + [wrong] * count)
    key = f"{pool_keys(context.stage.values, context.stage.inputs)['judgements']}-seeds"
    context.store.make("judgements", key, {"counts": {}}, lambda _, out: write_rows(out, text))


def candidate_rows(context: StageContext, **changes: Any) -> CandidateRows:
    """Candidates of the domain, which need no engine if the pools' blocks are stored."""
    domain, generation = context.config.domain, context.config.generation
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    find = changes.pop("find", lambda draft: ())
    inputs = GenerationInputs(seeds, split_seeds(seeds)[0], QUESTIONS, find)
    loaders = (fail_to_load_engine, fail_to_load_engine)
    rows = CandidateRows(context, domain, generation, inputs, 1000, *loaders, prompts(), context.config.seed)
    return replace(rows, **changes)


QUESTIONS = [
    ("question-1", "Grey herons in the northern delta have begun to nest a full month before their usual time.")
]
SEEDS = read_seeds(PROJECT / "src/selfspec/domains/biomedicine/seeds.jsonl", toy_experiment(Path()).domain.tasks)
BY_TYPE = {seed.task_type: seed for seed in split_seeds(SEEDS)[0]}  # one seed of each type
WORDS = "amber birch cedar delta ember fjord grove heath inlet jetty knoll ledge marsh north ocean plain quarry ridge"


def unique_text(number: int) -> str:
    """A text unlike those of all other numbers."""
    return f"{' '.join(f'{word}{number}' for word in WORDS.split()[:9])}."


def raw_row(task: str, text: str, **changes: Any) -> dict[str, Any]:
    """One row of a block of instructions, as a model wrote it."""
    seed = BY_TYPE[task]
    request = {"task_type": task, "topic": "cardiology", "options": list(seed.options)}
    output = {"instruction": f"Look at this text and do what a {task} wants.", "input": text, "finished": True}
    return {"request": request, **output, "seeds": [seed.id], "sampler_seed": 7, **changes}


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

    source = {"finished": True, "response_seeds": [SEEDS[0].id], "documents": ["d1"]}
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
        source = {"finished": True, "response_seeds": [], "documents": []}
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


# Passages

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
            num_fitting = max(count - num_missing, 0)  # a prompt without passages is used even if it is too long
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
