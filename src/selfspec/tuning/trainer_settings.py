"""The groups `trainer` and `callbacks`: their checks, and the Trainer that is built from them.

Lightning is imported only where a group is not empty, or to train.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from selfspec.config.targets import build_target, find_target
from selfspec.errors import UserError, did_you_mean

REPLACEMENTS = {
    "accelerator": "hydra.launcher.devices",
    "devices": "hydra.launcher.devices",
    "num_nodes": "hydra.launcher.nodes",
    "strategy": "the group strategy",
    "logger": "the group logger",
    "callbacks": "the group callbacks",
    "enable_checkpointing": "tuning.checkpoint_minutes",
    "accumulate_grad_batches": "tuning.batch_size and tuning.micro_batch_tokens",
    "gradient_clip_val": "tuning.max_grad_norm",
    "gradient_clip_algorithm": "tuning.max_grad_norm",
    "default_root_dir": "paths.output",
    # The batch plan fixes the number of steps, and a resumed run takes the rest of them.
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps"), "tuning.epochs"),
    **dict.fromkeys(
        ("limit_train_batches", "overfit_batches", "fast_dev_run", "max_time"), "data_size or tuning.epochs"
    ),
}
PRECISIONS = ("32-true", "bf16-mixed")
FIXED_OPTIONS = (
    "plugins",
    "use_distributed_sampler",
    "log_every_n_steps",
    "enable_progress_bar",
    "enable_model_summary",
)


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Check the group `trainer` against the signature of Lightning's Trainer.

    Raises:
        UserError: The first option that is not the user's to set.
    """
    if not options:
        return
    from pytorch_lightning import Trainer

    keywords = inspect.signature(Trainer).parameters
    for name in options:
        if name in REPLACEMENTS:
            raise UserError(f"trainer.{name} is set by selfspec; use {REPLACEMENTS[name]} in its place.")
        if name in FIXED_OPTIONS:
            raise UserError(f"trainer.{name} is set by selfspec; leave it out.")
        if name not in keywords:
            raise UserError(
                f"trainer.{name} is no option of Lightning's Trainer; {did_you_mean(name, keywords)}leave it out."
            )
    if options.get("precision", PRECISIONS[0]) not in PRECISIONS:  # others convert the base, or scale losses
        raise UserError(
            f"trainer.precision={options['precision']} is none of {', '.join(PRECISIONS)}; "
            "choose one, or set the type of all weights by model.dtype."
        )


def check_callbacks(callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that each entry of the group `callbacks` names a class that can be imported.

    Raises:
        UserError: The first that does not.
    """
    for name, spec in callbacks.items():
        find_target(f"callbacks.{name}", spec)


def build_trainer(
    options: Mapping[str, Any], callbacks: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Any:
    """Lightning's Trainer for one pass over the batch plan.

    Args:
        options: The group `trainer`.
        callbacks: The group `callbacks`; every process builds them.
        settings: Processes, logger and folder.

    Raises:
        UserError: A callback can't be built, or Lightning refuses an option.
    """
    from pytorch_lightning import Trainer
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    built = [build_target(f"callbacks.{name}", spec) for name, spec in callbacks.items()]
    refusals = (MisconfigurationException, ValueError, TypeError) if options else (MisconfigurationException,)
    with _explain_refusal(refusals):
        return Trainer(
            **settings,
            **options,
            callbacks=built,
            max_epochs=1,
            accelerator="auto",
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def fit(trainer: Any, module: Any, steps: Sequence[int]) -> None:
    """Train on the steps of these numbers.

    Raises:
        UserError: Lightning refuses an option or a callback.
        Interrupted: A signal came; the work so far is saved.
    """
    from pytorch_lightning.utilities.exceptions import MisconfigurationException
    from torch.utils.data import DataLoader

    numbers: Any = list(steps)
    if numbers:
        with _explain_refusal((MisconfigurationException,)):
            trainer.fit(module, DataLoader(numbers, batch_size=None))


@contextmanager
def _explain_refusal(refusals: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn an error of Lightning's own checks into one sentence."""
    try:
        yield
    except refusals as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Lightning refuses the settings of trainer or callbacks ({reason}); change them.") from error
