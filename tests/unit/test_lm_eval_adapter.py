"""The interfaces of lm-evaluation-harness that `lm_eval_adapter` uses exist in the installed version."""

from __future__ import annotations

import ast
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from selfspec.evaluation.lm_eval_adapter import (
    SUPPORTED_VERSIONS,
    _without_progress_bars,
    build_task_index,
    evaluate_tasks,
    installed_version,
    load_task,
    wrap_for_harness,
)

PROJECT = Path(__file__).parents[2]
TASK = """
task: {name}
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
unsafe_code: {unsafe}
metric_list: [{{metric: acc}}]
"""


def test_the_installed_version_is_supported_and_pyproject_requires_the_same_range() -> None:
    assert installed_version() in SpecifierSet(SUPPORTED_VERSIONS)
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("lm_eval", "dev"):
        (requirement,) = (Requirement(text) for text in extras[extra] if text.startswith("lm-eval"))
        assert requirement.specifier == SpecifierSet(SUPPORTED_VERSIONS)


def keywords_of_call(source: Any, name: str) -> set[str]:
    """The keywords in the call of `name` in the source of a function."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(source))) if isinstance(node, ast.Call)]
    (call,) = (call for call in calls if ast.unparse(call.func) == name)
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def test_the_keywords_that_the_adapter_passes_are_accepted() -> None:
    import lm_eval
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert lm_eval.simple_evaluate is simple_evaluate
    for source, name, function in (
        (wrap_for_harness, "HFLM", HFLM.__init__),
        (evaluate_tasks, "lm_eval.simple_evaluate", simple_evaluate),
        (build_task_index, "TaskManager", TaskManager.__init__),
    ):
        keywords = keywords_of_call(source, name)
        assert keywords and keywords <= set(inspect.signature(inspect.unwrap(function)).parameters), name


def test_the_cache_hook_is_called_after_each_request() -> None:
    """`add_partial` of the hook gets (request type, request, result) from each way of asking the model."""
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM

    assert list(inspect.signature(LM.set_cache_hook).parameters) == ["self", "cache_hook"]
    for method in ("generate_until", "_loglikelihood_tokens", "loglikelihood_rolling"):
        assert "self.cache_hook.add_partial(" in inspect.getsource(getattr(HFLM, method)), method


def test_a_task_is_loaded_with_its_data_and_whether_it_runs_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows.jsonl").write_text('{"question": "Which?", "choices": ["a", "b"], "answer": 1}\n')
    for name, unsafe in (("safe_task", "false"), ("unsafe_task", "true")):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, folder=tmp_path, unsafe=unsafe))
    (tmp_path / "both.yaml").write_text("group: both_tasks\ntask: [safe_task, unsafe_task]\n")
    index: Any = build_task_index(str(tmp_path))
    assert {"safe_task", "unsafe_task", "both_tasks"} <= set(index.all_tasks)
    safe, both = load_task("safe_task", index), load_task("both_tasks", index)
    assert [task.task_name for task in safe.objects] == ["safe_task"] and safe.unsafe == []
    assert [group.name for group in both.objects] == ["both_tasks"] and both.unsafe == ["unsafe_task"]
    with pytest.raises(Exception, match="nowhere"):
        load_task("nowhere", index)


def test_progress_bars_are_off_inside_and_back_on_after(capfd: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    with _without_progress_bars():
        assert list(tqdm(range(3), desc="hidden")) == [0, 1, 2]
    assert list(tqdm(range(3), desc="visible")) == [0, 1, 2]
    output = capfd.readouterr().err
    assert "hidden" not in output and "visible" in output
