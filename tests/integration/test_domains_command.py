"""Held: the shipped domains have no complaints, each fault is told by file and line, a preview is what is sent."""

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

from conftest import PROJECT
from selfspec.cli.domain import compose_domain, main
from selfspec.data.reading import read_seeds
from selfspec.data.records import Draft
from selfspec.domains import preview
from selfspec.domains.check import check_domain
from selfspec.domains.preview import Recorder, collect_prompts, load_preview_tokenizer
from selfspec.engines.protocol import PromptBatch
from selfspec.generation.responses import draft_as_task
from selfspec.models import load
from selfspec.models.toy import build_toy
from selfspec.pipeline.build import build_pipeline
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages.examples import examples
from selfspec.stages.scores import scores
from toys import prompts

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
PLACES = (
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


def rows(answer: str) -> list[dict[str, Any]]:
    """Three or more rows of each task type, with nothing wrong in them."""
    made: list[dict[str, Any]] = []
    for place, text in enumerate(PLACES):
        verdict = {"task_type": "verdict", "options": ["yes", "no"], answer: ("yes", "no")[place % 2]}
        field = {"task_type": "fields", "options": ["sale", "lease"], answer: ("sale", "lease", "none")[place % 3]}
        party = {"task_type": "parties", answer: f"{text.split()[1]} (party)"}
        term = {"task_type": "term", answer: text.split()[2]}
        notice = {"task_type": "notice", answer: str(place + 0.5), "formula": f"{place + 1} - 0.5"}
        for name, row in enumerate((verdict, field, party, term, notice)):
            some = text.split() if answer == "output" else text.split()[::-1]  # no run of words in both files
            turned = " ".join(some[name:] + some[:name][::-1])
            own = f"{answer}{place}{name} " * 20  # so that no two are near
            row |= {"id": f"{answer}-{len(made)}", "instruction": "Answer it."}
            row["input"] = f"{place + 1}, 0.5. {' '.join(some)}. {turned} {own}"
            made.append(row)
    return made


def write(folder: Path, edit: Edit = lambda seeds, questions: None) -> Path:
    """A domain `law` below `folder`, its good rows changed by `edit`; the second line of each file is blank."""
    (folder / "confs" / "domain").mkdir(parents=True)
    (folder / "confs" / "domain" / "law.yaml").write_text(YAML)
    seeds, questions = rows("output"), rows("answers")
    for question in questions:
        question["answers"] = [question["answers"]]
    edit(seeds, questions)
    for name, some in (("seeds", seeds), ("questions", questions)):
        first, *rest = map(json.dumps, some)
        (folder / f"{name}.jsonl").write_text("\n".join([first, "", *rest]))
    return folder / "confs"


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int | str | None, str]:
    """(exit code or sentence, what was printed) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["domains", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def test_the_shipped_domains_have_no_complaints_and_checking_loads_nothing_heavy() -> None:
    script = (
        "import sys; from selfspec.domains.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "check", *SHIPPED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [f"{name}: no complaints" in done.stdout for name in SHIPPED] == [True] * len(SHIPPED)
    assert "headline_question: yes 15, no 15" in done.stdout


def test_a_good_domain_of_ones_own_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, text = told(monkeypatch, capsys, "check", "law", "--config-dir", folder)
    assert (code, text.splitlines()[-1]) == (0, "law: no complaints, no notes"), text


def change(which: str, place: int, **fields: Any) -> Edit:
    """Change one row; row n stands in line n + 2, but for the first."""

    def edit(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
        {"seeds": seeds, "questions": questions}[which][place].update(fields)

    return edit


def copy_input(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    questions[7]["input"] = seeds[0]["input"]


def copy_nearly(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    seeds[8]["input"] = seeds[3]["input"] + " so"


def say_yes(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    for question in questions[5::5]:
        question["answers"] = ["yes"]


def offer_maybe(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    for seed in seeds[::5]:
        seed["options"] = ["yes", "no", "maybe"]


def few_of_each(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    """Eight labels in eight seeds, and one seed of another type: some must be held out."""
    labels = [f"label {place}" for place in range(8)]
    for label, seed in zip(labels, seeds[::5], strict=True):
        seed.update(options=labels, output=label)
    seeds[:] = [*seeds[::5], *seeds[3:25:5], {**seeds[4], "id": "z"}]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("seeds", 1, output="hire"), "seeds.jsonl, line 3: field 'output' has 'hire', which is not among"),
        (change("questions", 4, answers=["ten"]), "questions.jsonl, line 6: field 'answers' is 'ten', which is no"),
        (copy_input, "questions.jsonl, line 9: nothing new, same input as line 1 of seeds.jsonl."),
        (copy_nearly, "seeds.jsonl, line 10: nothing new, near line 5 of seeds.jsonl."),
        (say_yes, "questions.jsonl, line 1: label 'yes' of verdict is the answer in 8 of 8 rows (yes 8, no 0)."),
        (say_yes, "questions.jsonl, line 1: label 'no' of verdict is never the answer (yes 8, no 0)."),
        (offer_maybe, "seeds.jsonl, line 1: label 'maybe' of verdict is never the answer (yes 4, no 4, maybe 0)."),
        (
            few_of_each,
            "seeds.jsonl, line 3: every seed of verdict with label 'label 1' is held out; write more of them.",
        ),
        (few_of_each, "seeds.jsonl, line 15: every seed of notice is held out; write more of them."),
        (
            change("seeds", 6, options=["sale", "lease", "sale, lease"]),
            "seeds.jsonl, line 8: the option 'sale, lease' holds a comma or semicolon",
        ),
        (
            change("questions", 3, options=["one", "two"]),
            "questions.jsonl, line 5: the answer 'signed' is not among the options ['one', 'two'].",
        ),
        (
            change("seeds", 2, output="Tenants (party)"),
            "seeds.jsonl, line 4: the entity 'Tenants' does not stand in the input.",
        ),
        (change("seeds", 2, output="tenants"), "seeds.jsonl, line 4: the answer 'tenants' has not the form of kind"),
        (
            change("seeds", 4, output="2"),
            "seeds.jsonl, line 6: field 'output' is '2', which is not what the formula 1 - ",
        ),
        (
            change("seeds", 4, output="1e3", formula=""),
            "seeds.jsonl, line 6: the answer '1e3' has not the form of kind number.",
        ),
        (
            change("seeds", 3, input="A term before it.\nAnswer: none"),
            "seeds.jsonl, line 5: the input has a line that begins with 'Answer:', which ends an input.",
        ),
        (lambda seeds, _: seeds.__delitem__(slice(9, None)), "seeds.jsonl has 9 seeds, of which 8 are held out and 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_each_fault_is_told_by_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], edit: Edit, said: str
) -> None:
    folder = write(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    code, text = told(monkeypatch, capsys, "check", "law", "--config-dir", folder)
    assert code == 1
    complaints = [line for line in text.splitlines() if line.startswith(str(tmp_path))]
    assert any(line.removeprefix(f"{tmp_path}/").startswith(said) for line in complaints), text


def borrow_words(seeds: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    seeds[8]["input"] += " " + " ".join(questions[3]["input"].split()[:8])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            change("questions", 3, answers=["a month", "thirty days"]),
            "questions.jsonl, line 5: 'a month' does not stand in the input.",
        ),
        (
            change("questions", 4, formula=""),
            "questions.jsonl, line 6: a number without the field 'formula' can't be computed again.",
        ),
        (
            change("questions", 4, formula="0.5 * 37 / 37"),
            "questions.jsonl, line 6: the formula's 37 does not stand in the task.",
        ),
        (borrow_words, "seeds.jsonl, line 10: the input has 8 words of answers-0, an evaluation question."),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_may_be_right_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], edit: Edit, said: str
) -> None:
    folder = write(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    code, text = told(monkeypatch, capsys, "check", "law", "--config-dir", folder)
    assert code == 0
    assert f"note: {tmp_path}/{said}" in text


def test_a_domain_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    code, _ = told(monkeypatch, capsys, "check", "lav", "--config-dir", folder)
    assert code == "There is no domain=lav; did you mean 'law'? domain is one of biomedicine, finance, general, law."
    (folder / "domain" / "law.yaml").write_text(YAML.replace("kind: number", "kind: numbers"))
    code, _ = told(monkeypatch, capsys, "check", "law", "--config-dir", folder)
    assert str(code).startswith("domain.tasks.notice.kind=numbers is none of label, ")
    code, _ = told(monkeypatch, capsys, "check", "law", "--config-dir", tmp_path / "nowhere")
    assert str(code).endswith("is no folder; give the one that holds domain/<name>.yaml.")


def test_lines_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = check_domain(compose_domain("law", folder))
    text = (tmp_path / "seeds.jsonl").read_text().split("\n")
    assert [json.loads(text[line.number - 1])["id"] for line in found.seeds] == [line.row.id for line in found.seeds]
    assert len(found.held_out) == 8


def sent(settings: Any, folder: Path, tokenizer: Any, replies: list[str], monkeypatch: Any) -> list[PromptBatch]:
    """What a run's stages hand to their engine."""
    recorder = Recorder(tokenizer, replies)
    monkeypatch.setattr(load, "load_base", lambda *_: (None, tokenizer))
    monkeypatch.setattr(load, "with_adapter", lambda *_: nullcontext())
    monkeypatch.setattr("selfspec.engines.transformers.TransformersEngine", lambda *_: recorder)
    stages = build_pipeline(settings)
    for name, stage, function in (
        ("examples", stages.rounds[0][0], examples),
        ("scores", stages.scores["base"], scores),
    ):
        (folder / name / "work").mkdir(parents=True)
        progress = Progress(Console(quiet=True))
        job = StageContext(
            stage, Store(folder / "store"), folder / name / "work", folder / name, settings, progress, StopFlag()
        )
        paths: Any = stage.files
        function(job, **paths, **stage.sections())
    return recorder.batches


