"""Take a specialized model out of a finished run: its adapter, or merged into its base, beside a model card.

python -m selfspec.tuning.export outputs/<date>/<time>-... biomedicine-expert --merge
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selfspec import door
from selfspec.config import Config
from selfspec.errors import UserError
from selfspec.experiment import surroundings
from selfspec.models import nf4, weights
from selfspec.planning import devices
from selfspec.planning.needs import needs
from selfspec.reporting import card, finished
from selfspec.reporting.progress import Progress
from selfspec.store import files_in, seal, sync, writing

if TYPE_CHECKING:
    from selfspec.tuning.merge import Merged

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")  # PEFT's files


def export(folder: Path, out: Path, merged: bool, progress: Progress) -> None:
    """Write the adapter that the run in `folder` kept, or with `merged` a whole model, into the new folder `out`.

    Raises:
        UserError: no finished run, `out` is there, no room, or the merged weights do not do what base and adapter do.
    """
    if out.exists():
        raise UserError(f"{out} is there already; give a new folder, or remove that one.")
    run = finished.read(folder)
    progress.say(f"[bold]{run.report['title']}[/]  [dim]{run.adapter}[/]")
    with _whole(out) as draft:
        facts = _merge(run, draft, progress) if merged else None
        if not facts:
            for name in ADAPTER:
                shutil.copyfile(run.adapter / name, draft / name)
        (draft / "README.md").write_text(card.render(run, facts), encoding="utf-8")
        size = sum(path.stat().st_size for path in files_in(draft))
    progress.say(f"[bold]{out}[/]  {'merged weights' if merged else 'the adapter'} and model card, {size / 1e6:.1f} MB")


def main() -> None:
    """Exit 1, with one sentence, when nothing could be exported."""
    arguments = _parser().parse_args()
    surroundings()
    logging.basicConfig(level=logging.ERROR)  # libraries warn of kernels that nothing here needs
    try:
        with Progress() as progress:
            export(arguments.run.absolute(), arguments.out.absolute(), arguments.merge, progress)
    except Exception as error:
        sys.exit(door.explain(error, []))


def _parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m selfspec.tuning.export", description=about)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help=f"of a finished run: {finished.WHERE}")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--merge", action="store_true", help="into the base: weights that plain transformers loads")
    return parser


def _merge(run: finished.Finished, draft: Path, progress: Progress) -> Merged:
    """The merged weights, and a line on how near they come."""
    model = run.config.model
    _check_room(run.config)
    weights.check(model)
    if model.quantization == "nf4":
        nf4.check()
    from selfspec.tuning import merge

    facts = merge.merge(run, draft, progress)
    progress.say(f"  {card.compared(facts)}")
    return facts


def _check_room(config: Config) -> None:
    """Merging holds the base whole, in 16 bits or more.

    Raises:
        UserError: this machine can't.
    """
    device = devices.here()
    needed = needs(devices.changed(config, {"model.quantization": "none"}), "scores", device)["weights"]
    if needed > device.size and not config.model.toy:
        raise UserError(
            f"Merging holds all of {config.model.name}, {needed / devices.GB:.1f} GB, and this machine has "
            f"{device.size / devices.GB:.1f} GB; merge on a larger one, or take the adapter, without --merge."
        )


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A draft beside `out`, which becomes it by one rename, or goes; a killed process leaves `.OUT.draft` at most."""
    draft = out.with_name(f".{out.name}.draft")
    with writing(out, "give another folder, and the same command begins anew"):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            yield draft
            seal(draft)
            draft.rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


if __name__ == "__main__":
    main()
