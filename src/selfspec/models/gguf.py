"""A GGUF file as bf16 safetensors with its tokenizer, in a process of its own: gigabytes that it would keep go with it.

python -m selfspec.models.gguf model.gguf OUTPUT_FOLDER     (prints a line before each part)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from selfspec.errors import UserError
from selfspec.runtime.progress import Step

PARTS = ("reading", "saving", "tokenizer")


def convert_gguf(gguf: Path, output: Path, step: Step) -> None:
    """Convert, advancing `step` by one a part."""
    command = [sys.executable, "-m", "selfspec.models.gguf", str(gguf), str(output)]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            last = line.strip() or last
            if last in PARTS:
                step.advance(1, last)
    if process.returncode:
        raise UserError(f"{gguf} can't be converted ({last}); is it whole?")


def convert_in_this_process(gguf: Path, output: Path) -> None:
    """The conversion itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(PARTS[0], flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # transformers leaves the GGUF quantizer attached, though the weights are plain by now.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    print(PARTS[1], flush=True)
    model.save_pretrained(output)
    print(PARTS[2], flush=True)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(output)


if __name__ == "__main__":
    convert_in_this_process(Path(sys.argv[1]), Path(sys.argv[2]))
