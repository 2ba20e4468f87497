"""A rollback is the same under one process, DDP and FSDP2, also where the ranks read different figures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vjepa_lab.train import checkpoints
from vjepa_lab.train.folder import read_metrics

ROOT = Path(__file__).parents[2]
PLAN = """
from vjepa_lab import dist
from vjepa_lab.train import collapse

counted = [0]

def rankme(tokens, *, centred):
    # Low at steps 6 and 7; on the second rank alone the reading would be above the limit.
    counted[0] += 1
    return [1.001, 8.0][dist.rank()] if counted[0] in (6, 7) else 30.0

collapse.rankme = rankme
"""
STRATEGIES = {
    "one": ["trainer.devices=1", "data.batch=4"],
    "ddp": ["trainer.devices=2", "data.batch=2", "trainer.strategy=ddp"],
    "fsdp2": ["trainer.devices=2", "data.batch=2", "trainer.strategy=fsdp2"],
}
WATCH = ["watch={on_collapse: rollback, every: 1, patience: 2}", "run.save_every=2", "optim.steps=10"]


def launch(folder, name, *overrides, code=0):
    (folder / "plan.py").write_text(PLAN)
    command = [sys.executable, "-m", "vjepa_lab", "pretrain", "tests/train/tiny.yaml", f"run.dir={folder / name}"]
    done = subprocess.run(
        [*command, *STRATEGIES[name], *WATCH, "plugins=[plan]", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapse")
    launch(folder, "one")
    return folder


@pytest.mark.parametrize("name", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_go_back_like_one(folder, name):
    text = launch(folder, name)
    assert text.count("Rollback 1: weights and moments of step 4;") == 1, "said once, by one rank"
    one, two = read_metrics(folder / "one"), read_metrics(folder / name)
    assert [r["lr"] for r in two] == [r["lr"] for r in one]
    assert two[-1]["lr"] == pytest.approx(0.5e-3)
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_stop_with_a_checkpoint(folder, name):
    text = launch(folder, name, "watch.on_collapse=stop", f"run.dir={folder / name}-stop", code=3)
    assert text.count("The run stops here") == 1
    assert checkpoints.read(folder / f"{name}-stop" / "last.ckpt")["global_step"] == 7
