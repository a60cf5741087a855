"""Every prompt, once: the same renderer serves generation, answering, tuning and evaluation (METHOD: prompt skeletons).

A prompt is a `prefix` (who the model is, the examples shown) and the `item`. The two are always tokenised apart and
joined, so that a prefix's key-value cache can serve many items, and tuning sees the tokens that evaluation sees.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfspec.config import DomainConfig, TaskType
from selfspec.records import SEPARATOR, Seed, Task

HEADER = "You are {role}. Give each task the best answer you can, in the form that it asks for.\n\n"
STOP = "\n###"  # a model that goes on after its answer begins the next section

LIST_HEADER = """\
Here is a list of tasks for a language model, written by {role}.
- Each task is of one of these types: {tasks}.
- The instruction is one or two sentences, a request or a question, and its wording varies from task to task.
- The input is specific and realistic, with enough substance to work on, and leaves no blanks to fill in.
- Everything needed stands in the text; tasks of classification list their options.
- Together the tasks cover {topics}.

List of tasks:

"""
LIST_STOP = "\n\nTask"


def item(task: Task) -> str:
    """A task as the model sees it, up to where its answer begins."""
    options = f"\nOptions: {SEPARATOR.join(task.options)}" if task.options else ""
    passage = f"### Input:\n{task.input}\n\n" if task.input else ""
    return f"### Instruction:\n{task.instruction}{options}\n\n{passage}### Response:\n"


def prefix(role: str, shots: Sequence[Seed]) -> str:
    """What stands before an item: the role, and `shots` solved (none for 0-shot and for tuning)."""
    return HEADER.format(role=role) + "".join(f"{item(seed)}{seed.output}\n\n" for seed in shots)


def list_prefix(domain: DomainConfig, shots: Sequence[Seed]) -> str:
    """The prompt under which the base model writes one more task: the numbered seeds."""
    tasks = "; ".join(task.about for task in domain.tasks.values())
    header = LIST_HEADER.format(role=domain.role, tasks=tasks, topics=", ".join(domain.topics))
    return header + "".join(f"{_listed(number, seed, domain.tasks)}\n\n" for number, seed in enumerate(shots, 1))


def list_item(shots: int) -> str:
    """Where the model goes on: the next number."""
    return f"Task {shots + 1}\nType:"


def _listed(number: int, seed: Seed, tasks: Mapping[str, TaskType]) -> str:
    options = f"Options: {SEPARATOR.join(seed.options)}\n" if seed.options else ""
    about = tasks[seed.task_type].about
    return f"Task {number}\nType: {about}\nInstruction: {seed.instruction}\n{options}Input: {seed.input}"


@dataclass(frozen=True)
class Draft:
    """A task that the model wrote, before anybody answered it."""

    task_type: str
    instruction: str
    input: str
    options: tuple[str, ...]


_FIELDS = re.compile(r"(?:^|\n)(Type|Instruction|Options|Input):", re.IGNORECASE)


def parse(text: str, tasks: Mapping[str, TaskType]) -> Draft:
    """(Type, instruction, options, input) of a text that goes on after `Type:`; what is absent stays empty.

    A text without any field is all instruction: form filters judge it, not the parser.
    """
    parts = _FIELDS.split(text)
    fields = {"type": parts[0]}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        fields.setdefault(name.lower(), value)  # the first of each: a repeated one opens another task
    if len(parts) == 1:
        fields = {"type": "", "instruction": text}
    about = " ".join(fields["type"].split()).casefold()
    types = {task.about.casefold(): name for name, task in tasks.items()}
    options = tuple(option.strip() for option in fields.get("options", "").split(";") if option.strip())
    return Draft(types.get(about, ""), fields.get("instruction", "").strip(), fields.get("input", "").strip(), options)


def template_hash() -> str:
    """A hash of every template, kept with each adapter and each row."""
    probe = Seed("i", "t", "instruction", "input", "output", options=("a", "b"))
    plain = Seed("i", "t", "instruction", "", "output")
    domain = DomainConfig("n", "role", {"t": TaskType("label", "about")}, ("topic",), "", "")
    texts = [
        prefix("role", [probe, plain]),
        STOP,
        list_prefix(domain, [probe, plain]),
        list_item(2),
        LIST_STOP,
    ]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
