"""The first prompts of a run, recorded as the stages pass them to the engine; no prompt is built here.

A seed takes the place of text that the model would write, and the first passages of the corpus that of retrieved ones.
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
from selfspec.generation.responses import FindPassages, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.launch.preparation import check_seed_counts
from selfspec.models.toy import build_toy
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.chat import bos_ids, chat_template_of, with_prompt_style
from selfspec.prompts.templates import PromptRenderer
from selfspec.retrieval.corpus import split_into_passages
from selfspec.retrieval.passage import Passage
from selfspec.runtime.context import StageContext


@dataclass
class Recorder:
    """An engine that records its batches; it completes one batch with each of `replies`, later ones with nothing."""

    tokenizer: Any
    replies: list[str] = field(default_factory=list)
    batches: list[PromptBatch] = field(default_factory=list)

    def complete(self, batch: PromptBatch) -> list[Completion]:
        """The next reply for every item; all options are equally probable."""
        self.batches.append(batch)
        reply = self.replies.pop(0) if self.replies else ""
        options = batch.options or [()] * len(batch.items)
        return [Completion(reply, 0, True, (0.0,) * len(item_options)) for item_options in options]

    def count(self, text: str) -> int:
        """Number of tokens of a text, as the engine counts them."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def count_prompt(self, batch: PromptBatch) -> int:
        """Number of tokens of the first prompt: the BOS token, prefix and item, tokenized separately."""
        return len(bos_ids(self.tokenizer)) + sum(map(self.count, self.render_prompt(batch)))

    def render_prompt(self, batch: PromptBatch) -> tuple[str, str]:
        """(prefix, first item) with the chat template around them."""
        template = chat_template_of(self.tokenizer)
        prefix = template.prefix(batch.prefix, batch.continues_response)
        return prefix, template.item(batch.items[0], batch.continues_response)