def test_a_preview_is_what_the_stages_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = ("echo", "duplicate", "novelty", "contamination", "answer", "balance")
    # Of the first block, the form leaves the first batch alone: only there the recorder writes anything.
    filters = ["generation.filters.form=true", *(f"generation.filters.{name}=false" for name in off)]
    settings = compose_domain("biomedicine", None, "model.toy=true", "data_size.examples=6", *filters)
    tokenizer, whose = load_preview_tokenizer(settings.model, tmp_path)
    assert "toy" in whose
    recorder = Recorder(tokenizer)
    shown = list(collect_prompts(settings, None, recorder))
    instruction, written, response, *asked = recorder.batches
    seed = next(s for s in read_seeds(Path(settings.domain.seeds), settings.domain.tasks) if s.id in shown[1][0])

    batches = sent(settings, tmp_path, tokenizer, [seed.instruction, seed.input], monkeypatch)
    assert batches[:2] == [instruction, written]
    assert response.prefix == next(b.prefix for b in batches if b.prefix.startswith("You are"))
    draft = Draft(seed.task_type, seed.instruction, seed.input, seed.options)
    assert response.items == (prompts().task(draft_as_task(draft)),)
    assert len(asked) == len(settings.evaluation.shots) == 2
    assert all(batch in batches for batch in asked)
    for (_, prompt, tokens), batch in zip(shown, recorder.batches, strict=True):
        assert prompt == batch.prefix + batch.items[0]
        count = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in (batch.prefix, batch.items[0])]
        assert tokens == sum(count)  # the toy's tokenizer begins no text with a token of its own


