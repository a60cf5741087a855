"""The folder conf/, and the config of an experiment for commands that do not run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfspec.errors import UserError

if TYPE_CHECKING:
    from selfspec.config.schema import Config

PACKAGE = Path(__file__).parents[1]


def conf_folder() -> Path:
    """The copy of conf/ that a wheel installs in the package, or the one of the checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "conf"


def project_folder(conf: Path) -> Path:
    """Where store/, outputs/ and multirun/ are by default: the checkout; for an installed wheel the current folder."""
    return Path.cwd() if conf == PACKAGE / "conf" else conf.parent


def compose_experiment(overrides: Sequence[str], config_dir: Path | None = None) -> Config:
    """Compose the default experiment with `overrides`, as `run.py --config-dir CONFIG_DIR OVERRIDES` does.

    Raises:
        UserError: `config_dir` is not a folder, or Hydra refuses an override.
    """
    from hydra import compose, initialize_config_dir

    from selfspec.config.composition import freeze, register_schema
    from selfspec.config.error_messages import error_message
    from selfspec.config.overrides import expand_shorthand
    from selfspec.config.resolvers import register_resolvers

    expanded = [override for argument in overrides for override in expand_shorthand(argument)]
    folders = [conf_folder()]
    search_path = []
    if config_dir:
        if not config_dir.is_dir():
            raise UserError(f"--config-dir {config_dir} is not a folder; give the one that has domain/<name>.yaml.")
        folders.append(config_dir)
        quoted = str(config_dir.absolute()).replace("'", "\\'")
        search_path = [f"hydra.searchpath=['file://{quoted}']"]
    register_schema()
    register_resolvers(project_folder(folders[0]))
    expanded = [part for override in overrides for part in expand_shorthand(override)]
    try:
        with initialize_config_dir(str(folders[0]), version_base="1.3"):
            return freeze(compose("config", overrides=["paths.output=.", *search_path, *expanded]))
    except Exception as error:
        raise UserError(error_message(error, folders)) from error
