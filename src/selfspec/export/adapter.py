"""Take a specialized model out of a finished run: its adapter, or merged into its base, beside a model card.

selfspec export outputs/<date>/<time>-... biomedicine-expert --merge
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.export.model_card import merge_comparison_text, render_card
from selfspec.models.nf4 import check_bitsandbytes
from selfspec.models.weights import check_weights
from selfspec.planning.devices import GB, this_machine, with_values
from selfspec.planning.stage_memory import memory_by_part
from selfspec.reporting.finished_run import FinishedRun, read_finished_run
from selfspec.runtime.files import explain_disk_errors, fsync_path, list_files, sync_folder
from selfspec.runtime.progress import Progress

if TYPE_CHECKING:
    from selfspec.export.merge import MergeComparison

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # PEFT's files


def export_run(folder: Path, out: Path, merged: bool, progress: Progress) -> None:
    """Write the adapter that the run in `folder` kept, or with `merged` a whole model, into the new folder `out`.

    Raises:
        UserError: no finished run, `out` is there, no room, or the merged weights do not do what base and adapter do.
    """
    if out.exists():
        raise UserError(f"{out} is there already; give a new folder, or remove that one.")
    run = read_finished_run(folder)
    progress.say(f"[bold]{run.report['title']}[/]  [dim]{run.adapter}[/]")
    with _atomic_folder(out) as draft:
        facts = _merge(run, draft, progress) if merged else None
        if not facts:
            for name in ADAPTER_FILES:
                shutil.copyfile(run.adapter / name, draft / name)
        (draft / "README.md").write_text(render_card(run, facts), encoding="utf-8")
        size = sum(path.stat().st_size for path in list_files(draft))
    progress.say(f"[bold]{out}[/]  {'merged weights' if merged else 'the adapter'} and model card, {size / 1e6:.1f} MB")


def _merge(run: FinishedRun, draft: Path, progress: Progress) -> MergeComparison:
    """The merged weights, and a line on how near they come."""
    model = run.config.model
    _check_merge_memory(run.config)
    check_weights(model)
    if model.quantization == "nf4":
        check_bitsandbytes()
    from selfspec.export.merge import merge_adapter

    facts = merge_adapter(run, draft, progress)
    progress.say(f"  {merge_comparison_text(facts)}")
    return facts


def _check_merge_memory(config: Config) -> None:
    """Merging holds the base whole, in 16 bits or more.

    Raises:
        UserError: this machine can't.
    """
    device = this_machine()
    needed = memory_by_part(with_values(config, {"model.quantization": "none"}), "scores", device)["weights"]
    if needed > device.memory_bytes and not config.model.toy:
        raise UserError(
            f"Merging holds all of {config.model.name}, {needed / GB:.1f} GB, and this machine has "
            f"{device.memory_bytes / GB:.1f} GB; merge on a larger one, or take the adapter, without --merge."
        )


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """A draft beside `out`, which becomes it by one rename, or goes; a killed process leaves `.OUT.draft` at most."""
    draft = out.with_name(f".{out.name}.draft")
    with explain_disk_errors(out, "give another folder, and the same command begins anew"):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            yield draft
            sync_folder(draft)
            draft.rename(out)
            fsync_path(out.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
