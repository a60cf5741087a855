"""The embedded corpus `financetoolkit`: docstrings on financial ratios, models and risk measures (MIT)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_FOLDERS_WITHOUT_FINANCE = ("cache", "discovery", "mcp_server", "normalization", "utilities")
_SECTION_HEADING = re.compile(r"(Args|Arguments|Parameters|Returns|Raises|References|As an example|Which returns):$")


def read_financetoolkit(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each public function of a module of models: the prose of its docstring, where it has any."""
    for path in sorted(folder.glob("*/*_model.py")):
        if path.parent.name in _FOLDERS_WITHOUT_FINANCE:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            text = extract_prose(ast.get_docstring(function) or "")
            if text and not function.name.startswith("_"):
                yield f"{path.parent.name}.{path.stem}.{function.name}", text


def extract_prose(docstring: str) -> str:
    """A docstring without its arguments, results and code; formulas and notes are kept."""
    kept, in_dropped_section, in_code = [], False, False
    for line in docstring.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and line.strip() and not line.startswith("|"):
            if not line[0].isspace():
                in_dropped_section = bool(_SECTION_HEADING.match(line))
            if not in_dropped_section:
                kept.append(line.strip())
    return " ".join(kept)
