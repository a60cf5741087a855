"""Results on tasks of lm-evaluation-harness are those of the log-likelihoods, computed here from the model alone."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dacite
import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

from selfspec.config.schema import EvaluationConfig, PathsConfig
from selfspec.errors import Interrupted, UserError
from selfspec.evaluation.harness import check_harness, harness_identity, measure_task, task_index
from selfspec.evaluation.lm_eval_adapter import wrap_for_harness
from selfspec.models.load import load_base, with_adapter
from selfspec.prompts.chat import chat_template_of
from selfspec.reporting.harness_table import compare_harness_results, harness_html, harness_table
from selfspec.runtime.context import StageContext
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store
from selfspec.stages.harness import harness
from toys import PROJECT, model_config, with_random_adapter

MODEL = model_config("gemma-3-270m")
PATHS = PathsConfig(store="", cache="", output="")
CHOICES = ["iron", "zinc", "copper sulphate", "the lead in old pipes"]
QUESTIONS = [f"Which metal is number {n}, {word}?" for n, word in enumerate(["heavy", "light", "soft", "rare"] * 4)]
DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
"""
CHOOSE = """
task: choose
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WRITE = """
task: write
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["?"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
BOTH = """
group: both
task: [choose, write]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def toy() -> tuple[Any, Any]:
    """The (model, tokenizer) that the stage loads."""
    return load_base(MODEL, PATHS, Progress(Console(quiet=True)))


def prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def loglikelihood(network: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """Log-probability of the continuation's tokens."""
    ids = tokenizer(context + continuation, add_special_tokens=False).input_ids
    first = len(tokenizer(context, add_special_tokens=False).input_ids)
    with torch.no_grad():
        logprobs = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(first, len(ids)))


def written(network: Any, tokenizer: Any, context: str) -> str:
    """Greedy decoding of six tokens."""
    ids = tokenizer(context, add_special_tokens=False).input_ids
    begin = len(ids)
    for _ in range(6):
        with torch.no_grad():
            ids = [*ids, int(network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[begin:], skip_special_tokens=True).split("?")[0])


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter that changes the model's output."""
    folder = tmp_path_factory.mktemp("adapter")
    network, _ = toy()
    adapted = with_random_adapter(network)
    adapted.save_pretrained(folder / "adapter")
    adapted.unload()
    return folder / "adapter"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks (one without data) and a group; half of the reference answers are what the base generates."""
    folder = tmp_path_factory.mktemp("own")
    network, tokenizer = toy()
    choose = [{"question": q, "choices": CHOICES, "answer": n % 4} for n, q in enumerate(QUESTIONS)]
    write = [
        {"question": q, "answer": written(network, tokenizer, prompt(q)) if n % 2 else "iron"}
        for n, q in enumerate(QUESTIONS)
    ]
    for name, text in (("choose", CHOOSE), ("write", WRITE), ("gone", CHOOSE.replace("choose", "gone", 1))):
        (folder / f"{name}.yaml").write_text(text + DATA.format(folder=folder, name=name))
    for name, rows in (("choose", choose), ("write", write)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "both.yaml").write_text(BOTH)
    return folder


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Use a temporary cache of data sets."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return


def evaluation_of(own: Path | None, *tasks: str, **changes: Any) -> EvaluationConfig:
    """`conf/evaluation/lm_eval.yaml` with these tasks and without a limit."""
    files = [PROJECT / "conf" / "evaluation" / f"{name}.yaml" for name in ("embedded", "quick", "lm_eval")]
    plain: Any = OmegaConf.to_container(OmegaConf.merge(*map(OmegaConf.load, files)))
    plain.pop("defaults")
    evaluation = dacite.from_dict(EvaluationConfig, plain, dacite.Config(cast=[tuple], strict=True))
    path = str(own) if own else None
    return replace(evaluation, **{"tasks": tasks, "tasks_path": path, "limit": None, **changes})


def run(
    evaluation: EvaluationConfig, folder: Path, adapter: Path | None = None, stop: StopFlag | None = None
) -> list[dict[str, Any]]:
    """Run the stage; returns the rows of its results.json."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "output").mkdir(exist_ok=True)
    progress, config = Progress(Console(quiet=True)), cast(Any, SimpleNamespace(paths=PATHS))
    stage = Stage("harness", "harness (base)", "0" * 24, config, {}, {}, (), {})
    job = StageContext(stage, Store(folder), folder / "work", folder / "output", config, progress, stop or StopFlag())
    counts = harness(job, adapter, model=MODEL, evaluation=evaluation, seed=0)
    rows: list[dict[str, Any]] = json.loads((folder / "output" / "results.json").read_text())
    assert counts == {"tasks": len(set(evaluation.tasks)), "results": len(rows)}
    assert [path.name for path in (folder / "output").iterdir()] == ["results.json"]
    return rows


