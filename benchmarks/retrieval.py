"""Retrieval and bm25s: CPU seconds of the build, peak memory, disk space, time of a query, and equal results.

python benchmarks/retrieval.py [NUM_DOCUMENTS] [NUM_DOCUMENTS_OF_BOTH]      (needs: pip install bm25s==0.3.16)
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfspec.retrieval.bm25 import Index, build_index
from selfspec.retrieval.passage import Passage

VOCABULARY_SIZE, DOCUMENT_WORDS, NUM_QUERIES, QUERY_WORDS, TOP_K = 200_000, 150, 100, 30, 5
DEFAULT_COUNTS = (1_000_000, 100_000)  # documents for selfspec alone, and for both
DOCUMENT_RANGE = (DOCUMENT_WORDS - 50, DOCUMENT_WORDS + 50)  # words

Search = Callable[[str], list[int]]  # query -> numbers of documents


@dataclass(frozen=True)
class Measurement:
    """What one library needed, in a process of its own."""

    build_seconds: float  # CPU, with the generation of the texts
    peak_gb: float  # memory during the build
    disk_gb: float
    query_ms: float  # CPU
    results: list[list[int]]  # for each query

    def __str__(self) -> str:
        built = f"built in {self.build_seconds:.0f} CPU s, peak {self.peak_gb:.2f} GB"
        return f"{built}, {self.disk_gb:.2f} GB on disk, {self.query_ms:.1f} ms a query"


def random_texts(count: int, num_words: tuple[int, int], seed: int) -> Iterator[str]:
    """Texts whose word frequencies follow Zipf's law, with `num_words` (minimum, maximum) words each."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1 / np.arange(1, VOCABULARY_SIZE + 1))
    words = [f"w{number}" for number in range(VOCABULARY_SIZE)]
    for length in rng.integers(*num_words, count, endpoint=True):
        yield " ".join([words[rank] for rank in np.searchsorted(cumulative, rng.random(length) * cumulative[-1])])


def build_selfspec(count: int, folder: Path) -> Search:
    texts = random_texts(count, DOCUMENT_RANGE, 0)
    build_index((Passage(str(number), text) for number, text in enumerate(texts)), folder)
    index = Index(folder)
    return lambda query: [int(passage.id) for passage in index.search(query, TOP_K)]


def build_bm25s(count: int, folder: Path) -> Search:
    import bm25s

    texts = list(random_texts(count, DOCUMENT_RANGE, 0))
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    index.save(folder, corpus=texts)

    def search(query: str) -> list[int]:
        words = bm25s.tokenize([query], show_progress=False, return_ids=False)
        return [int(number) for number in index.retrieve(words, k=TOP_K, show_progress=False, return_as="documents")[0]]

    return search


def measure(build: Callable[[int, Path], Search], count: int) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        search = build(count, Path(folder))
        build_seconds = time.process_time() - started
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        disk_gb = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9
        queries = list(random_texts(NUM_QUERIES, (QUERY_WORDS, QUERY_WORDS), 1))
        started = time.process_time()
        results = [search(query) for query in queries]
        query_ms = (time.process_time() - started) / NUM_QUERIES * 1000
        return Measurement(build_seconds, peak_gb, disk_gb, query_ms, results)


def measure_in_process(build: Callable[[int, Path], Search], count: int) -> Measurement:
    """Measure in a new process, so that its peak memory is that of this build."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, build, count).result()


def main() -> None:
    arguments = [int(argument) for argument in sys.argv[1:]]
    count, count_of_both = (*arguments, *DEFAULT_COUNTS[len(arguments) :])
    print(
        f"{count} documents of about {DOCUMENT_WORDS} words, {NUM_QUERIES} queries of {QUERY_WORDS}: selfspec "
        f"{measure_in_process(build_selfspec, count)}"
    )
    selfspec = measure_in_process(build_selfspec, count_of_both)
    bm25s = measure_in_process(build_bm25s, count_of_both)
    pairs = zip(selfspec.results, bm25s.results, strict=True)
    equal = sum(len(set(one) & set(other)) for one, other in pairs) / (TOP_K * NUM_QUERIES)
    print(f"{count_of_both} documents: selfspec {selfspec}")
    print(f"{count_of_both} documents: bm25s {bm25s}")
    print(
        f"ratios, bm25s to selfspec: {bm25s.build_seconds / selfspec.build_seconds:.1f} build time, "
        f"{bm25s.peak_gb / selfspec.peak_gb:.1f} memory, {bm25s.disk_gb / selfspec.disk_gb:.1f} disk space, "
        f"{bm25s.query_ms / selfspec.query_ms:.1f} query time; {equal:.1%} of the top {TOP_K} are equal"
    )


if __name__ == "__main__":
    main()
