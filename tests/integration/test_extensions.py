"""What a package outside the tree adds by `_target_`, through the real command line, with the examples of the docs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from conftest import PROJECT, Warm, cold, places
from selfspec.data.reading import read_examples
from selfspec.data.records import Example

SMALL = [
    "debug=smoke", "logger=none", "data_size.examples=8", "evaluation.limit=1", "evaluation.shots=[0]",
    "evaluation.resamples=2", "baselines.seeds_only=false", "baselines.off_domain=false",
]  # fmt: skip
TOO_LONG = "generation.filters.extra=[{_target_: my_package.TooLong, words: 2}]"


def code_blocks(language: str) -> list[str]:
    """The code blocks of docs/extending.md."""
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / "docs" / "extending.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module `my_package` of the docs."""
    folder = tmp_path_factory.mktemp("package")
    (code,) = (block for block in code_blocks("python") if "class TooLong" in block)
    (folder / "my_package.py").write_text(code)
    return folder


def environment(package: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))}


@pytest.fixture(scope="module")
def filtered(warm: Warm, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the docs' filter."""
    folder = tmp_path_factory.mktemp("filtered")
    ended = warm(*SMALL, TOO_LONG, *places(folder), env=environment(package))
    assert ended.code == 0, ended.text
    return folder


def rows_of(folder: Path) -> list[Example]:
    (path,) = (folder / "store" / "examples").glob("*/rows.jsonl")
    return read_examples(path)


def test_a_filter_from_outside_the_package_drops_candidates_and_is_counted(filtered: Path) -> None:
    rows = rows_of(filtered)
    for row in rows:
        assert list(row.verdicts)[-1] == "too_long"  # after the built-in filters
        assert row.verdicts["too_long"] == ("too long" if len(row.output.split()) > 2 else "")
    num_dropped = sum(bool(row.verdicts["too_long"]) for row in rows)
    assert 0 < num_dropped == len(rows) - 8
    funnel = json.loads((filtered / "run" / "results.json").read_text())["funnel"]
    assert funnel["dropped"] == {"too_long": {"too long": num_dropped}}


def test_the_same_filter_in_yaml_has_the_same_key(warm: Warm, filtered: Path, package: Path, tmp_path: Path) -> None:
    (yaml,) = (block for block in code_blocks("yaml") if "my_package.TooLong" in block)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "short_answers.yaml").write_text(yaml.replace("words: 40", "words: 2"))
    arguments = ["--config-dir", str(tmp_path), "experiment=short_answers", *SMALL, *places(filtered, "again")]
    ended = warm(*arguments, env=environment(package))
    assert ended.code == 0, ended.text
    keys = [json.loads((filtered / run / "stages.json").read_text())["examples"] for run in ("run", "again")]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        (
            "{_target_: my_pakage.TooLong, words: 2}",
            ["my_pakage.TooLong can't be imported", "is its package installed?"],
        ),
        ("{_target_: my_package.TooLong}", ["my_package.TooLong can't be created", "'words'"]),
        ("{_target_: collections.Counter}", ["collections.Counter needs an attribute phase"]),
    ],
)
def test_a_wrong_filter_is_refused_in_one_sentence_before_any_work(
    package: Path, tmp_path: Path, spec: str, messages: list[str]
) -> None:
    argument = f"generation.filters.extra=[{spec}]"
    ended = cold(*SMALL, argument, *places(tmp_path), env=environment(package), timeout=60)
    lines = [line for line in ended.text.splitlines() if line.strip()]
    assert ended.code == 1 and len(lines) == 1, ended.text
    assert "generation.filters.extra[0]: " in lines[0] and all(message in lines[0] for message in messages)
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))
