"""Documents are cut into passages without losing a word, and an index of them ranks by the formula of BM25."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_files import TEXTS, config, jsonl
from selfspec.errors import Interrupted, UserError
from selfspec.retrieval import bm25
from selfspec.retrieval.bm25 import DECIMALS, Index, build_index
from selfspec.retrieval.corpus import cut_at_sentences, passages_of
from selfspec.retrieval.passage import Passage
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.store import Store
from selfspec.stages.index import index

WORDS = ["kidney", "bond", "yield", "seizure", "blood", "coupon"]  # none is a stop word; each is its own stem


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
