"""The reference answers of a row, in the form of the question's kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from selfspec.config.schema import BenchmarkConfig
from selfspec.data.numbers import BARE_NUMBER, read_number
from selfspec.data.records import NO_ANSWER, SEPARATOR
from selfspec.evaluation.benchmarks.fields import (
    FIELD_REFERENCE,
    BadRow,
    field_value,
    flat_texts,
    tokens_of,
)
from selfspec.evaluation.benchmarks.sources import Row

MAX_LIST_SPELLINGS = 64  # of one list that are kept as reference answers


def read_answers(row: Row, config: BenchmarkConfig) -> tuple[str, ...]:
    """The reference answers as texts, the canonical one first; `check_answers` has not been applied.

    Raises:
        BadRow: the row does not fit the schema.
    """
    if config.form == "tags":
        return (_entities_answer(row, config),)
    value = field_value(row, config.answer)
    if config.kind == "list":
        return _list_spellings(_items_with_synonyms(value, config.answer))
    if config.kind == "labels":
        return (_labels_answer(value, config),)
    texts = [" ".join(_mapped_answer(text, config).split()) for text in flat_texts(value, config.answer)]
    answers = tuple(dict.fromkeys(text for text in texts if text))
    if not answers:
        raise BadRow(f"field '{config.answer}' is empty")
    return answers if config.kind in ("short", "number") else answers[:1]


def check_answers(answers: tuple[str, ...], config: BenchmarkConfig) -> tuple[str, ...]:
    """The answers, which are options of a label or plain numbers where the kind needs it.

    Raises:
        BadRow: they are not.
    """
    if config.kind == "label" and answers[0] not in config.options:
        raise BadRow(f"field '{config.answer}' is '{answers[0]}', which is none of {', '.join(config.options)}")
    return tuple(_plain_number(text, config.answer) for text in answers) if config.kind == "number" else answers


def _plain_number(text: str, field: str) -> str:
    if BARE_NUMBER.fullmatch(text):
        return text.replace(",", "")
    if number := read_number(text):
        return f"{Decimal(repr(number.value)).normalize():f}"
    raise BadRow(f"field '{field}' is '{text}', which is no number")


def _mapped_answer(text: str, config: BenchmarkConfig) -> str:
    """A row's value as an answer: mapped by the YAML's `labels`, or spelled as the option that it equals."""
    options = {option.casefold(): option for option in config.options}
    labels = {value.casefold(): label for value, label in config.labels.items()}
    return labels.get(text.casefold(), options.get(text.casefold(), text))


def _labels_answer(value: Any, config: BenchmarkConfig) -> str:
    labels = {_mapped_answer(text, config) for text in flat_texts(value, config.answer)} - {"", NO_ANSWER}
    if unknown := labels - set(config.options):
        raise BadRow(f"field '{config.answer}' has '{min(unknown)}', which is none of {', '.join(config.options)}")
    return SEPARATOR.join(option for option in config.options if option in labels) or NO_ANSWER


def _items_with_synonyms(value: Any, field: str) -> list[list[str]]:
    """The items of a list, each with its synonyms."""
    values = value if isinstance(value, list) else []
    items = [[_without_separator(text) for text in flat_texts(item, field) if text] for item in values]
    if not any(items):
        raise BadRow(f"field '{field}' is no list with an item")
    return [item for item in items if item]


def _list_spellings(items: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Every combination of synonyms, as a list; where they are too many, the first of each item, the second, ..."""
    if math.prod(map(len, items)) <= MAX_LIST_SPELLINGS:
        combinations = list(product(*items))
    else:
        num_synonyms = max(map(len, items))
        combinations = [tuple(item[min(n, len(item) - 1)] for item in items) for n in range(num_synonyms)]
        combinations = combinations[:MAX_LIST_SPELLINGS]
    return tuple(dict.fromkeys(SEPARATOR.join(combination) for combination in combinations))


def _without_separator(text: str) -> str:
    """A text that can be an item between separators."""
    return " ".join(text.replace(SEPARATOR.strip(), ",").split())


def _entities_answer(row: Row, config: BenchmarkConfig) -> str:
    """`mention (type); ...` from tokens and their tags (IOB, IOB2 or IOBES)."""
    field = "".join(FIELD_REFERENCE.findall(config.input))
    tokens, tags = (tokens_of(field_value(row, name)) for name in (field, config.answer))
    if len(tokens) != len(tags):
        raise BadRow(f"field '{config.answer}' has {len(tags)} tags for {len(tokens)} tokens")
    entities: list[tuple[str, list[str]]] = []  # (type, tokens)
    open_type = ""  # of the entity that an I or E tag can continue
    for token, tag in zip(tokens, (config.labels.get(tag, tag) for tag in tags), strict=True):
        position, _, entity_type = tag.partition("-")
        if position in ("I", "E") and entity_type == open_type:
            entities[-1][1].append(token)
        elif position in ("B", "S", "I", "E"):
            entities.append((entity_type, [token]))
        elif position != "O":
            raise BadRow(f"field '{config.answer}' has the tag '{tag}', which is none of O, B-..., I-...")
        open_type = entity_type if position in ("B", "I") else "O-"  # no type is "O-"
    mentions = (f"{_without_separator(' '.join(words))} ({_entity_type(name, config)})" for name, words in entities)
    return SEPARATOR.join(mentions) or NO_ANSWER


def _entity_type(name: str, config: BenchmarkConfig) -> str:
    if not name and not config.labels.get(""):
        raise BadRow(f"field '{config.answer}' has tags without a type")
    return {value.casefold(): label for value, label in config.labels.items()}.get(name.casefold(), name)
