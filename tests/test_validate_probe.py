"""Mistakes in a measurement are told all at once, with the field."""

import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.validate import validate


def problems(**fields):
    with pytest.raises(ConfigError) as caught:
        validate(ProbeConfig(**fields))
    return str(caught.value)


def test_all_problems_are_told_at_once():
    text = problems(
        probes=[{"name": "motoin"}, {"name": "motion", "cels": 2}],
        controls=["random"],
        baselines={"pixels": "timm:vit_tiny_patch16_224"},
        report="page.pdf",
        stride=2,
        device="gpu",
        threads=0,
        load={"headz": 3},
    )
    for part in (
        "checkpoint: give an encoder",
        "did you mean 'motion'?",
        "cels",
        "controls: got 'random', expected one of untrained",
        "baselines: got the name 'pixels'",
        "report: got 'page.pdf', expected a path ending in .html",
        "at most one of fps and stride",
        "device: got 'gpu'",
        "threads: got 0",
        "load.headz: unknown; there are: heads, predictor_heads, rope, interpolate",
    ):
        assert part in text


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert f"checkpoint: no file or folder {tmp_path}/none.ckpt" in problems(checkpoint=f"{tmp_path}/none.ckpt")


def test_baselines_need_no_file():
    validate(ProbeConfig(checkpoint="timm:vit_tiny_patch16_224", baselines={"mae": "hf:videomae-base"}))
