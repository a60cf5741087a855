"""The first prompts of a run, recorded as the stages pass them to the engine; no prompt is built here.

A seed takes the place of text that the model would write, and the first passages of the corpus that of retrieved ones.
The seed is held out if one with the task type is, so that the few-shot examples are those of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from rich.console import Console

from selfspec.config.schema import Config, ModelConfig
from selfspec.data.reading import read_seeds
from selfspec.data.records import CLOSED_KINDS, Draft, Seed, TaskRequest
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.engines.protocol import Completion, PromptBatch
from selfspec.errors import UserError, did_you_mean, printable
from selfspec.evaluation.few_shot import answer_batch, read_batches
from selfspec.generation.instructions import plan_requests, write_instructions
from selfspec.generation.judgements import Judge
from selfspec.generation.pools import Pool, Row, pool_keys
from selfspec.generation.responses import FindPassages, ResponseSettings, write_responses
from selfspec.generation.votes import sample_votes
from selfspec.launch.preparation import check_seeds, print_notes, with_benchmark_files
from selfspec.models.toy import build_toy
from selfspec.models.weights import converted_folder
from selfspec.pipeline.build import build_pipeline
from selfspec.prompts.chat import bos_ids, chat_template_of, with_prompt_style
from selfspec.prompts.templates import PromptRenderer
from selfspec.retrieval.corpus import split_into_passages
from selfspec.retrieval.passage import Passage
from selfspec.runtime.stage import Stage

Result = TypeVar("Result")


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
    config = with_benchmark_files(config)
    print_notes([config])
    tokenizer, tokenizer_name = load_preview_tokenizer(config.model, Path(config.paths.cache))
    num_prompts = 0
    for title, prompt, num_tokens in collect_prompts(config, task, Recorder(tokenizer)):
        console.out(f"━━ {title}", style="bold", highlight=False)
        console.out(printable(prompt), highlight=False)  # `print` would wrap lines and replace :codes: by emoji
        console.out(f"━━ {num_tokens} tokens\n", style="bold", highlight=False)
        num_prompts += 1
    console.out(f"{num_prompts} prompts, tokenized with {tokenizer_name}.", highlight=False)


def collect_prompts(config: Config, task: str | None, recorder: Recorder) -> Iterator[tuple[str, str, int]]:
    """(title, prompt, number of tokens) of the first prompt of each step of a run.

    Args:
        config: The run's config, with the files of its public sets.
        task: Task type of the evaluation prompts; None: that of the first question.
        recorder: The engine that the steps call.

    Raises:
        UserError: no question has the type `task`, or a prompt is longer than the context.
    """
    pipeline = build_pipeline(config)
    titles = _record_generation(config, pipeline.rounds[0][0], recorder)
    titles += _record_evaluation(config, pipeline.scores["base"], task, recorder)
    for title, batch in zip(titles, recorder.batches, strict=True):
        yield title, "".join(recorder.render_prompt(batch)), recorder.count_prompt(batch)


def _record_generation(config: Config, stage: Stage, recorder: Recorder) -> list[str]:
    """Run the first batch of each generation step; returns a title for each."""
    domain, generation, prompts = config.domain, config.generation, PromptRenderer(config.prompts)
    check_seeds(config, domain)
    shown_seeds, held_out = split_seeds(read_seeds(Path(domain.seeds), domain.tasks))
    shown_seeds = seed_subset(shown_seeds, domain.seed_count)
    pools, seeds = _first_batch_pools(config, stage, recorder), [*held_out, *shown_seeds]
    seed = _matching_seed(seeds, plan_requests(domain, shown_seeds, pools["instructions"], 0)[0])
    source = f"with the text of seed {seed.id} in place of the model's"
    recorder.replies = [seed.instruction, seed.input]
    write = partial(write_instructions, pools["instructions"], 0, generation, domain, shown_seeds, prompts)
    _record(recorder, "Instructions", 2, write)
    settings = _settings_for(seed, config, shown_seeds)
    _record(recorder, "Response", 1, partial(write_responses, pools["responses"], 0, [_draft(seed)], settings))
    titles = ["Instruction-writing", f"Input-writing ({source})", f"Response ({source})"]
    closed = next((seed for seed in [seed, *seeds] if domain.tasks[seed.task_type].kind in CLOSED_KINDS), None)
    if generation.filters.self_consistency and closed:
        settings_of_votes = _settings_for(closed, config, shown_seeds)
        vote = partial(sample_votes, pools["votes"], 0, [_draft(closed)], settings_of_votes)
        _record(recorder, "Self-consistency", 1, vote)
        titles.append(f"Self-consistency (with the text of seed {closed.id})")
    if generation.filters.judge:
        judge = Judge(pools["judgements"], generation.judge, domain, settings.seeds, prompts)
        _record(recorder, "Judge", 1, partial(judge.block, 0, [(*_draft(seed), seed.output)]))
        titles.append(f"Judge ({source})")
    return titles


def _record(recorder: Recorder, step: str, num_batches: int, run: Callable[[], Result]) -> Result:
    """Run a step and keep its first batches."""
    end = len(recorder.batches) + num_batches
    result = run()
    if len(recorder.batches) < end:
        raise UserError(f"{step}: the prompt is longer than the model's context; lower the number of shots.")
    del recorder.batches[end:]
    return result


def _first_batch_pools(config: Config, stage: Stage, recorder: Recorder) -> dict[str, Pool]:
    """A pool for each generation step, under the keys of the run."""
    size = config.generation.instructions.batch_size
    keys = pool_keys(stage.values, stage.inputs)
    return {name: _FirstBatchPool(name, key, config.seed, size, lambda: recorder) for name, key in keys.items()}


def _matching_seed(seeds: Sequence[Seed], request: TaskRequest) -> Seed:
    """The first seed with the task type and options of the request."""
    return next(seed for seed in seeds if (seed.task_type, seed.options) == (request.task_type, request.options))


def _draft(seed: Seed) -> tuple[int, Draft]:
    """The task of a seed, at the first place of a block."""
    return 0, Draft(seed.task_type, seed.instruction, seed.input, seed.options)


def _settings_for(seed: Seed, config: Config, shown_seeds: Sequence[Seed]) -> ResponseSettings:
    """How the task of a seed is answered; the seed is not among its own few-shot examples."""
    seeds = [shown for shown in shown_seeds if shown != seed]  # all of them, if the seed is held out
    passages, prompts = _first_passages(config), PromptRenderer(config.prompts)
    return ResponseSettings(config.generation, config.domain, seeds, prompts, passages, config.model.context_length)


def _first_passages(config: Config) -> FindPassages:
    """A retriever that finds the first passages of the corpus for every task."""
    retrieval, passages = config.retrieval, list[Passage]()
    if retrieval.name != "none":
        passages = list(islice(split_into_passages(retrieval), retrieval.passages))
    return lambda task: passages


def _record_evaluation(config: Config, stage: Stage, task: str | None, recorder: Recorder) -> list[str]:
    """Record the first prompt of one task type with each number of shots; returns a title for each."""
    evaluation, files = config.evaluation, cast(dict[str, Any], stage.files)
    assert evaluation.domain is not None  # set by validation
    batches = read_batches(files["seeds"], files["questions"], files.get("shots", ()), evaluation, config.seed)
    task = task or batches[0].task_type
    types = {batch.task_type for batch in batches}
    if task not in types:
        raise UserError(
            f"--task {task}: no question has this type; {did_you_mean(task, types)}"
            f"types are {', '.join(sorted(types))}."
        )
    titles, prompts = list[str](), PromptRenderer(config.prompts)
    for shots in evaluation.shots:
        batch = next(batch for batch in batches if (batch.task_type, batch.shots) == (task, shots))
        answer = partial(answer_batch, recorder, batch, evaluation.domain.role, config.model.context_length, prompts)
        first = next(row for row in _record(recorder, f"Evaluation of {task}", 1, answer) if not row["too_long"])
        titles.append(f"Evaluation of {task}, {first['shots_shown']} shots, question {first['id']}")
    return titles


def load_preview_tokenizer(model: ModelConfig, cache: Path) -> tuple[Any, str]:
    """(tokenizer, description): the model's if its files are on this machine, else the toy's; nothing is downloaded."""
    from transformers import AutoTokenizer

    for source in (model.path, converted_folder(model, cache), model.hub):
        try:
            if source and not model.toy:
                options = {"revision": model.revision} if source == model.hub else {}
                tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True, **options)
                return with_prompt_style(tokenizer, model), f"the tokenizer of {model.name}"
        except (OSError, ValueError):
            continue  # not on this machine
    return build_toy(model)[1], f"the toy tokenizer, since that of {model.name} is not on this machine"
