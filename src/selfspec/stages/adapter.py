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

if TYPE_CHECKING:
    from selfspec.tuning.module import TuningData
    from selfspec.tuning.strategies.placement import Placement

MMAP_BLOCK_BYTES = 8 << 20  # bytes from which a block is mapped, and goes at once, where layers are computed again
BLANK_TASK = Seed("", "", "{instruction}", "{input}", "", options=("{options}",))  # shows the template


@stage(
    version=5,
    sections=("domain", "model", "prompts", "lora", "tuning", "strategy", "seed"),
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
    tuning: TuningConfig,
    strategy: StrategyConfig,
    seed: int,
) -> dict[str, Any]:
    """A PEFT adapter folder, with the prompt template that it was tuned under and its curve.

    With the adapter of the `previous` round, the one with the lower loss on the held-out seeds is kept.
    """
    from selfspec.tuning.batches import encode_rows, plan_steps
    from selfspec.tuning.module import TuningData
    from selfspec.tuning.strategies.placement import Placement

    shown, held_out = split_seeds(read_seeds(seeds, domain.tasks))
    shown = seed_subset(shown, domain.seed_count)
    rows: list[Seed | Example] = [*(read_examples(examples / "examples.jsonl") if examples else shown)]
    renderer = PromptRenderer(prompts)
    placement = Placement(strategy, context.stop.process_group)
    base, tokenizer = placement.base(model, lora, context.config.paths, context.progress)
    encoded = [row for row in encode_rows(rows, domain.role, tokenizer, renderer) if len(row) <= tuning.max_length]
    if not encoded:
        raise UserError(f"No example has at most tuning.max_length={tuning.max_length} tokens; raise it.")
    lengths = [(len(row), len(row.response)) for row in encoded]
    steps = plan_steps(lengths, tuning, seed, context.stop.process_group.world_size)
    watched = [row for row in encode_rows(held_out, domain.role, tokenizer, renderer) if len(row) <= tuning.max_length]
    data = TuningData(encoded, steps, watched)
    curve, loss = _tune(context, base, placement, data, lora, tuning, seed)
    turns = chat_template_of(tokenizer)
    template = turns.prefix(renderer.prefix(domain.role, ())) + turns.item(renderer.task(BLANK_TASK))
    kept = {"hash": prompts_hash(prompts), "template": template}
    (context.output / "prompt.json").write_text(json.dumps(kept, indent=1))
    (context.output / "curve.json").write_text(json.dumps(curve, indent=1))
    rounds = _keep_round(context.output, loss, previous)
    tokens = sum(len(row) for row in encoded) * (curve[-1]["epoch"] + 1)
    counts = {"rows": len(encoded), "too_long": len(rows) - len(encoded), "steps": len(curve), "tokens": tokens}
    return {**counts, "round_kept": rounds["kept"]} if previous else counts


def _keep_round(output: Path, loss: float | None, previous: Path | None) -> dict[str, Any]:
    """Which round's adapter this is: the newest, or the one kept before when the loss on held-out seeds did not fall.

    The curve stays the newest round's; `rounds.json` has each round's loss, in nats a token.
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


def _tune(
    context: StageContext,
    base: Any,
    placement: Placement,
    data: TuningData,
    lora: LoraConfig,
    tuning: TuningConfig,
    seed: int,
) -> tuple[list[dict[str, Any]], float | None]:
    """Train, save the adapter into the output, and leave the base as it was; the curve, and the kept loss."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from selfspec.models.load import default_device
    from selfspec.runtime.machine import mmap_large_blocks
    from selfspec.tuning.loggers import curve_logger
    from selfspec.tuning.lora import add_adapter, save_adapter
    from selfspec.tuning.module import SpecializationModule
    from selfspec.tuning.packing import segmented_attention

    model = add_adapter(base, lora, seed)
    placement.adapted()
    try:
        with (
            mmap_large_blocks(MMAP_BLOCK_BYTES) if tuning.activation_checkpointing else nullcontext(),
            segmented_attention(base) as mask,
            context.progress.step(context.stage.label, len(data.steps), "step") as display,
            curve_logger(context) as logger,
        ):
            module = SpecializationModule(
                model.train(), data, tuning, mask, placement, context.work, display, context.stop
            )
            remaining = module.remaining()
            display.advance(len(data.steps) - len(remaining))
            trainer = pl.Trainer(
                max_epochs=1,
                accelerator="auto",
                **placement.trainer(tuning),
                logger=logger,
                log_every_n_steps=1,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=context.work,
            )
            if remaining:
                steps: Any = list(remaining)
                trainer.fit(module, DataLoader(steps, batch_size=None))
            loss = module.finish()
            save_adapter(model, context.config.model, context.output)
    finally:
        model.unload()
        base.to(default_device()).eval()  # Lightning leaves what it trained on the processor
    return module.curve, loss
