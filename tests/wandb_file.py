"""Reading W&B's offline files: a LevelDB log (blocks of 32 KiB, records in pieces) of protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FULL, LAST = 32768, 7, 1, 4


@dataclass
class OfflineRun:
    """One offline run: its settings, and its history."""

    info: Any = None
    history: list[dict[str, Any]] = field(default_factory=list)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log, put together from their pieces."""
    place, pieces = HEADER, b""  # the file begins with seven bytes of its own
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        pieces += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (FULL, LAST):
            yield pieces
            pieces = b""


def read(path: Path) -> OfflineRun:
    """One `run-*.wandb`."""
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run.info = record.run
        if record.HasField("history"):
            items = record.history.item
            run.history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return run
