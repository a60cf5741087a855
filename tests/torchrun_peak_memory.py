"""Run by torchrun: loads the base of a folder with a strategy; each process prints its peak memory.

torchrun --nproc-per-node 2 tests/torchrun_peak_memory.py FOLDER none|nf4 STRATEGY
"""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

from deepspeed_on_cpu import allow_deepspeed_on_cpu
from selfspec.config.schema import LoraConfig, PathsConfig, StrategyConfig
from selfspec.runtime.distributed import join_process_group
from selfspec.runtime.progress import Progress
from toys import model_config

STATUS = Path("/proc/self/status")


def anonymous_memory_bytes() -> int:
    """Anonymous memory of this process in bytes; mapped weight files do not count."""
    match = re.search(r"RssAnon:\s+(\d+) kB", STATUS.read_text())
    return int(match[1]) << 10 if match else 0


class Peak(threading.Thread):
    """Samples the memory of this process until `stopped` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.peak_bytes, self.stopped = anonymous_memory_bytes(), 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.002):
            self.peak_bytes = max(self.peak_bytes, anonymous_memory_bytes() - self.before)


def main() -> None:
    folder, quantization, strategy = sys.argv[1:]
    from selfspec.tuning.lora import add_adapter
    from selfspec.tuning.strategies.parallelism import Parallelism

    config = replace(model_config("llama-2-7b"), toy=False, path=folder, dtype="bfloat16", quantization=quantization)
    allow_deepspeed_on_cpu()
    with join_process_group() as group:
        parallelism, peak = Parallelism(StrategyConfig(strategy), group), Peak()
        peak.start()
        rank8 = LoraConfig(8, 16, 0.0, ("all-linear",))
        base, _ = parallelism.load_base(config, rank8, PathsConfig(folder, folder, folder), Progress())
        add_adapter(base, rank8, 0)
        parallelism.after_adapter_added()
        peak.stopped.set()
        peak.join()
        print(f"PEAK {group.rank} {peak.peak_bytes}", flush=True)


if __name__ == "__main__":
    main()
