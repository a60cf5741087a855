"""Sweeps on a real SLURM: submitted with their dependencies, killed in several ways, completed by a second call."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import wandb_file
from conftest import PROJECT, Ended, Warm, places
from selfspec.launch.slurm_queue import SlurmQueue
from selfspec.runtime.store import Store
from slurm_cluster import REQUEST, SCRIPT, SLURM, Cluster, wait_for
from strategy_cells import MATRIX, cell, overrides, same_steps
from strategy_cells import adapter as tuned
from toys import toy_experiment
from tuning_runs import tune

pytestmark = pytest.mark.slurm
QUICK = [
    *("debug=smoke", "logger=none", "evaluation.limit=1", "evaluation.shots=[0]"),
    *("baselines.seeds_only=false", "baselines.off_domain=false"),
]
LONG = ["tuning.epochs=150", "tuning.checkpoint_minutes=0.02"]  # 300 steps


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM that is started for these tests, on ports of its own."""
    if missing := [name for name in ("slurmctld", "slurmdbd", "munged", "mariadbd") if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)} not installed (see slurm/one-machine-cluster.sh)")
    if os.geteuid() != 0:
        pytest.skip("the one-machine cluster must be started by root")
    folder = tmp_path_factory.mktemp("cluster")
    for parent in folder.parents[:2]:  # the database runs as another user
        parent.chmod(0o755)
    env = {"CLUSTER": str(folder), "PORT": "17817", "CPUS": "1", "MEM": "2500"}
    subprocess.run([SCRIPT, "start"], env={**os.environ, **env}, check=True)
    printed = subprocess.run([SCRIPT, "env"], env={**os.environ, **env}, check=True, capture_output=True, text=True)
    yield Cluster(dict(pair.split("=", 1) for pair in printed.stdout.removeprefix("export ").split()))  # as users do
    subprocess.run([SCRIPT, "stop"], env={**os.environ, **env}, check=True)


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; the queue is emptied after the test."""
    yield cluster
    cluster("scancel", "--user=root")
    wait_for(lambda: not cluster("squeue", "-h"))


def run(warm: Warm, slurm: Cluster, folder: Path, *arguments: str, **options: Any) -> Ended:
    """Run a sweep or a run with `hydra/launcher=slurm`, with its store and its folders below `folder`."""
    folders = [*places(folder), f"hydra.sweep.dir={folder}/sweep"]
    return warm(*arguments[:1], *QUICK, *SLURM, *folders, *arguments[1:], env=slurm.env, **options)


def computed(folder: Path) -> Counter[str]:
    """The number of computed outputs by stage, from the logs of all jobs."""
    logs = [path.read_text(errors="replace") for path in folder.glob("*/slurm/*/*.out")]
    return Counter(
        line.split(" computed ")[1].split()[0] for log in logs for line in log.splitlines() if " computed " in line
    )


def answers(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (folder / "store/scores").glob("*/answers.jsonl")}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "store" / "adapter").glob("*/adapter_model.safetensors")
    return dict(load_file(path))


def keys(folder: Path, name: str) -> list[str]:
    record = json.loads((folder / "sweep" / "sweep.json").read_text())
    return [key for key, stage in record["stages"].items() if stage["name"] == name]


def test_a_sweep_gives_the_results_of_a_local_one(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    ended = run(warm, slurm, tmp_path, "-m", "lora=r8,r16")
    assert ended.code == 0, ended.text
    assert computed(tmp_path) == {"instructions": 1, "responses": 1, "examples": 1, "adapter": 2, "scores": 3}
    local = tmp_path / "local"
    ended = warm("-m", *QUICK, "lora=r8,r16", f"paths.store={local}/store", f"hydra.sweep.dir={local}/sweep")
    assert ended.code == 0 and answers(tmp_path) == answers(local)

    (code,) = (tmp_path / "sweep").glob("code-*")
    for log in (tmp_path / "sweep" / "slurm").glob("*/*.out"):  # jobs run the copy of the code
        assert f"from {code / 'selfspec'}" in log.read_text().splitlines()[0]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False).stdout
    assert (code / "commit.txt").read_text() == head.strip() and (code / "diff.patch").exists()
    for path in (tmp_path / "store").glob("adapter/*/manifest.json"):
        assert json.loads(path.read_text())["git"] == head.strip()

    jobs = len(slurm.history())
    again = run(warm, slurm, tmp_path, "-m", "lora=r8,r16")
    assert again.code == 0 and again.text.count("stored  ") == 6 and len(slurm.history()) == jobs


def test_a_run_that_does_not_wait_is_completed_by_the_same_command(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    left = run(warm, slurm, tmp_path, "hydra.launcher.wait=false")
    assert left.code == 0 and "left to SLURM" in left.text and not (tmp_path / "run" / "results.json").exists()
    submitted = len(slurm.history())
    ended = run(warm, slurm, tmp_path)
    assert ended.code == 0, ended.text
    assert (tmp_path / "run" / "results.json").exists()
    assert len(slurm.history()) == submitted  # it attached to the jobs
    assert computed(tmp_path) == {"instructions": 1, "responses": 1, "examples": 1, "adapter": 1, "scores": 2}


def test_an_interrupted_sweep_detaches_and_another_attaches(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    before = len(slurm.history())

    def interrupt(pid: int) -> None:
        wait_for(lambda: len(slurm.history()) == before + 6 and slurm.jobs("R"))  # all stages are submitted
        os.kill(pid, signal.SIGINT)

    stopped = run(warm, slurm, tmp_path, "-m", "lora=r8,r16", *LONG, kill=interrupt)
    assert stopped.code == 130 and "Detached" in stopped.text, stopped.text
    submitted = {job for job, _ in slurm.history()}
    other = tmp_path / "other"  # another sweep with one more rank shares the running stages
    arguments = ["lora=r8,r16,r32", f"paths.store={tmp_path}/store", f"hydra.sweep.dir={other}/sweep"]
    ended = run(warm, slurm, tmp_path, "-m", *LONG, *arguments)
    assert ended.code == 0, ended.text
    assert len({job for job, _ in slurm.history()} - submitted) == 2  # only its own adapter and scores
    assert computed(tmp_path) + computed(other) == {
        "instructions": 1, "responses": 1, "examples": 1, "adapter": 3, "scores": 4,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["usr2", "requeue", "preempted"])
def test_a_requeued_stage_resumes_at_the_next_step(warm: Warm, slurm: Cluster, tmp_path: Path, way: str) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert warm(*QUICK, *LONG, *places(undisturbed)).code == 0

    def disturb(pid: int) -> None:
        wait_for(lambda: list((tmp_path / "store/work").glob("*/checkpoint.pt")))
        job = next(iter(slurm.jobs("R")))
        if way == "usr2":
            slurm("scancel", "--signal=USR2", job)
        elif way == "requeue":
            slurm("scontrol", "requeue", job)
        else:
            every_node = ["--partition=high", "--nodes=4", "--exclusive", "--mem=2500M", "--output=/dev/null"]
            slurm("sbatch", *every_node, "--wrap=sleep 2")

    ended = run(warm, slurm, tmp_path, "-m", *LONG, "logger=wandb", kill=disturb)
    assert ended.code == 0, ended.text
    (key,) = keys(tmp_path, "adapter")
    states = slurm("sacct", "-X", "-n", "-D", "-o", "State", "-j", slurm.job_of(tmp_path / "sweep", key)).split()
    assert {"REQUEUED", "PREEMPTED"} & set(states), states
    for name, tensor in adapter(undisturbed).items():
        assert torch.equal(adapter(tmp_path)[name], tensor)
    (curve,) = (tmp_path / "store" / "adapter").glob("*/curve.json")
    assert [point["step"] for point in json.loads(curve.read_text())] == list(range(300))
    parts = [wandb_file.read(path) for path in sorted((tmp_path / "sweep").rglob("run-*.wandb"))]
    # SIGTERM is sent to all processes of the job, also to W&B's: its first file may be empty, the second has all steps.
    tuned = [part for part in parts if part.info and part.info.job_type == "tune"]
    assert {part.info.run_id for part in tuned} == set(keys(tmp_path, "adapter"))
    assert [point["tune/step"] for point in tuned[-1].history if "tune/step" in point] == list(range(300))


def test_two_requeues_without_new_work_are_a_failure(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    assert run(warm, slurm, tmp_path, "hydra.launcher.wait=false", "plan=true").code == 0
    assert warm(*QUICK, *places(tmp_path, "local")).code == 0
    (folder,) = (tmp_path / "store" / "adapter").iterdir()
    shutil.rmtree(folder)

    def disturb(pid: int) -> None:
        for starts in (1, 2):
            wait_for(lambda starts=starts: waiting() == starts)  # type: ignore[misc]
            slurm("scancel", "--signal=USR2", next(iter(slurm.jobs("R"))))

    def waiting() -> int:
        logs = (tmp_path / "run").glob("slurm/*/*.out")
        return sum(path.read_text().count("Another process holds") for path in logs)

    with Store(tmp_path / "store").claim(folder.name):  # so that the stage can only wait
        ended = run(warm, slurm, tmp_path, kill=disturb)
    assert ended.code == 1 and "stopped twice before one batch of work was done" in ended.text, ended.text


def test_two_nodes_under_srun_take_the_steps_of_one_process(slurm: Cluster, tmp_path: Path) -> None:
    """Each strategy, without a sweep: outside these tests, DeepSpeed's strategies are refused on CPUs."""
    chosen = [name for name in MATRIX if name[1:] == ("none", "llama-2-7b")]
    cells = [cell(tmp_path / name[0], overrides(name)) for name in chosen]
    for one_cell in cells:
        Path(one_cell["folder"]).mkdir()
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    request = [
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--mem=2000M",
        "--export=ALL,OMP_NUM_THREADS=1",
    ]
    slurm("srun", *request, sys.executable, str(PROJECT / "tests" / "torchrun_tuning.py"), str(tmp_path / "cells.json"))
    single = tune(toy_experiment(tmp_path / "single", *overrides(("auto", "none", "llama-2-7b"))))
    for name in chosen:
        assert not list((tmp_path / name[0]).glob("error-*.txt"))
        same_steps(tuned(tmp_path / name[0], overrides(name)), single)


