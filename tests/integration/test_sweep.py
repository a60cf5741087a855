"""Sweeps on this machine: distinct stages run once, a failure cancels only its dependents, a second call resumes."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.test_utils.test_utils import TSweepRunner
from hydra.version import VersionBase, setbase

from conftest import Warm, signal_when


@pytest.fixture(autouse=True)
def oldest_hydra_version() -> Iterator[None]:
    """Hydra's suites expect the behaviour of `version_base` 1.1; other tests set a newer one."""
    earlier = VersionBase.instance().version_base
    setbase("1.1")
    yield
    VersionBase.instance().version_base = earlier


QUICK = ["-m", "debug=smoke", "logger=none", "evaluation.limit=1", "evaluation.shots=[0]", "tuning.epochs=1"]
QUICK += ["baselines.off_domain=false"]


@pytest.mark.parametrize(("launcher_name", "overrides"), [("local_schema", []), ("slurm_schema", [])])
class TestLocalLauncher(LauncherTestSuite):
    """Hydra's own suite: task functions other than ours are only run."""


@pytest.mark.parametrize(
    ("launcher_name", "overrides"),
    [("local_schema", ["hydra.sweeper.max_batch_size=2"])],
)
class TestLocalLauncherInBatches(BatchedSweeperTestSuite):
    """Hydra's own suite for sweepers that launch several batches."""


@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", "hydra/launcher=local_schema"])])
class TestLocalLauncherAsAProgram(IntegrationTestSuite):
    """Hydra's own suite that starts programs."""


def sweep(warm: Warm, folder: Path, *arguments: str) -> tuple[Any, dict[str, Any]]:
    """Run a sweep, and return how it ended and its `sweep.json`."""
    ended = warm(*QUICK, *arguments, f"paths.store={folder}/store", f"hydra.sweep.dir={folder}/sweep")
    return ended, json.loads((folder / "sweep" / "sweep.json").read_text())


def manifests(folder: Path) -> dict[str, int]:
    """The modification time of each finished output's manifest, by the output's folder."""
    return {str(path.parent): path.stat().st_mtime_ns for path in (folder / "store").glob("*/*/manifest.json")}


def test_a_sweep_runs_each_distinct_stage_once(warm: Warm, tmp_path: Path) -> None:
    ended, record = sweep(warm, tmp_path, "domain=biomedicine,finance", "data_size=4,6", "lora=r8,r16")
    assert ended.code == 0, ended.text
    assert len(record["jobs"]) == 8
    outputs = manifests(tmp_path)
    count = {
        name: sum(f"/{name}/" in path for path in outputs) for name in ("instructions", "examples", "adapter", "scores")
    }
    # Two pools of one block, with two sizes each; an adapter per job, and a seeds-only one per domain and rank.
    assert count == {"instructions": 2, "examples": 4, "adapter": 8 + 4, "scores": 2 + 8 + 4}
    assert len(record["stages"]) == 4 + 12 + 14
    for job in record["jobs"]:
        assert (Path(job["folder"]) / "results.json").exists()
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "8 of 8 jobs done" in page
    assert "token F1, mean over task types" in ended.text and "choose by" in ended.text, ended.text[-4000:]
    assert len((tmp_path / "sweep" / "report.csv").read_text().splitlines()) > 8

    again, _ = sweep(warm, tmp_path, "domain=biomedicine,finance", "data_size=4,6", "lora=r8,r16")
    assert again.code == 0 and manifests(tmp_path) == outputs
    assert again.text.count("stored  ") == 30


def test_a_failed_stage_cancels_only_what_depends_on_it(warm: Warm, tmp_path: Path) -> None:
    ended, record = sweep(warm, tmp_path, "baselines.seeds_only=false", "tuning.max_length=1,1024")
    assert ended.code == 1 and "Traceback" not in ended.text
    adapters = [line for line in ended.text.splitlines() if " adapter (specialized) " in line]
    assert {line.split()[-2] for line in adapters} >= {"tuning.max_length=1", "tuning.max_length=1024"}, ended.text
    failed, finished = (Path(job["folder"]) for job in record["jobs"])
    assert "tuning.max_length=1" in json.loads((failed / "error.json").read_text())["what"]
    assert (finished / "results.json").exists()
    assert "1 of 2 jobs done, 1 failed" in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.slow
