"""Registries of what an experiment varies by kind: masks, data sources and probes.

The name of an entry is the name of its module, so that the YAML, ``grep`` and the file tree agree: ``{name: tube}``
in a config is ``vjepa_lab/masks/tube.py``. Looking a name up imports that one module and no other. The registered
dataclass is at once the schema of the entry and the object that does the work.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


class Registry:
    """Named dataclasses of one kind, found by module name in one package folder, or registered by a plugin."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type] = {}

    def register(self, cls: type) -> type:
        """Class decorator: enter a dataclass under the last part of its module's name.

        Raises:
            ValueError: not a dataclass, or another module has entered the same name.
        """
        name = cls.__module__.rpartition(".")[2]
        if not is_dataclass(cls):
            raise ValueError(f"{self.kind} '{name}' must be a dataclass")
        known = self._classes.get(name)
        if known is not None and known.__module__ != cls.__module__:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {known.__module__} and {cls.__module__}")
        self._classes[name] = cls
        return cls

    def names(self) -> list[str]:
        """Names on offer: modules of the package (not imported for it) and registered plugins."""
        folder = Path(__file__).parent.joinpath(*self.package.split(".")[1:])
        files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
        return sorted(files | set(self._classes))

    def get(self, name: str) -> type:
        """The dataclass of this name.

        Raises:
            ValueError: no such name (the message offers the nearest one), or its module registers nothing.
        """
        if name not in self._classes:
            if name not in self.names():
                near = difflib.get_close_matches(name, self.names(), 1)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(self.names())}"
                raise ValueError(f"no {self.kind} is named '{name}'; {hint}")
            importlib.import_module(f"{self.package}.{name}")
            if name not in self._classes:
                raise ValueError(
                    f"{self.package}.{name} registers no {self.kind}; decorate its dataclass with register"
                )
        return self._classes[name]

    def build(self, entry: Mapping[str, Any]) -> Any:
        """The object that ``{name: ..., field: value, ...}`` describes, its fields checked against the dataclass.

        Raises:
            ValueError: no ``name``, an unknown name or field, or a value of the wrong type.
        """
        fields = {str(k): v for k, v in entry.items()}
        name = fields.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(
                f"a {self.kind} entry needs a 'name' (one of {', '.join(self.names())}), got {dict(entry)}"
            )
        try:
            schema = OmegaConf.structured(self.get(name))
            for field in fields:  # a mapping takes the place of the default one, of which no field is to remain
                if field in schema and OmegaConf.get_type(schema, field) is dict:
                    schema[field] = {}
            return OmegaConf.to_object(OmegaConf.merge(schema, fields))
        except OmegaConfBaseException as error:
            raise ValueError(f"{self.kind} '{name}': {in_one_line(error)}") from None


def gives_episodes(source: Any) -> bool:
    """Whether a source is opened for stretches of a robot's episodes, which the type in its ``open`` says."""
    return "RobotSpec" in str(inspect.signature(source.open))


def in_one_line(error: BaseException) -> str:
    """What an OmegaConf or YAML error says, with the field it is about, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    first = lines[0] if lines else type(error).__name__
    return f"{key}: {first}" if key and key not in first else first


MASKS = Registry("mask", "vjepa_lab.masks")
SOURCES = Registry("source", "vjepa_lab.data.sources")
PROBES = Registry("probe", "vjepa_lab.probes")
