"""`selfspec export`: merged weights equal base and adapter for every kind of adapter and base model, and plain
transformers loads them; the model card has the numbers of the run; an export is complete or absent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from command import selfspec, selfspec_process
from conftest import PROJECT
from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.splits import split_seeds
from selfspec.errors import UserError
from selfspec.export import merge
from selfspec.export.adapter import export_run
from selfspec.export.licences import find_licence
from selfspec.export.merge import MergeComparison, merge_adapter, rounding_tolerance
from selfspec.export.model_card import render_card, without_private_paths
from selfspec.models.load import load_base, with_adapter
from selfspec.models.nf4 import nf4_config
from selfspec.reporting.finished_run import FinishedRun, read_finished_run
from selfspec.reporting.results import MEASURES
from selfspec.runtime.progress import Progress
from selfspec.tuning.lora import add_adapter, save_adapter
from toys import MODEL_NAMES, model_config, toy_experiment

PROGRESS = Progress()
NF4, BFLOAT16 = "quantization=nf4", "model.dtype=bfloat16"


def run_of(config: Config, folder: Path) -> FinishedRun:
    """A run with a random adapter that changes the outputs clearly; it has only what merging reads."""
    base, _ = load_base(config.model, config.paths, PROGRESS)
    model = add_adapter(base, config.lora, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # initialized with zeros
                parameter.normal_(0, 0.2)
            elif "magnitude" in name:
                parameter.mul_(1.5)
    save_adapter(model, config.model, folder)
    model.unload()
    shown_seeds, held_out = split_seeds(read_seeds(Path(config.domain.seeds), config.domain.tasks))
    return FinishedRun(config, {}, folder, {}, "", tuple(shown_seeds), tuple(held_out))


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and ". " not in text


# Merging


@pytest.mark.parametrize(
    "overrides",
    [
        *(("model=llama-2-7b", f"lora={kind}") for kind in ("r8", "rslora", "dora")),
        *((f"model={name}",) for name in ("falcon-7b", "falcon-40b", "mpt-7b", "gemma-3-270m", "olmo-2-13b")),
        *((f"model={name}", NF4) for name in ("llama-2-7b", "falcon-7b", "mpt-7b", "gemma-3-270m")),
        *(("model=llama-2-7b", f"lora={kind}", NF4) for kind in ("rslora", "dora")),
        *(("model=gemma-3-270m", BFLOAT16), ("model=llama-2-7b", BFLOAT16, NF4)),
    ],
    ids=" ".join,
)
def test_merged_weights_equal_base_and_adapter(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = toy_experiment(tmp_path, *overrides)
    run, out = run_of(config, tmp_path / "adapter"), tmp_path / "out"
    comparison = merge_adapter(run, out, PROGRESS)
    exact = BFLOAT16 not in overrides
    assert comparison.dtype == ("float32" if exact else "bfloat16")
    assert comparison.error <= (1e-4 if exact else 0.1) and comparison.adapter_effect > 0.3

    merged, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    base, _ = load_base(config.model, config.paths, PROGRESS)
    ids = tokenizer("Does metformin lower blood sugar?", return_tensors="pt").input_ids
    with with_adapter(base, run.adapter) as adapted, torch.no_grad():
        expected, logits = (model(input_ids=ids).logits.float() for model in (adapted, merged))
    assert torch.allclose(logits, expected, atol=1e-3 if exact else 0.1)


@pytest.mark.parametrize("name", ["llama-2-7b", "gemma-3-270m"])
def test_a_merged_model_is_an_ordinary_model_of_its_architecture(tmp_path: Path, name: str) -> None:
    config, out = toy_experiment(tmp_path, f"model={name}", NF4, BFLOAT16), tmp_path / "out"
    merge_adapter(run_of(config, tmp_path / "adapter"), out, PROGRESS)
    saved = json.loads((out / "config.json").read_text())
    assert saved["dtype"] == "bfloat16" and "quantization_config" not in saved
    assert (out / "generation_config.json").exists() and (out / "tokenizer.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(out)
    ordinary, _ = load_base(replace(config.model, quantization="none"), config.paths, PROGRESS)
    assert type(merged) is type(ordinary) and merged.state_dict().keys() == ordinary.state_dict().keys()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    frequencies = {path: buffer for path, buffer in merged.named_buffers() if path.endswith("inv_freq")}
    assert frequencies
    for path, buffer in frequencies.items():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, ordinary.get_buffer(path))
    texts = [path.read_text() for path in out.glob("*.json")]
    assert not [text for text in texts if str(tmp_path) in text or "/tmp" in text or "/root" in text]


def test_large_weights_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_SHARD_SIZE", "300KB")
    merge_adapter(
        run_of(toy_experiment(tmp_path, "model=llama-2-7b"), tmp_path / "adapter"), tmp_path / "out", PROGRESS
    )
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1


def test_merged_weights_that_differ_from_base_and_adapter_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(toy_experiment(tmp_path, "model=llama-2-7b"), tmp_path / "adapter")
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(UserError, match="differ from base and adapter by up to") as caught:
        merge_adapter(run, tmp_path / "out", PROGRESS)
    assert is_one_sentence(str(caught.value)) and "without --merge" in str(caught.value)


def test_the_tolerance_depends_on_the_dtype() -> None:
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    assert [rounding_tolerance(dtype) for dtype in dtypes] == [1.0, 0.125, 0.001]


# The command


def test_an_exported_adapter_has_the_bytes_of_the_store(smoke: Path, tmp_path: Path) -> None:
    ended = selfspec_process("export", smoke / "run", "out", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path}/out  the adapter and model card" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    stored = smoke / "store" / json.loads((smoke / "run" / "stages.json").read_text())["adapter (specialized)"]
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files, "README.md"}
    assert all((tmp_path / "out" / name).read_bytes() == (stored / name).read_bytes() for name in files)


def test_the_code_of_the_card_loads_merged_weights(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = selfspec("export", smoke / "run", tmp_path / "a" / "model", "--merge")
    assert ended.returncode == 0, ended.stderr
    text = (tmp_path / "a" / "model" / "README.md").read_text()
    (sentence,) = (line for line in text.splitlines() if line.startswith("Merged in float32"))
    assert sentence in ended.stdout and "nats" in sentence
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "a" / "model").iterdir()} == {"0o644"}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "a" / "model")
    assert "selfspec" not in code
    exec(code, {})


def copy_run(smoke: Path, folder: Path) -> Path:
    """A copy of the smoke run, to be damaged."""
    return Path(shutil.copytree(smoke / "run", folder / "run"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_kept_round_is_exported(smoke: Path, tmp_path: Path) -> None:
    run = copy_run(smoke, tmp_path)
    for name in ("stages.json", "results.json"):
        edit_json(
            run / name, lambda content: (content.get("keys", content)).update({"adapter (round 2)": other_adapter(run)})
        )
    edit_json(
        run / "results.json",
        lambda content: content["keys"].update({"adapter (round 2)": other_adapter(run).split("/")[1]}),
    )
    edit_json(run / "results.json", lambda content: content.update(rounds={"losses": [2.0, 1.0], "kept": 2}))
    assert read_finished_run(run).adapter == smoke / "store" / other_adapter(run)
    edit_json(run / "results.json", lambda content: content.update(rounds={"losses": [1.0, 2.0], "kept": 1}))
    assert read_finished_run(run).adapter != smoke / "store" / other_adapter(run)


def other_adapter(run: Path) -> str:
    """Name and key of an adapter in the store that is not the specialized one."""
    return str(json.loads((run / "stages.json").read_text())["adapter (seeds only)"])


def remove_results(run: Path) -> None:
    (run / "results.json").unlink()


def change_a_stage_key(run: Path) -> None:
    edit_json(run / "stages.json", lambda stages: stages.update(examples="examples/0"))


def rename_a_config_key(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("rslora: false", "older: false"))


def name_a_missing_store(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(re.sub(r"store: .*", "store: /nowhere", path.read_text()))


def remove_a_seed(run: Path) -> None:
    path, seeds = run / "config.yaml", run / "seeds.jsonl"
    own = yaml.safe_load(path.read_text())["domain"]["seeds"]
    seeds.write_text("\n".join(Path(own).read_text().splitlines()[1:]))
    path.write_text(path.read_text().replace(f"seeds: {own}", f"seeds: {seeds}", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "holds no run"),
        (lambda run: (run / "config.yaml").unlink(), "holds no run"),
        (remove_results, "is not finished"),
        (change_a_stage_key, "is not finished"),
        (rename_a_config_key, "another version of selfspec"),
        (name_a_missing_store, "is damaged"),
        (remove_a_seed, "changed since the run"),
        (lambda run: run.with_name("out").mkdir(), "exists already"),
    ],
)
def test_a_run_that_cannot_be_exported_is_refused_in_one_sentence(
    smoke: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    run = copy_run(smoke, tmp_path)
    damage(run)
    before = set(tmp_path.iterdir())
    ended = selfspec("export", run, tmp_path / "out", "--merge")
    assert ended.returncode == 1 and message in ended.stderr and ended.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_base_model_larger_than_memory_is_refused_before_any_work(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run(smoke, tmp_path)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("toy: true", "toy: false"))
    monkeypatch.setattr("selfspec.planning.devices.memory_capacity", lambda processes=1: (3e8, False))
    ended = selfspec("export", run, tmp_path / "out", "--merge")
    assert ended.returncode == 1
    assert "Merging loads all of gemma-3-270m, 0.5 GB, and this machine has 0.3 GB; merge on" in ended.stderr


@pytest.mark.parametrize("merged", [False, True])
def test_a_full_disk_is_reported_and_nothing_is_left(smoke: Path, disk: Path, merged: bool) -> None:
    (disk / "ballast").write_bytes(b"\0" * 1_000_000)
    with pytest.raises(UserError, match="No space is left") as caught:
        export_run(smoke / "run", disk / "out", merged, PROGRESS)
    assert is_one_sentence(str(caught.value)) and "give another folder" in str(caught.value)
    assert {path.name for path in disk.iterdir()} == {"ballast"}


def test_a_killed_export_leaves_only_a_draft_that_the_next_one_replaces(smoke: Path, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # killed when everything is written, just before the rename
        Path.rename = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
        export_run(smoke / "run", tmp_path / "out", False, PROGRESS)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {".out.draft"}
    export_run(smoke / "run", tmp_path / "out", False, PROGRESS)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


# The card


@pytest.fixture(scope="module")
def run(smoke: Path) -> FinishedRun:
    return read_finished_run(smoke / "run")


def front(text: str) -> dict[str, Any]:
    """The front matter of a card."""
    return dict(yaml.safe_load(text.split("---\n")[1]))


def score_lines(text: str) -> dict[tuple[int, str], str]:
    """Lines of the score tables by shots and measure."""
    shots, lines = 0, {}
    for line in text.partition("## Scores")[2].partition("Possible forgetting")[0].splitlines():
        if match := re.fullmatch(r"(\d) shots:", line):
            shots = int(match[1])
        elif line.startswith("| "):
            lines[shots, line.split(" | ")[0].removeprefix("| ")] = line
    return lines


def format_value(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", int(abs(value) < 1))


def test_the_card_has_the_numbers_of_the_results(run: FinishedRun) -> None:
    text = render_card(run, None)
    lines, num_values = score_lines(text), 0
    for row in [*run.report["scores"], *run.report["differences"]]:
        if row["task"] == "all" and (row["model"] == "specialized" or "minus" not in row):
            sign = "+" if "minus" in row and row["value"] > 0 else ""
            interval = f"({format_value(row['low'])} to {format_value(row['high'])})"
            assert (
                f"| {sign}{format_value(row['value'])} {interval} |" in lines[row["shots"], MEASURES[row["measure"]]]
            ), row
            num_values += 1
    assert num_values == 2 * (3 * 8 + 2 * 7)  # shots, models and measures, differences of all measures but one
    assert all(f"- {line}\n" in text for line in run.report["notes"])


def test_the_card_describes_data_settings_and_licence(run: FinishedRun) -> None:
    text = render_card(run, None)
    funnel = run.report["funnel"]
    assert f"Of {funnel['attempts']} attempts at a synthetic task, {funnel['accepted']} passed the filters" in text
    assert "72 shown to the model, 8 held out" in text and run.manifest["inputs"]["seeds"] in text
    assert "LoRA rank 8, alpha 16" in text and "arxiv.org/abs/2310.00160" in text
    assert "Gemma terms of use" in text and "Model Derivatives" in text
    assert "```bash\nselfspec run debug=smoke\n```" in text  # without overrides of folders
    assert "/tmp" not in text and str(PROJECT) not in text
    dropped = {**run.report, "funnel": {**funnel, "dropped": {"answer": {"no list": 3}}}}
    assert "| answer | no list | 3 |" in render_card(replace(run, report=dropped), None)


@pytest.mark.parametrize(
    ("stop", "sentence"),
    [
        (("\n###",), 'A reply ends at the end token, or before `"\\n###"`.'),
        (("\n\n", "END"), 'A reply ends at the end token, or before `"\\n\\n"` or `"END"`.'),
        ((), "A reply ends at the end token."),
    ],
)
def test_the_card_has_the_stop_texts_of_the_prompts(run: FinishedRun, stop: tuple[str, ...], sentence: str) -> None:
    templates = replace(run.config.prompts, response_stop=stop)
    assert f" {sentence}\n" in render_card(replace(run, config=replace(run.config, prompts=templates)), None)


def test_the_code_of_the_card_quantizes_and_computes_as_the_tuning_did(run: FinishedRun) -> None:
    model = model_config("llama-3.1-8b", toy=False, quantization="nf4", dtype="bfloat16")
    text = render_card(replace(run, config=replace(run.config, model=model)), None)
    lines = text.partition("```python\n")[2].partition("```")[0].splitlines()
    names: dict[str, Any] = {"torch": torch, "BitsAndBytesConfig": BitsAndBytesConfig}
    exec("\n".join(line for line in lines if line.startswith(("dtype =", "nf4 ="))), names)
    assert names["nf4"].to_dict() == {**nf4_config(torch.bfloat16).to_dict(), "bnb_4bit_quant_storage": "uint8"}
    assert "import torch" in lines


def test_the_card_holds_no_generated_text(run: FinishedRun) -> None:
    folder = run.adapter.parents[1] / "examples" / run.report["keys"]["examples"]
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    assert len(rows) == json.loads((folder / "manifest.json").read_text())["counts"]["examples"] == 12
    texts = [row[name] for row in rows for name in ("input", "output")]
    assert not [text for text in texts if len(text) > 20 and text in render_card(run, None)]


def test_the_front_matter_has_the_fields_of_the_hub(run: FinishedRun) -> None:
    toy = front(render_card(run, None))
    assert toy["library_name"] == "peft" and toy["license"] == "gemma" and "base_model" not in toy
    assert {"self-specialization", "biomedicine"} <= set(toy["tags"])
    comparison = MergeComparison("bfloat16", 0.1, 5.0, 1.0, 40)
    real = replace(run, config=replace(run.config, model=model_config("llama-3.1-8b", toy=False, quantization="nf4")))
    fields = front(render_card(real, comparison))
    assert fields["base_model"] == real.config.model.hub and fields["license"] == "llama3.1"
    assert fields["library_name"] == "transformers"
    assert "BitsAndBytesConfig" in render_card(real, None) and "BitsAndBytesConfig" not in render_card(real, comparison)
    own = replace(run.config.model, licence="My Lab's Terms, v2", path="/data/mine", toy=False)
    fields = front(render_card(replace(run, config=replace(run.config, model=own)), None))
    assert (fields["license"], fields["license_name"]) == ("other", "my-lab-s-terms-v2") and "base_model" not in fields


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_models_licence_is_known(name: str) -> None:
    licence = find_licence(model_config(name).licence)
    assert licence.identifier != "other" and licence.url.startswith("https://") and licence.requirements


def test_the_card_has_the_scores_of_the_harness(run: FinishedRun) -> None:
    row = {"task": "medmcqa", "metric": "acc", "higher_is_better": True, "n": 100, "shots": 0}
    row |= {"values": {"base": 0.25, "specialized": 0.5}, "difference": {"value": 0.25, "low": 0.1, "high": 0.4}}
    text = render_card(replace(run, report={**run.report, "harness": [row]}), None)
    assert "| medmcqa | acc ↑ | 0 | 100 | .250 | .500 | +.250 (.100 to .400) |" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domain.seeds=/home/me/law/seeds.jsonl lora=r8", "domain.seeds=seeds.jsonl lora=r8"),
        ("files=[/a/b/one.jsonl,~/c/two.jsonl,../d/three.jsonl]", "files=[one.jsonl,two.jsonl,three.jsonl]"),
        ("https://ai.google.dev/gemma/terms and meta-llama/Llama-2-7b-hf or F1/AUC", None),
    ],
)
def test_the_card_has_no_folders_of_this_machine(text: str, expected: str | None) -> None:
    assert without_private_paths(text) == (text if expected is None else expected)
