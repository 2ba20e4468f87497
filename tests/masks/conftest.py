"""Films with known motion, and the bench that measures where masks land, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def films() -> ModuleType:
    return load(Path(__file__).with_name("films.py"))


@pytest.fixture(scope="session")
def targeting() -> ModuleType:
    return load(BENCH / "targeting.py")
