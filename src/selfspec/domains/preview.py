"""The prompts that a run sends first, caught on their way to the model: nothing here builds one.

What the model would write in between is stood in for by a seed, and what retrieval would find by the corpus' first
passages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from selfspec.config.schema import Config, ModelConfig
from selfspec.data.reading import read_questions, read_seeds
from selfspec.data.records import CLOSED_KINDS, Draft, Seed, TaskRequest
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import Completion, PromptBatch
from selfspec.errors import UserError, did_you_mean
from selfspec.evaluation.few_shot import answer_batch, build_batches
from selfspec.generation.instructions import draft_from_row, plan_requests, write_instructions
from selfspec.generation.judgements import Judge
from selfspec.generation.pools import Pool, Row, pool_keys
from selfspec.generation.responses import ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.launch.preparation import check_seed_counts
from selfspec.models.toy import build_toy
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.chat import bos_ids, chat_template_of, with_prompt_style
from selfspec.prompts.templates import PromptRenderer
from selfspec.retrieval.corpus import split_into_passages
from selfspec.runtime.context import StageContext


@dataclass
class Recorder:
    """An engine that keeps the batches it is given; its completions are `replies`, one a batch, then empty."""

    tokenizer: Any
    replies: list[str] = field(default_factory=list)
    batches: list[PromptBatch] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """The next reply, for every item alike; options are all the same to it."""
        self.batches.append(batch)
        reply = self.replies.pop(0) if self.replies else ""
        options = batch.options or [()] * len(batch.items)
        return [Completion(reply, 0, True, (0.0,) * len(some)) for some in options]

    def count(self, text: str) -> int:
        """Tokens of a text, as the engine counts them."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def tokens(self, batch: PromptBatch) -> int:
        """Tokens of a batch's first prompt: what begins every text, the prefix and the item, each tokenised apart."""
        return len(bos_ids(self.tokenizer)) + sum(map(self.count, self.parts(batch)))

    def parts(self, batch: PromptBatch) -> tuple[str, str]:
        """The prefix and the first item, in their turns."""
        around = chat_template_of(self.tokenizer)
        return around.prefix(batch.prefix, batch.continues_response), around.item(
            batch.items[0], batch.continues_response
        )


