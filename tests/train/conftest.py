"""Runs of a tiny model in this process."""

from pathlib import Path

import pytest

from vjepa_lab.config import PretrainConfig
from vjepa_lab.merge import load
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import pretrain

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture
def tiny(tmp_path):
    """``tiny(*overrides)`` -> configuration of a run in this test's folder."""
    return lambda *overrides: load(PretrainConfig, [TINY], [f"run.dir={tmp_path / 'run'}", *overrides])


@pytest.fixture
def run_tiny(tiny):
    """``run_tiny(*overrides)`` -> folder of the finished run."""

    def run(*overrides):
        config = tiny(*overrides)
        assert pretrain(config) == 0
        return Path(config.run.dir)

    return run


@pytest.fixture
def snapshots(monkeypatch):
    """Weights of context and target after each optimizer step."""
    taken = []
    plain = PretrainModule.optimizer_step

    def optimizer_step(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        jepa = self.jepa
        taken.append([m.blocks[0].mlp.fc1.weight.detach().clone() for m in (jepa.context, jepa.target)])

    monkeypatch.setattr(PretrainModule, "optimizer_step", optimizer_step)
    return taken
