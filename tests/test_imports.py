"""Modules import alone; the command line and the configuration need no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vjepa_lab"


@pytest.mark.parametrize("module", ["vjepa_lab", "vjepa_lab.cli", "vjepa_lab.config", "vjepa_lab.registry"])
def test_the_surface_imports_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_imports_in_one_process_without_work():
    names = [
        "vjepa_lab." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.name != "__main__.py" and p != PACKAGE / "__init__.py"
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
