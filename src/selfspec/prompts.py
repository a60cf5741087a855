"""Every prompt, once: the same renderer serves generation, answering, tuning and evaluation (METHOD: prompt skeletons).

A prompt is a `prefix` (who the model is, the examples shown) and the `item`. The two are always tokenised apart and
joined, so that a prefix's key-value cache can serve many items, and tuning sees the tokens that evaluation sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfspec.config import DomainConfig, ModelConfig, TaskType
from selfspec.errors import UserError
from selfspec.records import SEPARATOR, Seed, Task

HEADER = "You are {role}. Give each task the best answer you can, in the form that it asks for.\n\n"
STOP = ("\n###",)  # a model that goes on after its answer begins the next section

YES, NO = "YES", "NO"
JUDGE_HEADER = """\
You are {role}, and you check answers. Below each task stands a response that somebody gave. Say {yes} where it is right
and has the form that the task asks for, {no} where it is wrong.

"""

LIST_HEADER = """\
Here is a list of tasks for a language model, written by {role}.
- Each task says its type{topic}; a task of classification names its options.
- The instruction is one or two sentences, a request or a question, and its wording varies from task to task.
- The input is specific and realistic, with enough substance to work on, and leaves no blanks to fill in.
- Everything needed stands in the text; the answer is left to the reader.

List of tasks:

"""
# A line ends an instruction. A blank line ends a task, and so does what a model adds behind its input.
INSTRUCTION_STOP = ("\n",)
_BEHIND = ("Answer:", "Output:", "Response:", "Explanation:", "Options:", "Instruction:", "Input:", "Type:", "Topic:")
INPUT_STOP = ("\n\n", *(f"\n{word}" for word in _BEHIND))


def item(task: Task, passages: Sequence[str] = ()) -> str:
    """A task as the model sees it, up to where its answer begins; `passages` were retrieved for it."""
    options = f"\nOptions: {SEPARATOR.join(task.options)}" if task.options else ""
    given = f"### Input:\n{task.input}\n\n" if task.input else ""
    found = "### Background:\n" + "".join(f"- {text}\n" for text in passages) + "\n" if passages else ""
    return f"### Instruction:\n{task.instruction}{options}\n\n{found}{given}### Response:\n"


def prefix(role: str, shots: Sequence[Seed]) -> str:
    """What stands before an item: the role, and `shots` solved (none for 0-shot and for tuning)."""
    return HEADER.format(role=role) + "".join(f"{item(seed)}{seed.output}\n\n" for seed in shots)


def judged_prefix(role: str, judged: Sequence[tuple[Task, str, bool]]) -> str:
    """What stands before an answer to be judged: (task, answer, whether it is right) of some seeds."""
    shown = (f"{judged_item(task, answer)}{YES if right else NO}\n\n" for task, answer, right in judged)
    return JUDGE_HEADER.format(role=role, yes=YES, no=NO) + "".join(shown)


def judged_item(task: Task, answer: str) -> str:
    """A task with an answer, up to where the verdict begins."""
    return f"{item(task)}{answer}\n\n### Right:\n"


@dataclass(frozen=True)
class Turns:
    """What stands around the prompts of a model that converses: nothing for a base model, which just goes on.

    A prompt is what the user says. Where an item has `begun` what the model shall go on with (a task of the list), it
    stands in the model's own turn.
    """

    head: str = ""
    tail: str = ""  # between what the user says and what the model says

    def prefix(self, text: str, begun: bool = False) -> str:
        """What stands before an item."""
        return self.head + text + (self.tail if begun else "")

    def item(self, text: str, begun: bool = False) -> str:
        """An item, up to where the model goes on."""
        return text if begun or not self.tail else text.rstrip() + self.tail


def turns(tokenizer: Any) -> Turns:
    """Those of the tokenizer's chat template, which `choose_style` leaves there only for `model.prompt=chat`.

    Raises:
        UserError: the template does not show what the user says.
    """
    if not getattr(tokenizer, "chat_template", None):
        return Turns()
    said, options = "<prompt>", {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    head, found, tail = tokenizer.apply_chat_template([{"role": "user", "content": said}], **options).partition(said)
    if not found:
        raise UserError("model.prompt=chat: the tokenizer's chat template leaves out what the user says; choose base.")
    return Turns(head, tail)


def choose_style(tokenizer: Any, model: ModelConfig) -> Any:
    """The tokenizer with its chat template, or for `model.prompt=base` without: many base models' carry one.

    Raises:
        UserError: it has none.
    """
    if model.prompt == "base":
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        raise UserError(f"model.prompt=chat: the tokenizer of {model.name} has no chat template; choose base.")
    return tokenizer


def opening(tokenizer: Any) -> list[int]:
    """Ids that begin every text: those that the tokenizer adds by itself, unless the chat template brings them."""
    begin = [token for token in tokenizer("").input_ids if token != tokenizer.eos_token_id]
    head = tokenizer(turns(tokenizer).head, add_special_tokens=False).input_ids
    return [] if head[: len(begin)] == begin else begin


@dataclass(frozen=True)
class Request:
    """What the next task of the list shall be: the model writes its instruction and input."""

    task_type: str
    topic: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A task that the model wrote, before anybody answered it."""

    task_type: str
    instruction: str
    input: str
    options: tuple[str, ...]
    topic: str = ""


def list_prefix(domain: DomainConfig, shots: Sequence[Seed]) -> str:
    """The prompt under which the base model writes one more task, first its instruction, then its input."""
    header = LIST_HEADER.format(role=domain.role, topic=" and its topic" if domain.topics else "")
    return header + "".join(
        f"{input_item(number, _request(seed), ' '.join(seed.instruction.split()), domain)} {_one(seed.input)}\n\n"
        for number, seed in enumerate(shots, 1)
    )


def list_item(number: int, request: Request, domain: DomainConfig) -> str:
    """A task of the list up to where its instruction begins: there the model goes on."""
    topic = f"Topic: {request.topic}\n" if domain.topics and request.topic else ""
    options = f"Options: {SEPARATOR.join(request.options)}\n" if request.options else ""
    return f"Task {number}\nType: {domain.tasks[request.task_type].about}\n{topic}{options}Instruction:"


def input_item(number: int, request: Request, instruction: str, domain: DomainConfig) -> str:
    """The same with its instruction written, up to where its input begins."""
    return f"{list_item(number, request, domain)} {instruction}\nInput:"


def _request(seed: Seed) -> Request:
    return Request(seed.task_type, seed.topic, seed.options)


def _one(text: str) -> str:
    """No blank lines, since one ends a task."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def template_hash() -> str:
    """A hash of every template, kept with each adapter and each row."""
    probe = Seed("i", "t", "instruction", "input", "output", topic="topic", options=("a", "b"))
    plain = Seed("i", "t", "instruction", "", "output")
    domain = DomainConfig("n", "role", {"t": TaskType("label", "about")}, "", "", topics=("topic",))
    judged = judged_prefix("role", [(probe, "answer", True), (plain, "answer", False)])
    texts = [prefix("role", [probe, plain]), item(probe, ["passage"]), *STOP, judged]
    texts += [list_prefix(domain, [probe, plain]), *INSTRUCTION_STOP, *INPUT_STOP]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