class _FirstBatch(Pool):
    """A pool that makes the first batch of a block, and stores nothing."""

    def block(
        self,
        number: int,
        groups: Mapping[str, Sequence[Row]],
        complete: Callable[[str, Sequence[Row]], list[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        task_type, rows = next(iter(groups.items()))
        return complete(task_type, rows[: self.batch_size])


def show_preview(config: Config, task: str | None, console: Console) -> None:
    """Print each prompt under its title, with its tokens."""
    tokenizer, whose = load_preview_tokenizer(config.model, Path(config.paths.cache))
    recorder = Recorder(tokenizer)
    total = 0
    for title, prompt, tokens in collect_prompts(config, task, recorder):
        console.out(f"━━ {title}", style="bold", highlight=False)
        console.out(prompt, highlight=False)  # as it is: `print` would wrap lines and read :codes: as emoji
        console.out(f"━━ {tokens} tokens\n", style="bold", highlight=False)
        total += 1
    console.out(f"{total} prompts, counted in tokens of {whose}.", highlight=False)


def collect_prompts(config: Config, task: str | None, recorder: Recorder) -> Iterator[tuple[str, str, int]]:
    """(what it is for, the prompt, its tokens) of the first batches of a run with this config, each by its first item.

    Raises:
        UserError: no question is of type `task`.
    """
    titles = [*_generate(config, recorder), *_evaluate(config, task, recorder)]
    for title, batch in zip(titles, recorder.batches, strict=True):
        yield title, "".join(recorder.parts(batch)), recorder.tokens(batch)


def _generate(config: Config, recorder: Recorder) -> list[str]:
    """Have the first batches of synthetic data's steps sent; a title for each."""
    domain, generation = config.domain, config.generation
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    check_seed_counts(config, domain)
    shown, _ = split_seeds(seeds)
    shown = seed_subset(shown, domain.seed_count)
    stage = build_pipeline(config).rounds[0][0]
    keys = pool_keys(stage.values, stage.inputs)
    context = cast(StageContext, SimpleNamespace(stage=stage))
    size = generation.instructions.batch_size
    pools = {name: _FirstBatch(context, name, key, config.seed, size, lambda: recorder) for name, key in keys.items()}
    prompts = PromptRenderer(config.prompts)
    like = _stand_in(shown, plan_requests(domain, shown, pools["instructions"], 0)[0])
    recorder.replies = [like.instruction, like.input]
    draft = draft_from_row(write_instructions(pools["instructions"], 0, generation, domain, shown, prompts)[0])
    retrieval, found = config.retrieval, []
    if retrieval.name != "none":
        found = list(islice(split_into_passages(retrieval), retrieval.passages))
    answering = ResponseSettings(generation, domain, shown, prompts, lambda draft: found, config.model.context_length)
    write_responses(pools["responses"], 0, [(0, draft)], answering)
    wrote = f"what the model will have written is here of seed {like.id}"
    titles = ["Instruction-writing", f"Input-writing ({wrote})", f"Response ({wrote})"]
    closed = next((seed for seed in [like, *shown] if domain.tasks[seed.task_type].kind in CLOSED_KINDS), None)
    if generation.filters.self_consistency and closed:
        asked = Draft(closed.task_type, closed.instruction, closed.input, closed.options)
        sample_votes(pools["votes"], 0, [(0, asked)], answering)
        titles.append(f"Self-consistency (the same of seed {closed.id})")
    if generation.filters.judge:
        Judge(pools["judgements"], generation.judge, domain, shown, prompts).block(0, [(0, draft, like.output)])
        titles.append(f"Judge ({wrote})")
    return titles


def _stand_in(shown: Sequence[Seed], request: TaskRequest) -> Seed:
    """The first seed that is as the model was asked to write."""
    return next(s for s in shown if (s.task_type, s.options) == (request.task_type, request.options))


def _evaluate(config: Config, task: str | None, recorder: Recorder) -> list[str]:
    """Have the first questions of one task type asked at every number of shots; a title for each."""
    domain = config.domain
    shown, _ = split_seeds(read_seeds(Path(domain.seeds), domain.tasks))
    questions = read_questions(Path(domain.evaluation), domain.tasks)
    task = task or questions[0].task_type
    types = {question.task_type for question in questions}
    if task not in types:
        raise UserError(
            f"--task {task}: no question is of this type; {did_you_mean(task, types)}there are {', '.join(sorted(types))}."
        )
    titles = []
    sheets = build_batches(questions, shown, config.evaluation, config.seed)
    for shots in config.evaluation.shots:
        sheet = next(sheet for sheet in sheets if (sheet.task_type, sheet.shots) == (task, shots))
        (first, *_) = answer_batch(
            recorder, sheet, domain.role, config.model.context_length, PromptRenderer(config.prompts)
        )
        titles.append(f"Evaluation of {task}, {first['shots_shown']} shots, question {first['id']}")
    return titles


def load_preview_tokenizer(model: ModelConfig, cache: Path) -> tuple[Any, str]:
    """(tokenizer, whose it is): the model's where its files are at hand, else the toy's; nothing is downloaded."""
    from transformers import AutoTokenizer

    converted = sorted(cache.glob(f"{model.name}-{'[0-9a-f]' * 12}"))
    for place in (model.path, *converted, model.hub):
        try:
            if place and not model.toy:
                options = {"revision": model.revision} if place == model.hub else {}
                found = AutoTokenizer.from_pretrained(str(place), local_files_only=True, **options)
                return with_prompt_style(found, model), model.name
        except (OSError, ValueError):
            continue  # not there
    return build_toy(model)[1], f"the toy's tokenizer, since {model.name}'s is not on this machine"
