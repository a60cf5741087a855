"""Parts of the method beside its first round, through the real command line on a toy model: later rounds, baselines,
other domains, fewer seeds, a user's own questions, overlap, the judge, and retrieval.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from conftest import Ended, Warm, places
from selfspec.config.hashing import file_hash
from selfspec.data.jsonl import write_jsonl
from selfspec.data.reading import read_examples, read_questions, read_seeds
from selfspec.data.records import Example
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import PromptBatch, Sampling
from selfspec.engines.transformers import TransformersEngine
from selfspec.models.load import with_adapter
from selfspec.retrieval.bm25 import Index
from toys import prompts, toy, toy_experiment

DOMAINS = Path(__file__).parents[2] / "src" / "selfspec" / "domains"
TASKS = toy_experiment(Path()).domain.tasks
SEEDS = read_seeds(DOMAINS / "biomedicine" / "seeds.jsonl", TASKS)
SMALL = [
    "debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=2", "evaluation.shots=[0]",
    "evaluation.resamples=5", "baselines.seeds_only=false", "baselines.off_domain=false",
    "generation.demonstrations=random", "generation.instructions.instruction_tokens=8",
    "generation.instructions.input_tokens=20", "generation.responses.max_new_tokens=8",
]  # fmt: skip


class Runs:
    """Runs that share one store."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.folder = warm, folder

    def __call__(self, name: str, *overrides: str) -> Run:
        ended = self.warm(*SMALL, *overrides, *places(self.folder, name))
        assert ended.code == 0, ended.text
        return Run(self.folder, name, ended)


class Run:
    """A finished run: what it printed, its results, and its outputs in the store."""

    def __init__(self, folder: Path, name: str, ended: Ended) -> None:
        self.store, self.text = folder / "store", ended.text
        self.results: dict[str, Any] = json.loads((folder / name / "results.json").read_text())
        self.stages: dict[str, str] = json.loads((folder / name / "stages.json").read_text())

    def output(self, label: str) -> Path:
        return self.store / self.stages[label]

    def rows(self, label: str) -> list[Example]:
        return read_examples(self.output(label) / "rows.jsonl")

    def answers(self, label: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.output(label) / "answers.jsonl").read_text().splitlines()]

    def executed(self) -> set[str]:
        """Labels of the stages that were not in the store before."""
        return {label for label in self.stages if not re.search(rf"{re.escape(label)} +stored", self.text)}


