"""The README's commands run: each as it stands, made small by what is appended."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from vjepa_lab import cli, merge
from vjepa_lab.registry import SOURCES
from vjepa_lab.validate import validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SMALL = str(ROOT / "tests/small.yaml")


def pretrain_commands():
    for line in COMMANDS:
        for part in line.split("&&"):
            words = shlex.split(part)
            if words[:2] == ["vjepa-lab", "pretrain"]:
                yield words[1:]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the README's files in it: configs, tools and a list of the README's example."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "tools/make_synthetic.py", "made", "--clips", "4", "--size", "32", "--frames", "16"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    films = sorted(Path("made").rglob("*.mp4"))
    Path("videos.csv").write_text("path,label\n" + "".join(f"{f},wave\n" for f in films))
    recorded = tmp_path / "episodes/train/videos.csv"
    recorded.parent.mkdir(parents=True)
    recorded.write_text("path,label\n" + "".join(f"{tmp_path / f},0\n" for f in films))
    Path("videos.yaml").write_text("data: {sources: [{name: listing, path: videos.csv}]}\n")
    return tmp_path


@pytest.mark.parametrize("words", list(pretrain_commands()), ids=" ".join)
def test_a_pretrain_command_of_the_readme_runs(checkout, words):
    over = []
    if any("init.checkpoint" in w for w in words):  # the run that it continues
        first = ["pretrain", words[1], SMALL, "data.sources=[{name: synthetic}]"]
        assert cli.main(first) == 0
        over = ["init.load=weights+optimizer"]
    assert cli.main([*words, SMALL, *over]) == 0
    assert list(Path("runs").rglob("summary.png"))


def test_the_python_of_the_readme_runs_on_what_its_first_command_leaves(checkout, capsys):
    assert cli.main(["pretrain", "configs/quickstart.yaml", SMALL]) == 0
    names = {"clip": torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8)}
    for kind, block in BLOCKS:
        if kind == "python" and "@MASKS.register" not in block:  # that one: tests/masks/test_your_own.py
            exec(compile(block, "README.md", "exec"), names)
    assert "quickstart" in capsys.readouterr().out
    assert names["features"].tokens.shape == (1, 8, 48)


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "runs/quickstart/last.ckpt"],
        ["export", "runs/quickstart", "--to", "safetensors"],
        ["embed", "videos.csv", "--checkpoint", "runs/quickstart/last.ckpt", "--out", "features", "workers=0"],
    ],
    ids=lambda words: words[0],
)
def test_a_verb_of_the_table_runs_on_what_the_first_command_leaves(checkout, words):
    assert cli.main(["pretrain", "configs/quickstart.yaml", SMALL]) == 0
    assert cli.main(words) == 0


def test_the_packing_command_makes_tars_that_the_yaml_of_the_readme_reads(checkout):
    command = next(line for line in COMMANDS if "videos_to_shards" in line)
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(checkout)},
    )
    assert done.returncode == 0, done.stderr
    assert list(Path("shards").glob("*.tar"))
    block = next(text for kind, text in BLOCKS if kind == "yaml")
    for entry in yaml.safe_load(block)["data"]["sources"]:
        SOURCES.build(entry)  # every field exists


def test_the_world_model_commands_of_the_readme_have_no_problem(checkout):
    made = {"init.encoder": Path("runs/sim-encoder/last.ckpt"), "checkpoint": Path("runs/sim-world")}
    for line in COMMANDS:
        words = shlex.split(line)
        if words[:2] in (["vjepa-lab", "posttrain"], ["vjepa-lab", "plan"]):
            _, words = cli._split(words[1:])
            for word in words:
                if (path := made.get(word.partition("=")[0])) is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
            verb = cli.VERBS[words[0]]
            files, values = cli._arguments(verb, words[1:])
            validate(merge.load(cli._schema(verb), files, values))


def test_every_verb_is_in_the_table_and_every_linked_file_exists():
    for verb in cli.VERBS:
        assert f"`vjepa-lab {verb}" in README
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci/run").read_text()
    install, test = "pip install --quiet -e '.[dev]'", "\npytest -n auto --dist loadfile\n"
    assert install in script
    assert test in script
    assert "pip install -e '.[dev]' && pytest -n auto --dist loadfile" in README
    for check in ("ruff check .", "ruff format --check .", "pyright"):
        assert check in script
        assert check in README
    assert "bash .ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()
