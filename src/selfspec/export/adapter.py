"""Export the specialized model of a finished run: its adapter or merged weights, with a model card.

selfspec export outputs/<date>/<time>-... biomedicine-expert --merge
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from selfspec.config.schema import Config
from selfspec.errors import UserError, explain_disk_errors
from selfspec.export.model_card import merge_comparison_text, render_card
from selfspec.models.nf4 import check_bitsandbytes
from selfspec.models.weights import check_weights
from selfspec.planning.devices import GB, this_machine, with_values
from selfspec.planning.stage_memory import memory_by_part
from selfspec.reporting.finished_run import FinishedRun, read_finished_run
from selfspec.runtime.files import atomic_folder, list_files
from selfspec.runtime.progress import Progress

if TYPE_CHECKING:
    from selfspec.export.merge import MergeComparison

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # as PEFT names them


def export_run(folder: Path, out: Path, merged: bool, progress: Progress) -> None:
    """Write the specialized model of a run and its model card to a new folder.

    Args:
        folder: Folder of the finished run.
        out: The folder to create; it appears complete or not at all.
        merged: Write the adapter merged into the base model instead of the adapter alone.
        progress: Display of what is done.

    Raises:
        UserError: there is no finished run in `folder`, `out` exists, disk or memory do not suffice, or the merged
            weights differ from base and adapter.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give a new folder, or remove that one.")
    run = read_finished_run(folder)
    progress.say(f"[bold]{escape(run.report['title'])}[/]  [dim]{escape(str(run.adapter))}[/]")
    with _export_folder(out) as draft:
        comparison = _merge(run, draft, progress) if merged else None
        if not comparison:
            for name in ADAPTER_FILES:
                shutil.copyfile(run.adapter / name, draft / name)
        (draft / "README.md").write_text(render_card(run, comparison), encoding="utf-8")
        num_bytes = sum(path.stat().st_size for path in list_files(draft))
    content = "merged weights" if merged else "the adapter"
    progress.say(f"[bold]{escape(str(out))}[/]  {content} and model card, {num_bytes / 1e6:.1f} MB")


def _merge(run: FinishedRun, draft: Path, progress: Progress) -> MergeComparison:
    """Write merged weights into `draft`, and compare them with base and adapter."""
    model = run.config.model
    _check_merge_memory(run.config)
    check_weights(model)
    if model.quantization == "nf4":
        check_bitsandbytes()
    from selfspec.export.merge import merge_adapter

    comparison = merge_adapter(run, draft, progress)
    progress.say(f"  {merge_comparison_text(comparison)}")
    return comparison


def _check_merge_memory(config: Config) -> None:
    """Check that the base model fits into memory unquantized.

    Raises:
        UserError: it does not.
    """
    device = this_machine()
    needed = memory_by_part(with_values(config, {"model.quantization": "none"}), "scores", device)["weights"]
    if needed > device.memory_bytes and not config.model.toy:
        raise UserError(
            f"Merging loads all of {config.model.name}, {needed / GB:.1f} GB, and this machine has "
            f"{device.memory_bytes / GB:.1f} GB; merge on a larger machine, or export the adapter, without --merge."
        )


@contextmanager
def _export_folder(out: Path) -> Iterator[Path]:
    """A new folder that is renamed to `out` at the end, or removed on an error; a kill leaves `.OUT.draft` at most."""
    draft = out.with_name(f".{out.name}.draft")
    with explain_disk_errors(out, "give another folder, and run the command again"):
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed: weights take much space
        with atomic_folder(out, draft):
            yield draft
