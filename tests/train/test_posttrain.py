"""Post-training: any robot that is described, real episodes, resume, several processes, and mistakes found early."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vjepa_lab.config import ConfigError
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import load
from vjepa_lab.train import checkpoints
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.posttrain import posttrain
from vjepa_lab.validate import validate

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests/data/sources/recorded/droid"
PLANAR = [
    "plugins=[planar]",
    "world.robot={name: planar, position: [x, y], rotation: none, gripper: false}",
    "data.sources=[{name: planar}]",
    "validation.sources=[{name: planar, size: 10}]",
]


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def encoder(run_tiny, tmp_path):
    """Weights of a tiny pretrained encoder."""
    return run_tiny(f"run.dir={tmp_path / 'encoder'}", "optim.steps=2") / "last.ckpt"


@pytest.fixture
def world(encoder, tmp_path):
    """``world(*overrides)`` -> configuration of a tiny post-training; its folder is ``world`` unless overridden."""

    def make(*overrides):
        return load(PosttrainConfig, [], [*small(encoder), f"run.dir={tmp_path / 'world'}", *overrides])

    return make


def small(encoder):
    return [
        f"init.encoder={encoder}",
        "run.log_every=1",
        "run.progress=false",
        "crop=16",
        "predictor={width: 24, depth: 2, heads: 2}",
        "data.batch=4",
        "data.frames=4",
        "data.workers=0",
        "optim={steps: 6, warmup: 2, decay: 2, lr: 1e-3, start_lr: 1e-4}",
        "validation={every: 3, stretches: 10, steps: 2, candidates: 4}",
        "trainer={accelerator: cpu, devices: 1}",
    ]


def run(config):
    validate(config)
    assert posttrain(config) == 0
    return Path(config.run.dir)


def losses(folder):
    return {int(r["step"]): r["loss"] for r in read_metrics(folder) if "loss" in r}


def test_a_robot_that_is_only_described_trains(world):
    folder = run(world(*PLANAR, "world.standardise=true"))
    rows = read_metrics(folder)
    assert {"loss/teacher_forcing", "loss/rollout", "lr", "grad_norm", "clips/s"} <= set(rows[-2] | rows[-1])
    assert [r["step"] for r in rows if "world/gain@2" in r] == [0, 3, 6]
    assert (folder / "summary.png").is_file()
    state = checkpoints.read(folder / "last.ckpt")["state_dict"]
    assert state["world.predictor.action_encoder.weight"].shape == (24, 2)
    assert 0.01 < state["world.action_std"][0] < 0.2


def test_the_encoder_stays_that_of_its_file(world, encoder):
    folder = run(world(*PLANAR))
    before = checkpoints.read(encoder)["state_dict"]
    after = checkpoints.read(folder / "last.ckpt")["state_dict"]
    names = [n for n in after if n.startswith("world.encoder.")]
    assert names
    for name in names:
        assert torch.equal(after[name], before[name.replace("world.encoder.", "jepa.target.")])


def test_real_episodes_train(world):
    pytest.importorskip("h5py")
    folder = run(world(f"data.sources=[{{name: droid, path: {RECORDED}}}]", "data.fps=null", "data.check=0"))
    assert list(losses(folder)) == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_has_the_losses_of_one_that_was_not_interrupted(world, tmp_path, encoder):
    whole = run(world(*PLANAR, "run.keep_every=2", f"run.dir={tmp_path / 'whole'}"))
    encoder.unlink()  # the checkpoint holds the encoder
    resumed = [f"run.resume={whole / 'step-0000002.ckpt'}", f"run.dir={tmp_path / 'part'}"]
    part = run(world(*PLANAR, *resumed))
    assert losses(part) == {s: v for s, v in losses(whole).items() if s > 2}


def start(encoder, folder, *overrides):
    """The command in a process of its own, and in a group of its own."""
    command = [sys.executable, "-m", "vjepa_lab", "posttrain", *small(encoder), *PLANAR, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([*command, f"run.dir={folder}"], cwd=ROOT, env=environment, **streams)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_started_again_has_the_losses_of_one_that_was_not(tmp_path, encoder, devices):
    steps = 60
    more = [f"optim.steps={steps}", "run.save_every=7", f"trainer.devices={devices}", "world.standardise=true"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = start(encoder, whole, *more)
    text, _ = first.communicate(timeout=240)
    assert first.returncode == 0, text
    process, stop, deadline = start(encoder, killed, *more), random.randint(8, steps - 15), time.monotonic() + 240
    while max(losses(killed), default=0) < stop and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 8 <= max(losses(killed), default=0) < steps
    again = start(encoder, killed, *more)
    text, _ = again.communicate(timeout=240)
    assert again.returncode == 0, text
    assert "resumed from" in text
    assert losses(killed) == losses(whole)
    assert list(losses(killed)) == list(range(1, steps + 1))
    measured = [[r["world/l1@2"] for r in read_metrics(f) if "world/l1@2" in r] for f in (whole, killed)]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    ("overrides", "within"),
    [
        (["trainer.checkpoint_activations=true"], 1e-6),
        (["trainer.accumulate=2", "data.batch=2"], 1e-5),
        (["trainer.precision=bf16-mixed"], 0.02),
        (["data.workers=1"], 0.0),
    ],
)
def test_how_a_step_is_computed_does_not_change_what_is_learned(world, tmp_path, overrides, within):
    plain = losses(run(world(*PLANAR, "validation.sources=[]", f"run.dir={tmp_path / 'plain'}")))
    assert losses(run(world(*PLANAR, "validation.sources=[]", *overrides))) == pytest.approx(plain, abs=within)


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(world, tmp_path):
    plain = losses(run(world(*PLANAR, f"run.dir={tmp_path / 'plain'}")))
    assert losses(run(world(*PLANAR, "trainer.compile=true"))) == pytest.approx(plain, abs=1e-4)


def test_a_predictor_that_reads_poses_of_cameras_needs_sources_that_tell_them(world):
    with pytest.raises(ValueError, match=r"planar/\d+: predictor\.extrinsics is true, and the source gives no pose"):
        run(world(*PLANAR, "predictor.extrinsics=true", "validation.sources=[]"))
    with pytest.raises(ValueError, match=r"planar/0: predictor\.extrinsics is true"):
        run(world(*PLANAR, "predictor.extrinsics=true"))


def test_a_predictor_that_reads_poses_of_cameras_trains_and_is_measured(world):
    seen = "[{name: planar, camera: true}]"
    more = ["predictor.extrinsics=true", f"data.sources={seen}", f"validation.sources={seen}"]
    folder = run(world(*PLANAR, *more))
    assert all(math.isfinite(loss) for loss in losses(folder).values())
    state = checkpoints.read(folder / "last.ckpt")["state_dict"]
    assert state["world.predictor.extrinsics_encoder.bias"].abs().sum() > 0  # which begins at zero


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_like_one(world, tmp_path, encoder, strategy):
    one = run(world(*PLANAR, "optim.steps=4"))
    two = tmp_path / "two"
    more = ["optim.steps=4", "trainer.devices=2", f"trainer.strategy={strategy}", "data.batch=2"]
    process = start(encoder, two, *more)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    last = [[r for r in read_metrics(f) if "world/l1@2" in r][-1] for f in (one, two)]
    for name in ("world/l1@1", "world/l1@2", "world/copy_l1@2", "world/cosine@1"):
        assert last[1][name] == pytest.approx(last[0][name], abs=1e-5)


def test_actions_that_contradict_the_description_are_found_before_training(world):
    with pytest.raises(ValueError, match=r"planar: states and actions do not fit robot 'planar':\n  - .*"):
        run(world(*PLANAR, "data.sources=[{name: planar, swapped: true}]"))


def test_a_world_can_start_from_the_predictor_of_another(world, tmp_path):
    config = world(*PLANAR)
    first = run(config)
    config = world(*PLANAR, f"run.dir={tmp_path / 'a'}", f"init.predictor={first}", "world.standardise=true")
    second = run(config)
    untrained = [read_metrics(f)[0]["world/l1@1"] for f in (first, second)]
    trained = [r["world/l1@1"] for r in read_metrics(first) if "world/l1@1" in r][-1]
    assert untrained[1] == pytest.approx(trained, abs=1e-4)
    assert untrained[0] > untrained[1] + 0.05
    with pytest.raises(ValueError, match="holds no action-conditioned predictor"):
        run(world(*PLANAR, f"run.dir={tmp_path / 'b'}", f"init.predictor={tmp_path / 'encoder/last.ckpt'}"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.sources=[]"], ["data.sources", "droid"]),
        (["data.sources=[{name: synthetic}]"], ["'synthetic' gives clips without actions", "droid, lerobot"]),
        (["world.steps=9"], ["world.steps: got 9"]),
        (["init.encoder=null"], ["init.encoder"]),
        (["init.encoder=nowhere.ckpt"], ["no file or folder nowhere.ckpt"]),
        (["predictor.heads=5"], ["24 is not divisible by 5"]),
        (["data.crop=square"], ["data.crop", "centre"]),
        (["data.fps=0"], ["data.fps: got 0"]),
        (["data.scale=[0.5, 2]"], ["data.scale: got [0.5, 2.0]"]),
        (["world.robot={name: planar, rotation: spherical}"], ["world.robot: robot 'planar': rotation is 'spherical'"]),
    ],
)
def test_a_mistake_is_told_before_anything_is_read(world, overrides, words):
    with pytest.raises(ConfigError) as caught:
        validate(world(*PLANAR, *overrides))
    assert all(word in str(caught.value) for word in words)


def test_frames_that_do_not_divide_into_tokens_are_refused(world):
    with pytest.raises(ValueError, match="crop: 20 is not a multiple of the encoder's patch 8"):
        run(world(*PLANAR, "crop=20"))
