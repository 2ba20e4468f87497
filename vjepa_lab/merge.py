"""How YAML files and arguments become one checked configuration object, and how it is written again.

Dataclass defaults < YAML files left to right < ``key=value`` arguments; lists replace, they do not merge. A key that
does not exist is an error that names the nearest one. This module imports no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vjepa_lab.config import ConfigError
from vjepa_lab.registry import Registry, in_one_line

T = TypeVar("T")


def load(schema: type[T], files: Sequence[str | Path] = (), dotlist: Sequence[str] = ()) -> T:
    """Merge defaults, YAML files and ``key=value`` arguments into one ``schema`` object.

    Raises:
        ConfigError: a file is missing or no YAML mapping, a key is unknown, a value has the wrong type. All unknown
            keys are reported at once.
    """
    merged = OmegaConf.structured(schema)
    for file in files:
        merged = _merge(merged, _read_yaml(Path(file)), schema, where=str(file))
    for item in dotlist:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"argument '{item}': expected key=value")
        _reject_unknown_path(schema, key, item)
        try:
            # one YAML document, read as OmegaConf reads files (1e-4 is a number)
            value = OmegaConf.create({"value": ""} if not text.strip() else f"value: {text}")["value"]  # type: ignore[index]
            OmegaConf.update(merged, key, value)
        except (OmegaConfBaseException, yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(f"argument '{item}': {in_one_line(error)}") from None
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(in_one_line(error)) from None


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, every field included."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_plain(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists, numbers and strings (safe inside a checkpoint)."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def from_plain(schema: type[T], plain: dict[str, Any]) -> T:
    """The inverse of ``to_plain``.

    Raises:
        ConfigError: a field that this version does not have, or a value of the wrong type.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"not a configuration of this version: {in_one_line(error)}") from None


def fields_with_docs(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted name, default, documentation) of every leaf field, in order."""
    docs = _field_docs(schema)
    default = schema()
    for f in dataclasses.fields(schema):
        value = getattr(default, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields_with_docs(type(value), f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value, docs.get(f.name, "")


def entries(registry: Registry, listed: Sequence[dict[str, Any]], where: str, problems: list[str]) -> list[Any]:
    """Build the objects of a list of registry entries; what cannot be built is added to ``problems``."""
    built = []
    for i, entry in enumerate(listed):
        try:
            built.append(registry.build(entry))
        except ValueError as error:
            problems.append(f"{where}[{i}]: {error}")
    return built


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        read = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if isinstance(read, DictConfig):
        return read
    if OmegaConf.is_list(read) and not read:
        return OmegaConf.create({})  # a file of comments
    raise ConfigError(f"{path}: expected a mapping of fields at the top")


def _merge(base: DictConfig, over: DictConfig, schema: type, where: str) -> DictConfig:
    unknown = list(_unknown_keys(schema, over))
    if unknown:
        raise ConfigError("\n  - ".join([f"{where}:", *unknown]) if len(unknown) > 1 else f"{where}: {unknown[0]}")
    try:
        return OmegaConf.merge(base, over)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {in_one_line(error)}") from None


def _unknown_keys(schema: type, node: Any, prefix: str = "") -> Iterator[str]:
    default = schema()
    for key in node:
        name = str(key)
        if name not in default.__dataclass_fields__:
            yield _unknown(schema, prefix + name, name, prefix)
        elif dataclasses.is_dataclass(getattr(default, name)) and OmegaConf.is_dict(node[key]):
            yield from _unknown_keys(type(getattr(default, name)), node[key], f"{prefix}{name}.")


def _reject_unknown_path(schema: type, key: str, item: str) -> None:
    here: Any = schema()
    prefix = ""
    for part in key.replace("[", ".").split("."):
        if not dataclasses.is_dataclass(here):
            return  # inside a list or an entry of a registry: checked when the entry is built
        if part not in here.__dataclass_fields__:
            raise ConfigError(f"argument '{item}': {_unknown(type(here), prefix + part, part, prefix)}")
        here = getattr(here, part)
        prefix += part + "."


def _unknown(schema: type, full: str, name: str, prefix: str) -> str:
    known = [f.name for f in dataclasses.fields(schema)]
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"did you mean '{prefix}{near[0]}'?" if near else f"there are: {', '.join(known)}"
    return f"unknown key '{full}'; {hint}"


def _field_docs(schema: type) -> dict[str, str]:
    """Strings below the fields of a dataclass, read from its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            docs[before.target.id] = ast.literal_eval(after.value)
    return docs


def leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of fields in fields; a list is a value."""
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
