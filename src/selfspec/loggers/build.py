"""Lightning loggers: Weights & Biases, CSV, TensorBoard, MLflow, or one of the user's own."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.config.schema import Config, LoggerConfig
from selfspec.config.targets import build_target, find_target
from selfspec.loggers.logged_run import LoggedRun, run_tags, tune_run
from selfspec.loggers.settings import has_logger, uses_wandb

if TYPE_CHECKING:
    from selfspec.runtime.context import StageContext

log = logging.getLogger("selfspec")
LOGGING_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")  # that Lightning calls


@contextmanager
def curve_logger(job: StageContext) -> Iterator[Any]:
    """The Lightning logger of one adapter; False without one, and in every process but the first."""
    if job.stop.process_group.is_first and has_logger(job.config.logger):
        with open_logger(job.config, tune_run(job.config, job.stage)) as logger:
            yield logger
    else:
        yield False


@contextmanager
def open_logger(config: Config, run: LoggedRun) -> Iterator[Any]:
    """The Lightning logger of one run; False if it can't be created.

    A failure of the logger is written to the log and stops nothing: work has been done before.
    """
    folder = Path(config.paths.output)
    with _logger_environment(config.logger, folder):
        try:
            logger = log_failure(_create_logger)(config, run, folder)
            yield False if logger is None else logger
        finally:
            log_failure(_finish_wandb)()


def log_failure(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose exceptions are written to the log; it returns None then."""
    reported: set[str] = set()

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except Exception as error:
            if repr(error) not in reported:  # once, not at every step
                reported.add(repr(error))
                log.error("The logger failed, and the run continues.\n%s", traceback.format_exc())
            return None

    return call


def _create_logger(config: Config, run: LoggedRun, folder: Path) -> Any:
    create = {
        "wandb": _create_wandb,
        "csv": _create_csv,
        "tensorboard": _create_tensorboard,
        "mlflow": _create_mlflow,
    }
    folder.mkdir(parents=True, exist_ok=True)
    logger = (_create_custom if config.logger._target_ else create[config.logger.name])(config, run, folder)
    for name in LOGGING_METHODS:
        setattr(logger, name, log_failure(getattr(logger, name)))
    if not uses_wandb(config.logger):  # which has it since its start
        logger.log_hyperparams(dict(run.config))
    return logger


def _create_wandb(config: Config, run: LoggedRun, folder: Path) -> Any:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    settings: Any = config.logger  # wandb.init declares `mode` as a literal
    started = wandb.init(
        id=run.id,
        name=run.name,
        job_type=run.job_type,
        dir=folder,
        project=settings.project,
        entity=settings.entity,
        mode=settings.mode,
        group=settings.group,
        tags=run_tags(config),
        config=dict(run.config),
        resume="allow" if settings.mode == "online" else None,
        # Console and metadata hold paths and the command line, which may contain a proxy's password.
        settings=wandb.Settings(console="off", x_disable_meta=True),
    )
    if run.job_type == "tune":
        started.define_metric("*", step_metric="trainer/global_step")  # of callbacks
        started.define_metric("tune/*", step_metric="tune/step")
        started.define_metric("tune/held_out_loss", step_metric="tune/step", summary="min")
    return WandbLogger(experiment=started)


@contextmanager
def _logger_environment(settings: LoggerConfig, folder: Path) -> Iterator[None]:
    """The variables that loggers read or set; they are restored afterwards.

    W&B stages tables and artifacts below `folder`, and sends telemetry on itself unless `WANDB_MODE` is offline: the
    `mode` of `wandb.init` does not turn that off.
    """
    before = {name: os.environ.get(name) for name in ("WANDB_DATA_DIR", "WANDB_MODE", "MLFLOW_TRACKING_URI")}
    if uses_wandb(settings):
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # its default is in the home folder
        os.environ["WANDB_MODE"] = settings.mode
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}


def _create_csv(config: Config, run: LoggedRun, folder: Path) -> Any:
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(folder, name="csv", version=run.folder_name)


def _create_tensorboard(config: Config, run: LoggedRun, folder: Path) -> Any:
    from pytorch_lightning.loggers import TensorBoardLogger

    # A resumed adapter logs its curve from the beginning: readers drop what an earlier process wrote.
    return TensorBoardLogger(folder, name="tensorboard", version=run.folder_name, default_hp_metric=False, purge_step=0)


def _create_mlflow(config: Config, run: LoggedRun, folder: Path) -> Any:
    from pytorch_lightning.loggers import MLFlowLogger

    tags = {"job_type": run.job_type, "group": str(config.logger.group), "tags": ", ".join(run_tags(config))}
    server = os.environ.get("MLFLOW_TRACKING_URI")
    return MLFlowLogger(
        config.logger.project,
        run_name=run.name,
        tags=tags,
        tracking_uri=server or f"sqlite:///{folder}/mlflow.db",
        artifact_location=None if server else str(folder / "mlruns"),
    )


def _create_custom(config: Config, run: LoggedRun, folder: Path) -> Any:
    """The logger of `logger._target_`; it gets the usual arguments of Lightning's loggers where it accepts them."""
    spec = {"_target_": config.logger._target_, **(config.logger.arguments or {})}
    accepted = inspect.signature(find_target("logger", spec)).parameters
    usual = {"save_dir": str(folder), "name": run.name, "version": run.id}
    arguments = {name: value for name, value in usual.items() if name in accepted and name not in spec}
    return build_target("logger", spec, **arguments)


def _finish_wandb() -> None:
    if wandb := sys.modules.get("wandb"):
        wandb.finish()
