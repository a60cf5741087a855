"""`selfspec export RUN OUT`: the adapter of a finished run, or merged weights."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from selfspec.config.error_messages import error_message
from selfspec.export.adapter import export_run
from selfspec.reporting.finished_run import RUN_FOLDER_HINT
from selfspec.runtime.environment import configure_environment
from selfspec.runtime.progress import Progress


def export_command() -> None:
    """Exit 1, with one sentence, when nothing could be exported."""
    arguments = _parser().parse_args()
    configure_environment()
    logging.basicConfig(level=logging.ERROR)  # libraries warn of kernels that nothing here needs
    try:
        with Progress() as progress:
            export_run(arguments.run.absolute(), arguments.out.absolute(), arguments.merge, progress)
    except Exception as error:
        sys.exit(error_message(error, []))


def _parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="selfspec export", description=about)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help=f"of a finished run: {RUN_FOLDER_HINT}")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--merge", action="store_true", help="into the base: weights that plain transformers loads")
    return parser


if __name__ == "__main__":
    export_command()
