"""Rows of a public set become questions: the schema is in its YAML (conf/benchmark), the forms of answers are here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from selfspec.config.schema import BenchmarkConfig
from selfspec.data.records import SEPARATOR, Question, Seed
from selfspec.evaluation.benchmarks.sources import Row

ROW_FORMS = ("fields", "tags", "turns")


NONE = "none"  # the answer that there is no entity, or no label


MAX_LABELS_SHOWN = 64  # spellings of one list that are kept as right answers


_FIELD = re.compile(r"{([^{}]+)}")


_EARLIER = re.compile(r"{answer(\d+)}")  # in a dialogue: the answer of an earlier turn


class BadRow(ValueError):
    """A row that does not fit the schema; the message names the field."""


def questions_from_rows(name: str, config: BenchmarkConfig, rows: Iterable[Row]) -> Iterator[Question | BadRow]:
    """A question a row, in order, or what is wrong with it. Rows with an answer that is left out give nothing."""
    ids, turns = set[str](), dict[tuple[str, str], str]()
    for number, row in enumerate(rows, start=1):
        try:
            answers = _answers(row, config)
            if config.form == "turns":
                turns[_text(row, "dialogue_id"), _text(row, "turn")] = answers[0]
            if answers[0].casefold() in config.leave_out:
                continue
            made = _question(name, config, row, _checked(answers, config), turns)
        except BadRow as error:
            yield BadRow(f"row {number} of the set {name}, {error}")
            continue
        identity = f"{name}-{_text(row, config.id) if config.id else number}"
        made = replace(made, id=f"{identity}-{number}" if identity in ids else identity)
        ids.add(made.id)
        yield made


def few_shot_example(question: Question) -> Seed:
    """A question with its answer, as a few-shot example."""
    return Seed(
        id=f"{question.id}-shot",
        task_type=question.task_type,
        instruction=question.instruction,
        input=question.input,
        output=question.answers[0],
        topic=question.topic,
        options=question.options,
    )


def _question(
    name: str, config: BenchmarkConfig, row: Row, answers: tuple[str, ...], turns: Mapping[tuple[str, str], str]
) -> Question:
    text = _input(row, config)
    if config.form == "turns":
        text = _EARLIER.sub(lambda found: _earlier(row, found[1], turns), text)
    return Question(
        id=_text(row, config.id) if config.id else "",
        task_type=name,
        kind=config.kind,
        instruction=config.instruction,
        input=text,
        answers=answers,
        topic=_text(row, config.topic) if config.topic else "",
        options=config.options,
    )


def _input(row: Row, config: BenchmarkConfig) -> str:
    joint = " " if config.form == "tags" else "\n"
    text = _FIELD.sub(lambda found: _text(row, found[1], joint), config.input).strip()
    if not text:
        raise BadRow(f"field '{config.input}' is empty")
    return text


def _earlier(row: Row, turn: str, turns: Mapping[tuple[str, str], str]) -> str:
    try:
        return turns[_text(row, "dialogue_id"), turn]
    except KeyError:
        raise BadRow(f"field 'turn': the dialogue's earlier turn {turn} is missing") from None


def _value(row: Any, field: str) -> Any:
    """A field, or one inside it by dots; of a list, that of each item."""
    value = row
    for part in field.split("."):
        if isinstance(value, list):
            value = [_value(item, part) for item in value]
        elif isinstance(value, dict) and value.get(part) is not None:
            value = value[part]
        else:
            has = f"; there are {', '.join(map(str, row))}" if isinstance(row, dict) else ""
            raise BadRow(f"field '{field}' is missing{has}")
    return value


def _text(row: Row, field: str, joint: str = "\n") -> str:
    value = _value(row, field)
    if isinstance(value, list):
        return joint.join(_plain(item, field) for item in value)
    return _plain(value, field)


def _plain(value: Any, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"field '{field}' is {type(value).__name__}, where text is wanted")
    return str(value).strip()


def _answers(row: Row, config: BenchmarkConfig) -> tuple[str, ...]:
    """The right answers as texts, the canonical one first."""
    if config.form == "tags":
        return (_entities(row, config),)
    value = _value(row, config.answer)
    if config.kind == "list":
        return _lists(_items(value, config.answer))
    if config.kind == "labels":
        return (_labels(value, config),)
    texts = [" ".join(_named(text, config).split()) for text in _flat(value, config.answer)]
    found = tuple(dict.fromkeys(text for text in texts if text))
    if not found:
        raise BadRow(f"field '{config.answer}' is empty")
    return found if config.kind in ("short", "number") else found[:1]


def _checked(texts: tuple[str, ...], config: BenchmarkConfig) -> tuple[str, ...]:
    """The answers in the form of their kind: one of the options, a bare number."""
    if config.kind == "label" and texts[0] not in config.options:
        raise BadRow(f"field '{config.answer}' is '{texts[0]}', which is none of {', '.join(config.options)}")
    return tuple(_number(text, config.answer) for text in texts) if config.kind == "number" else texts


def _number(text: str, field: str) -> str:
    bare = text.replace(",", "").lstrip("$")
    try:
        if math.isfinite(float(bare)):
            return bare
    except ValueError:
        pass
    raise BadRow(f"field '{field}' is '{text}', which is no number")


def _flat(value: Any, field: str) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _flat(item, field)]
    return [_plain(value, field)]


def _named(text: str, config: BenchmarkConfig) -> str:
    """How a value of a row is asked for: by the YAML's `labels`, or the option that it spells."""
    spelled = {option.casefold(): option for option in config.options}
    asked = {value.casefold(): label for value, label in config.labels.items()}
    return asked.get(text.casefold(), spelled.get(text.casefold(), text))


