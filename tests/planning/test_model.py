"""A world model that is opened for planning sees and predicts what it did in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import load, to_plain
from vjepa_lab.planning.model import open_model
from vjepa_lab.world import build_world, energy


@pytest.fixture
def run(tmp_path):
    """A checkpoint as a post-training writes it, of fresh weights."""
    config = load(PosttrainConfig, [], ["crop=16", "predictor={width: 24, depth: 1, heads: 2}", "data.crop=centre"])
    config.encoder.size, config.encoder.width, config.encoder.depth, config.encoder.heads = "tiny", 24, 1, 2
    config.encoder.patch = 8
    torch.manual_seed(0)
    world = build_world(config)
    state = {f"world.{name}": value for name, value in world.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3, "config": to_plain(config)}, tmp_path / "last.ckpt")
    return tmp_path, world.eval()


def test_a_run_opens_by_its_folder_with_its_weights_and_crop(run):
    folder, world = run
    model = open_model(str(folder))
    assert model.grid == (2, 2)
    assert model.spec.crop == "centre"
    assert not any(p.requires_grad for p in model.world.parameters())
    for name, value in world.state_dict().items():
        assert torch.equal(model.world.state_dict()[name], value)


def test_the_energy_of_actions_is_that_of_their_rollouts_in_any_chunks(run):
    folder, _ = run
    model = open_model(str(folder))
    rng = np.random.default_rng(0)
    here, there = (rng.integers(0, 255, (16, 20, 3), dtype=np.uint8) for _ in range(2))
    state, actions = rng.normal(size=7) * 0.1, torch.randn(5, 2, 7) * 0.05
    goal = model.features(there)
    small, large = (model.energy(here, state, goal, chunk=n)(actions) for n in (2, 64))
    torch.testing.assert_close(small, large)
    z = model.features(here)[None, None]
    start = torch.from_numpy(state).float()[None, None]
    seen = model.world.see(z, start, torch.zeros(1, 0, 7), model.grid)
    ends = [model.world.rollout(seen, a[None], model.grid).features[:, -1] for a in actions]
    torch.testing.assert_close(large, torch.cat([energy(end, goal) for end in ends]))


def test_a_run_of_pretraining_is_no_world_model(tmp_path):
    torch.save({"state_dict": {"jepa.x": torch.zeros(1)}, "global_step": 0, "config": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds no world model"):
        open_model(str(tmp_path))
