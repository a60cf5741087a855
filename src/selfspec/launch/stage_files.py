"""Files of a stage that runs in a process of its own: spec.json, error.json and its log."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path

from selfspec.data.jsonl import read_object
from selfspec.errors import UserError, printable
from selfspec.pipeline.graph import Node
from selfspec.runtime.files import write_atomic


def write_spec(node: Node, folder: Path) -> Path:
    """Write the file that `python -m selfspec.launch.worker SPEC` reads, and remove the error of an earlier try."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.json").unlink(missing_ok=True)
    spec = {"config": dataclasses.asdict(node.config), "key": node.stage.key}
    write_atomic(folder / "spec.json", json.dumps(spec, indent=1).encode())
    return folder / "spec.json"


def record_error(folder: Path, error: Exception) -> None:
    """Write the error of a stage beside its spec. The first of several processes writes it, the others do nothing."""
    with suppress(FileExistsError), (folder / "error.json").open("x") as file:
        json.dump({"what": error_text(error)}, file)


def recorded_error(folder: Path) -> str:
    """Return the error that `record_error` wrote; an empty string if it wrote none, or not all of it (a full disk)."""
    return str(read_object(folder / "error.json").get("what", ""))


def error_text(error: Exception) -> str:
    """Return an error as one sentence."""
    return printable(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def last_line(log: Path) -> str:
    """Return the last line of a log, or an empty string."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else ""
