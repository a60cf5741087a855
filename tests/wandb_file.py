"""Read W&B's offline files: a LevelDB log (blocks of 32 KiB, records in fragments) of protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK_BYTES, HEADER_BYTES = 32768, 7
FULL, LAST = 1, 4  # types of a fragment with which a record ends


@dataclass
class OfflineRun:
    """One offline run."""

    info: Any = None  # id, names, tags
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)  # name or pattern -> its definition
    artifacts: list[Any] = field(default_factory=list)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log, joined from their fragments."""
    offset, fragments = HEADER_BYTES, b""  # the file has a header of its own
    while offset + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - offset % BLOCK_BYTES
        if left < HEADER_BYTES:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + HEADER_BYTES])
        fragments += data[offset + HEADER_BYTES : offset + HEADER_BYTES + length]
        offset += HEADER_BYTES + length
        if kind in (FULL, LAST):
            yield fragments
            fragments = b""


def read(path: Path) -> OfflineRun:
    """One `run-*.wandb`."""
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run.info = record.run
                run.config |= _values(record.run.config.update)
            case "config":
                run.config |= _values(record.config.update)
            case "summary":
                run.summary |= _values(record.summary.update)
            case "history":
                run.history.append(_values(record.history.item))
            case "metric":
                run.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "artifact":
                run.artifacts.append(record.artifact)
    return run


def read_all(folder: Path) -> list[OfflineRun]:
    """All runs below a folder."""
    return [read(path) for path in sorted(folder.rglob("run-*.wandb"))]


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
