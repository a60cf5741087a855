"""Objects that a config names by `_target_`: a class or function of the user's own, with its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from selfspec.config.hashing import file_hash
from selfspec.errors import UserError


def build_target(key: str, spec: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
    """The object that `spec` describes: its `_target_`, called with the other entries and what is given here.

    Args:
        key: The key of the spec in the config, for messages.
        spec: `{_target_: package.module.Class, argument: value}`.
        *arguments: Positional arguments of the call.
        **keywords: Further keyword arguments.

    Raises:
        UserError: there is no such target, or it does not accept these arguments.
    """
    find_target(key, spec)
    try:  # Hydra would turn dataclasses among the arguments into dictionaries, so it does not get them
        return instantiate({**spec, "_partial_": True}, _convert_="all")(*arguments, **keywords)
    except Exception as error:
        reason = (isinstance(error, InstantiationException) and error.__cause__) or error
        if isinstance(reason, UserError):
            raise reason from None
        raise UserError(f"{key}: {spec['_target_']} can't be created ({reason}); check its arguments.") from error


def find_target(key: str, spec: Mapping[str, Any]) -> Any:
    """The class or function that a spec names.

    Raises:
        UserError: it names none, or one that can't be imported.
    """
    if "_target_" not in spec:
        raise UserError(f"{key} has no _target_; write {key}={{_target_: package.module.Class, argument: value}}.")
    try:
        return get_object(str(spec["_target_"]))
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{key}: {spec['_target_']} can't be imported ({reason}); is its package installed?") from error


def source_hash(spec: Mapping[str, Any]) -> str:
    """sha256 of the file that defines the target of `spec`: a changed implementation is another key."""
    path = inspect.getsourcefile(find_target("_target_", spec))
    return file_hash(Path(path)) if path else ""
