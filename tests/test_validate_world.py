"""All problems of a world model's configuration are told together."""

from __future__ import annotations

import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import load
from vjepa_lab.validate import validate


def test_problems_are_told_together(tmp_path):
    overrides = ["predictor.width=0", "data.crop=square", "world.rollout=last", "validation.candidates=1"]
    with pytest.raises(ConfigError) as caught:
        validate(load(PosttrainConfig, [], [f"run.dir={tmp_path}", *overrides]))
    expected = [
        "6 problems",
        "predictor.width",
        "data.sources",
        "centre",
        "final",
        "validation.candidates",
        "init.encoder",
    ]
    assert all(word in str(caught.value) for word in expected)


def test_a_run_that_goes_on_needs_no_encoder(tmp_path):
    (tmp_path / "last.ckpt").touch()
    sources = "data.sources=[{name: droid, path: episodes}]"
    validate(load(PosttrainConfig, [], [f"run.dir={tmp_path}", sources]))
