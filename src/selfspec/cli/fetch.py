"""`selfspec fetch KEY=VALUE...`: download or convert a model's weights before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch(
    overrides: Annotated[list[str], typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. model=falcon-40b.")],
) -> None:
    """Download or convert the weights of a model before a run."""
    from selfspec.cli.compose import compose_experiment
    from selfspec.models.weights import locate_weights
    from selfspec.runtime.progress import Progress

    config = compose_experiment(overrides)
    with Progress() as progress:
        folder = locate_weights(config.model, Path(config.paths.cache), progress)
    print(folder)
