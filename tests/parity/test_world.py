"""The world model's losses, rollouts and energies are those recorded from the released code."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.robots import DROID
from vjepa_lab.world import World, energy

GRID = (3, 3)


@pytest.fixture
def world(recorded) -> World:
    predictor = ACPredictor(encoder_width=64, width=64, depth=2, heads=2)
    predictor.load_state_dict(recorded("ac_predictor")["state_dict"])
    return World(encoder=Encoder(width=64, depth=1, heads=2), predictor=predictor, robot=DROID)


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_recorded_losses_and_gradients(world, recorded):
    case = recorded("ac_losses")
    out = world(case["features"].unflatten(1, (4, 9)), case["states"], case["actions"], GRID)
    near(out["loss/teacher_forcing"], case["loss_teacher_forcing"])
    near(out["loss/rollout"], case["loss_rollout"])
    parameters = dict(world.predictor.named_parameters())
    gradients = torch.autograd.grad(out["loss"], [parameters[name] for name in case["gradients"]])
    for gradient, expected in zip(gradients, case["gradients"].values(), strict=True):
        near(gradient, expected)


@torch.no_grad()
def test_recorded_rollouts_poses_and_energies(world, recorded):
    case = recorded("rollout_energy")
    seen = world.see(case["feature"][None, None], case["start_pose"][None, None], torch.zeros(1, 0, 7), GRID)
    out = world.rollout(seen, case["action_sequences"], GRID)
    near(out.states, case["poses"][:, 1:])
    near(out.features[:, -1], case["final_features"])
    near(energy(out.features[:, -1], case["goal"]), case["energy"])
