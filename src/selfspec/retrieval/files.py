"""Documents of a folder or file: .txt (a file is a document), .jsonl, .jsonl.gz, .parquet (a row is a document).

All but .txt are streamed. An id is `name:row`; rows count from 1, and names are relative to the folder.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from selfspec.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

NumberedTexts = Iterator[tuple[int, str]]  # row, text
PARQUET_BATCH_ROWS = 1024


def read_text_files(path: Path, field: str) -> Iterator[tuple[str, str]]:
    """(id, text) of each document, files in the order of their names; rows with null or empty text are left out.

    Raises:
        UserError: a file can't be read, or a row has no such field.
    """
    for file, name in _files(path):
        if file.suffix == ".txt":
            yield name, _read_txt(file)
            continue
        suffix = next(suffix for suffix in READERS if file.name.endswith(suffix))
        for number, text in READERS[suffix](file, field):
            if text:
                yield f"{name}:{number}", text


def files_identity(path: Path) -> dict[str, Any]:
    """Name, size and modification time of every file."""
    stats = [(name, file.stat()) for file, name in _files(path)]
    return {"files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}


def _files(path: Path) -> list[tuple[Path, str]]:
    """Every readable file with its name below `path`, in the order of the names.

    Hidden files and folders are left out, which includes the checkpoints of editors and notebooks.
    """
    if path.is_dir():
        files = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()]
        files = [(name, file) for name, file in files if not re.search(r"(^|/)\.", name)]
    else:
        files = [(path.name, path)]
    readable = [(file, name) for name, file in sorted(files) if name.endswith(SUFFIXES)]
    if not readable:
        raise UserError(f"retrieval.corpus={path} holds no file that can be read; give {READABLE}.")
    return readable


def _read_txt(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}); convert it.") from error


def _read_jsonl(path: Path, field: str) -> NumberedTexts:
    with path.open("rb") as file:
        yield from _read_lines(file, path, field)


def _read_gzipped(path: Path, field: str) -> NumberedTexts:
    try:
        with gzip.open(path) as file:
            yield from _read_lines(cast(BinaryIO, file), path, field)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is a broken gzip file ({error}); copy or compress it again.") from error


def _read_lines(file: BinaryIO, path: Path, field: str) -> NumberedTexts:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _text_of_line(line, field, f"{path}, line {number}")


def _text_of_line(line: bytes, field: str, where: str) -> str:
    """The text of one line; an empty string for null."""
    try:
        row = json.loads(line)
    except ValueError as error:  # bad JSON, or bad UTF-8
        raise UserError(f"{where}: this is no JSON object ({error}); correct or remove the line.") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: this is no JSON object; write one a line, such as {{'{field}': '...'}}.")
    if field not in row:
        raise UserError(f"{where}: {_missing_field_message(field, list(row))}")
    if not isinstance(row[field], str | None):
        raise UserError(f"{where}: field '{field}' holds no text; name the one that does with retrieval.text_field=...")
    return (row[field] or "").encode(errors="replace").decode()  # JSON allows half of a surrogate pair


def _read_parquet(path: Path, field: str) -> NumberedTexts:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise UserError(f"{path}: {_missing_field_message(field, file.schema_arrow.names)}")
            if not _is_text(file.schema_arrow.field(field).type):
                raise UserError(
                    f"{path}: column '{field}' holds no text; name the one that does with retrieval.text_field=..."
                )
            number = 0
            for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield number, text or ""
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{path} is no complete parquet file ({reason}); copy it again.") from error


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text; a dictionary-encoded one is judged by its values."""
    values = kind.value_type if str(kind).startswith("dictionary<") else kind
    return str(values) in ("string", "large_string", "string_view")


def _missing_field_message(field: str, names: list[str]) -> str:
    return (
        f"there is no field '{field}' but {', '.join(names) or 'none'}; {did_you_mean(field, names)}"
        "name the one that holds the text with retrieval.text_field=..."
    )


READERS: Mapping[str, Callable[[Path, str], NumberedTexts]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_gzipped,
    ".parquet": _read_parquet,
}

SUFFIXES = (".txt", *READERS)
READABLE = ", ".join(SUFFIXES)
