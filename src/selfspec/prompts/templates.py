"""Prompt templates and their renderer, shared by generation, answering, tuning and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from selfspec.config.schema import DomainConfig, TaskType
from selfspec.data.records import SEPARATOR, Seed, Task, TaskRequest

HEADER = "You are {role}. Give each task the best answer you can, in the form that it asks for.\n\n"


RESPONSE_STOP = ("\n###",)  # a model that goes on after its answer begins the next section


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


def render_task(task: Task, passages: Sequence[str] = ()) -> str:
    """A task as the model sees it, up to where its answer begins; `passages` were retrieved for it."""
    options = f"\nOptions: {SEPARATOR.join(task.options)}" if task.options else ""
    given = f"### Input:\n{task.input}\n\n" if task.input else ""
    found = "### Background:\n" + "".join(f"- {text}\n" for text in passages) + "\n" if passages else ""
    return f"### Instruction:\n{task.instruction}{options}\n\n{found}{given}### Response:\n"


def render_prefix(role: str, shots: Sequence[Seed]) -> str:
    """What stands before an item: the role, and `shots` solved (none for 0-shot and for tuning)."""
    return HEADER.format(role=role) + "".join(f"{render_task(seed)}{seed.output}\n\n" for seed in shots)


def render_judge_prefix(role: str, judged: Sequence[tuple[Task, str, bool]]) -> str:
    """What stands before an answer to be judged: (task, answer, whether it is right) of some seeds."""
    shown = (f"{render_judged_answer(task, answer)}{YES if right else NO}\n\n" for task, answer, right in judged)
    return JUDGE_HEADER.format(role=role, yes=YES, no=NO) + "".join(shown)


def render_judged_answer(task: Task, answer: str) -> str:
    """A task with an answer, up to where the verdict begins."""
    return f"{render_task(task)}{answer}\n\n### Right:\n"


def render_list_prefix(domain: DomainConfig, shots: Sequence[Seed]) -> str:
    """The prompt under which the base model writes one more task, first its instruction, then its input."""
    header = LIST_HEADER.format(role=domain.role, topic=" and its topic" if domain.topics else "")
    return header + "".join(
        f"{render_input_item(number, _request(seed), ' '.join(seed.instruction.split()), domain)} {_without_blank_lines(seed.input)}\n\n"
        for number, seed in enumerate(shots, 1)
    )


def render_list_item(number: int, request: TaskRequest, domain: DomainConfig) -> str:
    """A task of the list up to where its instruction begins: there the model goes on."""
    topic = f"Topic: {request.topic}\n" if domain.topics and request.topic else ""
    options = f"Options: {SEPARATOR.join(request.options)}\n" if request.options else ""
    return f"Task {number}\nType: {domain.tasks[request.task_type].about}\n{topic}{options}Instruction:"


def render_input_item(number: int, request: TaskRequest, instruction: str, domain: DomainConfig) -> str:
    """The same with its instruction written, up to where its input begins."""
    return f"{render_list_item(number, request, domain)} {instruction}\nInput:"


def _request(seed: Seed) -> TaskRequest:
    return TaskRequest(seed.task_type, seed.topic, seed.options)


def _without_blank_lines(text: str) -> str:
    """No blank lines, since one ends a task."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def template_hash() -> str:
    """A hash of every template, kept with each adapter and each row."""
    probe = Seed("i", "t", "instruction", "input", "output", topic="topic", options=("a", "b"))
    plain = Seed("i", "t", "instruction", "", "output")
    domain = DomainConfig("n", "role", {"t": TaskType("label", "about")}, "", "", topics=("topic",))
    judged = render_judge_prefix("role", [(probe, "answer", True), (plain, "answer", False)])
    texts = [render_prefix("role", [probe, plain]), render_task(probe, ["passage"]), *RESPONSE_STOP, judged]
    texts += [render_list_prefix(domain, [probe, plain]), *INSTRUCTION_STOP, *INPUT_STOP]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