def test_stages_in_separate_processes_give_the_same_results(warm: Warm, tmp_path: Path) -> None:
    ended, record = sweep(warm, tmp_path, "lora=r8,r16", "baselines.seeds_only=false", "hydra.launcher.processes=2")
    assert ended.code == 0, ended.text
    logs = list((tmp_path / "sweep" / "stages").glob("*/log.txt"))
    assert len(logs) == len(record["stages"]) == 1 + 2 + 3
    here, _ = sweep(warm, tmp_path / "here", "lora=r8,r16", "baselines.seeds_only=false")
    assert here.code == 0

    def answers(folder: Path) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in (folder / "store" / "scores").glob("*/answers.jsonl")}

    assert answers(tmp_path) == answers(tmp_path / "here")


def test_a_stopped_sweep_resumes_with_the_same_command(warm: Warm, tmp_path: Path) -> None:
    overrides = ["lora=r8,r16", "baselines.seeds_only=false", "data_size=70"]
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]

    def stop(pid: int) -> None:
        work = tmp_path / "store" / "work"
        signal_when(lambda: any(work.glob("**/batch-*.jsonl")), pid, signal.SIGTERM)

    ended = warm(*QUICK, *overrides, *places, kill=stop)
    assert ended.code == 128 + signal.SIGTERM and "the same command continues from it" in ended.text, ended.text
    assert (tmp_path / "sweep" / "sweep.json").exists() and (tmp_path / "sweep" / "report.html").exists()
    again, _ = sweep(warm, tmp_path, *overrides)
    assert again.code == 0, again.text


GRID = ["domain=biomedicine,finance", "data_size=4,8,12", "lora=r8,r16,r32,r64", "baselines.seeds_only=false"]


@pytest.mark.slow
def test_a_sweep_of_24_jobs_completes_after_a_failure_and_a_kill(warm: Warm, tmp_path: Path) -> None:
    """One stage always fails, and the sweep is killed once; tests/slurm/test_slurm.py does the same on a cluster."""
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    plan = warm(*QUICK, *GRID, *places, "plan=true").text
    keys = [line.split()[-1] for line in plan.splitlines() if " to do " in line]
    last_adapter = [line.split()[-1] for line in plan.splitlines() if " adapter " in line][-1]
    broken = tmp_path / "store" / "work" / last_adapter
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.touch()  # a file in place of the work folder: the stage always fails

    def kill(pid: int) -> None:
        signal_when(lambda: len(manifests(tmp_path)) >= 20, pid, signal.SIGKILL)

    assert warm(*QUICK, *GRID, *places, kill=kill).code == -signal.SIGKILL
    ended, record = sweep(warm, tmp_path, *GRID)
    assert ended.code == 1 and len(record["jobs"]) == 24 and len(record["stages"]) == len(keys) == 56, ended.text
    assert len(list((tmp_path / "sweep").glob("*/results.json"))) == 23
    broken.unlink()
    again, _ = sweep(warm, tmp_path, *GRID)
    assert again.code == 0 and again.text.count("stored  ") == 54, again.text
    log = (tmp_path / "sweep" / "sweep.log").read_text()
    computed = Counter(line.split(":computed ")[1].split()[0] for line in log.splitlines() if ":computed " in line)
    expected = Counter({"instructions": 2, "responses": 2, "examples": 6, "adapter": 24, "scores": 26})
    assert not computed - expected  # nothing twice
    assert (expected - computed).total() <= 1  # the kill may come between an output and its line in the log


def test_hydras_own_launcher_gives_the_same_results(warm: Warm, tmp_path: Path) -> None:
    overrides = ["lora=r8,r16", "baselines.seeds_only=false"]
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/basic"]
    assert warm(*QUICK, *overrides, *places, "hydra/launcher=basic").code == 0
    outputs = manifests(tmp_path)
    ended, record = sweep(warm, tmp_path, *overrides)
    assert ended.code == 0 and manifests(tmp_path) == outputs
    assert ended.text.count("stored  ") == len(record["stages"])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_of_plugins_give_the_same_results(warm: Warm, tmp_path: Path, launcher: str) -> None:
    overrides = ["lora=r8,r16", "baselines.seeds_only=false"]
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=10"]
    places = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/other"]
    ended = warm(*QUICK, *overrides, *places, f"hydra/launcher={launcher}", *more)
    assert ended.code == 0, ended.text
    assert len(list((tmp_path / "other").glob("*/results.json"))) == 2
    outputs = manifests(tmp_path)
    ours, record = sweep(warm, tmp_path, *overrides)
    assert ours.code == 0 and manifests(tmp_path) == outputs and ours.text.count("stored  ") == len(record["stages"])


def test_hydra_finds_its_launchers_and_ours(hydra_sweep_runner: TSweepRunner) -> None:
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    names = {plugin.__name__ for plugin in Plugins.instance().discover(Launcher)}
    assert {"BasicLauncher", "LocalLauncher"} <= names
