"""The commit of a hub repository that a revision such as `main` names."""

from __future__ import annotations

import re
from pathlib import Path

from selfspec.config.schema import ModelConfig
from selfspec.models.weights import is_from_hub

COMMIT_HASH = re.compile(r"[0-9a-f]{40}")
SMALL_FILE = "config.json"  # of every model repository


def resolve_revision(model: ModelConfig, ask_hub: bool) -> str | None:
    """The commit that `model.revision` names: by the hub's cache on this machine, else by the hub.

    Args:
        model: Whose weights may come from the hub.
        ask_hub: Whether the hub may be queried for what the cache does not have.

    Returns:
        The revision unchanged if the weights are not the hub's, or if neither the cache nor the hub knows it.
    """
    if not is_from_hub(model) or COMMIT_HASH.fullmatch(model.revision or ""):
        return model.revision
    commit = _cached_commit(model)
    if commit is None and ask_hub:
        _cache_reference(model)
        commit = _cached_commit(model)
    return commit or model.revision


def _cached_commit(model: ModelConfig) -> str | None:
    """The commit in the hub's cache, whose layout is documented: `models--OWNER--NAME/refs/REVISION`."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE, f"models--{str(model.hub).replace('/', '--')}")
    reference = repository / "refs" / (model.revision or "main")
    return reference.read_text().strip() if reference.is_file() else None


def _cache_reference(model: ModelConfig) -> None:
    """Download a small file of the revision, which writes its commit into the cache."""
    import huggingface_hub

    try:
        huggingface_hub.hf_hub_download(str(model.hub), SMALL_FILE, revision=model.revision)
    except Exception:  # of the hub's transport, whose library and errors change with its version
        return
