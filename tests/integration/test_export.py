"""Held: what leaves a finished run. Merged weights do what base and adapter did, for every kind of adapter and base,
and plain transformers loads them; the card tells the run's own numbers; an export is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import PROJECT
from selfspec.cli.export import export_command
from selfspec.config.schema import Config
from selfspec.data.reading import read_seeds
from selfspec.data.splits import split_seeds
from selfspec.errors import UserError
from selfspec.export import merge
from selfspec.export.adapter import export_run
from selfspec.export.licences import licence_of
from selfspec.export.merge import MergeComparison, merge_adapter, rounding_tolerance
from selfspec.export.model_card import render_card, without_private_paths
from selfspec.models.load import load_base, with_adapter
from selfspec.reporting.finished_run import FinishedRun, read_finished_run
from selfspec.reporting.results import MEASURES
from selfspec.runtime.progress import Progress
from selfspec.tuning.lora import add_adapter, save_adapter
from toys import NAMES, experiment, model_config

SILENT = Progress()
NF4, BFLOAT16 = "quantization=nf4", "model.dtype=bfloat16"


def run_of(config: Config, folder: Path) -> FinishedRun:
    """A run as merging sees it; its adapter was drawn at random, far from doing nothing."""
    base, _ = load_base(config.model, config.paths, SILENT)
    model = add_adapter(base, config.lora, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # which begins at nought
                parameter.normal_(0, 0.2)
            elif "magnitude" in name:
                parameter.mul_(1.5)
    save_adapter(model, config.model, folder)
    model.unload()
    shown, held_out = split_seeds(read_seeds(Path(config.domain.seeds), config.domain.tasks))
    return FinishedRun(config, {}, folder, {}, "", tuple(shown), tuple(held_out))


def one_sentence(text: str) -> bool:
    return text.endswith(".") and "\n" not in text and ". " not in text


# Merging


@pytest.mark.parametrize(
    "chosen",
    [
        *(("model=llama-2-7b", f"lora={kind}") for kind in ("r8", "rslora", "dora")),
        *((f"model={name}",) for name in ("falcon-7b", "falcon-40b", "mpt-7b", "gemma-3-270m", "olmo-2-13b")),
        *((f"model={name}", NF4) for name in ("llama-2-7b", "falcon-7b", "mpt-7b", "gemma-3-270m")),
        *(("model=llama-2-7b", f"lora={kind}", NF4) for kind in ("rslora", "dora")),
        *(("model=gemma-3-270m", BFLOAT16), ("model=llama-2-7b", BFLOAT16, NF4)),
    ],
    ids=" ".join,
)
def test_merged_weights_do_what_base_and_adapter_do(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    config = experiment(tmp_path, *chosen)
    run, out = run_of(config, tmp_path / "adapter"), tmp_path / "out"
    facts = merge_adapter(run, out, SILENT)
    exact = BFLOAT16 not in chosen
    assert facts.dtype == ("float32" if exact else "bfloat16")
    assert facts.error <= (1e-4 if exact else 0.1) and facts.moved > 0.3

    plain, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    base, _ = load_base(config.model, config.paths, SILENT)
    ids = tokenizer("Does metformin lower blood sugar?", return_tensors="pt").input_ids
    with with_adapter(base, run.adapter) as adapted, torch.no_grad():
        wanted, found = (each(input_ids=ids).logits.float() for each in (adapted, plain))
    assert torch.allclose(found, wanted, atol=1e-3 if exact else 0.1)


@pytest.mark.parametrize("name", ["llama-2-7b", "gemma-3-270m"])
def test_what_is_merged_is_an_ordinary_model_of_its_architecture(tmp_path: Path, name: str) -> None:
    config, out = experiment(tmp_path, f"model={name}", NF4, BFLOAT16), tmp_path / "out"
    merge_adapter(run_of(config, tmp_path / "adapter"), out, SILENT)
    written = json.loads((out / "config.json").read_text())
    assert written["dtype"] == "bfloat16" and "quantization_config" not in written
    assert (out / "generation_config.json").exists() and (out / "tokenizer.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(out)
    ordinary, _ = load_base(replace(config.model, quantization="none"), config.paths, SILENT)
    assert type(plain) is type(ordinary) and plain.state_dict().keys() == ordinary.state_dict().keys()
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}
    frequencies = {path: buffer for path, buffer in plain.named_buffers() if path.endswith("inv_freq")}
    assert frequencies
    for path, buffer in frequencies.items():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, ordinary.get_buffer(path))
    texts = [path.read_text() for path in out.glob("*.json")]
    assert not [text for text in texts if str(tmp_path) in text or "/tmp" in text or "/root" in text]


def test_large_weights_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_SHARD_SIZE", "300KB")
    merge_adapter(run_of(experiment(tmp_path, "model=llama-2-7b"), tmp_path / "adapter"), tmp_path / "out", SILENT)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1


def test_weights_that_do_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(experiment(tmp_path, "model=llama-2-7b"), tmp_path / "adapter")
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    with pytest.raises(UserError, match="nats from base and adapter") as caught:
        merge_adapter(run, tmp_path / "out", SILENT)
    assert one_sentence(str(caught.value)) and "without --merge" in str(caught.value)


def test_rounding_is_allowed_for_by_the_type_of_the_weights() -> None:
    kinds = (torch.bfloat16, torch.float16, torch.float32)
    assert [rounding_tolerance(kind) for kind in kinds] == [1.0, 0.125, 0.001]


# The command


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    export_command()


def test_the_adapter_leaves_as_it_is_in_the_store(smoke: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "selfspec.tuning.export", str(smoke / "run"), "out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/out  the adapter and model card" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    kept = smoke / "store" / json.loads((smoke / "run" / "stages.json").read_text())["adapter (specialized)"]
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files, "README.md"}
    assert all((tmp_path / "out" / name).read_bytes() == (kept / name).read_bytes() for name in files)


def test_merged_weights_load_as_the_card_says(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, smoke / "run", tmp_path / "a" / "model", "--merge")
    told = capsys.readouterr().out
    text = (tmp_path / "a" / "model" / "README.md").read_text()
    (sentence,) = (line for line in text.splitlines() if line.startswith("Merged in float32"))
    assert sentence in told and "nats" in sentence
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "a" / "model").iterdir()} == {"0o644"}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path / "a" / "model")
    assert "selfspec" not in code
    exec(code, {})


def copied(smoke: Path, folder: Path) -> Path:
    """The smoke run, to be spoilt."""
    return Path(shutil.copytree(smoke / "run", folder / "run"))


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def test_the_round_that_was_kept_is_the_one_that_leaves(smoke: Path, tmp_path: Path) -> None:
    run = copied(smoke, tmp_path)
    for name in ("stages.json", "results.json"):
        changed(run / name, lambda found: (found.get("keys", found)).update({"adapter (round 2)": place(run)}))
    changed(run / "results.json", lambda found: found["keys"].update({"adapter (round 2)": place(run).split("/")[1]}))
    changed(run / "results.json", lambda found: found.update(rounds={"losses": [2.0, 1.0], "kept": 2}))
    assert read_finished_run(run).adapter == smoke / "store" / place(run)
    changed(run / "results.json", lambda found: found.update(rounds={"losses": [1.0, 2.0], "kept": 1}))
    assert read_finished_run(run).adapter != smoke / "store" / place(run)


def place(run: Path) -> str:
    """Another adapter in the store than the specialized one."""
    return str(json.loads((run / "stages.json").read_text())["adapter (seeds only)"])


def unfinished(run: Path) -> None:
    (run / "results.json").unlink()


def of_another_config(run: Path) -> None:
    changed(run / "stages.json", lambda stages: stages.update(examples="examples/0"))


def of_another_version(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("rslora: false", "older: false"))


def without_its_store(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(re.sub(r"store: .*", "store: /nowhere", path.read_text()))


def with_other_seeds(run: Path) -> None:
    path, seeds = run / "config.yaml", run / "seeds.jsonl"
    own = yaml.safe_load(path.read_text())["domain"]["seeds"]
    seeds.write_text("\n".join(Path(own).read_text().splitlines()[1:]))
    path.write_text(path.read_text().replace(f"seeds: {own}", f"seeds: {seeds}", 1))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "holds no run"),
        (lambda run: (run / "config.yaml").unlink(), "holds no run"),
        (unfinished, "is not finished"),
        (of_another_config, "is not finished"),
        (of_another_version, "another version of selfspec"),
        (without_its_store, "is not whole"),
        (with_other_seeds, "changed since the run"),
        (lambda run: run.with_name("out").mkdir(), "is there already"),
    ],
)
def test_what_cannot_leave_is_told_in_one_sentence(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None], told: str
) -> None:
    run = copied(smoke, tmp_path)
    spoil(run)
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        typed(monkeypatch, run, tmp_path / "out", "--merge")
    assert told in str(caught.value.code) and "\n" not in str(caught.value.code)
    assert set(tmp_path.iterdir()) == before


def test_what_this_machine_cannot_merge_is_told_before_any_work(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(smoke, tmp_path)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("toy: true", "toy: false"))
    monkeypatch.setattr("selfspec.planning.devices.memory_capacity", lambda processes=1: (3e8, False))
    with pytest.raises(SystemExit) as caught:
        typed(monkeypatch, run, tmp_path / "out", "--merge")
    assert "Merging holds all of gemma-3-270m, 0.5 GB, and this machine has 0.3 GB; merge on" in str(caught.value.code)


@pytest.mark.parametrize("merged", [False, True])
def test_a_full_disk_is_told_and_nothing_is_left(smoke: Path, disk: Path, merged: bool) -> None:
    (disk / "ballast").write_bytes(b"\0" * 1_000_000)
    with pytest.raises(UserError, match="No space is left") as caught:
        export_run(smoke / "run", disk / "out", merged, SILENT)
    assert one_sentence(str(caught.value)) and "give another folder" in str(caught.value)
    assert {path.name for path in disk.iterdir()} == {"ballast"}


def test_a_kill_leaves_nothing_that_looks_finished(smoke: Path, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # it dies when all is written, just before it would be there
        Path.rename = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
        export_run(smoke / "run", tmp_path / "out", False, SILENT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {".out.draft"}
    export_run(smoke / "run", tmp_path / "out", False, SILENT)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


# The card


@pytest.fixture(scope="module")
def run(smoke: Path) -> FinishedRun:
    return read_finished_run(smoke / "run")


def front(text: str) -> dict[str, Any]:
    """The card's front matter."""
    return dict(yaml.safe_load(text.split("---\n")[1]))


