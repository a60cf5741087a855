"""BM25 over passages, on disk: tantivy (Rust) builds the index in bounded memory and memory-maps it for searching.

Robertson's BM25 with k1 = 1.2 and b = 0.75. As in Lucene, a passage's length is exact up to 40 words and approximate
above. Text is split at every character that is not a letter or digit, and lower-cased. English stop words are removed:
they take most of a search's time and distinguish passages least. Words are stemmed with Porter's English stemmer, so
"seizures" finds "seizure". Queries are analysed in the same way, so they have no syntax.
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
INDEX_HEAP_BYTES = 256 << 20  # postings in memory before they are written as a segment
DECIMALS = 3  # of a score; further ones depend on the order in which tantivy adds floats


def build_index(passages: Iterable[Passage], folder: Path) -> int:
    """Write the index of `passages` into `folder`.

    One writer thread and one commit make the segments depend on the passages alone. From eight segments on (a few
    million passages) tantivy merges some, which changes only the last decimals of scores.

    Returns:
        The number of passages.
    """
    index = tantivy.Index(_schema(), str(folder))
    index.register_tokenizer(ENGLISH, _analyzer())
    writer, count = index.writer(INDEX_HEAP_BYTES, num_threads=1), 0
    with _disk_full_errors(folder):
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
        """Open the index in `folder`.

        It is opened through links in another folder, because tantivy writes a lock file beside an index and finished
        outputs must not change. Its file watcher may write the lock again while the links are removed.
        """
        with tempfile.TemporaryDirectory(prefix="selfspec-index-", ignore_cleanup_errors=True) as links:
            for path in folder.iterdir():
                (Path(links) / path.name).symlink_to(path.resolve())
            index = tantivy.Index.open(links)
            index.config_reader("manual")  # no file watcher; the files are mapped already
            self._schema, self._searcher = index.schema, index.searcher()

    def search(self, query: str, count: int) -> list[Passage]:
        """The `count` best passages that share a word with `query`, best first; ties in the order of the corpus."""
        words = Counter(_analyzer().analyze(query))
        if not words or count < 1:
            return []
        terms = [(tantivy.Occur.Should, self._term(word, frequency)) for word, frequency in words.items()]
        return [self._passage(hit) for hit in self._best(tantivy.Query.boolean_query(terms), count)]

    def _term(self, word: str, frequency: int) -> tantivy.Query:
        """One word of the query, weighted by its frequency there."""
        term = tantivy.Query.term_query(self._schema, "text", word, "freq")
        return tantivy.Query.boost_query(term, float(frequency)) if frequency > 1 else term

    def _best(self, query: tantivy.Query, count: int) -> list[tantivy.DocAddress]:
        """Addresses of the best passages. The limit is raised until all ties with the last of them are included."""
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
def _disk_full_errors(folder: Path) -> Iterator[None]:
    """Raise a failed write of tantivy as ENOSPC: it hides the reason, which is nearly always a full disk."""
    try:
        yield
    except ValueError as error:
        if "writer was killed" not in str(error):
            raise
        raise OSError(errno.ENOSPC, str(error), str(folder)) from error


@cache
def _analyzer() -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.remove_long(40))
    builder = builder.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.stopword(ENGLISH))
    return builder.filter(tantivy.Filter.stemmer(ENGLISH)).build()


def _schema() -> tantivy.Schema:
    """Text with word frequencies (no positions: no phrases are searched), and the place in the corpus for ties."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=True, tokenizer_name=ENGLISH, index_option="freq")
    builder.add_bytes_field("id", stored=True)
    builder.add_unsigned_field("place", fast=True)
    return builder.build()