@pytest.fixture(scope="module")
def runs(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(warm, tmp_path_factory.mktemp("method"))


@pytest.fixture(scope="module")
def first(runs: Runs) -> Run:
    """One round, with the generic baseline and the off-domain questions."""
    return runs("first", "baselines.generic=true", "baselines.off_domain=true")


@pytest.fixture(scope="module")
def two_rounds(runs: Runs, first: Run) -> Run:
    return runs("two-rounds", "rounds=2")


# Rounds


def is_same_adapter(one: Path, other: Path) -> bool:
    first, second = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert first.keys() == second.keys()
    return all((first[name] == second[name]).all() for name in first)


def test_a_second_round_answers_the_same_instructions_and_tunes_the_base_again(first: Run, two_rounds: Run) -> None:
    assert two_rounds.executed() == {"examples (round 2)", "adapter (round 2)", "scores (specialized)"}
    before = {row.id: row for row in two_rounds.rows("examples")}
    after = {row.id: row for row in two_rounds.rows("examples (round 2)")}
    shared = before.keys() & after.keys()
    assert len(shared) >= 8
    for name in shared:
        drafts = [(row.instruction, row.input, row.seeds, row.sampler_seed) for row in (before[name], after[name])]
        assert drafts[0] == drafts[1]
    assert [before[name].output for name in shared] != [after[name].output for name in shared]  # by another model


def test_the_adapter_of_the_round_with_the_lower_loss_on_held_out_seeds_is_kept(two_rounds: Run) -> None:
    folders = [two_rounds.output(label) for label in ("adapter (specialized)", "adapter (round 2)")]
    one, two = (json.loads((folder / "rounds.json").read_text()) for folder in folders)
    assert len(one["losses"]) == 1 and one["kept"] == 1
    assert len(two["losses"]) == 2 and two["losses"][:1] == one["losses"]
    curve = json.loads((folders[1] / "curve.json").read_text())
    assert two["losses"][1] == min(point["held_out_loss"] for point in curve if "held_out_loss" in point)
    assert two["kept"] == (2 if two["losses"][1] < two["losses"][0] else 1)
    assert is_same_adapter(*folders) == (two["kept"] == 1)
    assert two_rounds.results["rounds"] == two
    assert two_rounds.results["held_out_loss"] == min(two["losses"])
    kept = "examples" if two["kept"] == 1 else "examples (round 2)"
    assert two_rounds.results["funnel"] == json.loads((two_rounds.output(kept) / "funnel.json").read_text())


@pytest.mark.parametrize(("loss", "kept"), [(0.001, 1), (1000.0, 2)])
def test_the_first_round_is_kept_if_its_loss_is_lower_and_replaced_if_it_is_higher(
    warm: Warm, two_rounds: Run, tmp_path: Path, loss: float, kept: int
) -> None:
    shutil.copytree(two_rounds.store, tmp_path / "store")
    copied = Run(two_rounds.store.parent, "two-rounds", Ended(0, ""))
    copied.store = tmp_path / "store"
    before = copied.output("adapter (specialized)")
    (before / "rounds.json").write_text(json.dumps({"losses": [loss], "kept": 1}))
    manifest = json.loads((before / "manifest.json").read_text())
    manifest["files"]["rounds.json"] = file_hash(before / "rounds.json")
    (before / "manifest.json").write_text(json.dumps(manifest))
    for label in ("adapter (round 2)", "scores (specialized)"):
        shutil.rmtree(copied.output(label))
    ended = warm(*SMALL, "rounds=2", *places(tmp_path))
    assert ended.code == 0, ended.text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rounds"]["kept"] == kept and results["rounds"]["losses"][0] == loss
    assert results["held_out_loss"] == results["rounds"]["losses"][kept - 1]
    assert is_same_adapter(before, copied.output("adapter (round 2)")) == (kept == 1)
    assert f"{kept} round kept" in ended.text


def test_a_round_with_new_instructions_writes_its_own(runs: Runs, two_rounds: Run) -> None:
    run = runs("new", "rounds=2", "rounds.instructions=new")
    assert run.output("examples") == two_rounds.output("examples")
    blocks = list((run.store / "instructions").glob("*-00000"))
    old, new = ({row.input for row in run.rows(label)} for label in ("examples", "examples (round 2)"))
    assert len(blocks) >= 2 and not old & new
    first_seeds, second_seeds = (
        {row.sampler_seed for row in run.rows(label)} for label in ("examples", "examples (round 2)")
    )
    assert not first_seeds & second_seeds


def test_a_contrastive_round_decodes_labels_greedily_and_other_answers_contrastively(
    runs: Runs, two_rounds: Run
) -> None:
    run = runs("contrastive", "rounds=2", "rounds.decoding=contrastive", "rounds.contrast=2.0")
    config = toy_experiment(Path("unused"), "model=gemma-3-270m")
    by_id = {seed.id: seed for seed in SEEDS}
    num_different = Counter[bool]()  # rows that differ from the expert's greedy reply, by whether they are closed
    network, tokenizer = toy("gemma-3-270m")
    with with_adapter(network, run.output("adapter (specialized)")) as expert:
        engine = TransformersEngine(expert, tokenizer)
        for row in run.rows("examples (round 2)"):
            prefix = prompts().prefix(config.domain.role, [by_id[name] for name in row.response_seeds])
            (reply,) = engine.complete(
                PromptBatch(prefix, (prompts().task(row),), Sampling(8), prompts().templates.response_stop)
            )
            is_closed = TASKS[row.task_type].kind in ("label", "labels")
            num_different[is_closed] += reply.text.strip() != row.output
    assert not num_different[True] and num_different[False]
    old, new = ({row.id: row.input for row in each.rows("examples (round 2)")} for each in (two_rounds, run))
    assert all(old[name] == new[name] for name in old.keys() & new.keys())


# Baselines and domains


def test_the_generic_baseline_has_a_column_beside_base_and_specialized(first: Run) -> None:
    assert {row["model"] for row in first.results["scores"]} == {"base", "generic", "specialized"}
    headings = [line.split() for line in first.text.splitlines() if line.split()[:2] == ["measure", "base"]]
    assert {"generic", "specialized"} <= set(headings[0])
    rows = first.rows("examples (generic)")
    general = {
        seed.id for seed in read_seeds(DOMAINS / "general" / "seeds.jsonl", toy_experiment(Path()).general.tasks)
    }
    assert {seed for row in rows for seed in (*row.seeds, *row.response_seeds)} <= general


def test_forgetting_is_measured_on_the_general_questions(first: Run) -> None:
    off_domain = first.results["off_domain"]
    assert off_domain["name"] == "general"
    assert {row["model"] for row in off_domain["scores"]} == {"base", "specialized"}
    assert {(row["model"], row["minus"]) for row in off_domain["differences"]} == {("specialized", "base")}
    answered = {row["id"] for row in first.answers("off-domain scores (base)")}
    path, tasks = DOMAINS / "general" / "evaluation.jsonl", toy_experiment(Path()).general.tasks
    assert len(answered) == 2 and answered <= {question.id for question in read_questions(path, tasks)}
    assert answered == {row["id"] for row in first.answers("off-domain scores (specialized)")}


def test_a_general_run_evaluated_in_a_domain_shares_its_stages_with_the_generic_baseline(
    runs: Runs, first: Run
) -> None:
    run = runs("general", "domain=general", "evaluation.domain=biomedicine")
    assert run.executed() == set()
    for label, label_in_first in {
        "scores (base)": "scores (base)",
        "scores (specialized)": "scores (generic)",
        "examples": "examples (generic)",
        "adapter (specialized)": "adapter (generic)",
    }.items():
        assert run.output(label) == first.output(label_in_first)
    assert "off_domain" not in run.results


def test_the_general_domain_on_its_own_questions_has_nothing_off_domain_and_no_generic_baseline(
    warm: Warm, tmp_path: Path
) -> None:
    baselines = ["baselines.off_domain=true", "baselines.generic=true"]
    ended = warm(*SMALL, *places(tmp_path), "domain=general", *baselines, "plan=true")
    assert ended.code == 0, ended.text
    assert "scores (base)" in ended.text
    assert "off-domain" not in ended.text and "generic" not in ended.text


# Seeds


@given(st.integers(1, 72), st.integers(0, 72))
def test_a_subset_of_the_seeds_is_part_of_each_larger_one_and_takes_task_types_in_turn(count: int, more: int) -> None:
    shown_seeds, held_out = split_seeds(SEEDS)
    few, many = seed_subset(shown_seeds, count), seed_subset(shown_seeds, count + more)
    assert len(few) == count and {seed.id for seed in few} <= {seed.id for seed in many}
    assert not {seed.id for seed in many} & {seed.id for seed in held_out}
    sizes = Counter(seed.task_type for seed in few)
    available = Counter(seed.task_type for seed in shown_seeds)
    assert all(sizes[name] >= min(available[name], max(sizes.values()) - 1) for name in available)


def test_with_fewer_seeds_prompts_and_the_baseline_use_only_these_and_evaluation_is_unchanged(
    runs: Runs, first: Run
) -> None:
    run = runs("fewer", "domain.seed_count=20", "baselines.seeds_only=true")
    twenty, forty = ({seed.id for seed in seed_subset(split_seeds(SEEDS)[0], count)} for count in (20, 40))
    seen = {seed for row in run.rows("examples") for seed in (*row.seeds, *row.response_seeds)}
    assert seen <= twenty < forty and len(seen) > 10
    manifest = json.loads((run.output("adapter (seeds only)") / "manifest.json").read_text())
    assert manifest["counts"]["rows"] == 20
    losses_before = [
        json.loads((each.output("adapter (specialized)") / "curve.json").read_text())[0]["held_out_loss_before"]
        for each in (run, first)
    ]
    assert losses_before[0] == pytest.approx(losses_before[1])  # the untuned model on the same held-out seeds
    assert run.output("scores (base)") == first.output("scores (base)")
    assert run.output("examples") != first.output("examples")


# Questions


@pytest.fixture(scope="module")
def own(runs: Runs, first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a user's questions: one has a type and kind that the domain lacks, one repeats the text of a seed."""
    seed = next(seed for seed in SEEDS if seed.task_type == "yesno_question")
    common = {"instruction": "Answer the question.", "answers": ["yes"], "options": ["yes", "no"]}
    rows = [
        {"id": "own-1", "task_type": "dose", "kind": "number", "instruction": "How many milligrams in all?",
         "input": "She takes two tablets of 50 mg each, every morning.", "answers": ["100"]},
        {"id": "own-2", "task_type": "yesno_question", **common, "input": f"Please read: {seed.input.upper()}"},
        {"id": "own-3", "task_type": "yesno_question", **common, "input": "Do ferns that grow in bogs bear cones?"},
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    write_jsonl(path, rows)
    more = ["evaluation.limit=null", "evaluation.shots=[0,5]", "evaluation.draws=3"]
    return runs("own", f"evaluation.files=[{path}]", *more)


def test_a_users_questions_may_have_task_types_and_kinds_that_the_domain_lacks(own: Run) -> None:
    assert own.executed() == {"scores (base)", "scores (specialized)"}
    assert {row["id"]: row["task_type"] for row in own.answers("scores (base)")} == {
        "own-1": "dose", "own-2": "yesno_question", "own-3": "yesno_question"
    }  # fmt: skip
    assert own.results["metrics"] == {"dose": ["within 0.01"], "yesno_question": ["macro F1"]}
    assert {row["task"] for row in own.results["scores"]} == {"dose", "yesno_question", "all"}


def test_a_question_is_answered_once_without_shots_and_once_per_draw_with_shots(own: Run) -> None:
    rows = own.answers("scores (specialized)")
    counts = Counter((row["id"], row["shots"]) for row in rows)
    assert counts == {(f"own-{n}", shots): (3 if shots else 1) for n in (1, 2, 3) for shots in (0, 5)}
    assert {row["draw"] for row in rows if row["shots"] == 5} == {0, 1, 2}
    assert {row["draw"] for row in rows if row["shots"] == 0} == {0}
    logprobs = {tuple(row["option_logprobs"]) for row in rows if row["id"] == "own-3" and row["shots"] == 5}
    assert len(logprobs) == 3  # each draw gives another prompt
    measured = {(row["shots"], row["measure"]) for row in own.results["scores"] if row["task"] == "dose"}
    assert {(0, "token_f1"), (5, "token_f1")} <= measured


def test_a_question_that_overlaps_a_seed_is_reported_and_scores_without_it_are_given(own: Run) -> None:
    overlap = own.results["overlap"]
    assert overlap["questions"] == 3 and overlap["overlapping"] == ["own-2"]
    assert overlap["counts"]["seeds"] == {"8": 1, "13": 1}
    assert overlap["counts"]["examples"] == {"8": 0, "13": 0}
    others = overlap["without_overlapping"]
    assert {row["task"] for row in others["scores"]} == {"dose", "yesno_question", "all"}
    assert others["closed_labels"]["yesno_question"]["count"] == 1
    assert own.results["closed_labels"]["yesno_question"]["count"] == 2


def test_without_overlap_there_are_no_second_scores(first: Run) -> None:
    overlap = first.results["overlap"]
    assert (overlap["questions"], overlap["overlapping"]) == (2, []) and "without_overlapping" not in overlap


def test_a_candidate_that_overlaps_a_users_question_is_dropped(runs: Runs, first: Run, tmp_path: Path) -> None:
    kept = [row for row in first.rows("examples") if not any(row.verdicts.values())]
    planted = next(row for row in kept if len(re.findall("[a-z0-9]+", row.input.lower())) >= 8)
    question = {"id": "leak", "instruction": "Is it so?", "input": f"Once, {planted.input} And then?"}
    path = tmp_path / "own.jsonl"
    write_jsonl(path, [question])
    run = runs("against", f"generation.contamination.against=[{path}]")
    (row,) = (row for row in run.rows("examples") if row.id == planted.id)
    assert row.input == planted.input
    assert re.fullmatch(r"(8|13) words of leak", row.verdicts["contamination"])
    assert run.results["funnel"]["dropped"]["contamination"]
    others = [row.id for row in run.rows("examples") if not any(row.verdicts.values())]
    assert [row.id for row in kept if row.id != planted.id] == others[:-1]  # one more candidate is accepted instead


# The judge and retrieval


def test_a_judge_with_a_low_auc_reports_it_and_drops_nothing(runs: Runs, first: Run) -> None:
    run = runs("judge", "generation.filters.judge=true", "generation.judge.shots=2", "generation.judge.least_auc=1")
    judge = run.results["funnel"]["judge"]
    assert 0 < judge["auc"] < 1 and judge["filters"] is False
    assert judge["seeds"] == len(split_seeds(SEEDS)[0]) - 2
    rows = run.rows("examples")
    assert {row.verdicts["judge"] for row in rows if "judge" in row.verdicts} == {""}
    assert "judge" not in run.results["funnel"]["dropped"]
    assert [row.id for row in rows] == [row.id for row in first.rows("examples")]


def test_passages_of_a_users_folder_are_in_prompts_and_recorded_without_those_of_evaluation_questions(
    runs: Runs, first: Run, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    finance = read_seeds(DOMAINS / "finance" / "seeds.jsonl", toy_experiment(Path(), "domain=finance").domain.tasks)
    texts = [seed.input for seed in [*SEEDS[:40], *finance[:40]]]
    for number, text in enumerate(texts):
        (tmp_path / "corpus" / f"{number}.txt").write_text(text)
    for question in read_questions(DOMAINS / "biomedicine" / "evaluation.jsonl", TASKS):
        (tmp_path / "corpus" / f"question-{question.id}.txt").write_text(question.input)
    run = runs("retrieval", "retrieval=bm25", f"retrieval.corpus={tmp_path}/corpus", "retrieval.passages=3")
    assert "index" in run.stages
    kept = [row for row in run.rows("examples") if not any(row.verdicts.values())]
    assert sum(bool(row.documents) for row in kept) >= 4
    named = {name.partition("#")[0] for row in kept for name in row.documents}
    assert named <= {f"{number}.txt" for number in range(80)}  # none has the text of an evaluation question ...
    best = [passage.id for row in kept for passage in Index(run.output("index")).search(row.input, 3)]
    assert any(name.startswith("question-") for name in best)  # ... although the search finds these
    assert all(len(set(row.documents)) == len(row.documents) <= 3 for row in kept)
    before = {row.id: row.input for row in first.rows("examples")}  # instructions are written without a corpus
    assert all(row.input == before[row.id] for row in kept if row.id in before)
    assert run.results["overlap"]["counts"]["passages"] == {"8": 0, "13": 0}
    leaked = texts[int(next(iter(named)).removesuffix(".txt"))]
    question = {"id": "own", "task_type": "own", "kind": "text", "instruction": "Go on.", "answers": ["a"]}
    write_jsonl(tmp_path / "own.jsonl", [question | {"input": leaked}])
    same = ["retrieval=bm25", f"retrieval.corpus={tmp_path}/corpus", "retrieval.passages=3"]
    evaluated = runs("retrieval-evaluated", *same, f"evaluation.files=[{tmp_path}/own.jsonl]")
    assert evaluated.results["overlap"]["counts"]["passages"] == {"8": 1, "13": 1}
