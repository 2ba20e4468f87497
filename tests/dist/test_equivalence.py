"""One process, DDP and FSDP2 are the same training: losses, target encoder, probes; and resume each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vjepa_lab.train import checkpoints
from vjepa_lab.train.folder import read_metrics

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/train/tiny.yaml"
PROBE = "probes=[{name: motion, every: 3, fit_clips: 24, select_clips: 8, test_clips: 10, batch: 4, cells: 2}]"
STRATEGIES = {
    "one": ["trainer.devices=1", "data.batch=4"],
    "ddp": ["trainer.devices=2", "data.batch=2", "trainer.strategy=ddp"],
    "fsdp2": ["trainer.devices=2", "data.batch=2", "trainer.strategy=fsdp2"],
}


def launch(run, name, *overrides):
    command = [sys.executable, "-m", "vjepa_lab", "pretrain", str(TINY), f"run.dir={run}", PROBE]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *STRATEGIES[name], *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same six steps under each strategy; a checkpoint is kept at step 3."""
    folder = tmp_path_factory.mktemp("strategies")
    for name in STRATEGIES:
        launch(folder / name, name, "run.keep_every=3")
    return folder


def curve(run, metric):
    return [row[metric] for row in read_metrics(run) if metric in row]


def target(run):
    state = checkpoints.read(run / "last.ckpt")["state_dict"]
    return torch.cat([v.flatten() for k, v in sorted(state.items()) if k.startswith("jepa.target")])


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_processes_train_like_one(runs, name):
    for metric in ("loss", "grad_norm", "motion/velocity", "motion/mean"):
        one, two = curve(runs / "one", metric), curve(runs / name, metric)
        assert len(one) == (3 if "motion" in metric else 6)
        assert two == pytest.approx(one, abs=1e-5), metric
    assert torch.allclose(target(runs / "one"), target(runs / name), atol=1e-5)
    sums = [target(runs / n).double().sum().item() for n in ("one", name)]
    assert sums[1] == pytest.approx(sums[0], abs=1e-3)


@pytest.mark.parametrize(("wrote", "reads"), [("ddp", "fsdp2"), ("fsdp2", "one"), ("one", "ddp")])
def test_a_checkpoint_of_one_strategy_resumes_under_another(runs, tmp_path, wrote, reads):
    text = launch(tmp_path / "run", reads, f"run.resume={runs / wrote / 'step-0000003.ckpt'}")
    assert "at step 3" in text
    assert curve(tmp_path / "run", "loss") == pytest.approx(curve(runs / "one", "loss")[3:], abs=1e-5)
    assert torch.allclose(target(tmp_path / "run"), target(runs / "one"), atol=1e-5)


def test_torchrun_starts_the_same_training(runs, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "vjepa_lab", "pretrain"]
    done = subprocess.run(
        [*command, str(TINY), f"run.dir={run}", *STRATEGIES["ddp"]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert curve(run, "loss") == pytest.approx(curve(runs / "ddp", "loss"), abs=1e-6)


def test_lines_for_people_are_printed_once(tmp_path):
    text = launch(tmp_path / "run", "ddp", "optim.steps=2")
    assert text.count("encoder  tiny") == 1
    assert text.count("finished step 2") == 1


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_clips_and_images_of_a_newer_model_train_alike(tmp_path, name):
    newer = ["encoder.family=vjepa2.1", "encoder.depth=4", "predictor.levels=4", "images.sources=[{name: synthetic}]"]
    newer += ["loss.context_start=1", "loss.context_end=3", "optim.steps=4", "probes=[]"]
    launch(tmp_path / "one", "one", *newer, "images.batch=6")
    launch(tmp_path / "two", name, *newer, "images.batch=3")
    for metric in ("loss", "loss/context", "loss/level0", "image/loss/target", "grad_norm"):
        one, two = curve(tmp_path / "one", metric), curve(tmp_path / "two", metric)
        assert len(one) == 4
        assert two == pytest.approx(one, abs=1e-5), metric
    assert torch.allclose(target(tmp_path / "one"), target(tmp_path / "two"), atol=1e-5)
