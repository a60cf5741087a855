"""The console command `selfspec` in this process, or in a new one."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from selfspec.cli.app import main


def selfspec(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `selfspec ARGUMENTS` in this process, which has the imports already."""
    command, out, err = ["selfspec", *map(str, arguments)], io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def selfspec_process(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m selfspec ARGUMENTS` in a new process."""
    command = [sys.executable, "-m", "selfspec", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
