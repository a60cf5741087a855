"""`selfspec report SWEEP`: draw the report of a sweep again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from selfspec.errors import UserError
from selfspec.reporting.sweep.report import write_sweep_report


def main() -> None:
    """`selfspec report FOLDER`."""
    parser = argparse.ArgumentParser(prog="selfspec report", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of a sweep: multirun/<date>/<time>")
    folder = parser.parse_args().folder
    try:
        write_sweep_report(folder)
    except (UserError, OSError) as error:
        sys.exit(str(error))
    print(folder / "report.html")


if __name__ == "__main__":
    main()
