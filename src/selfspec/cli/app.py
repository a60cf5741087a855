"""The console command `selfspec`. A command imports what it needs when it runs, so help is fast."""

from __future__ import annotations

import os
import sys

import typer
from typer.core import TyperGroup

from selfspec.cli import domain, store
from selfspec.cli.export import export
from selfspec.cli.fetch import fetch
from selfspec.cli.report import report
from selfspec.cli.run import PASS_THROUGH, exit_after_broken_pipe, run

ORDER = ["run", "domain", "export", "report", "store", "fetch"]


class _OrderedGroup(TyperGroup):
    """Lists the commands in the order of use; typer lists groups first."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return ORDER


app = typer.Typer(
    help="Self-specialization (arXiv 2310.00160): tune a base language model on domain data that it writes itself.",
    cls=_OrderedGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(context_settings=PASS_THROUGH)(run)
app.add_typer(domain.app, name="domain")
app.command()(export)
app.command()(report)
app.add_typer(store.app, name="store")
app.command()(fetch)


def main() -> None:
    """Run the command; an error is one sentence on stderr, with exit code 1."""
    try:
        app(prog_name="selfspec")
        sys.stdout.flush()
    except BrokenPipeError:
        exit_after_broken_pipe()
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        from selfspec.config.error_messages import error_message

        sys.exit(error_message(error, []))