class _FirstBatchPool(Pool):
    """A pool that computes only the first batch of a block, and stores nothing."""

    def block(
        self,
        number: int,
        groups: Mapping[str, Sequence[Row]],
        complete: Callable[[str, Sequence[Row]], list[dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        task_type, rows = next(iter(groups.items()))
        return complete(task_type, rows[: self.batch_size])


def print_preview(config: Config, task: str | None, console: Console) -> None:
    """Print each prompt with its title and number of tokens."""
    tokenizer, tokenizer_name = load_preview_tokenizer(config.model, Path(config.paths.cache))
    num_prompts = 0
    for title, prompt, num_tokens in collect_prompts(config, task, Recorder(tokenizer)):
        console.out(f"━━ {title}", style="bold", highlight=False)
        console.out(prompt, highlight=False)  # `print` would wrap lines and replace :codes: by emoji
        console.out(f"━━ {num_tokens} tokens\n", style="bold", highlight=False)
        num_prompts += 1
    console.out(f"{num_prompts} prompts, tokenized with {tokenizer_name}.", highlight=False)


def collect_prompts(config: Config, task: str | None, recorder: Recorder) -> Iterator[tuple[str, str, int]]:
    """(title, prompt, number of tokens) of the first prompt of each step of a run.

    Args:
        config: The run's config.
        task: Task type of the evaluation prompts; None: that of the first question.
        recorder: The engine that the steps call.

    Raises:
        UserError: no question has the type `task`.
    """
    titles = [*_record_generation(config, recorder), *_record_evaluation(config, task, recorder)]
    for title, batch in zip(titles, recorder.batches, strict=True):
        yield title, "".join(recorder.render_prompt(batch)), recorder.count_prompt(batch)


def _record_generation(config: Config, recorder: Recorder) -> list[str]:
    """Run the first batch of each generation step; returns a title for each."""
    domain, generation = config.domain, config.generation
    seeds = read_seeds(Path(domain.seeds), domain.tasks)
    check_seed_counts(config, domain)
    shown_seeds, _ = split_seeds(seeds)
    shown_seeds = seed_subset(shown_seeds, domain.seed_count)
    pools = _first_batch_pools(config, recorder)
    prompts = PromptRenderer(config.prompts)
    seed = _matching_seed(shown_seeds, plan_requests(domain, shown_seeds, pools["instructions"], 0)[0])
    recorder.replies = [seed.instruction, seed.input]
    draft = draft_from_row(write_instructions(pools["instructions"], 0, generation, domain, shown_seeds, prompts)[0])
    settings = ResponseSettings(
        generation, domain, shown_seeds, prompts, _first_passages(config), config.model.context_length
    )
    write_responses(pools["responses"], 0, [(0, draft)], settings)
    source = f"with the text of seed {seed.id} in place of the model's"
    titles = ["Instruction-writing", f"Input-writing ({source})", f"Response ({source})"]
    closed = next((seed for seed in [seed, *shown_seeds] if domain.tasks[seed.task_type].kind in CLOSED_KINDS), None)
    if generation.filters.self_consistency and closed:
        closed_draft = Draft(closed.task_type, closed.instruction, closed.input, closed.options)
        sample_votes(pools["votes"], 0, [(0, closed_draft)], settings)
        titles.append(f"Self-consistency (with the text of seed {closed.id})")
    if generation.filters.judge:
        judge = Judge(pools["judgements"], generation.judge, domain, shown_seeds, prompts)
        judge.block(0, [(0, draft, seed.output)])
        titles.append(f"Judge ({source})")
    return titles


def _first_batch_pools(config: Config, recorder: Recorder) -> dict[str, Pool]:
    """A pool for each generation step, under the keys of the run."""
    stage = build_pipeline(config).rounds[0][0]
    context = cast(StageContext, SimpleNamespace(stage=stage))
    size = config.generation.instructions.batch_size
    keys = pool_keys(stage.values, stage.inputs)
    return {
        name: _FirstBatchPool(context, name, key, config.seed, size, lambda: recorder) for name, key in keys.items()
    }


def _matching_seed(shown_seeds: Sequence[Seed], request: TaskRequest) -> Seed:
    """The first seed with the task type and options of the request."""
    return next(seed for seed in shown_seeds if (seed.task_type, seed.options) == (request.task_type, request.options))


def _first_passages(config: Config) -> FindPassages:
    """A retriever that finds the first passages of the corpus for every task."""
    retrieval, passages = config.retrieval, list[Passage]()
    if retrieval.name != "none":
        passages = list(islice(split_into_passages(retrieval), retrieval.passages))
    return lambda task: passages


def _record_evaluation(config: Config, task: str | None, recorder: Recorder) -> list[str]:
    """Record the first prompt of one task type with each number of shots; returns a title for each."""
    domain = config.domain
    shown_seeds, _ = split_seeds(read_seeds(Path(domain.seeds), domain.tasks))
    questions = read_questions(Path(domain.evaluation), domain.tasks)
    task = task or questions[0].task_type
    types = {question.task_type for question in questions}
    if task not in types:
        raise UserError(
            f"--task {task}: no question has this type; {did_you_mean(task, types)}"
            f"types are {', '.join(sorted(types))}."
        )
    titles = []
    prompts = PromptRenderer(config.prompts)
    batches = build_batches(questions, shown_seeds, config.evaluation, config.seed)
    for shots in config.evaluation.shots:
        batch = next(batch for batch in batches if (batch.task_type, batch.shots) == (task, shots))
        (first, *_) = answer_batch(recorder, batch, domain.role, config.model.context_length, prompts)
        titles.append(f"Evaluation of {task}, {first['shots_shown']} shots, question {first['id']}")
    return titles


def load_preview_tokenizer(model: ModelConfig, cache: Path) -> tuple[Any, str]:
    """(tokenizer, description): the model's if its files are on this machine, else the toy's; nothing is downloaded."""
    from transformers import AutoTokenizer

    converted = sorted(cache.glob(f"{model.name}-{'[0-9a-f]' * 12}"))
    for source in (model.path, *converted, model.hub):
        try:
            if source and not model.toy:
                options = {"revision": model.revision} if source == model.hub else {}
                tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True, **options)
                return with_prompt_style(tokenizer, model), f"the tokenizer of {model.name}"
        except (OSError, ValueError):
            continue  # not on this machine
    return build_toy(model)[1], f"the toy tokenizer, since that of {model.name} is not on this machine"
