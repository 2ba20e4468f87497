"""Kept features: training is the same as without, they are computed once, and whatever they depend on names them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vjepa_lab.config import ConfigError, EncoderConfig, PretrainConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.jepa import build_encoder
from vjepa_lab.merge import load
from vjepa_lab.train import cache
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.posttrain import open_readers, posttrain
from vjepa_lab.train.run import pretrain
from vjepa_lab.validate import validate

pytest.importorskip("h5py")

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.yaml"
RECORDED = ROOT / "tests/data/sources/recorded/droid"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Weights of a tiny pretrained encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    assert pretrain(load(PretrainConfig, [TINY], [f"run.dir={folder}", "optim.steps=2"])) == 0
    return folder / "last.ckpt"


def overrides(encoder, folder, *more):
    return [
        f"init.encoder={encoder}",
        f"run={{dir: {folder}, log_every: 1, progress: false}}",
        "crop=16",
        "predictor={width: 24, depth: 2, heads: 2}",
        f"data.sources=[{{name: droid, path: {RECORDED}, cameras: [left, right]}}]",
        "data={batch: 4, frames: 4, fps: null, crop: released, workers: 0, check: 0}",
        "optim={steps: 5, warmup: 2, decay: 2, lr: 1e-3, start_lr: 1e-4}",
        "trainer={accelerator: cpu, devices: 1}",
        *more,
    ]


@pytest.fixture
def run(encoder, tmp_path):
    """``run(name, *overrides)`` -> losses of a post-training in the folder ``name``; features are kept in ``kept``."""

    def do(name, *more, cached=True):
        kept = [f"cache.dir={tmp_path / 'kept'}"] if cached else []
        config = load(PosttrainConfig, [], overrides(encoder, tmp_path / name, *kept, *more))
        validate(config)
        assert posttrain(config) == 0
        return losses(tmp_path / name)

    return do


def losses(folder):
    return {int(r["step"]): r["loss"] for r in read_metrics(folder) if "loss" in r}


def files(tmp_path):
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*/*.safetensors")}


@pytest.mark.parametrize("more", [[], ["data.workers=1", "data.crop=centre"], ["trainer.precision=bf16-mixed"]])
def test_losses_are_those_of_features_computed_at_every_step(run, more):
    plain = run("plain", *more, cached=False)
    kept = run("cached", *more)
    assert len(set(plain.values())) == 5
    assert kept == pytest.approx(plain, abs=1e-6 if "bf16" not in str(more) else 2e-3)


def test_a_second_and_a_resumed_run_compute_nothing_and_have_the_same_losses(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vjepa_lab")
    first = run("first", "run.keep_every=2")
    assert "2 episodes" in caplog.text
    assert ", 2 computed now" in caplog.text
    before = files(tmp_path)
    assert len(before) == 2
    assert run("second") == first
    resumed = run("resumed", f"run.resume={tmp_path / 'first/step-0000002.ckpt'}", "init.encoder=null")
    assert resumed == {step: loss for step, loss in first.items() if step > 2}
    assert files(tmp_path) == before
    assert caplog.text.count(", 0 computed now") == 2


def folder(encoder, *more, seed=0):
    """Where the features of an encoder with random weights are kept."""
    config = load(PosttrainConfig, [], overrides(encoder, "unused", "cache.dir=kept", *more))
    config.encoder = EncoderConfig(size="tiny", width=24, depth=1, heads=2, patch=8, crop=16)
    torch.manual_seed(seed)
    readers = open_readers(config, config.data.sources, random=True)
    return cache.kept_readers(config, readers, build_encoder(config.encoder))[0].folder


def test_what_the_features_depend_on_names_their_folder(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = "data.sources=[{name: droid, path: %s}]"
    here = folder(encoder)
    assert (here / "about.json").is_file()
    for same in (["data.frames=5", "data.fps=4"], ["data.batch=2", "predictor.depth=1"], ["run.seed=7"]):
        assert folder(encoder, *same) == here
    shutil.copytree(RECORDED, "other")
    others = [
        folder(encoder, seed=1),
        *(
            folder(encoder, more)
            for more in (
                "data.crop=centre",
                "crop=24",
                "trainer.precision=bf16-mixed",
                "cache.dtype=bfloat16",
                "data.decoder=pyav",
                left % RECORDED,
                left % "other",
            )
        ),
    ]
    assert len({here, *others}) == 9


def test_one_other_weight_is_another_encoder():
    layer = torch.nn.Linear(3, 4)
    before = cache.fingerprint(layer)
    assert cache.fingerprint(layer) == before
    with torch.no_grad():
        layer.weight[1, 2] += 1e-6
    assert cache.fingerprint(layer) != before
    before = cache.fingerprint(layer)
    assert cache.fingerprint(layer.double()) != before


def test_a_file_that_is_cut_off_is_computed_anew_and_a_damaged_one_ends_the_run(run, tmp_path):
    first = run("first")
    before = files(tmp_path)
    path = sorted(before)[0]
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert run("again") == first
    assert path.read_bytes() == good
    half = len(good) // 2
    path.write_bytes(good[:half] + bytes(b ^ 1 for b in good[half:]))
    with pytest.raises(ValueError, match=rf"{path.name}: damaged \(the checksum of step \d+ differs\); remove it"):
        run("damaged")
    path.unlink()
    assert run("mended") == first


def test_a_random_crop_cannot_be_kept(run):
    with pytest.raises(ConfigError, match=r"cache\.dir: data\.crop is random.*expected data\.crop=centre or released"):
        run("random", "data.crop=random")
    with pytest.raises(ConfigError, match=r"cache\.dtype: got 'int8'"):
        run("int8", "cache.dtype=int8")


def test_a_source_without_episodes_is_refused(run, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    planar = [
        "plugins=[planar]",
        "world.robot={name: planar, position: [x, y], rotation: none, gripper: false}",
        "data.sources=[{name: planar}]",
    ]
    with pytest.raises(ValueError, match=r"cache\.dir: source planar gives no whole episodes"):
        run("planar", *planar)


def test_what_does_not_fit_on_the_disk_is_refused(run, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(cache, "_ENOUGH", 1)
    with pytest.raises(ValueError, match=r"would take another \d+ GB, and 0 GB are free"):
        run("full")


@pytest.mark.slow
def test_two_processes_share_the_computing_and_train_like_one(run, tmp_path, encoder):
    one = run("one")
    shutil.rmtree(tmp_path / "kept")
    more = [f"cache.dir={tmp_path / 'kept'}", "data.batch=2", "trainer.devices=2"]
    command = [sys.executable, "-m", "vjepa_lab", "posttrain", *overrides(encoder, tmp_path / "two", *more)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 2 computed now" in done.stdout
    assert losses(tmp_path / "two") == pytest.approx(one, abs=1e-5)
