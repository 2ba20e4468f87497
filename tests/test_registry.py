"""An entry's name is its module; typos are met with the nearest name; clashes are loud."""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from vjepa_lab.registry import MASKS, PROBES, Registry


def plugin(monkeypatch, module: str, registry: Registry) -> type:
    """A registered dataclass that pretends to live in ``module``."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))

    @dataclass
    class Checker:
        phase: int = 0

    Checker.__module__ = module
    return registry.register(Checker)


def test_names_are_the_modules_of_the_folder():
    assert {"multiblock", "random", "tube"} <= set(MASKS.names())
    assert not [n for n in MASKS.names() if n.startswith("_")]


def test_an_entry_is_built_with_its_fields():
    built = MASKS.build({"name": "tube", "ratio": 0.25})
    assert type(built).__name__ == "Tube"
    assert built.ratio == 0.25


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "tub"}, ["tub", "did you mean 'tube'"]),
        ({"name": "xyz"}, ["xyz", "multiblock"]),
        ({"name": "tube", "ratoi": 0.5}, ["ratoi"]),
        ({"name": "tube", "ratio": "much"}, ["ratio", "much"]),
        ({"ratio": 0.5}, ["needs a 'name'"]),
    ],
)
def test_a_wrong_entry_is_one_clear_error(entry, words):
    with pytest.raises(ValueError) as caught:
        MASKS.build(entry)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_mapping_takes_the_place_of_the_default_one():
    default = PROBES.build({"name": "motion"}).source
    assert set(default) == {"name", "split"}
    assert PROBES.build({"name": "motion", "source": {"name": "coin", "path": "a"}}).source == {
        "name": "coin",
        "path": "a",
    }


def test_a_plugin_registers_from_outside_and_a_second_of_its_name_is_refused(monkeypatch):
    registry = Registry("mask", "vjepa_lab.masks")
    plugin(monkeypatch, "one.checker", registry)
    assert registry.build({"name": "checker", "phase": 2}).phase == 2
    with pytest.raises(ValueError, match="registered twice"):
        plugin(monkeypatch, "two.checker", registry)


def test_what_is_no_dataclass_is_refused():
    with pytest.raises(ValueError, match="must be a dataclass"):
        Registry("mask", "vjepa_lab.masks").register(int)


def test_a_module_that_registers_nothing_is_named():
    with pytest.raises(ValueError, match=r"vjepa_lab\.data\.mixture registers no thing"):
        Registry("thing", "vjepa_lab.data").get("mixture")
