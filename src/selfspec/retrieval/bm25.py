"""BM25 over passages, on disk: tantivy (Rust) builds the index in bounded memory and maps it when it is searched.

Robertson's BM25 with k1 = 1.2 and b = 0.75; a passage's length counts exactly up to 40 words and roughly above, as in
Lucene. Words are cut at anything but letters and digits, lower-cased, freed of English stop words (they cost most of a
search's time and tell passages apart least) and stemmed with Porter's English stemmer, so that "seizures" finds
"seizure"; a query goes through the same mill, so nothing in it is syntax.
"""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import cast

import tantivy

from selfspec.retrieval.passage import Passage

ENGLISH = "english"  # the analyzer's name, in an index's schema


INDEX_HEAP_BYTES = 256 << 20  # bytes of postings in memory before they are written as a segment


DECIMALS = 3  # of a score; more would hang on the order in which tantivy adds floats


def build_index(passages: Iterable[Passage], folder: Path) -> int:
    """Write the index of `passages` into `folder`. Returns how many there are.

    One writer thread, and one commit at the end: which passages share a segment hangs on nothing but them (from eight
    segments on, so a few million passages, tantivy merges some, and only the last decimals of scores can tell).
    """
    index = tantivy.Index(_schema(), str(folder))
    index.register_tokenizer(ENGLISH, _analyzer())
    writer, count = index.writer(INDEX_HEAP_BYTES, num_threads=1), 0
    with _writing(folder):
        for count, passage in enumerate(passages, 1):
            document = tantivy.Document(text=passage.text)
            document.add_bytes("id", passage.id.encode(errors="replace"))
            document.add_unsigned("place", count)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
    for lock in folder.glob(".*.lock"):
        lock.unlink()
    return count


class Index:
    """A finished index."""

    def __init__(self, folder: Path) -> None:
        """Open it through links: tantivy puts a lock beside an index, and a finished output is never written to.

        What watches the folder may write its lock once more while the links are removed.
        """
        with tempfile.TemporaryDirectory(prefix="selfspec-index-", ignore_cleanup_errors=True) as links:
            for path in folder.iterdir():
                (Path(links) / path.name).symlink_to(path.resolve())
            index = tantivy.Index.open(links)
            index.config_reader("manual")  # nothing watches the folder, and its files are mapped by now
            self._schema, self._searcher = index.schema, index.searcher()

    def search(self, query: str, count: int) -> list[Passage]:
        """The `count` best passages that share a word with `query`, best first; of equals the earlier in the corpus."""
        words = Counter(_analyzer().analyze(query))
        if not words or count < 1:
            return []
        terms = [(tantivy.Occur.Should, self._term(word, times)) for word, times in words.items()]
        return [self._passage(hit) for hit in self._best(tantivy.Query.boolean_query(terms), count)]

    def _term(self, word: str, times: int) -> tantivy.Query:
        """One word of the query; a repeated one counts that often."""
        term = tantivy.Query.term_query(self._schema, "text", word, "freq")
        return tantivy.Query.boost_query(term, float(times)) if times > 1 else term

    def _best(self, query: tantivy.Query, count: int) -> list[tantivy.DocAddress]:
        """Where the best stand; as many hits are asked for as it takes to see all that tie with the last of them."""
        limit = 2 * count
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            scores = [round(score, DECIMALS) for score, _ in hits]
            if len(hits) < limit or scores[-1] < scores[count - 1]:
                break
            limit *= 4
        addresses = [address for _, address in hits]
        places = cast(list[int], self._searcher.fast_field_values("place", addresses))
        order = sorted(range(len(hits)), key=lambda hit: (-scores[hit], places[hit]))
        return [addresses[hit] for hit in order[:count]]

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        document = self._searcher.doc(address)
        return Passage(bytes(document["id"][0]).decode(), document["text"][0])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """tantivy keeps to itself why it could not write: a full disk, nearly always, and the store tells the user so."""
    try:
        yield
    except ValueError as error:
        if "writer was killed" not in str(error):
            raise
        raise OSError(errno.ENOSPC, str(error), str(folder)) from error


@cache
def _analyzer() -> tantivy.TextAnalyzer:
    plain = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.remove_long(40))
    words = plain.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.stopword(ENGLISH))
    return words.filter(tantivy.Filter.stemmer(ENGLISH)).build()


def _schema() -> tantivy.Schema:
    """Text with word counts (no positions: no phrases are searched), and the place, for ties."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=True, tokenizer_name=ENGLISH, index_option="freq")
    builder.add_bytes_field("id", stored=True)
    builder.add_unsigned_field("place", fast=True)
    return builder.build()
