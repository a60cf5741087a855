"""The README's commands are read from the README; those that are short enough are run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from conftest import PROJECT, Warm, places
from toys import MODEL_NAMES

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
RUNS = [
    shlex.split(line, comments=True)[2:]
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("python run.py") and "--config-dir" not in line
]


def test_the_readme_opens_with_two_commands_of_existing_extras() -> None:
    section = README.split("## Two commands")[1].split("\n## ")[0]
    first, second = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert first == 'pip install -e ".[demo]" -c constraints.txt && python run.py\n'
    assert second == 'pip install -e ".[dev]" -c constraints.txt && pytest\n'
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"demo", "dev"} <= set(extras)


def test_the_table_of_groups_lists_every_model() -> None:
    (row,) = (line for line in README.splitlines() if line.startswith("| `model` |"))
    assert set(re.findall(r"`([^`]+)`", row)) == {"model", *MODEL_NAMES}


def test_ci_runs_the_readmes_test_command() -> None:
    assert "README.md" in (PROJECT / ".ci" / "run").read_text()


def test_constraints_pin_every_dependency() -> None:
    pinned = {re.split(r"==", line)[0].lower().replace("_", "-") for line in (PROJECT / "constraints.txt").open()}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {re.split(r"[<>=\[]", requirement)[0].lower() for requirement in requirements}
    assert names <= pinned
    assert "torch==2.13.0" in (PROJECT / "constraints.txt").read_text()


@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_every_run_command_composes(warm: Warm, arguments: list[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments if argument != "-m"]
    for job in {tuple(f"{key}{sign}{values.split(',')[index]}" for key, sign, values in pairs) for index in (0, -1)}:
        ended = warm(*job, "--cfg", "job")
        assert ended.code == 0, ended.text
        assert "examples:" in ended.text


def test_a_new_domain_needs_no_code(warm: Warm, tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "my_confs" in block)
    *setup, command = block.strip().splitlines()
    subprocess.run(["bash", "-ec", "\n".join(setup)], cwd=tmp_path, check=True)
    assert len(re.search(r"<<'YAML'\n(.*?)YAML", block, re.DOTALL)[1].splitlines()) <= 10  # type: ignore[index]
    example = json.loads(re.search(r"```json\n(.*?)```", README, re.DOTALL)[1])  # type: ignore[index]
    seeds = [{**example, "id": f"s{n}", "input": f"Clause {n}. {example['input']}"} for n in range(14)]
    (tmp_path / "law_seeds.jsonl").write_text("\n".join(json.dumps(seed) for seed in seeds))
    question = {name: value for name, value in example.items() if name != "output"}
    questions = [{**question, "id": f"q{n}", "answers": [("yes", "no")[n % 2]]} for n in range(6)]
    (tmp_path / "law_questions.jsonl").write_text("\n".join(json.dumps(row) for row in questions))
    arguments = shlex.split(command)[2:]
    ended = warm(*arguments, "debug=smoke", "logger=none", *places(tmp_path), cwd=tmp_path)
    assert ended.code == 0, ended.text
    report = ended.results(tmp_path / "run")
    assert {row["task"] for row in report["scores"]} == {"clause_question", "all"}
