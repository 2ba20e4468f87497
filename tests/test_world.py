"""The world model: what its losses are, what a rollout may use, and what stays frozen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.robots import DROID, Robot, Statistics
from vjepa_lab.world import World, energy

GRID = (2, 3)


def make(robot: Robot = DROID, **changes) -> World:
    torch.manual_seed(0)
    encoder = Encoder(width=24, depth=1, heads=2, patch=4)
    predictor = ACPredictor(
        encoder_width=24, width=32, depth=2, heads=2, action_dim=robot.action_dim, state_dim=robot.state_dim
    )
    return World(encoder=encoder, predictor=predictor, robot=robot, **changes)


def recording(robot: Robot = DROID, frames: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    features = F.layer_norm(torch.randn(2, frames, 6, 24, generator=g), (24,))
    states = 0.3 * torch.randn(2, frames, robot.state_dim, generator=g)
    return features, states, 0.1 * torch.randn(2, frames - 1, robot.action_dim, generator=g)


def plain_losses(world: World, z, states, actions) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The whole history again at every step of the rollout; gap of each step."""

    def step(features, n):
        return F.layer_norm(world.predictor(features, actions[:, :n], states[:, :n], GRID), (24,))

    t = z.shape[1]
    forced = step(z[:, :-1], t - 1)
    history, gaps = torch.cat([z[:, :1], forced[:, :1]], 1), [(forced[:, 0] - z[:, 1]).abs().mean()]
    for k in range(1, world.steps):
        new = step(history, k + 1)[:, -1:]
        gaps.append((new[:, 0] - z[:, k + 1]).abs().mean())
        history = torch.cat([history, new], 1)
    return (forced - z[:, 1:]).abs().mean(), gaps


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_losses_equal_the_plain_version_with_all_of_the_history(steps):
    for kind in ("released", "final"):
        world = make(steps=steps, rollout=kind)
        out = world(*recording(), GRID)
        forcing, gaps = plain_losses(world, *recording())
        rollout = gaps[-1] if kind == "final" else torch.stack(gaps).mean()
        torch.testing.assert_close(out["loss"], forcing + rollout)
        torch.testing.assert_close(out["loss/teacher_forcing"], forcing.detach())
        expected = torch.autograd.grad(forcing + rollout, world.predictor.action_encoder.weight)
        torch.testing.assert_close(torch.autograd.grad(out["loss"], world.predictor.action_encoder.weight), expected)


def test_a_rollout_of_one_step_is_the_forced_prediction():
    world, (z, states, actions) = make().eval(), recording()
    with torch.no_grad():
        seen = world.see(z[:, :3], states[:, :3], actions[:, :2], GRID)
        out = world.rollout(seen, actions[:, 2:], GRID)
        forced = F.layer_norm(world.predictor(z[:, :3], actions, states[:, :3], GRID), (24,))
    torch.testing.assert_close(out.features[:, 0], forced[:, -1])
    torch.testing.assert_close(out.states[:, 0], DROID.integrate(states[:, 2], actions[:, 2]))


def test_one_context_serves_all_samples():
    world, (z, states, actions) = make().eval(), recording()
    plans = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(2)) * 0.05
    with torch.no_grad():
        one = world.see(z[:1, :2], states[:1, :2], actions[:1, :1], GRID)
        many = world.see(
            *(x[:1].expand(5, -1, *(-1,) * (x.ndim - 2)) for x in (z[:, :2], states[:, :2], actions[:, :1])), GRID
        )
        torch.testing.assert_close(world.rollout(one, plans, GRID).features, world.rollout(many, plans, GRID).features)


def test_frames_are_encoded_each_by_itself_as_a_repeated_tubelet():
    world = make()
    frames = torch.randn(2, 3, 4, 8, 12)
    z = world.encode(frames)
    assert z.shape == (2, 4, 6, 24)
    assert world.grid(frames) == GRID
    alone = world.encoder(frames[:, :, 2:3].repeat(1, 1, 2, 1, 1))
    torch.testing.assert_close(z[:, 2], F.layer_norm(alone, (24,)))


def test_the_encoder_never_learns_nor_leaves_evaluation_mode():
    world = make().train()
    assert not world.encoder.training
    assert world.predictor.training
    world(*recording(), GRID)["loss"].backward()
    assert all(p.grad is None for p in world.encoder.parameters())
    trained = [n for n, p in world.predictor.named_parameters() if p.grad is None]
    assert all(n.startswith("extrinsics_encoder") for n in trained)


def test_statistics_standardise_what_the_predictor_reads_and_are_saved():
    robot = Robot(name="planar", position=("x", "y"), rotation="none", gripper=False)
    z, states, actions = recording(robot)
    known = tuple(Statistics.of(x) for x in (states, actions))
    world, plain = make(robot, statistics=known), make(robot)
    scaled = [(x - s.mean) / s.std for x, s in zip((states, actions), known, strict=True)]
    torch.testing.assert_close(world(z, states, actions, GRID)["loss"], plain(z, *scaled, GRID)["loss"])
    assert torch.equal(world.state_dict()["action_std"], known[1].std)


def test_energy_is_the_mean_distance_over_tokens_and_dimensions():
    z, goal = torch.randn(3, 6, 24), torch.randn(6, 24)
    slow = torch.stack([sum((a - b).abs().mean() for a, b in zip(x, goal, strict=True)) / 6 for x in z])
    torch.testing.assert_close(energy(z, goal), slow)


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ValueError, match="state: the predictor reads 7 numbers, planar has 2"):
        World(
            encoder=Encoder(width=24, depth=1, heads=2),
            predictor=ACPredictor(encoder_width=24, width=32, depth=1, heads=2),
            robot=Robot(name="planar", position=("x", "y"), rotation="none", gripper=False),
        )
    with pytest.raises(ValueError, match="rollout: got 'last'"):
        make(rollout="last")
    with pytest.raises(ValueError, match="needs 4 frames, got 3"):
        make(steps=3)(*recording(frames=3), GRID)


def test_a_rollout_gives_the_predictor_the_pose_of_the_camera():
    world = make()
    world.predictor.use_extrinsics = True
    z, states, actions = recording(frames=3)
    poses = torch.randn(2, 1, 6).expand(-1, 3, -1)
    with torch.no_grad():
        rolled = world.rollout(world.see(z[:, :1], states[:, :1], actions[:, :0], GRID, poses[:, :1]), actions, GRID)
        whole = torch.cat([z[:, :1], rolled.features[:, :1]], 1)
        at = torch.stack([states[:, 0], rolled.states[:, 0]], 1)
        again = F.layer_norm(world.predictor(whole, actions, at, GRID, poses[:, :2]), (24,))
        torch.testing.assert_close(rolled.features, again)
        seen = world.see(z[:, :2], states[:, :2], actions[:, :1], GRID, poses[:, :2])
        after = world.rollout(seen, actions[:, 1:], GRID).features[:, 0]
        last = F.layer_norm(world.predictor(z[:, :2], actions, states[:, :2], GRID, poses[:, :2]), (24,))[:, 1]
        torch.testing.assert_close(after, last)
