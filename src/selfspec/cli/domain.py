"""`selfspec domain check|preview`: check the files of a domain, or print its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from selfspec.config.schema import Config

app = typer.Typer(
    help="Check the files of a domain, or print its prompts.", no_args_is_help=True, rich_markup_mode=None
)
ConfigDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with your own options, as for run.py.")]


@app.command()
def check(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Domains, e.g. biomedicine.")],
    config_dir: ConfigDir = None,
) -> None:
    """Report problems in seeds and questions by file and line.

    The exit code is 1 if there are any.
    """
    from rich.console import Console

    from selfspec.domains.check import check_domain
    from selfspec.domains.summary import print_findings

    console = Console(highlight=False)
    num_problems = 0
    for name in names:
        findings = check_domain(compose_domain(name, config_dir))
        print_findings(name, findings, console)
        num_problems += len(findings.problems)
    raise typer.Exit(int(num_problems > 0))


@app.command()
def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A domain, e.g. biomedicine.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. retrieval=bm25.")
    ] = None,
    config_dir: ConfigDir = None,
    model: Annotated[str | None, typer.Option(help="Base model, an option of the group model.")] = None,
    task: Annotated[str | None, typer.Option(help="Task type of the evaluation prompts; default: the first.")] = None,
) -> None:
    """Print the first prompts of each step, with token counts."""
    from rich.console import Console

    from selfspec.domains.preview import print_preview

    model_override = [f"model={model}"] if model else []
    config = compose_domain(name, config_dir, *model_override, *(overrides or []))
    print_preview(config, task, Console(highlight=False))


def compose_domain(name: str, config_dir: Path | None, *overrides: str) -> Config:
    """The validated default experiment on a domain."""
    from selfspec.cli.compose import compose_experiment
    from selfspec.config.validation import validate

    return validate(compose_experiment([f"domain={name}", *overrides], config_dir))
