"""Mistakes of the verb ``masks`` are told together, each with its field."""

import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_masks import MasksConfig
from vjepa_lab.merge import load
from vjepa_lab.validate import validate

GOOD = ["clip=synthetic", "strategy=random"]


def test_a_drawing_of_the_simulated_world_has_no_problem():
    validate(load(MasksConfig, [], GOOD))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["strategy="], ["strategy: give one or several of", "multiblock, random"]),
        (["strategy=tub"], ["strategies[0]", "did you mean 'tube'"]),
        (["options.ratoi=0.5"], ["strategies[0]", "ratoi"]),
        (["strategy=random,tube", "options.ratio=0.5"], ["options: got fields for 2 strategies", "masks: [{name"]),
        (["clip="], ["clip: give a video"]),
        (["clip=nowhere.mp4"], ["clip: no file nowhere.mp4"]),
        (["world.discs=99"], ["world:", "discs"]),
        (["clip=pyproject.toml", "world.discs=2"], ["world: belongs to clip=synthetic"]),
        (["out=masks.pdf"], ["out: got 'masks.pdf'", ".png, .gif, .html"]),
        (["keep=tail"], ["keep", "tail", "random, head"]),
        (["step=11", "steps=10"], ["step: got 11", "0 to steps, 10"]),
        (["frames=7"], ["frames: 7 is not a multiple of tubelet 2"]),
        (["crop=100"], ["crop: 100 is not a multiple of patch 16"]),
        (["draws=0"], ["draws: got 0"]),
        (["fps=4", "stride=2"], ["at most one of fps and stride"]),
        (["start=3", "end=2"], ["start, end: got 3.0 and 2.0"]),
        (["index=-1"], ["index: got -1"]),
        (["plugins=[no_such_module_]"], ["plugins: 'no_such_module_'"]),
        (["checkpoint=runs/none/last.ckpt"], ["checkpoint: no file or folder"]),
    ],
)
def test_a_mistake_is_named(arguments, words):
    with pytest.raises(ConfigError) as caught:
        validate(load(MasksConfig, [], [*GOOD, *arguments]))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match="3 problems"):
        validate(load(MasksConfig, [], ["strategy=tub", "out=a", "clip="]))
