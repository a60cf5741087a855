"""Convert a GGUF file to bf16 safetensors with a tokenizer.

The conversion runs in a process of its own, so that the gigabytes it allocates are freed afterwards.

python -m selfspec.models.gguf model.gguf OUTPUT_FOLDER     # prints the name of each phase as it starts
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from selfspec.errors import UserError
from selfspec.runtime.progress import Step

PHASES = ("reading", "saving", "tokenizer")


def convert_gguf(gguf: Path, output: Path, step: Step) -> None:
    """Convert a file in a new process; `step` advances by one for each phase.

    Raises:
        UserError: the conversion failed.
    """
    command = [sys.executable, "-m", "selfspec.models.gguf", str(gguf), str(output)]
    last_line = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            last_line = line.strip() or last_line
            if last_line in PHASES:
                step.advance(1, last_line)
    if process.returncode:
        raise UserError(f"{gguf} can't be converted ({last_line}); check that the file is complete.")


def convert_in_this_process(gguf: Path, output: Path) -> None:
    """Convert a file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(PHASES[0], flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # transformers leaves the GGUF quantizer attached, though the weights are no longer quantized.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    print(PHASES[1], flush=True)
    model.save_pretrained(output)
    print(PHASES[2], flush=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(output)


if __name__ == "__main__":
    convert_in_this_process(Path(sys.argv[1]), Path(sys.argv[2]))
