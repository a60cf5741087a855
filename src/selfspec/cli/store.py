"""`selfspec store ls|verify|gc`: list, verify and clean the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfspec.cli.compose import conf_folder, project_folder
from selfspec.errors import UserError

WIDTH_IN_FILES = 200  # columns, where the output is no terminal
app = typer.Typer(help="List, verify and clean the store.", no_args_is_help=True, rich_markup_mode=None)
Root = Annotated[Path | None, typer.Option(help="Folder of the store; default: that of runs without paths.store.")]


@app.command("ls")
def list_store(
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole keys.")] = False,
) -> None:
    """List the finished outputs: settings, size, date and runs."""
    from rich.console import Console

    from selfspec.reporting.stored_outputs import outputs_json, outputs_table, read_outputs, size_text

    store = root or default_root()
    outputs = read_outputs(store)
    if as_json:
        print(outputs_json(outputs))
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_IN_FILES
    total = size_text(sum(output.num_bytes for output in outputs))
    print(
        f"The store {store} has {len(outputs)} outputs of {total}; runs are those in outputs/ and multirun/ beside it."
    )
    console.print(outputs_table(outputs))


@app.command()
def verify(root: Root = None) -> None:
    """Compare every finished output with the hashes of its manifest."""
    from selfspec.runtime.store import find_damage
    from selfspec.runtime.store_maintenance import list_outputs

    num_damaged = 0
    for folder in list_outputs(root or default_root()):
        damage = find_damage(folder)
        num_damaged += bool(damage)
        print(f"{folder.parent.name:<13} {folder.name:<30} {damage or 'intact'}")
    if num_damaged:
        raise UserError(f"{num_damaged} damaged; a run that needs them sets them aside and makes them again.")


@app.command("gc")
def collect(root: Root = None) -> None:
    """Remove damaged outputs that were set aside, and files that killed processes left."""
    from selfspec.runtime.store_maintenance import collect_garbage

    print(f"removed {len(collect_garbage(root or default_root()))} folders")


def default_root() -> Path:
    """The store of runs that give no paths.store."""
    return project_folder(conf_folder()) / "store"
