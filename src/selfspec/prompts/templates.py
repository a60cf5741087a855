"""The prompt renderer, shared by generation, answering, tuning and evaluation; templates come from the config.

A prompt is a prefix (the role, and solved examples) and a task. The two are always tokenised apart and joined, so that
one prefix's key-value cache serves many tasks, and tuning sees the tokens that evaluation sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from string import Formatter

from selfspec.config.hashing import digest
from selfspec.config.schema import DomainConfig, PromptsConfig
from selfspec.data.records import SEPARATOR, Seed, Task, TaskRequest
from selfspec.errors import UserError

PLACEHOLDERS: dict[str, set[str]] = {  # template -> the names that it may use
    "role": {"role"},
    "task": {"instruction", "options", "background", "input"},
    "task_options": {"options"},
    "task_background": {"passages"},
    "task_passage": {"passage"},
    "task_input": {"input"},
    "solved_task": {"task", "output"},
    "task_list": {"role", "topic_note"},
    "list_topic_note": set(),
    "list_task": {"number", "type", "topic", "options"},
    "list_topic": {"topic"},
    "list_options": {"options"},
    "list_input": {"task", "instruction"},
    "list_entry": {"task_with_input", "input"},
    "judge": {"role", "yes", "no"},
    "judged_answer": {"task", "answer"},
    "judged_example": {"judged_answer", "verdict"},
    "judge_yes": set(),
    "judge_no": set(),
}
# Without these placeholders a prompt has no task.
REQUIRED: dict[str, set[str]] = {
    "task": {"instruction", "input"},
    "task_input": {"input"},
    "solved_task": {"task", "output"},
    "list_input": {"task", "instruction"},
    "list_entry": {"task_with_input", "input"},
    "judged_answer": {"task", "answer"},
    "judged_example": {"judged_answer", "verdict"},
}


def prompts_hash(prompts: PromptsConfig) -> str:
    """A hash of every template, kept with each adapter and each example."""
    return digest(asdict(prompts))[:16]


def check_prompts(prompts: PromptsConfig) -> None:
    """Refuse templates with unknown or missing placeholders, and empty stop texts.

    Raises:
        UserError: the first of them.
    """
    for item in fields(prompts):
        value = getattr(prompts, item.name)
        if isinstance(value, tuple):
            if not all(value):
                raise UserError(f"prompts.{item.name} holds an empty stop text, which would end every text; remove it.")
            continue
        allowed, required = PLACEHOLDERS[item.name], REQUIRED.get(item.name, set())
        names = _placeholders(item.name, value)
        if unknown := sorted(names - allowed):
            raise UserError(
                f"prompts.{item.name} uses {{{unknown[0]}}}, and can use "
                f"{', '.join(f'{{{name}}}' for name in sorted(allowed)) or 'no placeholder'}; write {{{{ for a brace."
            )
        if missing := sorted(required - names):
            raise UserError(f"prompts.{item.name} lacks {{{missing[0]}}}, without which no task is complete; add it.")


def _placeholders(name: str, template: str) -> set[str]:
    try:
        return {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise UserError(f"prompts.{name} can't be read ({error}); write {{{{ and }}}} for braces.") from None


@dataclass(frozen=True)
class PromptRenderer:
    """Renders tasks with the templates of a config."""

    templates: PromptsConfig

    def task(self, task: Task, passages: Sequence[str] = ()) -> str:
        """A task up to where its answer begins; `passages` were retrieved for it."""
        texts = self.templates
        listed = "".join(texts.task_passage.format(passage=passage) for passage in passages)
        return texts.task.format(
            instruction=task.instruction,
            options=texts.task_options.format(options=SEPARATOR.join(task.options)) if task.options else "",
            background=texts.task_background.format(passages=listed) if passages else "",
            input=texts.task_input.format(input=task.input) if task.input else "",
        )

    def prefix(self, role: str, shots: Sequence[Seed]) -> str:
        """What precedes a task: the role, and solved examples (none for 0-shot and for tuning)."""
        solved = (self.templates.solved_task.format(task=self.task(seed), output=seed.output) for seed in shots)
        return self.templates.role.format(role=role) + "".join(solved)

    def judge_prefix(self, role: str, judged: Sequence[tuple[Task, str, bool]]) -> str:
        """What precedes an answer to be judged: (task, answer, whether it is right) of some seeds."""
        texts = self.templates
        examples = (
            texts.judged_example.format(
                judged_answer=self.judged_answer(task, answer), verdict=texts.judge_yes if right else texts.judge_no
            )
            for task, answer, right in judged
        )
        return texts.judge.format(role=role, yes=texts.judge_yes, no=texts.judge_no) + "".join(examples)

    def judged_answer(self, task: Task, answer: str) -> str:
        """A task with an answer, up to where the verdict begins."""
        return self.templates.judged_answer.format(task=self.task(task), answer=answer)

    def list_prefix(self, domain: DomainConfig, shots: Sequence[Seed]) -> str:
        """The list that the base model continues with one more task: first its instruction, then its input."""
        texts = self.templates
        header = texts.task_list.format(role=domain.role, topic_note=texts.list_topic_note if domain.topics else "")
        entries = (self._list_entry(number, seed, domain) for number, seed in enumerate(shots, 1))
        return header + "".join(entries)

    def list_task(self, number: int, request: TaskRequest, domain: DomainConfig) -> str:
        """A task of the list up to where its instruction begins."""
        texts = self.templates
        options = SEPARATOR.join(request.options)
        return texts.list_task.format(
            number=number,
            type=domain.tasks[request.task_type].about,
            topic=texts.list_topic.format(topic=request.topic) if domain.topics and request.topic else "",
            options=texts.list_options.format(options=options) if request.options else "",
        )

    def list_input(self, number: int, request: TaskRequest, instruction: str, domain: DomainConfig) -> str:
        """The same with its instruction, up to where its input begins."""
        task = self.list_task(number, request, domain)
        return self.templates.list_input.format(task=task, instruction=instruction)

    def _list_entry(self, number: int, seed: Seed, domain: DomainConfig) -> str:
        request = TaskRequest(seed.task_type, seed.topic, seed.options)
        task = self.list_input(number, request, " ".join(seed.instruction.split()), domain)
        return self.templates.list_entry.format(task_with_input=task, input=_without_blank_lines(seed.input))


def _without_blank_lines(text: str) -> str:
    """A blank line ends a task, so a seed's input has none."""
    return "\n".join(line for line in text.splitlines() if line.strip())
