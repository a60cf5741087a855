"""Local processes of one stage, started by torchrun: `python -m selfspec.launch.torchrun PROCESSES SPEC`."""

from __future__ import annotations

import sys

from selfspec.runtime.distributed import terminate_with_parent


def start_local_processes(processes: str, spec: str) -> None:
    """Start `processes` workers on this machine for one stage, and wait for them."""
    terminate_with_parent()
    from torch.distributed import run

    run.main(["--standalone", f"--nproc-per-node={processes}", "-m", "selfspec.launch.worker", spec])


if __name__ == "__main__":
    start_local_processes(*sys.argv[1:])
