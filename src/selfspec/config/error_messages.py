"""One sentence for each error that a user can cause: key, value, what is allowed, what to type."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from selfspec.config.schema import Config
from selfspec.config.validation import unknown_key_message
from selfspec.errors import UserError, did_you_mean
from selfspec.runtime.files import explain_disk_errors


def error_message(error: Exception, folders: list[Path]) -> str:  # noqa: PLR0911 (a ladder of kinds of errors)
    """One sentence for an error on the way to the experiment: the key, the value, what is allowed, what to type."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error, folders)
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' can't be read as an override; write key=value, with quotes around special characters."
        )
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, OmegaConfBaseException):
        return _config_error(cause)
    if isinstance(error, HydraException):
        return " ".join(str(error).split())
    try:
        with explain_disk_errors(Path()):
            raise error
    except UserError as told:
        return str(told)
    except Exception as unknown:
        return f"{type(unknown).__name__}: {unknown} (this is a fault of selfspec; HYDRA_FULL_ERROR=1 shows where)"


def _unknown_option(error: MissingConfigException, folders: list[Path]) -> str:
    missing = (error.missing_cfg_file or "").removesuffix(".yaml")
    if missing == "hydra/sweeper/optuna":
        return "hydra/sweeper=optuna is not installed; get it with: pip install -e '.[optuna]' -c constraints.txt"
    group, _, option = missing.rpartition("/")
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    if not group or not options:
        groups = sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})
        return f"There is no group or file '{missing}'; {did_you_mean(missing, groups)}groups are {', '.join(groups)}."
    return f"There is no {group}={option}; {did_you_mean(option, options)}{group} is one of {', '.join(options)}."


def _config_error(error: OmegaConfBaseException) -> str:
    key = error.full_key or str(error.key or "")
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        schema: Any = Config
        *above, _ = key.split(".")
        for name in above:
            schema = typing.get_type_hints(schema).get(name) if dataclasses.is_dataclass(schema) else None
        if dataclasses.is_dataclass(schema):
            names = [item.name for item in dataclasses.fields(schema)]
            return unknown_key_message(key, names, ".".join(above) + "." if above else "")
        return f"{key} is not set yet; add it with +{key}=...."
    problem = " ".join(str(error.msg or error).split("full_key")[0].split())
    return f"{key}: {problem}; give another value with {key}=...."
