"""Documents of a folder or file: .txt (a file is a document), .jsonl, .jsonl.gz, .parquet (a row is a document).

Every kind but .txt is streamed. An id is `name:row`, counted from 1; names are relative to the folder.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from selfspec.errors import UserError, did_you_mean

Rows = Iterator[tuple[int, str]]  # row, text


BATCH = 1024  # rows of a parquet file at a time


def read_text_files(path: Path, field: str) -> Iterator[tuple[str, str]]:
    """(id, text) of each document, files by name; rows without text (null, or empty) are left out."""
    for file, name in _files(path):
        if file.suffix == ".txt":
            yield name, _whole(file)
            continue
        suffix = next(suffix for suffix in READERS if file.name.endswith(suffix))
        for number, text in READERS[suffix](file, field):
            if text:
                yield f"{name}:{number}", text


def files_identity(path: Path) -> dict[str, Any]:
    """Name, size and time of every file."""
    stats = [(name, file.stat()) for file, name in _files(path)]
    return {"files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}


def _files(path: Path) -> list[tuple[Path, str]]:
    """Every readable file with its name below `path`, in the order of the names."""
    if path.is_dir():
        found = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()]
    else:
        found = [(path.name, path)]
    readable = [(file, name) for name, file in sorted(found) if name.endswith(SUFFIXES)]
    if not readable:
        raise UserError(f"retrieval.corpus={path} holds no file that can be read; give {READABLE}.")
    return readable


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); convert it.") from error


def _jsonl(path: Path, field: str) -> Rows:
    with path.open("rb") as file:
        yield from _lines(file, path, field)


def _gzipped(path: Path, field: str) -> Rows:
    try:
        with gzip.open(path) as file:
            yield from _lines(cast(BinaryIO, file), path, field)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a broken gzip file ({error}); copy or compress it again.") from error


def _lines(file: BinaryIO, path: Path, field: str) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _text_of(line, field, f"{path}, line {number}")


def _text_of(line: bytes, field: str, where: str) -> str:
    """The text of one line, or an empty string where it is null."""
    try:
        row = json.loads(line)
    except ValueError as error:  # bad JSON, or bad UTF-8
        raise UserError(f"{where}: this is no JSON object ({error}); mend or remove the line.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: this is no JSON object; write one a line, such as {{'{field}': '...'}}.")
    if field not in row:
        raise UserError(f"{where}: {_no_field(field, list(row))}")
    if not isinstance(row[field], str | None):
        raise UserError(f"{where}: field '{field}' holds no text; say which does with retrieval.text_field=...")
    return (row[field] or "").encode(errors="replace").decode()  # JSON can spell half a character


def _parquet(path: Path, field: str) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise UserError(f"{path}: {_no_field(field, file.schema_arrow.names)}")
            if str(file.schema_arrow.field(field).type) not in ("string", "large_string", "string_view"):
                raise UserError(f"{path}: column '{field}' holds no text; say which does with retrieval.text_field=...")
            number = 0
            for batch in file.iter_batches(BATCH, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield number, text or ""
    except (pa.ArrowException, OSError) as error:
        told = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is no whole parquet file ({told}); copy it again.") from error


def _no_field(field: str, names: list[str]) -> str:
    return (
        f"there is no field '{field}' but {', '.join(names) or 'none'}; {did_you_mean(field, names)}"
        "say which holds the text with retrieval.text_field=..."
    )


READERS: dict[str, Callable[[Path, str], Rows]] = {".jsonl": _jsonl, ".jsonl.gz": _gzipped, ".parquet": _parquet}


SUFFIXES = (".txt", *READERS)


READABLE = ", ".join(SUFFIXES)
