"""`selfspec export RUN OUT`: the adapter of a finished run, or merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder of a finished run, outputs/<date>/<time>-..., or a job's folder."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into the base model.")] = False,
) -> None:
    """Export the adapter of a finished run, or merged weights."""
    import logging

    from selfspec.export.adapter import export_run
    from selfspec.runtime.environment import configure_environment
    from selfspec.runtime.progress import Progress

    configure_environment()
    logging.basicConfig(level=logging.ERROR)  # libraries warn about kernels that an export does not use
    with Progress() as progress:
        export_run(run.absolute(), out.absolute(), merge, progress)
