"""From a composed Hydra config to the frozen, typed one; the schema that Hydra checks it against."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import field
from typing import Any

import dacite
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from selfspec.config.schema import Config


def mutable_twin(cls: type) -> type:
    """A mutable dataclass with the fields of the frozen `cls`, nested ones included (Hydra refuses frozen ones)."""
    hints = typing.get_type_hints(cls)
    fields = []
    for item in dataclasses.fields(cls):
        if item.default_factory is dict:  # any key may be set in it, without a plus sign
            twin = field(default_factory=lambda: DictConfig({}, flags={"struct": False}))
        else:
            twin = field(default=MISSING if item.default is dataclasses.MISSING else item.default)
        fields.append((item.name, _twin_annotation(hints[item.name]), twin))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _twin_annotation(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return mutable_twin(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return typing.Optional[_twin_annotation(arguments[0])]  # noqa: UP045 (`X | None` is the only union in the schema)
    if origin is dict:
        return types.GenericAlias(dict, (arguments[0], _twin_annotation(arguments[1])))
    return hint


def register_schema() -> None:
    """Put the schema where Hydra finds it: `config.yaml` and every group's options are checked against it."""
    ConfigStore.instance().store(name="schema", node=mutable_twin(Config))


def freeze(config: DictConfig) -> Config:
    """The frozen, typed copy of a composed and resolved config."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dacite.from_dict(Config, typing.cast(dict[str, Any], plain), dacite.Config(cast=[tuple], strict=True))
