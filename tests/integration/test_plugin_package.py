"""An installed package brings a filter, an engine, a metric, prompts and a callback to one experiment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT, Warm, places

PLUGIN = PROJECT / "tests" / "plugin"
CONF = ["--config-dir", str(PLUGIN / "conf")]
SMALL = ["debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=4", "evaluation.shots=[0]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(PLUGIN)]
    subprocess.run(command, check=True)
    return folder


def rows_of(store: Path, stage: str, name: str) -> list[dict[str, Any]]:
    (path,) = store.glob(f"{stage}/{name}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_installed_package_extends_every_step_of_an_experiment(warm: Warm, site: Path, tmp_path: Path) -> None:
    record = tmp_path / "steps.txt"
    own = [
        *("engine=marking", "prompts=laboratory"),
        "generation.filters.extra=[{_target_: lab_extensions.NoDigits, num_allowed: 3}]",
        "evaluation.metrics=[{_target_: lab_extensions.Brevity, max_words: 9}]",
        f"callbacks.recorder={{_target_: lab_extensions.StepRecorder, path: {record}}}",
    ]
    ended = warm(*CONF, *SMALL, *own, *places(tmp_path), env={"PYTHONPATH": str(site)})
    assert ended.code == 0, ended.text
    store, report = tmp_path / "store", ended.results(tmp_path / "run")
    candidates = rows_of(store, "examples", "*/rows.jsonl")
    assert all("no_digits" in row["verdicts"] or any(row["verdicts"].values()) for row in candidates)
    attempts = rows_of(store, "instructions", "*/rows.jsonl")
    assert all(row["instruction"].startswith("~") for row in attempts)
    answers = rows_of(store, "scores", f"{report['keys']['scores (base)']}/answers.jsonl")
    assert all(row["reply"].startswith("~") for row in answers)
    assert "Brevity" in {row["measure"] for row in report["scores"]}
    template = json.loads((store / "adapter" / report["keys"]["adapter (specialized)"] / "prompt.json").read_text())
    assert template["template"].startswith("You work in a laboratory as an expert in biomedicine.")
    curve = json.loads((store / "adapter" / report["keys"]["adapter (specialized)"] / "curve.json").read_text())
    assert [int(line) for line in record.read_text().split()][: len(curve)] == [step["step"] for step in curve]


def test_the_packages_source_and_arguments_are_in_the_keys(warm: Warm, site: Path, tmp_path: Path) -> None:
    def keys(name: str, *overrides: str) -> set[str]:
        own = ["engine=marking", *overrides, "plan=true"]
        ended = warm(*CONF, *SMALL, *own, *places(tmp_path, name), env={"PYTHONPATH": str(site)})
        assert ended.code == 0, ended.text
        return set(re.findall(r"\b[0-9a-f]{24}\b", ended.text))

    before, other_argument = keys("one"), keys("two", "engine.arguments.mark=+")
    source = site / "lab_extensions" / "__init__.py"
    source.write_text(source.read_text() + "\n# changed\n")
    changed = keys("three")
    assert len(before) == len(other_argument) == len(changed) > 0
    # Only the adapter that is tuned on the seeds alone has nothing to do with the engine.
    assert len(before & other_argument) == len(before & changed) == 1