def by_hand(network: Any, tokenizer: Any, own: Path) -> dict[tuple[str, str], float]:
    """Accuracy of each task and metric."""
    hits: dict[tuple[str, str], list[bool]] = {}
    for row in map(json.loads, (own / "choose.jsonl").open()):
        scores = [loglikelihood(network, tokenizer, prompt(row["question"]), f" {choice}") for choice in CHOICES]
        longwise = [score / len(choice) for score, choice in zip(scores, CHOICES, strict=True)]
        for metric, values in (("acc", scores), ("acc_norm", longwise)):
            hits.setdefault(("choose", metric), []).append(values.index(max(values)) == row["answer"])
    for row in map(json.loads, (own / "write.jsonl").open()):
        right = written(network, tokenizer, prompt(row["question"])) == row["answer"]
        hits.setdefault(("write", "exact_match"), []).append(right)
    return {place: sum(values) / len(values) for place, values in hits.items()}


@pytest.mark.parametrize("specialized", [False, True])
def test_accuracies_are_those_of_the_log_likelihoods(
    tmp_path: Path, own: Path, adapter: Path, specialized: bool
) -> None:
    evaluation = evaluation_of(own, "both")
    base, tokenizer = toy()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    tokenizer_before = repr(tokenizer)
    with with_adapter(base, adapter if specialized else None) as network:
        expected = by_hand(network, tokenizer, own)
    rows = run(evaluation, tmp_path / "stage", adapter if specialized else None)
    results = {(row["task"], row["metric"]): row for row in rows}
    assert set(results) == {*expected, ("both", "acc")}
    for place, value in expected.items():
        row = results[place]
        assert row["value"] == pytest.approx(value)
        assert row["stderr"] == pytest.approx(math.sqrt(value * (1 - value) / 15))
        assert (row["n"], row["shots"], row["higher_is_better"]) == (16, 0, True)
    assert results["both", "acc"]["value"] == results["choose", "acc"]["value"]
    assert len(set(expected.values())) > 1
    assert repr(tokenizer) == tokenizer_before
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