def _labels(value: Any, config: BenchmarkConfig) -> str:
    named = {_named(text, config) for text in _flat(value, config.answer)} - {"", NONE}
    if unknown := named - set(config.options):
        raise BadRow(f"field '{config.answer}' has '{min(unknown)}', which is none of {', '.join(config.options)}")
    return SEPARATOR.join(option for option in config.options if option in named) or NONE


def _items(value: Any, field: str) -> list[list[str]]:
    """The items of a list, each with its synonyms."""
    found = value if isinstance(value, list) else []
    items = [[_part(text) for text in _flat(item, field) if text] for item in found]
    if not any(items):
        raise BadRow(f"field '{field}' is no list with an item")
    return [item for item in items if item]


def _lists(items: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Every spelling of a list; of those that have too many, the first synonyms, the second, and so on."""
    if math.prod(map(len, items)) <= MAX_LABELS_SHOWN:
        spelled = list(product(*items))
    else:
        spelled = [tuple(item[min(n, len(item) - 1)] for item in items) for n in range(max(map(len, items)))][
            :MAX_LABELS_SHOWN
        ]
    return tuple(dict.fromkeys(SEPARATOR.join(some) for some in spelled))


def _part(text: str) -> str:
    """A text that can stand between separators."""
    return " ".join(text.replace(SEPARATOR.strip(), ",").split())


def _entities(row: Row, config: BenchmarkConfig) -> str:
    """`mention (type); ...` from tokens and their tags (IOB, IOB2, IOBES)."""
    field = "".join(_FIELD.findall(config.input))
    tokens, tags = (_tokens(_value(row, name)) for name in (field, config.answer))
    if len(tokens) != len(tags):
        raise BadRow(f"field '{config.answer}' has {len(tags)} tags for {len(tokens)} tokens")
    found: list[tuple[str, list[str]]] = []
    before = ""
    for token, tag in zip(tokens, (config.labels.get(tag, tag) for tag in tags), strict=True):
        place, _, kind = tag.partition("-")
        if place in ("I", "E") and kind == before:
            found[-1][1].append(token)
        elif place in ("B", "S", "I", "E"):
            found.append((kind, [token]))
        elif place != "O":
            raise BadRow(f"field '{config.answer}' has the tag '{tag}', which is none of O, B-..., I-...")
        before = kind if place in ("B", "I") else "O-"  # what an I may go on with
    return SEPARATOR.join(f"{_part(' '.join(words))} ({_type(kind, config)})" for kind, words in found) or NONE


def _tokens(value: Any) -> list[str]:
    """A list of tokens, or a text that is cut at its blanks."""
    return value.split() if isinstance(value, str) else [str(item) for item in value]


def _type(kind: str, config: BenchmarkConfig) -> str:
    if not kind and not config.labels.get(""):
        raise BadRow(f"field '{config.answer}' has tags without a type")
    return {value.casefold(): label for value, label in config.labels.items()}.get(kind.casefold(), kind)
