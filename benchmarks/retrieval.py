"""Retrieval against bm25s: CPU seconds to build, peak memory, disk, CPU a query, and whether they find the same.

python benchmarks/retrieval.py [documents of ours] [documents of both]      (needs pip install bm25s==0.3.16)
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

VOCABULARY, WORDS, QUERIES, QUERY_WORDS, TOP = 200_000, 150, 100, 30, 5
Search = Callable[[str], list[int]]


@dataclass(frozen=True)
class Measured:
    """What one way needed, in a process of its own."""

    build: float  # CPU seconds, making the texts included
    peak: float  # GB of memory while building
    disk: float  # GB
    query: float  # CPU milliseconds
    found: list[list[int]]

    def __str__(self) -> str:
        built = f"built in {self.build:.0f} CPU s, peak {self.peak:.2f} GB"
        return f"{built}, {self.disk:.2f} GB on disk, {self.query:.1f} ms a query"


def texts(count: int, words: tuple[int, int], seed: int) -> Iterator[str]:
    """Texts whose words follow Zipf's law, as long as `words` says (from, to)."""
    chance = np.random.default_rng(seed)
    ranks = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    names = [f"w{number}" for number in range(VOCABULARY)]
    for length in chance.integers(*words, count, endpoint=True):
        yield " ".join([names[place] for place in np.searchsorted(ranks, chance.random(length) * ranks[-1])])


def ours(count: int, folder: Path) -> Search:
    rows = texts(count, (WORDS - 50, WORDS + 50), 0)
    build_index((Passage(str(number), text) for number, text in enumerate(rows)), folder)
    index = Index(folder)
    return lambda query: [int(passage.id) for passage in index.search(query, TOP)]


def bm25s(count: int, folder: Path) -> Search:
    import bm25s as other

    rows = list(texts(count, (WORDS - 50, WORDS + 50), 0))
    index = other.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(other.tokenize(rows, show_progress=False), show_progress=False)
    index.save(folder, corpus=rows)

    def search(query: str) -> list[int]:
        words = other.tokenize([query], show_progress=False, return_ids=False)
        return [int(place) for place in index.retrieve(words, k=TOP, show_progress=False, return_as="documents")[0]]

    return search


def measure(way: Callable[[int, Path], Search], count: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        search = way(count, Path(folder))
        build, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9
        queries = list(texts(QUERIES, (QUERY_WORDS, QUERY_WORDS), 1))
        started = time.process_time()
        found = [search(query) for query in queries]
        return Measured(build, peak, disk, (time.process_time() - started) / QUERIES * 1000, found)


def apart(way: Callable[[int, Path], Search], count: int) -> Measured:
    """Measured in a fresh process, so that its peak is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, way, count).result()


def main() -> None:
    alone, both = (int(argument) for argument in [*sys.argv[1:], "1000000", "100000"][:2])
    print(f"{alone} documents of about {WORDS} words, {QUERIES} queries of {QUERY_WORDS}: ours {apart(ours, alone)}")
    one, other = apart(ours, both), apart(bm25s, both)
    pairs = zip(one.found, other.found, strict=True)
    shared = sum(len(set(mine) & set(theirs)) for mine, theirs in pairs) / (TOP * QUERIES)
    print(f"{both} documents: ours {one}")
    print(f"{both} documents: bm25s {other}")
    print(
        f"bm25s to ours: {other.build / one.build:.1f} times the seconds to build, {other.peak / one.peak:.1f} the "
        f"memory, {other.disk / one.disk:.1f} the disk, {other.query / one.query:.1f} the time a query; "
        f"{shared:.1%} of the top {TOP} are the same"
    )


if __name__ == "__main__":
    main()