@pytest.mark.parametrize("style", ["base", "chat"])
def test_a_chat_model_is_prompted_with_its_chat_template(
    own: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    evaluation, model = evaluation_of(own, "both"), model_config("gemma-3-270m", prompt=style)
    network, tokenizer = load_base(model, PATHS, Progress(Console(quiet=True)))
    wrapped, read = wrap_for_harness(network, tokenizer, 256, 8), set[str]()
    for name in ("tok_encode", "tok_batch_encode"):
        monkeypatch.setattr(wrapped, name, partial(record_texts, read, getattr(wrapped, name)))
    measure_task("both", task_index(evaluation), wrapped, evaluation, 0)
    template = chat_template_of(tokenizer)
    prompts = {template.prefix("") + template.item(prompt(question)) for question in QUESTIONS}
    assert prompts <= read and all(any(text.startswith(each.rstrip()) for each in prompts) for text in read)


def record_texts(read: set[str], encode: Callable[..., Any], text: str | list[str], *more: Any, **named: Any) -> Any:
    read.update([text] if isinstance(text, str) else text)
    return encode(text, *more, **named)


def test_a_requeued_stage_resumes_at_the_next_task(tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluation_of(own, "write", "choose", limit=2, num_fewshot=1)
    stop, measured, measure = StopFlag(), list[str](), measure_task

    def spy(name: str, *arguments: Any) -> Any:
        measured.append(name)
        stop.signal = 15 if name == "write" and len(measured) == 2 else 0
        return measure(name, *arguments)

    monkeypatch.setattr("selfspec.stages.harness.measure_task", spy)
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(evaluation, tmp_path / "stage", stop=stop)
    rows = run(evaluation, tmp_path / "stage")
    assert measured == ["choose", "write", "write"]
    assert {(row["task"], row["n"], row["shots"]) for row in rows} == {("choose", 2, 1), ("write", 2, 1)}


def test_the_identity_has_everything_that_determines_the_results_and_nothing_else(tmp_path: Path, own: Path) -> None:
    evaluation = evaluation_of(own, "write", "choose")

    def identity(**changes: Any) -> dict[str, Any]:
        return harness_identity(replace(evaluation, **changes))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in own.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    (elsewhere / "__pycache__").mkdir()
    (elsewhere / "__pycache__" / "made.pyc").write_bytes(b"x")
    same = {"tasks_path": str(elsewhere)}
    assert identity() == identity(**same) == identity(tasks=("choose", "write", "choose"), batch_size=7, shots=(1,))
    (elsewhere / "write.jsonl").write_text('{"question": "Which?", "answer": "iron"}\n')
    for changes in (same, {"limit": 3}, {"num_fewshot": 0}, {"tasks": ("write",)}, {"tasks_path": None}):
        assert identity(**changes) != identity()
    json.dumps(identity())


def error_of(ask: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        ask()
    return str(caught.value)


def test_a_missing_task_folder_or_package_is_reported_in_one_sentence(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_evaluation = partial(evaluation_of, own)
    message = error_of(partial(run, own_evaluation("chose"), tmp_path / "stage"))
    assert message.startswith("evaluation.tasks has 'chose'") and "did you mean 'choose'?" in message
    message = error_of(partial(run, own_evaluation("gone"), tmp_path / "stage"))
    assert "task 'gone'" in message and "gone.jsonl" in message and "HF_HOME" in message and "\n" not in message
    evaluation = replace(own_evaluation("choose"), tasks_path=str(tmp_path / "nowhere"))
    assert "nowhere is no folder" in error_of(lambda: check_harness(evaluation))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert "pip install -e '.[lm_eval]'" in error_of(lambda: check_harness(own_evaluation("choose")))
    assert "pip install -e '.[lm_eval]'" in error_of(partial(run, own_evaluation("choose"), tmp_path / "stage"))
    check_harness(replace(own_evaluation("choose"), tasks=()))


def test_importing_the_stage_imports_nothing_heavy() -> None:
    code = "import sys, selfspec.stages.harness; print({'lm_eval', 'torch', 'transformers', 'tqdm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def row(
    task: str, metric: str, value: float | None, stderr: float | None, better: bool | None = True
) -> dict[str, Any]:
    place = {"task": task, "metric": metric, "value": value, "stderr": stderr}
    return {**place, "higher_is_better": better, "n": 100, "shots": 5}


def test_differences_have_normal_intervals_from_two_standard_errors() -> None:
    base = [
        row("sciq", "acc", 0.5, 0.03),
        row("wiki", "word_perplexity", 30.5, None, False),
        row("<b>", "f1", None, None),
    ]
    specialized = [
        row("sciq", "acc", 0.7, 0.04),
        row("wiki", "word_perplexity", 32.0, None, False),
        row("<b>", "f1", 0.5, None),
    ]
    compared = compare_harness_results({"base": base, "specialized": specialized})
    assert compared[0]["difference"] == pytest.approx(
        {"value": 0.2, "low": 0.2 - 1.96 * 0.05, "high": 0.2 + 1.96 * 0.05}
    )
    assert compared[1]["difference"] == {"value": 1.5, "low": None, "high": None}
    assert compared[2]["difference"] is None
    json.dumps(compared)
    console = Console(width=140)
    with console.capture() as caught:
        console.print(harness_table(compared))
    output = caught.get()
    assert "specialized - base" in output and "acc ↑" in output and "word_perplexity ↓" in output
    assert "+.200 (.102 to .298)" in output
    page = str(harness_html(compared))
    assert page.count('class="clear"') == 1 and "&lt;b&gt;" in page and "<b>" not in page
    alone = compare_harness_results({"base": base})
    assert all(one["difference"] is None for one in alone)
    assert "base" in str(harness_html(alone))
    assert str(harness_html([])).count("<tr>") == 1
