"""A process that has imported everything heavy once, and forks a real `run.py` for each line it reads.

The forked child is a process of its own: it can be killed, and it starts from `run.py` as a user's would. What it
saves is ten seconds of imports a run.
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


def child(order: dict[str, object]) -> int:
    """Run `run.py` with the order's arguments; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(str(order["cwd"]))
    os.environ.update(order["env"])  # type: ignore[arg-type]
    sys.path[:0] = order["env"].get("PYTHONPATH", "").split(os.pathsep)  # type: ignore[attr-defined]
    sys.argv = [str(RUN), *order["arguments"]]  # type: ignore[misc]
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
    """Read orders as JSON lines; answer `started PID`, then `ended CODE` (negative: killed by that signal)."""
    import peft
    import pytorch_lightning
    import torch
    import transformers.models.gemma3
    import wandb  # noqa: F401

    import selfspec.engines.transformers
    import selfspec.launch.experiment
    import selfspec.reporting.page
    import selfspec.stages.adapter
    import selfspec.tuning.module  # noqa: F401

    assert peft and pytorch_lightning and transformers
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(f"started {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
