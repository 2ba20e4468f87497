"""The offline measures of a world model: a copy gains nothing, each good stretch counts once, bad ones do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_lab.batch import RobotSample
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.clips import BadSample
from vjepa_lab.merge import load
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.train.validation import _places, stretches, validate


class Numbers:
    augment = False
    name = "numbers"

    def __init__(self, size: int = 7, bad: tuple[int, ...] = ()) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, rng: np.random.Generator) -> RobotSample:
        if index in self.bad:
            raise BadSample("truncated", str(index), "on purpose")
        g = torch.Generator().manual_seed(index)
        return RobotSample(
            torch.randint(0, 255, (3, 3, 16, 16), generator=g, dtype=torch.uint8),
            torch.randn(3, 7, generator=g) * 0.1,
            torch.randn(2, 7, generator=g) * 0.1,
            torch.full((3, 6), torch.nan),
            str(index),
        )


@pytest.fixture
def module() -> PosttrainModule:
    config = load(PosttrainConfig, [], ["crop=16", "data.batch=3", "predictor={width: 24, depth: 1, heads: 2}"])
    config.encoder.size, config.encoder.width, config.encoder.depth, config.encoder.heads = "tiny", 24, 1, 2
    config.encoder.patch = 8
    config.validation.steps, config.validation.candidates, config.validation.stretches = 2, 4, 7
    return PosttrainModule(config).eval()


def test_each_good_stretch_counts_once():
    batches = list(stretches([Numbers(bad=(1, 4))], 7, 3))
    assert [k for b in batches for k, v in zip(b.key, b.valid.tolist(), strict=True) if v] == ["0", "2", "3", "5", "6"]
    assert [len(b.key) for b in batches] == [3, 3, 3]


@pytest.mark.parametrize("rank", range(4))
def test_more_ranks_than_stretches_all_make_as_many_batches(monkeypatch, rank):
    monkeypatch.setattr("vjepa_lab.dist.world", lambda: 4)
    monkeypatch.setattr("vjepa_lab.dist.rank", lambda: rank)
    batches = list(stretches([Numbers(size=3, bad=(0,))], 64, 2))
    assert [b.valid.tolist() for b in batches] == [[[False, True], [True, False], [False, False], [False, False]][rank]]


def test_all_sources_are_measured():
    batches = list(stretches([Numbers(size=90), Numbers(size=30)], 4, 4))
    assert batches[0].key == ["0", "30", "60", "0"]


def test_the_true_action_is_ranked_among_those_of_other_stretches(module, monkeypatch):
    batch = next(stretches([Numbers(size=3)], 3, 3))
    pools = []
    draw = torch.randint
    monkeypatch.setattr(torch, "randint", lambda n, *a, **k: pools.append(n) or draw(n, *a, **k))
    features = torch.randn(3, 3, 4, 24)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _places(module.world, features, batch, 4, module.grid, rng)
        _places(module.world, features, batch._replace(valid=torch.tensor([True, False, False])), 4, module.grid, rng)
    assert pools == [4, 4, 4, 2, 2, 2]  # two actions of each of the two others; of one alone its own


def test_nothing_readable_is_an_error(module):
    with pytest.raises(ValueError, match=r"validation\.sources: none of the 7 stretches"):
        validate(module, module.config.validation, [Numbers(bad=tuple(range(7)))])


def test_the_numbers_do_not_depend_on_how_stretches_are_batched(module):
    one = validate(module, module.config.validation, [Numbers()])
    module.config.data.batch = 7
    other = validate(module, module.config.validation, [Numbers()])
    for name in one:
        if name.startswith("world/"):
            assert other[name] == pytest.approx(one[name], abs=1e-6)


class Copies(torch.nn.Module):
    """Predicts that nothing changes."""

    use_extrinsics = False

    def forward(self, tokens, actions, states, grid, extrinsics=None, cache=None):
        return tokens, cache


def test_a_model_that_copies_gains_nothing_and_cannot_tell_actions(module):
    copies = Copies()
    copies.cache = module.world.predictor.cache
    module.world.predictor = copies
    metrics = validate(module, module.config.validation, [Numbers()])
    assert metrics["world/gain@1"] == pytest.approx(0.0, abs=1e-3)
    assert metrics["world/l1@2"] == pytest.approx(metrics["world/copy_l1@2"], rel=1e-3)
    assert metrics["action/rank"] == 0.0  # all energies are equal: none is lower
