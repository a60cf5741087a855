"""What a stage is: its definition (a function that declares what it takes) and one node of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfspec.config.hashing import Files
from selfspec.config.schema import Config

Function = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class StageDefinition:
    """A stage function with its declaration. Only what is declared enters the key of its output.

    Args:
        function: Makes the output: `function(context, **inputs, **sections)`; returns counts for the manifest.
        name: Name of the function, of its module and of its folder in the store.
        version: Raised whenever what the stage makes changes.
        sections: Config sections that it takes.
        inputs: Outputs of other stages, or files, that it takes; some may be absent in a pipeline.
        distributed: Whether several processes, a device each, may share one output.
        resources: Whose resource request and memory estimate it uses: examples, adapter, scores or index.
        identity: What enters the key in place of the sections, for a stage that depends on less (or on more).
    """

    function: Function
    name: str
    version: int
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    distributed: bool
    resources: str
    identity: Callable[[Config], Mapping[str, Any]] | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """Run the stage function."""
        return self.function(*arguments, **keywords)


def stage(
    version: int,
    sections: tuple[str, ...],
    inputs: tuple[str, ...] = (),
    distributed: bool = False,
    resources: str | None = None,
    identity: Callable[[Config], Mapping[str, Any]] | None = None,
) -> Callable[[Function], StageDefinition]:
    """Declare a stage function (arguments as in `StageDefinition`)."""

    def declare(function: Function) -> StageDefinition:
        name = function.__name__
        return StageDefinition(function, name, version, sections, inputs, distributed, resources or name, identity)

    return declare


@dataclass(frozen=True)
class Stage:
    """A stage of one pipeline: the definition with its config and inputs."""

    definition: StageDefinition
    label: str  # for people: "adapter (seeds only)"
    key: str
    config: Config  # that its sections are taken from: a baseline's differs from the experiment's
    values: Mapping[str, Any]  # what of the config enters the key
    inputs: Mapping[str, str]  # input -> key of its stage, or hash of its files
    parents: tuple[Stage, ...]
    files: Mapping[str, Files]  # inputs that are files of the user

    @property
    def name(self) -> str:
        """Name of the stage function."""
        return self.definition.name

    def sections(self) -> dict[str, Any]:
        """The config sections that the stage function takes."""
        return {name: getattr(self.config, name) for name in self.definition.sections}
