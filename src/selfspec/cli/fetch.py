"""`selfspec fetch model=...`: download or convert weights before a run."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from selfspec.config.composition import freeze, register_schema
from selfspec.config.error_messages import error_message
from selfspec.config.resolvers import register_resolvers
from selfspec.models.weights import locate_weights
from selfspec.runtime.progress import Progress

CONF = Path(__file__).parents[3] / "conf"


def fetch_weights(overrides: list[str]) -> Path:
    """The folder of the weights that these overrides of the config choose."""
    register_schema()
    register_resolvers(CONF.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [*overrides, "paths.output=."])
    chosen = freeze(composed)
    with Progress() as progress:
        return locate_weights(chosen.model, Path(chosen.paths.cache), progress)


if __name__ == "__main__":
    try:
        print(fetch_weights(sys.argv[1:]))
    except Exception as error:
        sys.exit(error_message(error, [CONF]))
