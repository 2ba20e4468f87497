"""The tree keeps its shape: files of one idea, a test beside each, nothing unexpected at the top."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "vjepa_lab").rglob("*.py"))
FORBIDDEN = {"utils.py", "common.py", "misc.py", "helpers.py"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "vjepa_lab"))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_has_at_most_400_lines_and_says_what_it_is(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    assert text.lstrip().startswith('"""')
    assert path.name not in FORBIDDEN


# Files whose claims are tested through the files that use them.
THROUGH_USERS = {"__main__.py", "merge.py", "validate.py", "train/checkpoints.py", "train/picture.py"}


@pytest.mark.parametrize("path", [p for p in FILES if not p.name.startswith("__init__")], ids=name)
def test_every_file_has_a_test_beside_it(path):
    if name(path) in THROUGH_USERS or path.name.startswith("_"):
        return
    if path.parent.name == "masks":  # one of your own: held to tests/masks/test_contract.py by existing
        return
    mirror = ROOT / "tests" / path.relative_to(ROOT / "vjepa_lab").parent / f"test_{path.name}"
    assert mirror.is_file(), f"expected {mirror.relative_to(ROOT)}"


def test_the_top_level_holds_only_what_was_agreed():
    done = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in done.stdout.splitlines()}
    agreed = {"pyproject.toml", "vjepa_lab", "configs", "tests", "tools", "docker", "README.md", "LICENSE"}
    assert {t for t in top if not t.startswith(".")} <= agreed