def lines_of(text: str) -> dict[tuple[int, str], str]:
    """The card's lines of scores by shots and measure."""
    shots, found = 0, {}
    for line in text.partition("## Scores")[2].partition("What may have been forgotten")[0].splitlines():
        if told := re.fullmatch(r"(\d) shots:", line):
            shots = int(told[1])
        elif line.startswith("| "):
            found[shots, line.split(" | ")[0].removeprefix("| ")] = line
    return found


def plain(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", int(abs(value) < 1))


def test_the_card_has_the_numbers_of_the_results(run: FinishedRun) -> None:
    text = render_card(run, None)
    lines, told = lines_of(text), 0
    for row in [*run.report["scores"], *run.report["differences"]]:
        if row["task"] == "all" and (row["model"] == "specialized" or "minus" not in row):
            sign = "+" if "minus" in row and row["value"] > 0 else ""
            interval = f"({plain(row['low'])} to {plain(row['high'])})"
            assert f"| {sign}{plain(row['value'])} {interval} |" in lines[row["shots"], MEASURES[row["measure"]]], row
            told += 1
    assert told == 2 * (3 * 8 + 2 * 7)  # shots, models and measures, differences of all measures but one
    assert all(f"- {line}\n" in text for line in run.report["reading"])


def test_the_card_tells_where_the_model_is_from(run: FinishedRun) -> None:
    text = render_card(run, None)
    funnel = run.report["funnel"]
    assert f"Of {funnel['attempts']} attempts at a synthetic task, {funnel['accepted']} were accepted" in text
    assert "72 shown to the model, 8 held out" in text and run.manifest["inputs"]["seeds"] in text
    assert "LoRA rank 8, alpha 16" in text and "arxiv.org/abs/2310.00160" in text
    assert "Gemma terms of use" in text and "Model Derivatives" in text
    assert "```bash\npython run.py debug=smoke\n```" in text  # without the places of this machine
    assert "/tmp" not in text and str(PROJECT) not in text
    dropped = {**run.report, "funnel": {**funnel, "dropped": {"answer": {"no list": 3}}}}
    assert "| answer | no list | 3 |" in render_card(replace(run, report=dropped), None)


def test_the_card_holds_no_generated_text(run: FinishedRun) -> None:
    rows = json.loads(
        (run.adapter.parents[1] / "examples" / run.report["keys"]["examples"] / "manifest.json").read_text()
    )
    assert rows["counts"]["examples"] == 12
    written = (run.adapter.parents[1] / "examples" / rows["key"] / "examples.jsonl").read_text().splitlines()
    texts = [json.loads(line)[name] for line in written for name in ("input", "output")]
    assert not [text for text in texts if len(text) > 20 and text in render_card(run, None)]


def test_the_front_matter_is_what_the_hub_reads(run: FinishedRun) -> None:
    toy = front(render_card(run, None))
    assert toy["library_name"] == "peft" and toy["license"] == "gemma" and "base_model" not in toy
    assert {"self-specialization", "biomedicine"} <= set(toy["tags"])
    facts = MergeComparison("bfloat16", 0.1, 5.0, 1.0, 40)
    real = replace(run, config=replace(run.config, model=model_config("llama-3.1-8b", toy=False, quantization="nf4")))
    told = front(render_card(real, facts))
    assert told["base_model"] == real.config.model.hub and told["license"] == "llama3.1"
    assert told["library_name"] == "transformers"
    assert "BitsAndBytesConfig" in render_card(real, None) and "BitsAndBytesConfig" not in render_card(real, facts)
    own = replace(run.config.model, licence="My Lab's Terms, v2", path="/data/mine", toy=False)
    mine = front(render_card(replace(run, config=replace(run.config, model=own)), None))
    assert (mine["license"], mine["license_name"]) == ("other", "my-lab-s-terms-v2") and "base_model" not in mine


@pytest.mark.parametrize("name", NAMES)
def test_every_models_licence_is_known(name: str) -> None:
    licence = licence_of(model_config(name).licence)
    assert licence.identifier != "other" and licence.url.startswith("https://") and licence.asks


def test_scores_of_the_harness_are_told(run: FinishedRun) -> None:
    row = {"task": "medmcqa", "metric": "acc", "higher_is_better": True, "n": 100, "shots": 0}
    row |= {"values": {"base": 0.25, "specialized": 0.5}, "difference": {"value": 0.25, "low": 0.1, "high": 0.4}}
    text = render_card(replace(run, report={**run.report, "harness": [row]}), None)
    assert "| medmcqa | acc ↑ | 0 | 100 | .250 | .500 | +.250 (.100 to .400) |" in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("domain.seeds=/home/me/law/seeds.jsonl lora=r8", "domain.seeds=seeds.jsonl lora=r8"),
        ("files=[/a/b/one.jsonl,~/c/two.jsonl,../d/three.jsonl]", "files=[one.jsonl,two.jsonl,three.jsonl]"),
        ("https://ai.google.dev/gemma/terms and meta-llama/Llama-2-7b-hf or F1/AUC", None),
    ],
)
def test_folders_of_this_machine_stay_here(text: str, left: str | None) -> None:
    assert without_private_paths(text) == (text if left is None else left)
