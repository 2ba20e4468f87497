"""The README's mask of your own: one file, as it is written there, and no other edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from vjepa_lab import cli
from vjepa_lab.registry import MASKS

ROOT = Path(__file__).parents[2]
SMALL = ["frames=8", "crop=64", "draws=2"]


def example() -> str:
    """The only block of the README that registers a mask."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "@MASKS.register" in block)
    return block


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of that name outside of the package."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checker.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "plugins=[mine.checker]"
    MASKS._classes.pop("checker", None)
    for name in ("mine.checker", "mine"):
        sys.modules.pop(name, None)


def test_it_passes_the_checks_of_the_repository(tmp_path: Path) -> None:
    file = tmp_path / "checker.py"
    file.write_text(example())
    for check in ("check", "format --check"):
        command = [sys.executable, "-m", "ruff", *check.split(), "--config", str(ROOT / "pyproject.toml"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_plugin_is_validated_and_drawn(plugin: str, capsys: pytest.CaptureFixture) -> None:
    asked = ["masks", "synthetic", "--strategy", "checker", plugin, *SMALL]
    assert cli.main([*asked, "--out", "checker.png"]) == 0
    assert Image.open("checker.png").width > 600
    for wrong, words in (("options.side=0", "side is 0, expected at least 1"), ("options.sied=2", "sied")):
        assert cli.main([*asked, wrong]) == 2
        assert words in capsys.readouterr().err
    assert cli.main(["masks", "synthetic", "--strategy", "cheker", plugin]) == 2
    assert "did you mean 'checker'" in capsys.readouterr().err


def test_a_plugin_trains(plugin: str) -> None:
    words = ["pretrain", str(ROOT / "tests/small.yaml"), plugin, "masks=[{name: checker, side: 1}]", "run.dir=run"]
    assert cli.main([*words, "data.sources=[{name: synthetic}]"]) == 0
    assert Path("run/summary.png").is_file()


CHECKS = """
import sys
import pytest
from vjepa_lab import cli
assert cli.__file__.startswith(sys.argv[1]), cli.__file__
for verb in ("masks", "pretrain"):
    cli.main([verb, "--help"])
code = cli.main(["masks", "synthetic", "--strategy", "checker", "--out", "checker.html", *sys.argv[2:]])
tests = ["contract", "layout", "layering", "cli"]
files = [f"{sys.argv[1]}/tests/{'masks/' * (name == 'contract')}test_{name}.py" for name in tests]
wanted = "checker or help"
sys.exit(code or pytest.main(["-p", "no:cacheprovider", "-rA", "--rootdir", sys.argv[1], "-k", wanted, *files]))
"""


def test_dropped_into_the_folder_it_is_listed_drawn_and_held_to_the_contract(tmp_path: Path) -> None:
    """In a copy of the package and the tests of all masks, with nothing changed in them."""
    copy = tmp_path / "copy"
    for folder in ("vjepa_lab", "tests/masks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name in ("conftest", "test_layout", "test_layering", "test_cli"):
        shutil.copy(ROOT / f"tests/{name}.py", copy / "tests")
    (copy / "vjepa_lab/masks/checker.py").write_text(example())
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, str(copy), *SMALL],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(copy)},
    )
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    assert (copy / "checker.html").stat().st_size > 10_000
    assert len(re.findall(r"^masks.*: checker, future,", out, re.MULTILINE)) == 2
    passed = set(re.findall(r"PASSED .*?::(\w+)\[(?:\w+-)?checker", out))
    contract = (ROOT / "tests/masks/test_contract.py").read_text()
    promised = set(re.findall(r"@every_strategy\n(?:@.*\n)*def (\w+)", contract))
    needs = {"test_masks_on_cuda_equal_those_on_the_cpu"}  # a GPU
    needs |= {"test_mask_of_a_clip_does_not_depend_on_how_the_batch_is_split"}  # a mask that states its counts
    assert len(promised) > 8
    assert promised - needs <= passed
    of_the_tree = set(re.findall(r"PASSED .*?::(\w+)\[masks/checker.py", out))
    assert {
        "test_a_file_has_at_most_400_lines_and_says_what_it_is",
        "test_every_file_has_a_test_beside_it",
    } <= of_the_tree
    assert " failed" not in out
