"""Tasks of lm-evaluation-harness, measured through its Python API. `lm_eval` is imported to measure, not before.

Its own caches stay off: `--use_cache` is not keyed by the model, so a sweep took one model's scores for another's. The
store knows weights and adapter, and keeps the results.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfspec.config.hashing import digest, file_hash
from selfspec.config.schema import EvaluationConfig
from selfspec.errors import UserError, did_you_mean
from selfspec.runtime.files import list_files

BOOTSTRAP_RESAMPLES = 1000  # for standard errors that no formula gives


MAX_LOGITS = 2**29  # of one batch: the harness keeps them for every position, and a large vocabulary fills the memory


ASSUMED_PROMPT_TOKENS = 1024  # of a long prompt, to guess how many prompts that is


_LEFT = re.compile(r"(^|/)(\.|__pycache__/)")


def check_harness(evaluation: EvaluationConfig) -> None:
    """See, without importing it, that the harness and the folder of own tasks are there.

    Raises:
        UserError: one is missing.
    """
    if evaluation.tasks and importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluation.tasks needs lm-evaluation-harness, which is not installed: pip install -e '.[lm_eval]'."
        )
    if evaluation.tasks_path is not None and not Path(evaluation.tasks_path).is_dir():
        raise UserError(f"evaluation.tasks_path={evaluation.tasks_path} is no folder; give one with YAMLs of tasks.")


def harness_identity(evaluation: EvaluationConfig) -> dict[str, Any]:
    """What decides the results of its tasks, as plain data; the folder of own tasks counts by its contents."""
    folder = evaluation.tasks_path
    return {
        "tasks": task_names(evaluation),
        "num_fewshot": evaluation.num_fewshot,
        "limit": evaluation.limit,
        "own": _contents(Path(folder)) if folder else None,
        "lm_eval": importlib.metadata.version("lm_eval"),  # with which its tasks come
    }


def task_names(evaluation: EvaluationConfig) -> list[str]:
    """The tasks, each once, in one order however they were typed."""
    return sorted(set(evaluation.tasks))


def task_index(evaluation: EvaluationConfig) -> Any:
    """The harness's index of all tasks, in which those of the evaluation are.

    Raises:
        UserError: the harness or the folder is missing, or there is no such task.
    """
    check_harness(evaluation)
    folder = evaluation.tasks_path
    manager = _manager(folder, _contents(Path(folder)) if folder else "")
    for name in task_names(evaluation):
        if name not in manager.all_tasks:
            raise UserError(
                f"evaluation.tasks has '{name}', which lm-evaluation-harness does not know; "
                f"{did_you_mean(name, manager.all_tasks)}your own tasks need evaluation.tasks_path=FOLDER with their YAMLs."
            )
    return manager


def wrap_for_harness(
    network: Any, tokenizer: Any, context: int, batch_size: int, finished: Callable[[], None] = lambda: None
) -> Any:
    """A loaded model as the harness takes it.

    Args:
        network: The model, with its adapter or plain.
        tokenizer: Its tokenizer; a copy is used, for the harness changes it.
        context: Tokens that the model can read.
        batch_size: Prompts in a batch, at most: fewer where the vocabulary is large.
        finished: Called after each request; may raise.
    """
    from lm_eval.models.huggingface import HFLM

    class Hook:
        """Where the harness would cache: it tells of each request that is done."""

        def add_partial(self, *request: Any) -> None:
            finished()

    size = max(1, min(batch_size, MAX_LOGITS // (ASSUMED_PROMPT_TOKENS * len(tokenizer))))
    model = HFLM(
        pretrained=network,
        tokenizer=copy.deepcopy(tokenizer),
        backend="causal",
        max_length=context,
        batch_size=size,
        enable_thinking=False,  # as in our own prompts
    )
    model.set_cache_hook(Hook())
    return model


def measure_task(name: str, manager: Any, model: Any, evaluation: EvaluationConfig, seed: int) -> list[dict[str, Any]]:
    """The results of one task, group or tag: a row for each of its tasks and metrics.

    Raises:
        UserError: the task's data or packages can't be had, or it runs code that a model wrote.
    """
    import lm_eval

    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # a bootstrap in this process: forks would inherit the model
    with _without_bars():
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=_load(name, manager),
            task_manager=manager,
            num_fewshot=evaluation.num_fewshot,
            limit=evaluation.limit,
            bootstrap_iters=BOOTSTRAP_RESAMPLES,
            log_samples=False,
            apply_chat_template=bool(model.tokenizer.chat_template),  # which is there only for model.prompt=chat
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    return list(_rows(found))


def _load(name: str, manager: Any) -> list[Any]:
    """The harness's objects of one task, group or tag, with their data."""
    try:
        found = manager.load([name])
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(
            f"The task '{name}' of evaluation.tasks can't be loaded ({reason}); install what it names, "
            "load its data once with a network (it is kept in HF_HOME), or leave the task out."
        ) from error
    if unsafe := [task.task_name for task in found["tasks"].values() if getattr(task, "UNSAFE_CODE", False)]:
        raise UserError(f"The task '{unsafe[0]}' of evaluation.tasks runs code that a model wrote; leave it out.")
    return [found["groups"][name]] if name in found["groups"] else list(found["tasks"].values())


def _rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a task and metric: `acc,none` is `acc`, and a filter's name stays behind its metric."""
    for task, values in found["results"].items():
        better = found["higher_is_better"].get(task, {})
        for key, value in values.items():
            metric, comma, kept = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            yield {
                "task": task,
                "metric": metric if kept == "none" else f"{metric} ({kept})",
                "value": _number(value),
                "stderr": _number(values.get(f"{metric}_stderr,{kept}")),
                "higher_is_better": better.get(metric),
                "n": values.get("sample_len"),
                "shots": found["n-shot"].get(task),
            }


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@lru_cache(maxsize=1)
def _manager(folder: str | None, contents: str) -> Any:
    """The index of all tasks; it takes seconds. Other contents of the folder are another index."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _contents(folder: Path) -> str:
    """A hash of a folder's files and their names, wherever it lies; what Python and editors leave there is left out."""
    found = {str(path.relative_to(folder)): path for path in list_files(folder)}
    return digest({name: file_hash(path) for name, path in found.items() if not _LEFT.search(name)})


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of libraries beside ours."""
    from tqdm import tqdm

    before = tqdm.__init__

    def silent(self: Any, *arguments: Any, **settings: Any) -> None:
        before(self, *arguments, **{**settings, "disable": True})

    tqdm.__init__ = silent
    try:
        yield
    finally:
        tqdm.__init__ = before
