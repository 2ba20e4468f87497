"""A post-training begins from any file that holds what it needs, and goes on from the same model alone."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab import weights
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import load, to_plain
from vjepa_lab.robots import DROID, Statistics
from vjepa_lab.train.world_starts import fill_predictor, read_predictor, resume_from
from vjepa_lab.world import build_world


def config(*overrides):
    made = load(PosttrainConfig, [], ["crop=16", "predictor={width: 24, depth: 1, heads: 2}", *overrides])
    made.encoder.size, made.encoder.width, made.encoder.depth, made.encoder.heads = "tiny", 24, 1, 2
    made.encoder.patch = 8
    return made


def statistics(seed, robot=DROID):
    g = torch.Generator().manual_seed(seed)
    return tuple(Statistics.of(torch.randn(9, n, generator=g)) for n in (robot.state_dim, robot.action_dim))


@pytest.fixture
def run(tmp_path):
    """``run(*overrides, statistics=)`` -> world of a post-training and its checkpoint."""

    def make(*overrides, statistics=None):
        torch.manual_seed(0)
        made = config(*overrides)
        world = build_world(made, statistics).eval()
        state = {f"world.{name}": value for name, value in world.state_dict().items()}
        path = tmp_path / "last.ckpt"
        torch.save({"state_dict": state, "global_step": 3, "config": to_plain(made)}, path)
        return world, path

    return make


@pytest.mark.parametrize("before", [None, 1])
@pytest.mark.parametrize("after", [None, 2])
def test_a_predictor_goes_on_predicting_the_same_whatever_is_standardised(run, before, after):
    old, path = run(statistics=before and statistics(before))
    new = build_world(config(), after and statistics(after)).eval()
    fill_predictor(new, read_predictor(config(f"init.predictor={path}")))
    features, g = torch.randn(2, 3, 4, 24), torch.Generator().manual_seed(3)
    states, actions = torch.randn(2, 3, 7, generator=g), torch.randn(2, 2, 7, generator=g)
    with torch.no_grad():
        one, other = (world(features, states, actions, (2, 2)) for world in (old, new))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("predictor.heads=4", "predictor.heads: the file has 2, the configuration 4"),
        ("predictor.rope=exact", "predictor.rope: the file has released, the configuration exact"),
        ("world.robot={name: other, limits: [1, 1, 1]}", "world.robot: the file has Robot"),
    ],
)
def test_what_shapes_cannot_tell_is_compared_too(run, override, words):
    _, path = run()
    with pytest.raises(ValueError, match=words):
        read_predictor(config(f"init.predictor={path}", override))
    with pytest.raises(ValueError, match=words):
        resume_from(path, config(override))


def test_a_run_does_not_go_on_with_other_statistics(run):
    _, path = run()
    with pytest.raises(ValueError, match=r"world\.standardise: the file has False, the configuration True"):
        resume_from(path, config("world.standardise=true"))


def test_a_predictor_of_another_robot_without_a_configuration_is_told_by_its_shapes(run, tmp_path):
    world, _ = run()
    torch.save(world.predictor.state_dict(), tmp_path / "alone.pt")
    other = config(f"init.predictor={tmp_path / 'alone.pt'}", "world.robot={name: planar, rotation: none}")
    with pytest.raises(ValueError, match=r"2 of another shape: action_encoder\.weight"):
        fill_predictor(build_world(other), read_predictor(other))


def test_a_checkpoint_of_a_pretraining_cannot_be_gone_on_with(tmp_path):
    state = {"jepa.context.norm.weight": torch.zeros(1)}
    torch.save({"state_dict": state, "global_step": 0, "config": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"not a checkpoint of a post-training: use init\.encoder="):
        resume_from(tmp_path / "last.ckpt", config())


def test_a_post_training_loads_as_its_networks(run):
    world, path = run("predictor.rope=exact")
    loaded = weights.load(path.parent)
    for ours, network in ((loaded.encoder, world.encoder), (loaded.ac_predictor, world.predictor)):
        assert ours is not None
        assert all(torch.equal(ours.state_dict()[name], value) for name, value in network.state_dict().items())
    assert loaded.ac_predictor is not None
    assert loaded.ac_predictor.rope == "exact"
    assert loaded.config.encoder.crop == 16


def test_a_checkpoint_that_lost_its_statistics_is_damaged(run):
    _, path = run()
    raw = torch.load(path, weights_only=True)
    del raw["state_dict"]["world.state_std"]
    torch.save(raw, path)
    with pytest.raises(ValueError, match="without encoder, predictor or statistics"):
        weights.load(path)
