"""Runs of a tiny model in this process."""

from pathlib import Path

import pytest

from vjepa_lab.config import PretrainConfig
from vjepa_lab.merge import load
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
