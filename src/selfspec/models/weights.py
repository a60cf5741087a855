"""Where a model's weights are, and what identifies them. Formats: safetensors and GGUF, never pickle.

Sources, in this order: `model.path`; the Python package that contains them; the Hugging Face hub, its cache first.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rich.markup import escape

from selfspec.config.schema import ModelConfig
from selfspec.errors import UserError, explain_disk_errors
from selfspec.models.gguf import PHASES, convert_gguf
from selfspec.runtime.file_version import FileVersion, file_version
from selfspec.runtime.files import atomic_folder
from selfspec.runtime.leases import hold_lease
from selfspec.runtime.progress import Progress

SAMPLE_BYTES, NUM_SAMPLES = 1 << 16, 64  # of a weight file, that its fingerprint is computed from
HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]


def weights_identity(model: ModelConfig) -> str:
    """What identifies the weights in keys; their path is no part of it; of local weight files only samples are read."""
    if model.toy:
        from selfspec.models.toy import toy_hash

        return f"toy:{toy_hash()}"
    if model.path:
        return f"files:{_fingerprint(Path(model.path))}"
    if model.package and _is_installed(model.package):
        return f"{model.package}=={importlib.metadata.version(model.package)}"
    return f"{model.hub}@{model.revision}"


def is_from_hub(model: ModelConfig) -> bool:
    """Whether the weights come from the hub: no local folder and no installed package has them."""
    return bool(model.hub) and not (model.toy or model.path or (model.package and _is_installed(model.package)))


def check_weights(model: ModelConfig) -> None:
    """Check, before any work, that the weights are on this machine or can be downloaded.

    Raises:
        UserError: they are not, and what to do.
    """
    if model.toy or (model.package and not model.path and _is_installed(model.package)):
        return
    if model.path:
        _weight_files(Path(model.path))
    else:
        _hub_snapshot(model, download=False)


def locate_weights(model: ModelConfig, cache: Path, progress: Progress) -> Path:
    """The folder of safetensors, tokenizer and config; a GGUF file is converted once into `cache`."""
    if model.path:
        folder = Path(model.path)
        ggufs = [path for path in _weight_files(folder) if path.suffix == ".gguf"]
        return _converted_folder(model, cache, lambda _: ggufs[0], progress) if ggufs else folder
    if model.package and _is_installed(model.package):
        return _converted_folder(model, cache, lambda draft: _packaged_gguf(str(model.package), draft), progress)
    progress.say(f"  {escape(str(model.hub))} is read from the hub's cache, or downloaded into it")
    return _hub_snapshot(model, download=True)


def converted_folder(model: ModelConfig, cache: Path) -> Path:
    """The folder under `cache` of safetensors and tokenizer that a GGUF file is converted into."""
    return cache / f"{model.name}-{hashlib.sha256(weights_identity(model).encode()).hexdigest()[:12]}"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))
    if not files:
        raise UserError(
            f"model.path={folder} contains no *.safetensors and no *.gguf file; give the folder of a model's weights."
        )
    return files


def _fingerprint(folder: Path) -> str:
    """A hash of sizes, headers and evenly spaced samples of the weight files, and of tokenizer and config whole."""
    others = sorted(path for pattern in ("*.json", "*.model", "*.txt") for path in folder.glob(pattern))
    return _hash_samples(tuple(map(file_version, _weight_files(folder))), tuple(map(file_version, others)))


@lru_cache(maxsize=32)  # the jobs of a sweep share few models, and a tokenizer alone can have tens of megabytes
def _hash_samples(weight_files: tuple[FileVersion, ...], others: tuple[FileVersion, ...]) -> str:
    digest = hashlib.sha256()
    for path, size, _ in weight_files:
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            for number in range(NUM_SAMPLES):
                file.seek(size * number // NUM_SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    for path, _, _ in others:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def _converted_folder(model: ModelConfig, cache: Path, get_gguf: Callable[[Path], Path], progress: Progress) -> Path:
    """The bf16 safetensors of a GGUF file, converted at most once.

    Args:
        model: Whose weights they are.
        cache: Where the folder is created, by an atomic rename.
        get_gguf: Gives the file; may assemble it in the folder that it is called with.
        progress: The display.
    """
    folder = converted_folder(model, cache)
    if folder.exists():
        return folder
    with explain_disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with hold_lease(cache / f"{folder.name}.lock"):
            if folder.exists():
                return folder
            progress.say(escape(f"  the weights of {model.name} are converted once, into {folder}"))
            killed_draft = cache / f"{folder.name}.draft"
            shutil.rmtree(killed_draft, ignore_errors=True)
            with atomic_folder(folder, killed_draft) as draft:
                with progress.step("weights", len(PHASES), "part") as step:
                    convert_gguf(get_gguf(draft), draft, step)
                for gguf in draft.glob("*.gguf"):
                    gguf.unlink()
    return folder


def _packaged_gguf(package: str, draft: Path) -> Path:
    """The GGUF file that a Python package contains, or that the package assembles in `draft` from its parts."""
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))]
    if files:
        return files[0]
    return Path(importlib.import_module(name).assemble(draft / "model.gguf"))


def _has_all_shards(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return all((folder / name).exists() for name in set(json.loads(index.read_text())["weight_map"].values()))
    return any(folder.glob("*.safetensors"))


@cache
def _hub_files(hub: str, revision: str | None) -> tuple[str, ...]:
    """Names of the files in a hub repository; one request, however many jobs use the model."""
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(hub, revision=revision, timeout=10)
    return tuple(item.rfilename for item in info.siblings or [])


def _hub_snapshot(model: ModelConfig, download: bool) -> Path:
    """The folder of a hub repository in the local cache.

    Args:
        model: Whose repository it is.
        download: Whether to download what is missing; otherwise only check that the hub has it.

    Raises:
        UserError: the weights are not in the cache and can't be downloaded.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    package = f"install {model.package}, " if model.package else ""
    remedy = f"{package}give a local folder with model.path=..., or run once with access to the hub"
    if not model.hub:
        raise UserError(f"model={model.name} names no hub repository; give a local folder with model.path=....")
    repository: dict[str, Any] = {"repo_id": model.hub, "revision": model.revision, "allow_patterns": HUB_FILES}
    try:
        folder = Path(huggingface_hub.snapshot_download(local_files_only=True, **repository))
        if _has_all_shards(folder):
            return folder
    except (OSError, ValueError):
        pass  # not in the cache
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):  # the values huggingface_hub accepts
        raise UserError(f"The weights of {model.hub} are not on this machine and HF_HUB_OFFLINE is set; {remedy}.")
    try:
        if not any(name.endswith(".safetensors") for name in _hub_files(model.hub, model.revision)):
            raise UserError(f"{model.hub} has no safetensors weights; convert them and give model.path=....")
        return Path(huggingface_hub.snapshot_download(**repository)) if download else Path()
    except HfHubHTTPError as error:
        raise UserError(
            f"The hub denies access to {model.hub} ({error.response.status_code}); accept its licence and set "
            f"HF_TOKEN, or {remedy}."
        ) from None
    except UserError:
        raise
    except Exception as error:  # of the hub's HTTP library, which changes with its version
        kind = type(error).__name__
        raise UserError(
            f"The weights of {model.hub} are not on this machine and the hub can't be reached ({kind}); {remedy}."
        ) from None
