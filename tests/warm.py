"""A process that imports the slow packages once, and forks for each request it reads a process that runs `run.py`.

The forked process runs `run.py` from its first line, like a user's, and can be killed. Forking saves ten seconds of
imports per run.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

RUN = Path(__file__).parent.parent / "run.py"


def run_request(request: dict[str, object]) -> int:
    """Run `run.py` with the request's arguments, and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    output = os.open(str(request["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(str(request["cwd"]))
    os.environ.update(request["env"])  # type: ignore[arg-type]
    sys.path[:0] = request["env"].get("PYTHONPATH", "").split(os.pathsep)  # type: ignore[attr-defined]
    sys.argv = [str(RUN), *request["arguments"]]  # type: ignore[misc]
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        runpy.run_path(str(RUN), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Read requests as JSON lines; print `started PID`, then `ended CODE` (negative: the signal that killed it)."""
    import pandas  # of W&B's tables
    import peft
    import pytorch_lightning
    import torch
    import transformers.models.gemma3
    import wandb.sdk.launch  # by wandb.init

    import selfspec.cli.app
    import selfspec.engines.transformers
    import selfspec.launch.experiment
    import selfspec.reporting.page
    import selfspec.stages.adapter
    import selfspec.tuning.module  # noqa: F401

    assert pandas and peft and pytorch_lightning and transformers and wandb
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = run_request(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(f"started {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
