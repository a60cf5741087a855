"""The interfaces of lm-evaluation-harness that selfspec uses, in one place: some are not part of its public API.

tests/unit/test_lm_eval_adapter.py fails when one of them changes. `lm_eval` is imported inside the functions, so that
nothing heavy is loaded before tasks are measured.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SUPPORTED_VERSIONS = ">=0.4.13,<0.5"  # as in pyproject.toml
BOOTSTRAP_RESAMPLES = 1000  # for standard errors without a formula
MAX_LOGITS = 2**29  # in one batch: the harness keeps the logits of every position, so a large vocabulary fills memory
ASSUMED_PROMPT_TOKENS = 1024  # of a long prompt, to estimate how many prompts have MAX_LOGITS logits


def is_installed() -> bool:
    """Whether the harness can be imported; it is not imported."""
    return importlib.util.find_spec("lm_eval") is not None


def installed_version() -> str:
    """The harness's version; its tasks come with it."""
    return importlib.metadata.version("lm_eval")


def build_task_index(folder: str | None) -> Any:
    """The harness's index of all tasks, with those of a folder of YAMLs. It takes seconds.

    The index has `all_tasks`, the names of all tasks, groups and tags.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


@dataclass(frozen=True)
class LoadedTask:
    """A task, group or tag with its data.

    Attributes:
        objects: What `evaluate_tasks` accepts: the group, or each task.
        unsafe: Names of its tasks that run code written by the model.
    """

    objects: list[Any]
    unsafe: list[str]


def load_task(name: str, index: Any) -> LoadedTask:
    """Load one task, group or tag of the index.

    Raises:
        Exception: of any type, if the task's packages or data are missing.
    """
    loaded = index.load([name])
    tasks = list(loaded["tasks"].values())
    objects = [loaded["groups"][name]] if name in loaded["groups"] else tasks
    return LoadedTask(objects, [task.task_name for task in tasks if getattr(task, "UNSAFE_CODE", False)])


def wrap_for_harness(
    network: Any, tokenizer: Any, context: int, batch_size: int, finished: Callable[[], None] = lambda: None
) -> Any:
    """A loaded model in the harness's interface.

    Args:
        network: The model, with or without an adapter.
        tokenizer: Its tokenizer; the harness changes it, so it gets a copy.
        context: Tokens in the model's context.
        batch_size: The most prompts in a batch; fewer where the vocabulary is large.
        finished: Called after each request; it may raise.
    """
    from lm_eval.models.huggingface import HFLM

    class RequestHook:
        """Replaces the cache of the harness, which is called after each request."""

        def add_partial(self, *request: Any) -> None:
            finished()

    model = HFLM(
        pretrained=network,
        tokenizer=copy.deepcopy(tokenizer),
        backend="causal",
        max_length=context,
        batch_size=max(1, min(batch_size, MAX_LOGITS // (ASSUMED_PROMPT_TOKENS * len(tokenizer)))),
        enable_thinking=False,  # as in our own prompts
    )
    model.set_cache_hook(RequestHook())
    return model


def evaluate_tasks(
    tasks: list[Any], index: Any, model: Any, num_fewshot: int | None, limit: int | None, seed: int
) -> Mapping[str, Any]:
    """The harness's results: `results`, `higher_is_better` and `n-shot`, each by task."""
    import lm_eval

    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # bootstrap in this process: forks would inherit the model
    with _without_progress_bars():
        results: Mapping[str, Any] = lm_eval.simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=index,
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=BOOTSTRAP_RESAMPLES,
            log_samples=False,
            apply_chat_template=bool(model.tokenizer.chat_template),  # set only for model.prompt=chat
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    return results


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Disable tqdm's progress bars: the harness has no option for it."""
    from tqdm import tqdm

    original = tqdm.__init__

    def init_disabled(self: Any, *arguments: Any, **settings: Any) -> None:
        original(self, *arguments, **{**settings, "disable": True})

    tqdm.__init__ = init_disabled
    try:
        yield
    finally:
        tqdm.__init__ = original
