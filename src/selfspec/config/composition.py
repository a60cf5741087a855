"""Composition: the schema that Hydra checks `conf/` against, and the frozen config built from a composed one."""

from __future__ import annotations

import copyreg
import dataclasses
import types
import typing
from dataclasses import field
from typing import Any, Literal

import dacite
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from selfspec.config.schema import Config
from selfspec.config.validation import check_unknown_keys, check_values
from selfspec.errors import UserError

# A pickled field without a default keeps `MISSING` itself, not a copy of it, which OmegaConf would read as its default.
copyreg.pickle(type(dataclasses.MISSING), lambda _: "MISSING")


def mutable_twin(cls: type) -> type:
    """A mutable dataclass with the fields of the frozen `cls`: Hydra accepts no frozen ones.

    OmegaConf has no `Literal` and no `Annotated`: a choice becomes a string, and bounds are left out.
    """
    hints = typing.get_type_hints(cls)
    fields = []
    for item in dataclasses.fields(cls):
        if item.default_factory is dict:
            twin: Any = field(default_factory=_open_dict)
        else:
            twin = field(default=MISSING if item.default is dataclasses.MISSING else item.default)
        fields.append((item.name, _twin_annotation(hints[item.name]), twin))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _open_dict() -> DictConfig:
    """A mapping that accepts any key without a plus sign. Each config gets its own: OmegaConf copies no default."""
    return DictConfig({}, flags={"struct": False})


def _twin_annotation(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return mutable_twin(typing.cast(type, hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return str
    if origin in (types.UnionType, typing.Union):  # OmegaConf knows no union but `X | None`
        first, *others = (argument for argument in arguments if argument is not types.NoneType)
        return Any if others else typing.Optional[_twin_annotation(first)]  # noqa: UP045
    if origin is dict:
        return types.GenericAlias(dict, (arguments[0], _twin_annotation(arguments[1])))
    return hint


def register_schema() -> None:
    """Register the schema with Hydra, which checks `config.yaml` and every group's options against it."""
    ConfigStore.instance().store(name="schema", node=mutable_twin(Config))


def freeze(config: DictConfig) -> Config:
    """The frozen, typed copy of a composed config, resolved and checked.

    Raises:
        UserError: an unknown key, a missing value, or a value that its field does not allow.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        check_unknown_keys(OmegaConf.to_container(config), Config)  # a mistyped key is why another is missing
        raise _missing_value(error.full_key) from None
    check_unknown_keys(plain, Config)
    check_values(plain, Config)
    try:
        return dacite.from_dict(Config, plain, dacite.Config(cast=[tuple], strict=True))
    except dacite.WrongTypeError as error:
        allowed = str(error.field_type).replace("typing.", "")
        raise UserError(
            f"{error.field_path}={error.value} must be of the type {allowed}; give another value."
        ) from None
    except dacite.MissingValueError as error:  # ~seed deleted it
        raise _missing_value(error.field_path) from None


def _missing_value(key: str | None) -> UserError:
    return UserError(f"{key} has no value; give one with {key}=....")
