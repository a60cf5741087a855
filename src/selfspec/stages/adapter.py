"""The stage `adapter`: tune the base on examples, or (a baseline) on the shown seeds alone."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfspec import prompts
from selfspec.config import DomainConfig, LoraConfig, ModelConfig, StrategyConfig, TuningConfig
from selfspec.errors import UserError
from selfspec.records import Example, Seed, fewer, read_examples, read_seeds, split
from selfspec.stage import Job

if TYPE_CHECKING:
    from selfspec.tuning.module import Data
    from selfspec.tuning.strategies import Placement

BLOCK = 8 << 20  # bytes from which a block is mapped, and goes at once, where layers are computed again


def adapter(
    job: Job,
    seeds: Path,
    examples: Path | None = None,
    previous: Path | None = None,
    *,
    domain: DomainConfig,
    model: ModelConfig,
    lora: LoraConfig,
    tuning: TuningConfig,
    strategy: StrategyConfig,
    seed: int,
) -> dict[str, Any]:
    """A PEFT adapter folder, with the prompt template that it was tuned under and its curve.

    With the adapter of the `previous` round, the one with the lower loss on the held-out seeds is kept.
    """
    from selfspec.tuning import batches
    from selfspec.tuning.module import Data
    from selfspec.tuning.strategies import Placement

    shown, held_out = split(read_seeds(seeds, domain.tasks))
    shown = fewer(shown, domain.seed_count)
    rows: list[Seed | Example] = [*(read_examples(examples / "examples.jsonl") if examples else shown)]
    placement = Placement(strategy, job.stop.ranks)
    base, tokenizer = placement.base(model, lora, job.config.paths, job.progress)
    encoded = [row for row in batches.encode(rows, domain.role, tokenizer) if len(row) <= tuning.max_length]
    if not encoded:
        raise UserError(f"No example has at most tuning.max_length={tuning.max_length} tokens; raise it.")
    lengths = [(len(row), len(row.response)) for row in encoded]
    steps = batches.plan(lengths, tuning, seed, job.stop.ranks.world)
    watched = [row for row in batches.encode(held_out, domain.role, tokenizer) if len(row) <= tuning.max_length]
    data = Data(encoded, steps, watched)
    curve, loss = _tune(job, base, placement, data, lora, tuning, seed)
    turns = prompts.turns(tokenizer)
    template = turns.prefix(prompts.prefix(domain.role, ())) + turns.item(_blank_item())
    kept = {"hash": prompts.template_hash(), "template": template}
    (job.output / "prompt.json").write_text(json.dumps(kept, indent=1))
    (job.output / "curve.json").write_text(json.dumps(curve, indent=1))
    rounds = _keep_round(job.output, loss, previous)
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
    job: Job, base: Any, placement: Placement, data: Data, lora: LoraConfig, tuning: TuningConfig, seed: int
) -> tuple[list[dict[str, Any]], float | None]:
    """Train, save the adapter into the output, and leave the base as it was; the curve, and the kept loss."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from selfspec.models import load, machine
    from selfspec.reporting import tracking
    from selfspec.tuning import lora as adapters
    from selfspec.tuning.module import Specialization
    from selfspec.tuning.packing import segmented

    model = adapters.wrap(base, lora, seed)
    placement.adapted()
    try:
        with (
            machine.mapped(BLOCK) if tuning.activation_checkpointing else nullcontext(),
            segmented(base) as mask,
            job.progress.step(job.stage.label, len(data.steps), "step") as display,
            tracking.curves(job) as logger,
        ):
            module = Specialization(model.train(), data, tuning, mask, placement, job.work, display, job.stop)
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
                default_root_dir=job.work,
            )
            if remaining:
                steps: Any = list(remaining)
                trainer.fit(module, DataLoader(steps, batch_size=None))
            loss = module.finish()
            adapters.save(model, job.config.model, job.output)
    finally:
        model.unload()
        base.to(load.device()).eval()  # Lightning leaves what it trained on the processor
    return module.curve, loss


def _blank_item() -> str:
    return prompts.item(Seed("", "", "{instruction}", "{input}", "", options=("{options}",)))
