"""Tasks of lm-evaluation-harness, measured through its Python API.

Its own caches stay off: `--use_cache` does not identify the model, so a sweep would use one model's scores for another.
The store identifies weights and adapter, and keeps the results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest, file_hash
from selfspec.config.schema import EvaluationConfig
from selfspec.errors import UserError, did_you_mean
from selfspec.evaluation.lm_eval_adapter import (
    LoadedTask,
    build_task_index,
    evaluate_tasks,
    installed_version,
    is_installed,
    load_task,
)
from selfspec.runtime.files import list_files

_NOT_A_TASK_FILE = re.compile(r"(^|/)(\.|__pycache__/)")  # of Python or an editor


def check_harness(evaluation: EvaluationConfig) -> None:
    """Check, without importing it, that the harness and the folder of the user's tasks exist.

    Raises:
        UserError: one does not.
    """
    if evaluation.tasks and not is_installed():
        raise UserError(
            "evaluation.tasks needs lm-evaluation-harness, which is not installed: pip install -e '.[lm_eval]'."
        )
    if evaluation.tasks_path is not None and not Path(evaluation.tasks_path).is_dir():
        raise UserError(f"evaluation.tasks_path={evaluation.tasks_path} is no folder; give one with YAMLs of tasks.")


def harness_identity(evaluation: EvaluationConfig) -> dict[str, Any]:
    """Everything that determines the tasks' results, as plain data; own tasks by the contents of their folder."""
    folder = evaluation.tasks_path
    return {
        "tasks": task_names(evaluation),
        "num_fewshot": evaluation.num_fewshot,
        "limit": evaluation.limit,
        "own": _contents_hash(Path(folder)) if folder else None,
        "lm_eval": installed_version(),
    }


def task_names(evaluation: EvaluationConfig) -> list[str]:
    """The names of the tasks, sorted and without repetition."""
    return sorted(set(evaluation.tasks))


def task_index(evaluation: EvaluationConfig) -> Any:
    """The harness's index of all tasks, which includes those of the evaluation.

    Raises:
        UserError: the harness, the folder of tasks or a task does not exist.
    """
    check_harness(evaluation)
    folder = evaluation.tasks_path
    manager = _cached_task_index(folder, _contents_hash(Path(folder)) if folder else "")
    for name in task_names(evaluation):
        if name not in manager.all_tasks:
            raise UserError(
                f"evaluation.tasks has '{name}', which lm-evaluation-harness does not know; "
                f"{did_you_mean(name, manager.all_tasks)}"
                "your own tasks need evaluation.tasks_path=FOLDER with their YAMLs."
            )
    return manager


def measure_task(name: str, manager: Any, model: Any, evaluation: EvaluationConfig, seed: int) -> list[dict[str, Any]]:
    """The results of one task, group or tag: a row for each of its tasks and metrics.

    Args:
        name: The task, group or tag.
        manager: The index of `task_index`.
        model: The model of `lm_eval_adapter.wrap_for_harness`.
        evaluation: The number of shots and the limit of questions.
        seed: Of the harness's random draws.

    Raises:
        UserError: the task's data or packages are missing, or it runs code written by the model.
    """
    task = _load(name, manager)
    return list(_rows(evaluate_tasks(task.objects, manager, model, evaluation.num_fewshot, evaluation.limit, seed)))


def _load(name: str, manager: Any) -> LoadedTask:
    try:
        task = load_task(name, manager)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"The task '{name}' of evaluation.tasks can't be loaded ({reason}); install the packages that it names, "
            "load its data once with a network (it is kept in HF_HOME), or remove the task."
        ) from error
    if task.unsafe:
        raise UserError(f"The task '{task.unsafe[0]}' of evaluation.tasks runs code that a model wrote; remove it.")
    return task


def _rows(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each task and metric: `acc,none` is `acc`, and `acc,FILTER` is `acc (FILTER)`."""
    for task, values in results["results"].items():
        higher_is_better = results["higher_is_better"].get(task, {})
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            yield {
                "task": task,
                "metric": metric if filter_name == "none" else f"{metric} ({filter_name})",
                "value": _finite(value),
                "stderr": _finite(values.get(f"{metric}_stderr,{filter_name}")),
                "higher_is_better": higher_is_better.get(metric),
                "n": values.get("sample_len"),
                "shots": results["n-shot"].get(task),
            }


def _finite(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@lru_cache(maxsize=1)
def _cached_task_index(folder: str | None, contents_hash: str) -> Any:
    """The index of all tasks; it is built again when the contents of the folder change."""
    return build_task_index(folder)


def _contents_hash(folder: Path) -> str:
    """A hash of a folder's files and their relative names, without the files that Python and editors write."""
    files = {str(path.relative_to(folder)): path for path in list_files(folder)}
    return digest({name: file_hash(path) for name, path in files.items() if not _NOT_A_TASK_FILE.search(name)})
