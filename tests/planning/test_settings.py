"""Settings of a planner are read like any part of a configuration, and refused where they cannot work."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from vjepa_lab.planning.settings import CemConfig


def test_settings_are_a_schema():
    schema = OmegaConf.structured(CemConfig)
    config = OmegaConf.to_object(OmegaConf.merge(schema, {"ball": "l1", "fixed": {2: 0.01}, "close_gripper": 1}))
    assert config == CemConfig(ball="l1", fixed={2: 0.01}, close_gripper=1)


def test_presets_hold_the_published_numbers():
    paper, released = CemConfig.preset("paper"), CemConfig.preset("released")
    assert (paper.samples, paper.iterations, paper.elites, paper.horizon, paper.translation) == (800, 10, 10, 1, 0.075)
    assert paper.spread * paper.translation == pytest.approx(1)  # unit variance
    assert (released.samples, released.horizon, released.translation, released.gripper) == (400, 2, 0.05, 0.75)
    assert (released.momentum_mean, released.momentum_std) == (0.15, 0.15)
    assert {paper.answer, released.answer} == {"mean"}
    with pytest.raises(ValueError, match="got preset 'cme', expected one of paper, released, icem"):
        CemConfig.preset("cme")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 5}, "samples is 5, expected at least as many as elites"),
        ({"elites": 1}, "elites is 1, expected at least 2"),
        ({"horizon": 0}, "horizon is 0, expected at least 1"),
        ({"shrink": 0.5}, "shrink is 0.5, expected at least 1"),
        ({"momentum_std": 1.5}, "momentum_std is 1.5, expected 0 to 1"),
        ({"ball": "l2"}, "ball is 'l2', expected one of box, l1"),
        ({"iterations": 0, "answer": "last"}, "iterations is 0, expected at least 1; answer is 'last'"),
    ],
)
def test_what_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CemConfig(**fields)


def test_settings_need_no_torch():
    code = "import sys, vjepa_lab.planning.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
