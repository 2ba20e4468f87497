"""What action supervision cannot be combined with is said before a run begins, with the field and what to set."""

from __future__ import annotations

from pathlib import Path

import pytest

from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.merge import load
from vjepa_lab.validate import pretrain_problems, validate

TINY = Path(__file__).parent / "train/tiny.yaml"
LAST = ("data.sources=[{name: synthetic, drive: 0.25}]", "inverse.weight=0.05", "inverse.unfreeze_last=1")


def fine(*overrides: str) -> PretrainConfig:
    return load(PretrainConfig, [TINY], [*LAST, *overrides])


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["inverse.weight=null"], "inverse.weight: got null, with which nothing reads inverse."),
        (["inverse.weight=-1"], "inverse.weight: got -1.0, expected 0 or more"),
        (["inverse.budget=2"], "inverse.budget: got 2.0, expected a share from 0 to 1"),
        (["inverse.pair=diff"], "inverse.pair: got 'diff', expected concat or clip"),
        (["inverse.pair=clip", "encoder.tubelet=1"], "inverse.pair: got 'clip', but a tubelet holds 1 frame(s)"),
        (["inverse.normalise=mean"], "inverse.normalise: got 'mean', expected kept or batch"),
        (["inverse.unfreeze_last=3"], "inverse.unfreeze_last: got 3, expected 0 to 2 of the encoder's blocks, or null"),
        (["inverse.head_lr=0"], "inverse.head_lr: got 0.0, expected more than 0"),
        (
            ["inverse.native=0", "inverse.budget=0"],
            "leaves nothing to learn from: the result is init.checkpoint itself",
        ),
        (["init.load=weights+optimizer"], "init.load: got 'weights+optimizer', expected weights"),
        (["encoder.frames=1", "encoder.tubelet=1"], "encoder.frames: got 1, expected at least 2"),
        (
            ["data.sources=[{name: droid, path: x}]"],
            "inverse.robot: expected the description of the robot whose episodes",
        ),
        (["inverse.robot={name: droid}"], "data.sources[0]: 'synthetic' gives no robot episodes"),
        (["inverse.robot={name: nobody}"], "inverse.robot: "),
        (
            ["inverse.robot={name: droid}", "data.sources=[{name: droid, path: x}]", "data.stride=2", "data.fps=null"],
            "data.stride: got 2, expected 1 (every step of an episode), or data.fps instead",
        ),
    ],
)
def test_wrong_combinations_are_refused(over, said):
    assert any(said in problem for problem in pretrain_problems(fine(*over)))
    with pytest.raises(ConfigError):
        validate(fine(*over))


def test_a_right_combination_has_no_problem():
    assert pretrain_problems(fine()) == []
    assert pretrain_problems(fine("inverse.unfreeze_last=null", "inverse.native=0", "inverse.budget=0.1")) == []
    assert pretrain_problems(load(PretrainConfig, [TINY], [])) == []
