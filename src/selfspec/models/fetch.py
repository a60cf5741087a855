"""Weights ahead of a run, for nodes without a network: into the hub's cache, or converted into `paths.cache`.

python -m selfspec.models.fetch model=falcon-40b
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from selfspec import config, resolvers
from selfspec.door import explain
from selfspec.models import weights
from selfspec.reporting.progress import Progress

CONF = Path(__file__).parents[3] / "conf"


def fetch(overrides: list[str]) -> Path:
    """The folder of the weights that these overrides of the config choose."""
    config.register()
    resolvers.register(CONF.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [*overrides, "paths.output=."])
    chosen = config.freeze(composed)
    with Progress() as progress:
        return weights.locate(chosen.model, Path(chosen.paths.cache), progress)


if __name__ == "__main__":
    try:
        print(fetch(sys.argv[1:]))
    except Exception as error:
        sys.exit(explain(error, [CONF]))