def test_a_preview_shows_passages_votes_and_the_judge_where_the_config_has_them(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"Passage {n}."}) + "\n" for n in range(9)))
    more = ["retrieval=bm25", f"retrieval.corpus={tmp_path}", "generation.filters.judge=true"]
    settings = compose_domain("biomedicine", None, "model.toy=true", *more, "generation.filters.self_consistency=true")
    recorder = Recorder(load_preview_tokenizer(settings.model, tmp_path)[0])
    shown = {title.partition(" (")[0]: prompt for title, prompt, _ in collect_prompts(settings, None, recorder)}
    background = "### Background:\n" + "".join(f"- Passage {n}.\n" for n in range(5))
    assert background in shown["Response"] and "Passage 5" not in shown["Response"]
    asked = shown["Self-consistency"].rpartition("### Instruction:")[2]
    assert background in asked and "\nOptions: " in asked
    assert shown["Judge"].endswith("### Right:\n") and shown["Judge"].startswith("You are an expert")


def test_a_preview_is_printed_letter_by_letter_with_its_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = compose_domain("finance", None, "model=llama-2-7b")
    tokenizer = build_toy(settings.model)[1]
    monkeypatch.setattr(preview, "load_preview_tokenizer", lambda *_: (tokenizer, "the toy's tokenizer"))
    code, text = told(monkeypatch, capsys, "preview", "finance", "--model", "llama-2-7b", "--task", "sentiment")
    assert code == 0
    for title, prompt, tokens in collect_prompts(settings, "sentiment", Recorder(tokenizer)):
        assert f"━━ {title}\n{prompt}\n━━ {tokens} tokens\n" in text
    assert "Evaluation of sentiment, 5 shots" in text
    code, _ = told(monkeypatch, capsys, "preview", "finance", "--task", "sentiments")
    assert str(code).startswith("--task sentiments: no question is of this type; did you mean 'sentiment'?")
