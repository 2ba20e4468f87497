"""The AC predictor gives what the released one gave: outputs, losses and gradients, by one pass and frame by frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab.nn.ac_predictor import ACPredictor

TOLERANCE = 1e-5
GRID = (3, 3)


def build(case: dict) -> ACPredictor:
    predictor = ACPredictor(
        encoder_width=64, width=64, depth=2, heads=2, use_extrinsics=case["config"]["use_extrinsics"]
    )
    predictor.load_state_dict(case["state_dict"], strict=True)
    return predictor


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["ac_predictor", "ac_predictor_extrinsics"])
@pytest.mark.parametrize("chunk", [4, 1, 3])
def test_recorded_sequence_at_once_and_in_parts(recorded, name, chunk):
    case = recorded(name)
    predictor = build(case).eval().requires_grad_(False)
    inputs = case["features"].unflatten(1, (4, 9)), case["actions"], case["states"]
    extrinsics = case.get("extrinsics")
    outputs, cache = [], predictor.cache()
    for start in range(0, 4, chunk):
        tokens, actions, states = (x[:, start : start + chunk] for x in inputs)
        poses = None if extrinsics is None else extrinsics[:, start : start + chunk]
        out, cache = predictor(tokens, actions, states, GRID, poses, cache)
        outputs.append(out)
    near(torch.cat(outputs, dim=1).flatten(1, 2), case["out"])
    near(predictor(*inputs, GRID, extrinsics).flatten(1, 2), case["out"])


def test_recorded_first_two_frames(recorded):
    case = recorded("ac_predictor")
    tokens, actions, states = case["features"].unflatten(1, (4, 9)), case["actions"], case["states"]
    out = build(case)(tokens[:, :2], actions[:, :2], states[:, :2], GRID)
    near(out.flatten(1, 2), case["out_first_two_steps"])


@pytest.mark.parametrize("cached", [False, True])
def test_recorded_losses_and_gradients(recorded, cached):
    """Teacher forcing on frames 1 to 3, then frame 3 from frame 1 and the predicted frame 2 (two steps, as released).

    The second step may start from the first frame as the teacher-forced pass saw it.
    """
    predictor, case = build(recorded("ac_predictor")), recorded("ac_losses")
    z, actions, states = case["features"].unflatten(1, (4, 9)), case["actions"], case["states"]

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])

    forced, cache = predictor(z[:, :3], actions, states[:, :3], GRID, cache=predictor.cache())
    forced = norm(forced)
    if cached:
        second, _ = predictor(forced[:, :1], actions[:, 1:2], states[:, 1:2], GRID, cache=cache.first(1))
    else:
        second = predictor(torch.cat((z[:, :1], forced[:, :1]), dim=1), actions[:, :2], states[:, :2], GRID)
    rollout = torch.cat((forced[:, :1], norm(second[:, -1:])), dim=1)
    losses = (forced - z[:, 1:]).abs().mean(), (rollout - z[:, 1:3]).abs().mean()
    near(losses[0], case["loss_teacher_forcing"])
    near(losses[1], case["loss_rollout"])
    parameters = dict(predictor.named_parameters())
    gradients = torch.autograd.grad(sum(losses), [parameters[name] for name in case["gradients"]])
    for gradient, expected in zip(gradients, case["gradients"].values(), strict=True):
        near(gradient, expected)


@pytest.mark.parametrize(
    ("extrinsics", "total", "size"), [(False, 85.857570060, 0.434249850), (True, 85.859070059, 0.434205272)]
)
def test_golden_sums(sine_weights, cosine_input, extrinsics, total, size):
    predictor = ACPredictor(encoder_width=96, width=48, depth=2, heads=4, use_extrinsics=extrinsics)
    predictor = sine_weights(predictor).requires_grad_(False)
    tokens = cosine_input(2, 48, 96).unflatten(1, (3, 16))
    poses = cosine_input(2, 3, 6) if extrinsics else None
    out = predictor(tokens, cosine_input(2, 3, 7), cosine_input(2, 3, 7), (4, 4), poses)
    assert out.shape == (2, 3, 16, 96)
    assert out.sum().item() == pytest.approx(total, abs=1e-5)
    assert out.abs().mean().item() == pytest.approx(size, abs=1e-6)
    if not extrinsics:
        assert out[0, 0, 0, :3].tolist() == pytest.approx([-0.2382082, 0.414000433, 0.589527788], abs=1e-6)
