"""`selfspec store ls|verify|gc`: list, verify and clean the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfspec.errors import UserError

app = typer.Typer(help="List, verify and clean the store.", no_args_is_help=True, rich_markup_mode=None)
Root = Annotated[Path, typer.Option(help="Folder of the store.")]
DEFAULT_ROOT = Path("store")


@app.command("ls")
def list_store(root: Root = DEFAULT_ROOT) -> None:
    """List the finished outputs with their time and counts."""
    from selfspec.runtime.store_maintenance import list_outputs, read_manifest

    for folder in list_outputs(root):
        manifest = read_manifest(folder)
        _print_line(folder, f"{manifest.get('seconds', 0):8.1f} s  {manifest.get('counts', {})}")


@app.command()
def verify(root: Root = DEFAULT_ROOT) -> None:
    """Compare every finished output with the hashes of its manifest."""
    from selfspec.runtime.store import find_damage
    from selfspec.runtime.store_maintenance import list_outputs

    num_damaged = 0
    for folder in list_outputs(root):
        damage = find_damage(folder)
        num_damaged += bool(damage)
        _print_line(folder, damage or "intact")
    if num_damaged:
        raise UserError(f"{num_damaged} damaged; a run that needs them sets them aside and makes them again.")


@app.command("gc")
def collect(root: Root = DEFAULT_ROOT) -> None:
    """Remove damaged outputs that were set aside, and files that killed processes left."""
    from selfspec.runtime.store_maintenance import collect_garbage

    print(f"removed {len(collect_garbage(root))} folders")


def _print_line(folder: Path, text: str) -> None:
    print(f"{folder.parent.name:<13} {folder.name:<30} {text}")
