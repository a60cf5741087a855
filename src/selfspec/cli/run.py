"""`selfspec run ARGS...` and `run.py`: help from conf/ alone, then Hydra; a user error is one sentence."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from selfspec.cli.compose import conf_folder, project_folder
from selfspec.cli.help import help_text
from selfspec.config.overrides import arrange_arguments
from selfspec.errors import Interrupted

STOPPED_MESSAGE = "Stopped by {}; finished work is kept, and the same command continues from it."
PASS_THROUGH = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def run(arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS...")] = None) -> None:
    """Run an experiment or a sweep, as `python run.py` does."""
    sys.argv = ["selfspec run", *(arguments or [])]
    run_command_line(conf_folder())


def run_command_line(conf: Path) -> None:
    """Print `--help`, or compose the config and run the experiment; a user error exits with one sentence and code 1."""
    arguments = sys.argv[1:]
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if "--help" in arguments or "-h" in arguments:
            print(help_text([conf, *_config_dirs(arguments)]), flush=True)
            return
        sys.argv[1:] = arrange_arguments(arguments)
        _run_hydra(conf)
        sys.stdout.flush()
    except BrokenPipeError:
        exit_after_broken_pipe()
    except KeyboardInterrupt:
        _fail(STOPPED_MESSAGE.format("SIGINT"), 130)
    except Interrupted as error:
        _fail(STOPPED_MESSAGE.format(error), 128 + int(getattr(signal, str(error))))
    except Exception as error:
        if full_error:
            raise
        from selfspec.config.error_messages import error_message

        _fail(error_message(error, [conf, *_config_dirs(arguments)]), 1)


def _config_dirs(arguments: list[str]) -> list[Path]:
    """Folders given by `--config-dir DIR` or `--config-dir=DIR`."""
    folders = []
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            folders.append(Path(value or (arguments[index + 1 : index + 2] or [""])[0]))
    return [path for path in folders if path.is_dir()]


def _run_hydra(conf: Path) -> None:
    import hydra

    from selfspec.config.composition import register_schema
    from selfspec.config.resolvers import register_resolvers
    from selfspec.launch.experiment import TRACEBACK_VARIABLE, run_task
    from selfspec.launch.logged_names import OVERRIDES_VARIABLE

    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        os.environ[TRACEBACK_VARIABLE] = "1"
    overrides = [text for text in sys.argv[1:] if "=" in text and not text.startswith(("hydra.", "paths."))]
    os.environ[OVERRIDES_VARIABLE] = shlex.join(sorted(overrides))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    register_schema()
    register_resolvers(project_folder(conf))
    hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(run_task)()


def exit_after_broken_pipe() -> NoReturn:
    """Exit as a program that SIGPIPE stops: the reader of the output, such as `head`, has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails too
    sys.exit(128 + signal.SIGPIPE)


def _fail(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(code)
