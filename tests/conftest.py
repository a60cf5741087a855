"""Shared fixtures: the real command line, in a new interpreter (`cold`) or forked after the imports (`warm`)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

PROJECT = Path(__file__).parent.parent
os.environ["OMP_NUM_THREADS"] = "1"


@dataclass
class Ended:
    """The end of a run."""

    code: int  # exit code; negative: the signal that killed it
    text: str  # standard output and standard error

    def results(self, folder: Path) -> dict[str, Any]:
        """Return the only `results.json` below `folder`."""
        (path,) = folder.rglob("results.json")
        return dict(json.loads(path.read_text()))


def cold(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float | None = None
) -> Ended:
    """Run `python run.py ARGUMENTS` as a user starts it, for at most `timeout` seconds."""
    result = subprocess.run(
        [sys.executable, str(PROJECT / "run.py"), *arguments],
        cwd=cwd or PROJECT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    return Ended(result.returncode, result.stdout + result.stderr)


class Warm:
    """Runs `run.py` in forks of a process that has imported torch and the other slow packages (tests/warm.py)."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "tests" / "warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._read() == "ready"

    def __call__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        kill: Callable[[int], None] | None = None,
    ) -> Ended:
        """Run `run.py ARGUMENTS` to its end.

        Args:
            arguments: Of the command line.
            cwd: Working directory.
            env: Environment variables that are added.
            kill: Called with the run's process number, in a thread of its own.
        """
        request = {"arguments": arguments, "cwd": str(cwd or PROJECT), "env": env or {}, "output": str(self.log)}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        pid = int(self._read().removeprefix("started "))
        if kill:
            threading.Thread(target=kill, args=(pid,), daemon=True).start()
        code = int(self._read().removeprefix("ended "))
        return Ended(code, self.log.read_text(errors="replace"))

    def _read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if not line:
            pytest.fail("the forking process died")
        return line


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """The command line, forked from one process for all tests of a pytest worker."""
    command_line = Warm(tmp_path_factory.mktemp("warm") / "output.txt")
    yield command_line
    command_line.process.kill()


def signal_when(condition: Callable[[], object], pid: int, number: int, seconds: float = 300) -> None:
    """Send a signal to a process as soon as the condition holds; stop if the process ends first, or after a time.

    For `Warm(kill=...)`: a test whose process got no signal fails by its exit code.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and psutil.pid_exists(pid):
        if condition():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            return
        time.sleep(0.002)


def places(folder: Path, name: str = "run") -> list[str]:
    """Return overrides that put the store and the run's folder below `folder`."""
    return [f"paths.store={folder}/store", f"hydra.run.dir={folder}/{name}"]


@pytest.fixture(scope="session")
def smoke(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished smoke run in `run/` and its store in `store/`; one for all of pytest's workers."""
    with made_once("smoke", tmp_path_factory) as (folder, is_made):
        if not is_made:
            ended = warm("debug=smoke", *places(folder))
            assert ended.code == 0, ended.text
    return folder


@contextmanager
def made_once(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bool]]:
    """A folder that all of pytest's workers share, and whether one of them has filled it already."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        done = folder.with_suffix(".done")
        yield folder, done.exists()
        done.touch()


@pytest.fixture
def unused_port() -> str:
    """A port of this machine that no process uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
