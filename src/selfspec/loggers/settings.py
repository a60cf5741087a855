"""The settings of a logger: what is on, and whether it can work, checked before any work."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from selfspec.config.schema import LoggerConfig
from selfspec.config.targets import find_target
from selfspec.errors import UserError
from selfspec.loggers.logged_run import MAX_TAG_CHARACTERS, is_secret_key

OPTIONAL_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}  # of loggers; each is an extra of its name


def has_logger(settings: LoggerConfig) -> bool:
    """Whether anything is logged."""
    return settings._target_ is not None or settings.name != "none"


def uses_wandb(settings: LoggerConfig) -> bool:
    """Whether W&B logs, in the way of `logger=wandb`."""
    return settings._target_ is None and settings.name == "wandb"


def check_logger(settings: LoggerConfig) -> None:
    """Check a logger's settings before any work.

    Raises:
        UserError: a package or a key is missing, or a setting is not allowed.
    """
    for tag in settings.tags:
        if not 1 <= len(tag) <= MAX_TAG_CHARACTERS:
            raise UserError(f"logger.tags: {tag!r} must have 1 to {MAX_TAG_CHARACTERS} characters; shorten it.")
    if settings.log_adapter and not uses_wandb(settings):
        raise UserError("logger.log_adapter=true needs W&B artifacts; add logger=wandb, or leave it out.")
    if settings._target_ is not None:
        _check_custom_logger(settings)
        return
    package = OPTIONAL_PACKAGES.get(settings.name)
    if package and importlib.util.find_spec(package) is None:
        command = f'pip install -e ".[{package}]" -c constraints.txt'
        raise UserError(f"logger={settings.name} needs the package {package}, which is not installed; run: {command}")
    if uses_wandb(settings) and settings.mode == "online" and not _has_wandb_key():
        raise UserError("logger.mode=online needs a W&B key; set WANDB_API_KEY, or run: wandb login")


def _check_custom_logger(settings: LoggerConfig) -> None:
    find_target("logger", {"_target_": settings._target_})
    arguments = settings.arguments or {}
    if not isinstance(arguments, Mapping):
        raise UserError(f"logger.arguments={arguments} must be a mapping: logger.arguments={{name: value}}.")
    for name in arguments:
        if is_secret_key(name):
            raise UserError(
                f"logger.arguments.{name} would be written to config.yaml; give it in an environment variable instead."
            )


def _has_wandb_key() -> bool:
    variables = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    return any(map(os.environ.get, variables)) or netrc.exists()
