"""`selfspec report SWEEP`: write the report of a sweep again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="Folder of a sweep, multirun/<date>/<time>.")],
) -> None:
    """Write the report of a sweep again, also of an unfinished one."""
    from selfspec.reporting.sweep.report import write_sweep_report

    write_sweep_report(sweep)
    print(sweep / "report.html")
