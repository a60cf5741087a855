"""One sentence for each error that a user can cause: key, value, what is allowed, what to type."""

from __future__ import annotations

import functools
import re
import traceback
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from selfspec.config.schema import Config
from selfspec.config.schema_types import entry_type, field_types, section_class
from selfspec.config.validation import unknown_key_message
from selfspec.errors import UserError, did_you_mean, explain_disk_errors, printable


def error_message(error: Exception, config_folders: list[Path]) -> str:
    """One sentence for an error of a command.

    Args:
        error: As it was caught.
        config_folders: The folders of options, searched for names near to a mistyped one.
    """
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    match error:
        case UserError():
            message = str(error)
        case MissingConfigException():
            message = _unknown_option_message((error.missing_cfg_file or "").removesuffix(".yaml"), config_folders)
        case OverrideParseException():
            message = f"'{error.override}' can't be read as an override; write key=value, special characters in quotes."
        case OmegaConfBaseException():
            message = _config_error_message(error)
        case HydraException():
            message = _one_line(error)
        case _ if _is_raised_by_hydra(error):  # before it calls selfspec, as for --shell-completion alone
            message = f"Hydra can't use these arguments: {_one_line(error)}; --hydra-help shows its options."
        case _:
            message = _unexpected_error_message(error)
    return printable(message)


def _unknown_option_message(name: str, config_folders: list[Path]) -> str:
    """For a group or an option that does not exist, such as `lora/r9`."""
    if name == "hydra/sweeper/optuna":
        return "hydra/sweeper=optuna is not installed; get it with: pip install -e '.[optuna]' -c constraints.txt"
    group, _, option = name.rpartition("/")
    if rank := re.fullmatch(r"lora/r?(\d+)", name):
        return (
            f"There is no lora={option}; give any rank with lora.r={rank[1]} lora.alpha={2 * int(rank[1])}, where the "
            "scale is alpha / r."
        )
    options = sorted({path.stem for folder in config_folders for path in (folder / group).glob("*.yaml")})
    if group and options:
        return f"There is no {group}={option}; {did_you_mean(option, options)}{group} is one of {', '.join(options)}."
    groups = sorted({path.name for folder in config_folders for path in folder.iterdir() if path.is_dir()})
    return f"There is no group or file '{name}'; {did_you_mean(name, groups)}groups are {', '.join(groups)}."


def _config_error_message(error: OmegaConfBaseException) -> str:
    """For a key that the schema does not have, or a value of another type."""
    key = error.full_key or str(error.key or "")
    section = _section_of(key)
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and section:
        return unknown_key_message(key, field_types(section))
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return f"{key} is not set yet; add it with +{key}=...."
    reason = _one_line(error.msg or error).split(" full_key")[0]
    return f"{key}: {reason}; give another value with {key}=...."


def _section_of(key: str) -> Any:
    """The dataclass of the section that a key is in; None if the schema has no such section."""
    return section_class(functools.reduce(entry_type, key.split(".")[:-1], Config))


def _is_raised_by_hydra(error: Exception) -> bool:
    """Whether Hydra or OmegaConf raised the error before any part of selfspec but the command line was called."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = [name for name in modules if name.startswith("selfspec.") and not name.startswith("selfspec.cli.")]
    return bool(modules) and not called and modules[-1].startswith(("hydra.", "omegaconf."))


def _unexpected_error_message(error: Exception) -> str:
    """For an error of the disk, or of selfspec itself."""
    try:
        with explain_disk_errors(Path()):
            raise error
    except UserError as disk_error:
        return str(disk_error)
    except Exception:
        return (
            f"{type(error).__name__}: {error} (this is a fault of selfspec; please open an issue with the command and "
            "what it prints after HYDRA_FULL_ERROR=1)"
        )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
