"""Ablations of a tiny model in this process."""

from pathlib import Path

import pytest

from vjepa_lab.config_ablate import AblateConfig
from vjepa_lab.merge import load
from vjepa_lab.train import folder, picture

BASE = Path(__file__).parents[1] / "train/tiny.yaml"
ARMS = {
    "random": {"masks": [{"name": "random", "ratio": 0.5}]},
    "tube": {"masks": [{"name": "tube", "ratio": 0.5}]},
}
MOTION = {"name": "motion", "fit_clips": 16, "select_clips": 8, "test_clips": 8, "batch": 8, "cells": 1}


@pytest.fixture(autouse=True)
def no_pictures_and_no_provenance(monkeypatch):
    """Both take longer than the steps of a run here."""
    monkeypatch.setattr(picture, "draw", lambda *_: None)
    monkeypatch.setattr(folder, "_provenance", dict)


@pytest.fixture
def tiny(tmp_path):
    """``tiny(field=value, ...)`` -> an ablation of two arms of two steps, in this test's folder."""

    def make(**fields):
        config = load(AblateConfig)
        config.base = str(BASE)
        config.changes = {"optim": {"steps": 2, "warmup": 0}, "run": {"save_every": 1}}
        config.arms, config.seeds = ARMS, [0, 1]
        config.out, config.progress = str(tmp_path / "out"), False
        config.records, config.probes, config.draws, config.timed = ["loss"], [], 2, 0
        for name, value in fields.items():
            assert hasattr(config, name)
            setattr(config, name, value)
        return config

    return make
