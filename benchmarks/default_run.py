"""The default run with an empty store: the time of each stage, the time of a second call, and peak memory.

python benchmarks/default_run.py [OVERRIDE ...]     # e.g. data_size=100, or debug=smoke
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"paths.{name}={folder}/{name}" for name in ("store", "cache")] + [f"hydra.run.dir={folder}/run"]
        command = [sys.executable, str(PROJECT / "run.py"), *sys.argv[1:], *paths]
        for title in ("first call", "second call"):
            started = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"{title:<24} {time.monotonic() - started:8.1f} s")
            if title == "first call":
                for stage in json.loads(Path(folder, "run", "results.json").read_text())["stages"]:
                    print(f"  {stage['label']:<22} {stage['seconds']:8.1f} s  {stage['counts']}")
    print(f"{'peak memory':<24} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6:8.2f} GB")


if __name__ == "__main__":
    main()
