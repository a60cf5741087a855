"""Local processes of one stage, started by torchrun: `python -m selfspec.launch.torchrun PROCESSES SPEC`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from selfspec.runtime.distributed import terminate_with_parent

if TYPE_CHECKING:
    pass


def start_local_processes(processes: str, spec: str) -> None:
    """Start the processes of one machine, and wait for them."""
    terminate_with_parent()
    from torch.distributed import run

    run.main(["--standalone", f"--nproc-per-node={processes}", "-m", "selfspec.launch.worker", spec])


if __name__ == "__main__":
    start_local_processes(*sys.argv[1:])
