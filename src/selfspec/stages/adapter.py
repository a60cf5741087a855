"""The stage `adapter`: tune the base on examples, or (a baseline) on the shown seeds alone."""

from __future__ import annotations

import json
import shutil
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
    from selfspec.tuning.module import TuningData
    from selfspec.tuning.objectives import TuningObjective
    from selfspec.tuning.strategies.parallelism import Parallelism

MMAP_BLOCK_BYTES = 8 << 20  # with activation checkpointing, allocations of this size are mapped and returned at once
BLANK_TASK = Seed("", "", "{instruction}", "{input}", "", options=("{options}",))  # shows the template


@stage(
    version=5,
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
        seeds: File of the seeds; the held-out ones are measured, never learnt.
        examples: Output of the stage that made examples; None: tune on the shown seeds.
        previous: Adapter of the previous round; the one with the lower loss on held-out seeds is kept.
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
        UserError: No example is short enough.
    """
    from selfspec.tuning.batches import encode_rows, plan_steps
    from selfspec.tuning.module import TuningData
    from selfspec.tuning.strategies.parallelism import Parallelism

    shown, held_out = split_seeds(read_seeds(seeds, domain.tasks))
    shown = seed_subset(shown, domain.seed_count)
    rows: list[Seed | Example] = [*(read_examples(examples / "examples.jsonl") if examples else shown)]
    renderer = PromptRenderer(prompts)
    process_group = context.stop.process_group
    parallelism, loss = Parallelism(strategy, process_group), build_objective(objective)
    base, tokenizer = parallelism.load_base(model, lora, context.config.paths, context.progress)
    encoded = [row for row in encode_rows(rows, domain.role, tokenizer, renderer) if len(row) <= tuning.max_length]
    if not encoded:
        raise UserError(f"No example has at most tuning.max_length={tuning.max_length} tokens; raise it.")
    lengths = [(len(row), loss.num_target_tokens(row)) for row in encoded]
    steps = plan_steps(lengths, tuning, seed, process_group.world_size)
    measured = [row for row in encode_rows(held_out, domain.role, tokenizer, renderer) if len(row) <= tuning.max_length]
    data = TuningData(encoded, steps, measured)
    curve, held_out_loss = tune_adapter(
        context, base, parallelism, data, loss, lora=lora, tuning=tuning, trainer_options=trainer, seed=seed
    )
    _write_prompt(context.output, domain, tokenizer, renderer)
    (context.output / "curve.json").write_text(json.dumps(curve, indent=1))
    rounds = _keep_round(context.output, held_out_loss, previous)
    tokens = sum(len(row) for row in encoded) * (curve[-1]["epoch"] + 1)
    counts = {"rows": len(encoded), "too_long": len(rows) - len(encoded), "steps": len(curve), "tokens": tokens}
    return {**counts, "round_kept": rounds["kept"]} if previous else counts


def _write_prompt(output: Path, domain: DomainConfig, tokenizer: Any, renderer: PromptRenderer) -> None:
    """Write the template of the adapter's prompts, with {instruction}, {input} and {options} in place of a task's."""
    chat = chat_template_of(tokenizer)
    template = chat.prefix(renderer.prefix(domain.role, ())) + chat.item(renderer.task(BLANK_TASK))
    prompt = {"hash": prompts_hash(renderer.templates), "template": template}
    (output / "prompt.json").write_text(json.dumps(prompt, indent=1))


def _keep_round(output: Path, loss: float | None, previous: Path | None) -> dict[str, Any]:
    """Keep the new adapter, or copy the previous round's if the loss on held-out seeds did not fall.

    The curve is always the new round's; `rounds.json` has each round's loss, in nats per token.
    """
    rounds: dict[str, Any] = json.loads((previous / "rounds.json").read_text()) if previous else {"losses": []}
    before = rounds["losses"][rounds["kept"] - 1] if previous else None
    rounds["losses"].append(loss)
    if previous and not (loss is not None and before is not None and loss < before):
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
    from pytorch_lightning.loggers.logger import DummyLogger

    from selfspec.runtime.machine import mmap_large_blocks
    from selfspec.tuning.logged_run import flat_config
    from selfspec.tuning.loggers import curve_logger
    from selfspec.tuning.lora import initial_weights, new_adapter, save_adapter
    from selfspec.tuning.module import SpecializationModule
    from selfspec.tuning.packing import segmented_attention
    from selfspec.tuning.trainer_settings import build_trainer, fit

    with (
        new_adapter(base, lora, seed) as model,
        mmap_large_blocks(MMAP_BLOCK_BYTES) if tuning.activation_checkpointing else nullcontext(),
        segmented_attention(base) as mask,
        context.progress.step(context.stage.label, len(data.steps), "step") as display,
        curve_logger(context) as first_logger,
    ):
        parallelism.after_adapter_added()
        initial = initial_weights(model, lora)
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
        # Callbacks that log refuse a Trainer without a logger, and only the first process has one.
        logger = first_logger if parallelism.process_group.is_first else DummyLogger()
        settings = {**parallelism.trainer_settings(tuning), "logger": logger, "default_root_dir": context.work}
        trainer = build_trainer(trainer_options, context.config.callbacks, settings)
        fit(trainer, module, remaining)
        loss = module.restore_best()
        save_adapter(model, context.config.model, context.output, initial)
    return module.curve, loss
