"""The two post-trainings that the benchmark compares are the same one, with and without kept features."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from vjepa_lab.config import PretrainConfig
from vjepa_lab.merge import load
from vjepa_lab.train.run import pretrain

pytest.importorskip("h5py")

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests/data/sources/recorded/droid"


def test_both_have_the_same_losses_and_one_reads_its_features(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools/bench"))
    bench = importlib.import_module("kept")
    folder = tmp_path / "encoder"
    short = [f"run.dir={folder}", "optim={steps: 2, warmup: 1}"]
    assert pretrain(load(PretrainConfig, [ROOT / "tests/train/tiny.yaml"], short)) == 0
    config = tmp_path / "world.yaml"
    config.write_text(
        f"""
init: {{encoder: {folder}/last.ckpt}}
run: {{progress: false}}
crop: 16
predictor: {{width: 24, depth: 2, heads: 2}}
data:
  sources: [{{name: droid, path: {RECORDED}}}]
  batch: 2
  frames: 4
  fps: null
  workers: 0
trainer: {{accelerator: cpu, devices: 1}}
"""
    )
    encoded = []
    plain = bench.PosttrainModule.training_step
    monkeypatch.setattr(
        bench.PosttrainModule,
        "training_step",
        lambda self, batch, i: encoded.append(batch.features is None) or plain(self, batch, i),
    )
    found = bench.main([str(config), "--rounds", "2", "--steps", "3"])
    assert encoded.count(True) == encoded.count(False) == 9
    assert found["gap"] < 1e-5
    assert found["times"][0] <= found["times"][1] <= found["times"][2]
    assert found["megabytes"] > 0
    assert "computed / kept" in capsys.readouterr().out
