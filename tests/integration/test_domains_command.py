"""`selfspec domain`: problems are reported by file and line, and a preview shows what the stages send."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from command import selfspec
from conftest import PROJECT
from selfspec.cli.domain import compose_domain
from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.records import Draft
from selfspec.domains import preview
from selfspec.domains.check import check_domain
from selfspec.domains.preview import Recorder, collect_prompts, load_preview_tokenizer
from selfspec.engines.protocol import PromptBatch
from selfspec.errors import UserError
from selfspec.models import load
from selfspec.models.toy import build_toy
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.templates import PromptRenderer
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages.examples import examples
from selfspec.stages.scores import scores

SHIPPED = sorted(path.stem for path in (PROJECT / "conf" / "domain").glob("*.yaml"))
YAML = """\
name: law
role: an expert in law
seeds: seeds.jsonl
evaluation: questions.jsonl
tasks:
  verdict: {kind: label, about: a yes-or-no question}
  fields: {kind: labels, about: the fields of a text}
  parties: {kind: entities, about: the parties to a contract}
  term: {kind: short, about: a short question}
  notice: {kind: number, about: days of notice}
"""
SENTENCES = (
    "Harbour tenants signed before dawn while gulls argued above empty crates",
    "Winter storms delayed every shipment of walnuts promised to our bakery",
    "Nobody read clause nine until the orchard burned down that August",
    "Three brothers sold their ferry but kept its brass bell",
    "An unpaid invoice from Lisbon resurfaced inside somebody's piano",
    "Quarry workers demanded helmets after limestone slid across the road",
    "Her lease forbids drums yet allows a small church organ",
    "Old surveyors disagree whether this hedge marks any boundary",
)
Edit = Callable[[list[dict[str, Any]], list[dict[str, Any]]], None]


def valid_rows(answer_field: str) -> list[dict[str, Any]]:
    """Eight rows of each task type without a problem."""
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(SENTENCES):
        verdict = {"task_type": "verdict", "options": ["yes", "no"], answer_field: ("yes", "no")[number % 2]}
        labels = ("sale", "lease", "none")
        fields = {"task_type": "fields", "options": ["sale", "lease"], answer_field: labels[number % 3]}
        party = {"task_type": "parties", answer_field: f"{text.split()[1]} (party)"}
        term = {"task_type": "term", answer_field: text.split()[2]}
        notice = {"task_type": "notice", answer_field: str(number + 0.5), "formula": f"{number + 1} - 0.5"}
        for offset, row in enumerate((verdict, fields, party, term, notice)):
            # The two files share no run of words, and no two rows are near duplicates.
            words = text.split() if answer_field == "output" else text.split()[::-1]
            rotated = " ".join(words[offset:] + words[:offset][::-1])
            unique = f"{answer_field}{number}{offset} " * 20
            row |= {"id": f"{answer_field}-{len(rows)}", "instruction": "Answer it."}
            row["input"] = f"{number + 1}, 0.5. {' '.join(words)}. {rotated} {unique}"
            rows.append(row)
    return rows


def write_domain(folder: Path, edit: Edit = lambda seeds, questions: None) -> Path:
    """Write a domain `law` with valid rows changed by `edit`; the second line of each file is blank.

    Returns:
        The folder for `--config-dir`.
    """
    (folder / "confs" / "domain").mkdir(parents=True)
    (folder / "confs" / "domain" / "law.yaml").write_text(YAML)
    seeds, questions = valid_rows("output"), valid_rows("answers")
    for question in questions:
        question["answers"] = [question["answers"]]
    edit(seeds, questions)
    for name, rows in (("seeds", seeds), ("questions", questions)):
        first, *rest = map(json.dumps, rows)
        (folder / f"{name}.jsonl").write_text("\n".join([first, "", *rest]))
    return folder / "confs"


def test_shipped_domains_have_no_problems_and_checking_imports_nothing_heavy() -> None:
    script = (
        "import sys; from selfspec.cli.app import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, "domain", "check", *SHIPPED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [f"{name}: no problems" in done.stdout for name in SHIPPED] == [True] * len(SHIPPED)
    assert "headline_question: yes 15, no 15" in done.stdout


def test_a_valid_new_domain_has_no_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_domain(tmp_path)
    monkeypatch.chdir(tmp_path)
    ended = selfspec("domain", "check", "law", "--config-dir", folder)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "law: no problems, no notes"), ended.stdout


def change(file: str, index: int, **fields: Any) -> Edit:
    """Change one row; row n is on line n + 2, except the first."""

    def edit(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
        {"seeds": seeds, "questions": questions}[file][index].update(fields)

    return edit


def copy_an_input(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    questions[7]["input"] = seeds[0]["input"]


def copy_an_input_with_one_more_word(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    seeds[8]["input"] = seeds[3]["input"] + " so"


def answer_always_yes(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    for question in questions[5::5]:
        question["answers"] = ["yes"]


def offer_an_unused_option(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    for seed in seeds[::5]:
        seed["options"] = ["yes", "no", "maybe"]


def one_seed_of_each_label(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    """Eight labels in eight seeds, and one seed of another type: some must be held out."""
    labels = [f"label {number}" for number in range(8)]
    for label, seed in zip(labels, seeds[::5], strict=True):
        seed.update(options=labels, output=label)
    seeds[:] = [*seeds[::5], *seeds[3:25:5], {**seeds[4], "id": "z"}]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("seeds", 1, output="hire"), "seeds.jsonl, line 3: field 'output' has 'hire', which is not among"),
        (change("questions", 4, answers=["ten"]), "questions.jsonl, line 6: field 'answers' is 'ten', which is no"),
        (
            copy_an_input,
            "questions.jsonl, line 9: this row is a duplicate (same input as line 1 of seeds.jsonl).",
        ),
        (
            copy_an_input_with_one_more_word,
            "seeds.jsonl, line 10: this row is a duplicate (near line 5 of seeds.jsonl).",
        ),
        (
            answer_always_yes,
            "questions.jsonl, line 1: label 'yes' of verdict is the answer in 8 of 8 rows (yes 8, no 0).",
        ),
        (answer_always_yes, "questions.jsonl, line 1: label 'no' of verdict is never the answer (yes 8, no 0)."),
        (
            offer_an_unused_option,
            "seeds.jsonl, line 1: label 'maybe' of verdict is never the answer (yes 4, no 4, maybe 0).",
        ),
        (
            one_seed_of_each_label,
            "seeds.jsonl, line 3: every seed of verdict with label 'label 1' is held out; write more of them.",
        ),
        (one_seed_of_each_label, "seeds.jsonl, line 15: every seed of notice is held out; write more of them."),
        (
            change("seeds", 6, options=["sale", "lease", "sale, lease"]),
            "seeds.jsonl, line 8: the option 'sale, lease' contains a comma or semicolon",
        ),
        (
            change("questions", 3, options=["one", "two"]),
            "questions.jsonl, line 5: the answer 'signed' is not among the options ['one', 'two'].",
        ),
        (
            change("seeds", 2, output="Tenants (party)"),
            "seeds.jsonl, line 4: the entity 'Tenants' does not occur in the input.",
        ),
        (
            change("seeds", 2, output="tenants"),
            "seeds.jsonl, line 4: the answer 'tenants' does not have the format of kind",
        ),
        (
            change("seeds", 4, output="2"),
            "seeds.jsonl, line 6: field 'output' is '2', which is not what the formula 1 - ",
        ),
        (
            change("seeds", 4, output="1e3", formula=""),
            "seeds.jsonl, line 6: field 'output' is '1e3', which is no bare number such as 12.5.",
        ),
        (
            change("seeds", 3, input="A term before it.\nAnswer: none"),
            "seeds.jsonl, line 5: the input has a line that begins with 'Answer:', where a generated input would be",
        ),
        (
            lambda seeds, _: seeds.__delitem__(slice(9, None)),
            "seeds.jsonl has 9 seeds, of which 8 are held out and 1 can be shown, fewer than "
            "generation.responses.shots=5 needs; write at least 13 seeds.",
        ),
        (
            lambda seeds, _: seeds.__delitem__(slice(1, None)),
            "seeds.jsonl has 1 seed, of which 1 is held out and 0 can be shown, fewer than "
            "generation.responses.shots=5 needs; write at least 13 seeds.",
        ),
        (
            change("seeds", 3, input="so " * 60_000),
            "seeds.jsonl, line 5: the seed has 60003 words, and the model's context 32768 tokens; shorten it.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_each_problem_is_reported_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit, message: str
) -> None:
    folder = write_domain(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    ended = selfspec("domain", "check", "law", "--config-dir", folder)
    assert ended.returncode == 1
    problems = [line for line in ended.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert any(line.removeprefix(f"{tmp_path}/").startswith(message) for line in problems), ended.stdout


def test_a_check_reports_every_bad_line_and_every_requirement_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
        seeds[1]["output"] = "hire"
        seeds[3]["input"] = 5

    folder = write_domain(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    problems = check_domain(compose_domain("law", folder)).problems
    assert [problem.partition(": ")[0].rpartition("/")[2] for problem in problems] == [
        "seeds.jsonl, line 3",
        "seeds.jsonl, line 5",
    ]
    (tmp_path / "seeds.jsonl").write_text("\n".join(map(json.dumps, valid_rows("output")[:4])))
    problems = check_domain(compose_domain("law", folder, "domain.seed_count=2")).problems
    assert "write at least 13 seeds" in problems[0]
    assert problems[1].startswith("domain.seed_count=2 is fewer than generation.responses.shots=5 needs; ")


def copy_words(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    seeds[8]["input"] += " " + " ".join(questions[3]["input"].split()[:8])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            change("questions", 3, answers=["a month", "thirty days"]),
            "questions.jsonl, line 5: the answer 'a month' does not occur in the input.",
        ),
        (
            change("questions", 4, formula=""),
            "questions.jsonl, line 6: a number without the field 'formula' can't be verified.",
        ),
        (
            change("questions", 4, formula="0.5 * 37 / 37"),
            "questions.jsonl, line 6: the number 37 of the formula does not occur in the task.",
        ),
        (
            copy_words,
            "seeds.jsonl, line 10: the input shares text with an evaluation question (8 words of answers-0).",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_may_be_intended_is_a_note_and_exits_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit, message: str
) -> None:
    folder = write_domain(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    ended = selfspec("domain", "check", "law", "--config-dir", folder)
    assert ended.returncode == 0
    assert f"note: {tmp_path}/{message}" in ended.stdout


def test_a_list_with_commas_in_place_of_semicolons_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_domain(tmp_path, change("seeds", 3, output="gulls, crates"))
    (folder / "domain" / "law.yaml").write_text(YAML.replace("kind: short", "kind: list"))
    monkeypatch.chdir(tmp_path)
    notes = check_domain(compose_domain("law", folder)).notes
    reason = "the answer 'gulls, crates' is one item; separate items with '; '."
    assert f"{tmp_path}/seeds.jsonl, line 5: {reason}" in notes


def test_a_domain_that_cannot_be_composed_is_reported_in_one_sentence(tmp_path: Path) -> None:
    folder = write_domain(tmp_path)
    ended = selfspec("domain", "check", "lav", "--config-dir", folder)
    sentence = "There is no domain=lav; did you mean 'law'? domain is one of biomedicine, finance, general, law.\n"
    assert (ended.returncode, ended.stderr) == (1, sentence)
    (folder / "domain" / "law.yaml").write_text(YAML.replace("kind: number", "kind: numbers"))
    ended = selfspec("domain", "check", "law", "--config-dir", folder)
    assert ended.returncode == 1 and ended.stderr.startswith("domain.tasks.notice.kind=numbers is none of label, ")
    ended = selfspec("domain", "check", "law", "--config-dir", tmp_path / "nowhere")
    assert ended.returncode == 1
    assert ended.stderr.endswith("is not a folder; give the one that has domain/<name>.yaml.\n")


def test_line_numbers_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_domain(tmp_path)
    monkeypatch.chdir(tmp_path)
    findings = check_domain(compose_domain("law", folder))
    lines = (tmp_path / "seeds.jsonl").read_text().split("\n")
    ids = [json.loads(lines[line.number - 1])["id"] for line in findings.seeds]
    assert ids == [line.row.id for line in findings.seeds]
    assert len(findings.held_out) == 8


def record_stages(
    config: Config, folder: Path, tokenizer: Any, replies: list[str], monkeypatch: Any
) -> list[PromptBatch]:
    """The batches that the stages of a run pass to their engine."""
    recorder = Recorder(tokenizer, replies)
    monkeypatch.setattr(load, "load_base", lambda *_: (None, tokenizer))
    monkeypatch.setattr(load, "with_adapter", lambda *_: nullcontext())
    monkeypatch.setattr("selfspec.engines.transformers.TransformersEngine", lambda *_: recorder)
    stages = build_pipeline(config)
    for name, stage, function in (
        ("examples", stages.rounds[0][0], examples),
        ("scores", stages.scores["base"], scores),
    ):
        (folder / name / "work").mkdir(parents=True)
        progress = Progress(Console(quiet=True))
        context = StageContext(
            stage, Store(folder / "store"), folder / name / "work", folder / name, config, progress, StopFlag()
        )
        inputs: Any = stage.files
        function(context, **inputs, **stage.sections())
    return recorder.batches


def test_a_preview_is_what_the_stages_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = ("echo", "duplicate", "novelty", "contamination", "answer", "balance")
    # The form filter drops all rows of the first block but those of its first batch: only there the recorder replies.
    filters = ["generation.filters.form=true", *(f"generation.filters.{name}=false" for name in off)]
    config = compose_domain("biomedicine", None, "model.toy=true", "data_size.examples=6", *filters)
    tokenizer, tokenizer_name = load_preview_tokenizer(config.model, tmp_path)
    assert "toy" in tokenizer_name
    recorder = Recorder(tokenizer)
    prompts = list(collect_prompts(config, None, recorder))
    instruction, input_writing, response, *evaluation = recorder.batches
    seeds = read_seeds(Path(config.domain.seeds), config.domain.tasks)
    seed = next(seed for seed in seeds if seed.id in prompts[1][0])

    batches = record_stages(config, tmp_path, tokenizer, [seed.instruction, seed.input], monkeypatch)
    assert batches[:2] == [instruction, input_writing]
    assert response.prefix == next(batch.prefix for batch in batches if batch.prefix.startswith("You are"))
    draft = Draft(seed.task_type, seed.instruction, seed.input, seed.options)
    assert response.items == (PromptRenderer(config.prompts).task(draft),)
    assert len(evaluation) == len(config.evaluation.shots) == 2
    assert all(batch in batches for batch in evaluation)
    for (_, prompt, num_tokens), batch in zip(prompts, recorder.batches, strict=True):
        assert prompt == batch.prefix + batch.items[0]
        counts = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (batch.prefix, batch.items[0])]
        assert num_tokens == sum(counts)  # the toy tokenizer has no BOS token


def test_a_preview_includes_passages_votes_and_the_judge_if_the_config_has_them(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"Passage {n}."}) + "\n" for n in range(9)))
    overrides = ["retrieval=bm25", f"retrieval.corpus={tmp_path}"]
    overrides += ["generation.filters.judge=true", "generation.filters.self_consistency=true"]
    config = compose_domain("biomedicine", None, "model.toy=true", *overrides)
    recorder = Recorder(load_preview_tokenizer(config.model, tmp_path)[0])
    prompts = {title.partition(" (")[0]: prompt for title, prompt, _ in collect_prompts(config, None, recorder)}
    background = "### Background:\n" + "".join(f"- Passage {n}.\n" for n in range(5))
    assert background in prompts["Response"] and "Passage 5" not in prompts["Response"]
    votes = prompts["Self-consistency"].rpartition("### Instruction:")[2]
    assert background in votes and "\nOptions: " in votes
    assert prompts["Judge"].endswith("### Right:\n") and prompts["Judge"].startswith("You are an expert")


@pytest.mark.parametrize("domain", SHIPPED)
@pytest.mark.parametrize("seed", range(3))
def test_a_preview_shows_no_task_among_its_own_few_shot_examples(tmp_path: Path, domain: str, seed: int) -> None:
    overrides = ["generation.filters.judge=true", "generation.filters.self_consistency=true", f"seed={seed}"]
    config = compose_domain(domain, None, "model.toy=true", *overrides)
    recorder = Recorder(load_preview_tokenizer(config.model, tmp_path)[0])
    prompts = {title.partition(" (")[0]: prompt for title, prompt, _ in collect_prompts(config, None, recorder)}
    for title in ("Response", "Self-consistency", "Judge"):
        *shots, task = prompts[title].split("### Instruction:")[1:]
        assert shots and not any(shot.startswith(task.partition("### Response:")[0]) for shot in shots), title


def test_a_preview_asks_the_questions_that_a_run_asks(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    row = {"id": "own-1", "task_type": "own", "kind": "short", "instruction": "Name it.", "input": "A cat sat."}
    own.write_text(json.dumps({**row, "answers": ["cat"]}) + "\n")
    recorder = Recorder(load_preview_tokenizer(compose_domain("finance", None, "model.toy=true").model, tmp_path)[0])

    def evaluation_prompts(*overrides: str) -> dict[str, str]:
        config = compose_domain("finance", None, "model.toy=true", "evaluation.shots=[2]", *overrides)
        recorder.batches.clear()
        prompts = {title: prompt for title, prompt, _ in collect_prompts(config, None, recorder)}
        return {title: prompt for title, prompt in prompts.items() if title.startswith("Evaluation")}

    (title,) = evaluation_prompts(f"evaluation.files=[{own}]")
    assert title == "Evaluation of own, 2 shots, question own-1"
    biomedicine = evaluation_prompts("evaluation.domain=biomedicine")
    assert all("You are an expert in biomedicine" in prompt for prompt in biomedicine.values()) and biomedicine


def test_a_preview_of_a_prompt_that_is_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    config = compose_domain("finance", None, "model.toy=true", "model.context_length=200")
    recorder = Recorder(load_preview_tokenizer(config.model, tmp_path)[0])
    with pytest.raises(UserError, match="Response: the prompt is longer than the model's context"):
        list(collect_prompts(config, None, recorder))


def test_a_preview_prints_each_prompt_unchanged_with_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_domain("finance", None, "model=llama-2-7b")
    tokenizer = build_toy(config.model)[1]
    monkeypatch.setattr(preview, "load_preview_tokenizer", lambda *_: (tokenizer, "the toy tokenizer"))
    ended = selfspec("domain", "preview", "finance", "--model", "llama-2-7b", "--task", "sentiment")
    assert ended.returncode == 0, ended.stderr
    for title, prompt, num_tokens in collect_prompts(config, "sentiment", Recorder(tokenizer)):
        assert f"━━ {title}\n{prompt}\n━━ {num_tokens} tokens\n" in ended.stdout
    assert "Evaluation of sentiment, 5 shots" in ended.stdout
    ended = selfspec("domain", "preview", "finance", "--task", "sentiments")
    assert ended.returncode == 1
    assert ended.stderr.startswith("--task sentiments: no question has this type; did you mean 'sentiment'?")


def test_a_preview_takes_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        preview, "load_preview_tokenizer", lambda model, cache: (build_toy(model)[1], "the toy tokenizer")
    )
    ended = selfspec("domain", "preview", "finance", "evaluation.shots=[0]", "generation.filters.judge=true")
    assert ended.returncode == 0, ended.stderr
    assert "━━ Judge" in ended.stdout and "0 shots" in ended.stdout and "5 shots" not in ended.stdout
