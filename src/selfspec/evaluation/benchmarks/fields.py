"""Read the fields of a row, as a set's YAML names them: `field`, or `field.inner`."""

from __future__ import annotations

import re
from typing import Any

from selfspec.evaluation.benchmarks.sources import Row

FIELD_REFERENCE = re.compile(r"{([^{}]+)}")  # in a template


class BadRow(ValueError):
    """A row that does not fit the schema; the message names the field."""


def field_value(row: Any, field: str) -> Any:
    """The value of a field; `a.b` is the field b inside a, or a list of them if a is a list.

    Raises:
        BadRow: the row has no such field, or it is null.
    """
    value = row
    for part in field.split("."):
        if isinstance(value, list):
            value = [field_value(item, part) for item in value]
        elif isinstance(value, dict) and value.get(part) is not None:
            value = value[part]
        else:
            names = f"; there are {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise BadRow(f"field '{field}' is missing{names}")
    return value


def field_text(row: Row, field: str, separator: str = "\n") -> str:
    """The text of a field; the items of a list are joined with `separator`."""
    value = field_value(row, field)
    if isinstance(value, list):
        return separator.join(plain_text(item, field) for item in value)
    return plain_text(value, field)


def plain_text(value: Any, field: str) -> str:
    """A text or number as text without surrounding white space.

    Raises:
        BadRow: it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"field '{field}' is {type(value).__name__}, not text")
    return str(value).strip()


def flat_texts(value: Any, field: str) -> list[str]:
    """All texts of a value that may be a nested list."""
    if isinstance(value, list):
        return [text for item in value for text in flat_texts(item, field)]
    return [plain_text(value, field)]


def tokens_of(value: Any) -> list[str]:
    """The items of a list, or the words of a text."""
    return value.split() if isinstance(value, str) else [str(item) for item in value]
