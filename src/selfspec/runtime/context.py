"""What a stage function gets beside its config sections and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfspec.config.hashing import hash_files
from selfspec.config.schema import Config
from selfspec.errors import UserError
from selfspec.runtime.progress import Progress
from selfspec.runtime.signals import StopFlag
from selfspec.runtime.stage import Stage
from selfspec.runtime.store import Store


@dataclass(frozen=True)
class StageContext:
    """Folders, display and stop flag of a stage function. Nothing here can change its result."""

    stage: Stage
    store: Store
    work: Path  # scratch that survives a kill
    output: Path  # becomes the finished output
    config: Config  # for paths and the logger; a result depends on the declared sections alone
    progress: Progress
    stop: StopFlag

    def inputs(self) -> dict[str, Path | tuple[Path, ...]]:
        """The path of each input, by name."""
        parents = {parent.key: self.store.output_folder(parent.name, parent.key) for parent in self.stage.parents}
        for name, files in self.stage.files.items():
            if hash_files(files) != self.stage.inputs[name]:
                paths = files if isinstance(files, Path) else " or ".join(map(str, files))
                raise UserError(f"{paths} changed during the run; start it again, and what is stored is kept.")
        return {
            name: self.stage.files[name] if name in self.stage.files else parents[key]
            for name, key in self.stage.inputs.items()
        }
