"""JSON and JSONL files that this program writes and reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that this program wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write rows (dataclasses or dictionaries) as JSONL: the same rows give the same bytes."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            plain = row if isinstance(row, dict) else asdict(row)
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, half-written or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
