"""The stage `adapter`: tune the base on examples, or (a baseline) on the shown seeds alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec.config.schema import DomainConfig, LoraConfig, ModelConfig, PromptsConfig, StrategyConfig, TuningConfig
from selfspec.data.reading import read_examples, read_seeds
from selfspec.data.records import Example, Seed
from selfspec.data.splits import seed_subset, split_seeds
from selfspec.errors import UserError
from selfspec.prompts.chat import chat_template_of
from selfspec.prompts.templates import PromptRenderer, prompts_hash
from selfspec.runtime.context import StageContext
from selfspec.runtime.stage import stage
from selfspec.tuning.objectives import build_objective

if TYPE_CHECKING:
    from selfspec.tuning.batches import EncodedExample
    from selfspec.tuning.module import SpecializationModule, TuningData
    from selfspec.tuning.objectives import TuningObjective
    from selfspec.tuning.strategies.parallelism import Parallelism

# With activation checkpointing, allocations of this size are mapped and returned at once.
CHECKPOINTING_MMAP_BYTES = 8 << 20
BLANK_TASK = Seed("", "", "{instruction}", "{input}", "", options=("{options}",))  # shows the template


@stage(
    version=6,
    sections=("domain", "model", "prompts", "lora", "objective", "tuning", "trainer", "strategy", "seed"),
    inputs=("seeds", "examples", "previous"),
    distributed=True,
)
def adapter(
    context: StageContext,
    seeds: Path,
    examples: Path | None = None,
    previous: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    prompts: PromptsConfig,
    lora: LoraConfig,
    objective: dict[str, Any],
    tuning: TuningConfig,
    trainer: dict[str, Any],
    strategy: StrategyConfig,
    seed: int,
) -> dict[str, Any]:
    """Write a PEFT adapter folder, with the prompt template that it was tuned with and its curve.

    Args:
        context: Folders, display and process group of the stage.
        seeds: File of the seeds; the held-out ones are measured, never trained on.
        examples: Output of the stage that made examples; None: tune on the shown seeds.
        previous: Adapter of the previous round; the one with the lower loss on held-out seeds is kept, the new one
            if the previous one has no loss.
        domain: Role, tasks and number of shown seeds.
        model: The base.
        prompts: Templates.
        lora: The adapter.
        objective: The group `objective`.
        tuning: Learning rate, epochs and the like.
        trainer: Options of Lightning's Trainer.
        strategy: How tuning is distributed over processes.
        seed: Of the initial weights and of the order of examples.

    Returns:
        Counts for the manifest.

    Raises:
        UserError: No example is short enough, or tuning left the adapter unchanged.
    """
    from selfspec.tuning.batches import encode_rows
    from selfspec.tuning.strategies.parallelism import Parallelism

    shown_seeds, held_out = split_seeds(read_seeds(seeds, domain.tasks))
    shown_seeds = seed_subset(shown_seeds, domain.seed_count)
    rows: list[Seed | Example] = [*(read_examples(examples / "examples.jsonl") if examples else shown_seeds)]
    renderer = PromptRenderer(prompts)
    parallelism, loss = Parallelism(strategy, context.stop.process_group), build_objective(objective)
    base, tokenizer = parallelism.load_base(model, lora, context.config.paths, context.progress)

    def encode(texts: Sequence[Seed | Example]) -> list[EncodedExample]:
        encoded = encode_rows(texts, domain.role, tokenizer, renderer)
        return [row for row in encoded if len(row) <= tuning.max_length]

    data = _plan_data(encode(rows), encode(held_out), loss, tuning, seed, context.stop.process_group.world_size)
    curve, held_out_loss = tune_adapter(
        context, base, parallelism, data, loss, lora=lora, tuning=tuning, trainer_options=trainer, seed=seed
    )
    _write_prompt(context.output, domain, tokenizer, renderer)
    (context.output / "curve.json").write_text(json.dumps(curve, indent=1))
    rounds = keep_round(context.output, held_out_loss, previous)
    num_rows = len(data.examples)
    num_tokens = sum(len(row) for row in data.examples) * (curve[-1]["epoch"] + 1)
    counts = {"rows": num_rows, "too_long": len(rows) - num_rows, "steps": len(curve), "tokens": num_tokens}
    return {**counts, "round_kept": rounds["kept"]} if previous else counts


def _plan_data(
    examples: Sequence[EncodedExample],
    held_out: Sequence[EncodedExample],
    objective: TuningObjective,
    tuning: TuningConfig,
    seed: int,
    world_size: int,
) -> TuningData:
    """The examples with the plan of all optimizer steps."""
    from selfspec.tuning.batches import plan_steps
    from selfspec.tuning.module import TuningData

    if not examples:
        raise UserError(f"No example has at most tuning.max_length={tuning.max_length} tokens; raise it.")
    lengths = [(len(example), objective.num_target_tokens(example)) for example in examples]
    return TuningData(examples, plan_steps(lengths, tuning, seed, world_size), held_out)


def _write_prompt(output: Path, domain: DomainConfig, tokenizer: Any, renderer: PromptRenderer) -> None:
    """Write the template of the adapter's prompts, with {instruction}, {input} and {options} in place of a task's."""
    chat = chat_template_of(tokenizer)
    template = chat.prefix(renderer.prefix(domain.role, ())) + chat.item(renderer.task(BLANK_TASK))
    prompt = {"hash": prompts_hash(renderer.templates), "template": template}
    (output / "prompt.json").write_text(json.dumps(prompt, indent=1))


def keep_round(output: Path, loss: float | None, previous: Path | None) -> dict[str, Any]:
    """Keep the new adapter, or copy the previous round's if the loss on held-out seeds did not fall.

    If no held-out seed has at most `tuning.max_length` tokens, there are no losses, and the new adapter is kept.
    The curve is always the new round's; `rounds.json` has each round's loss, in nats per token.
    """
    rounds: dict[str, Any] = json.loads((previous / "rounds.json").read_text()) if previous else {"losses": []}
    before = rounds["losses"][rounds["kept"] - 1] if previous else None
    rounds["losses"].append(loss)
    is_better = before is None or (loss is not None and loss < before)
    if previous and not is_better:
        for path in previous.glob("adapter_*"):
            shutil.copyfile(path, output / path.name)
    else:
        rounds["kept"] = len(rounds["losses"])
    (output / "rounds.json").write_text(json.dumps(rounds, indent=1))
    return rounds


def tune_adapter(
    context: StageContext,
    base: Any,
    parallelism: Parallelism,
    data: TuningData,
    objective: TuningObjective,
    *,
    lora: LoraConfig,
    tuning: TuningConfig,
    trainer_options: dict[str, Any],
    seed: int,
) -> tuple[list[dict[str, Any]], float | None]:
    """Train, save the adapter into the output, and restore the base; returns the curve and the kept adapter's loss."""
    from selfspec.loggers.build import curve_logger
    from selfspec.loggers.logged_run import flat_config
    from selfspec.runtime.machine import mmap_large_blocks
    from selfspec.tuning.checkpoints import parameters_hash
    from selfspec.tuning.lora import check_adapter_changed, initial_weights, new_adapter, save_adapter
    from selfspec.tuning.module import SpecializationModule
    from selfspec.tuning.packing import segmented_attention

    with (
        new_adapter(base, lora, seed) as model,
        mmap_large_blocks(CHECKPOINTING_MMAP_BYTES) if tuning.activation_checkpointing else nullcontext(),
        segmented_attention(base) as mask,
        context.progress.step(context.stage.label, len(data.steps), "step") as display,
        curve_logger(context) as logger,
    ):
        parallelism.after_adapter_added()
        initial, initial_hash = initial_weights(model, lora), parameters_hash(model)
        module = SpecializationModule(
            model=model.train(),
            data=data,
            objective=objective,
            config=tuning,
            mask=mask,
            parallelism=parallelism,
            work=context.work,
            display=display,
            stop=context.stop,
            hyperparameters=flat_config(context.stage.config),
        )
        remaining = module.remaining_steps()
        display.advance(len(data.steps) - len(remaining))
        settings = {**parallelism.trainer_settings(tuning), "default_root_dir": context.work}
        _fit(context, module, remaining, logger, trainer_options, settings)
        loss = module.restore_best()
        check_adapter_changed(model, initial_hash, tuning.learning_rate)
        save_adapter(model, context.config.model, context.output, initial)
    return module.curve, loss


def _fit(
    context: StageContext,
    module: SpecializationModule,
    steps: Sequence[int],
    logger: Any,
    trainer_options: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Train on the steps of these numbers with Lightning's Trainer; only the first process logs."""
    from pytorch_lightning.loggers.logger import DummyLogger

    from selfspec.tuning.trainer_settings import build_trainer, fit

    # Callbacks that log refuse a Trainer without a logger, so the other processes get one that logs nothing.
    settings = {**settings, "logger": logger if context.stop.process_group.is_first else DummyLogger()}
    fit(build_trainer(trainer_options, context.config.callbacks, settings), module, steps)
