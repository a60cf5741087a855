"""Write the files of small corpora, and read corpora by their config."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.corpus import read_corpus

TEXTS = ["The kidney filters blood.", "A bond pays a coupon.", "Seizures are sudden. They end."]


def config(where: object, **fields: Any) -> RetrievalConfig:
    return RetrievalConfig("bm25", str(where), **fields)


def read(where: object, **fields: Any) -> list[tuple[str, str]]:
    return list(read_corpus(config(where, **fields)))


def read_error(where: object, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(where, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def jsonl(path: Path, field: str = "text") -> bytes:
    data = "".join(json.dumps({field: text}) + "\n" for text in TEXTS).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return data


def table(path: Path, field: str = "text", rows: Sequence[object] = TEXTS) -> None:
    parquet.write_table(pa.table({"id": range(len(rows)), field: rows}), path)