def test_an_adapter_tuned_on_two_nodes_equals_that_of_one_process(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    single = tmp_path / "single"
    settings = ["tuning.learning_rate=1e-4", "strategy=fsdp"]
    assert warm(*QUICK, *settings, *places(single)).code == 0
    ended = run(warm, slurm, tmp_path, *settings, f"{REQUEST}.adapter.nodes=2")
    assert ended.code == 0, ended.text
    job = next(job for job, _ in slurm.history()[::-1] if slurm("sacct", "-X", "-n", "-o", "NNodes", "-j", job) == "2")
    assert job
    for name, tensor in adapter(single).items():
        torch.testing.assert_close(adapter(tmp_path)[name], tensor, rtol=0, atol=1e-4)

    def losses(folder: Path) -> list[float]:
        (path,) = (folder / "store" / "adapter").glob("*/curve.json")
        return [point["loss"] for point in json.loads(path.read_text())]

    assert losses(tmp_path) == pytest.approx(losses(single), abs=1e-4)


def test_a_sweep_does_not_attach_to_a_cancelled_job_that_still_runs(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    script = f"--wrap=trap '' TERM; until [ -e {tmp_path}/end ]; do sleep 0.1; done"
    job = slurm("sbatch", "--parsable", "--job-name=selfspec-stuck", "--array=0", "--output=/dev/null", script)
    wait_for(lambda: slurm.jobs("R"))
    assert SlurmQueue().arrays("selfspec-stuck")["selfspec-stuck"].active_tasks == [0]
    slurm("scancel", job)
    wait_for(lambda: slurm.jobs("CG"))
    assert not SlurmQueue().arrays("selfspec-stuck")
    (tmp_path / "end").touch()


def test_hydras_submitit_launcher_gives_the_same_results(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    folders = [f"paths.store={tmp_path}/store", f"hydra.sweep.dir={tmp_path}/sweep"]
    request = [f"hydra.launcher.{item}" for item in ("cpus_per_task=1", "mem_gb=2", "timeout_min=10")]
    ended = warm("-m", *QUICK, *folders, "hydra/launcher=submitit_slurm", *request, "lora=r8,r16", env=slurm.env)
    assert ended.code == 0, ended.text
    ours = warm("-m", *QUICK, *folders, "lora=r8,r16")
    assert ours.code == 0 and ours.text.count("stored  ") == 6, ours.text


def test_run_sbatch_runs_one_experiment_in_one_allocation(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    request = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=2000M", f"--output={tmp_path}/log.txt"]
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    script = str(PROJECT / "slurm" / "run.sbatch")
    large = ["model=falcon-40b", "strategy=fsdp", "quantization=nf4"]
    slurm(
        "env",
        f"--chdir={PROJECT}",
        path,
        "sbatch",
        "--wait",
        *request,
        script,
        *QUICK,
        *large,
        *places(tmp_path),
    )
    assert (tmp_path / "run" / "results.json").exists(), (tmp_path / "log.txt").read_text()
    steps = slurm("sacct", "-n", "-P", "-o", "JobID,NNodes,State").splitlines()[-4:]
    assert sum("|COMPLETED" in step for step in steps) == 4, steps
    assert [step.split("|")[1] for step in steps] == ["2"] * 4  # each stage ran on both nodes


def test_a_request_that_no_node_can_hold_is_refused_before_anything_is_submitted(
    warm: Warm, slurm: Cluster, tmp_path: Path
) -> None:
    for plan in (["plan=true"], []):
        ended = run(warm, slurm, tmp_path, *plan, "logger=none", f"{REQUEST}.adapter.cpus=64")
        text = " ".join(ended.text.split())
        assert ended.code == int(not plan) and "Traceback" not in text
        assert "64 CPUs per node are requested, and the nodes of partition main have at most 1" in text
        assert "change hydra.launcher.resources.adapter" in text
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_sbatch_refuses_is_reported_with_its_reason(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    ended = run(warm, slurm, tmp_path, "logger=none", "hydra.launcher.partition=nowhere")
    text = " ".join(ended.text.split())
    assert ended.code == 1 and "Traceback" not in text
    assert "invalid partition specified: nowhere" in text and "hydra.launcher.partition" in text


def test_processes_that_do_not_reach_each_other_fail_with_the_address(
    warm: Warm, slurm: Cluster, tmp_path: Path
) -> None:
    setup = "hydra.launcher.setup=['export MASTER_ADDR=192.0.2.1 SELFSPEC_CONNECT_SECONDS=5']"  # reserved, unreachable
    ended = run(warm, slurm, tmp_path, f"{REQUEST}.examples.nodes=2", setup)
    text = " ".join(ended.text.split())
    assert ended.code == 1 and "Traceback" not in text
    assert "of 2 could not connect to the others at 192.0.2.1:" in text and "set MASTER_ADDR" in text


GRID = ["-m", "domain=biomedicine,finance", "data_size=4,8,12", "lora=r8,r16,r32,r64"]


def test_a_sweep_of_24_jobs_completes_after_all_kinds_of_failures(warm: Warm, slurm: Cluster, tmp_path: Path) -> None:
    """One stage always fails; a scancel, a node set down, a preemption, a kill -9 of the launcher."""
    stages = planned(warm, slurm, tmp_path)
    adapters = [key for key, name in stages.items() if name == "adapter"]
    broken = tmp_path / "store" / "work" / adapters[-1]
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.touch()  # a file in place of the work folder: the stage always fails

    def disturb(pid: int) -> None:
        def wait_until_running(key: str) -> str:
            wait_for(lambda: slurm.job_of(tmp_path / "sweep", key) in slurm.jobs("R"), 300)
            return slurm.job_of(tmp_path / "sweep", key)

        slurm("scancel", wait_until_running(adapters[0]))
        slurm("scontrol", "requeue", wait_until_running(adapters[2]))
        node = slurm("squeue", "-h", "-j", wait_until_running(adapters[3]), "-o", "%N")
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        os.kill(pid, signal.SIGKILL)
        slurm.resume(node)
        preempting = ["--partition=high", "--nodes=4", "--exclusive", "--mem=2500M", "--output=/dev/null"]
        slurm("sbatch", *preempting, "--wrap=sleep 1")

    killed = run(warm, slurm, tmp_path, *GRID, kill=disturb)
    assert killed.code == -signal.SIGKILL, killed.text
    ended = run(warm, slurm, tmp_path, *GRID)  # attaches to running jobs, submits cancelled ones again
    assert ended.code == 1 and "Traceback" not in ended.text, ended.text
    report = json.loads((tmp_path / "sweep" / "stages.json").read_text())
    missing = {key: stage for key, stage in report.items() if stage["state"] in ("failed", "cancelled")}
    assert {stage["state"] for key, stage in missing.items() if key == adapters[-1]} == {"failed"}
    assert len(missing) == 2, missing  # the broken adapter, and its scores
    assert [state for job, state in slurm.history() if job == report[adapters[-1]]["job"]] == ["FAILED"]

    broken.unlink()
    again = run(warm, slurm, tmp_path, *GRID)
    assert again.code == 0, again.text
    assert again.text.count("stored  ") == len(stages) - 2
    assert computed(tmp_path) == {
        "instructions": 2, "responses": 2, "examples": 6, "adapter": 24, "scores": 24 + 2,
    }  # fmt: skip
    assert len(list((tmp_path / "sweep").glob("*/results.json"))) == 24


def planned(warm: Warm, slurm: Cluster, folder: Path) -> dict[str, str]:
    """Names of the stages of the grid by key, in the order of the plan."""
    plan = run(warm, slurm, folder, *GRID, "plan=true").text
    rows = [line.split() for line in plan.splitlines() if " to do " in line]
    return {row[-1]: row[1] for row in rows}
