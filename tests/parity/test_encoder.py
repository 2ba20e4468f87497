"""The encoder gives what the released encoder gave, for recorded weights and for weights made by a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vjepa_lab.nn.encoder import Encoder

TOLERANCE = 1e-5


@pytest.fixture
def case(recorded):
    return recorded("encoder")


@pytest.fixture
def encoder(case):
    encoder = Encoder(width=64, depth=2, heads=2, rope="released").eval().requires_grad_(False)
    encoder.load_state_dict(case["state_dict"], strict=True)
    return encoder


@pytest.fixture
def golden(sine_weights):
    return sine_weights(Encoder(width=96, depth=2, heads=3, rope="released")).eval().requires_grad_(False)


def near(a: Tensor, b: Tensor | list[float]) -> None:
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), atol=TOLERANCE, rtol=0)


def test_full_clip(encoder, case):
    near(encoder(case["video"]), case["out_full"])


@pytest.mark.parametrize("mask", [0, 1])
def test_chosen_tokens(encoder, case, mask):
    near(encoder(case["video"], case["masks_context"][mask]), case["out_context"][mask])


def test_taps_go_through_the_final_norm(encoder, case):
    out, taps = encoder(case["video"], taps=case["layers"])
    near(out, case["out_full"])
    assert list(taps) == case["layers"]
    for layer, expected in zip(case["layers"], case["out_layers"], strict=True):
        near(taps[layer], expected)


def test_another_size_that_is_not_square(encoder, case):
    near(encoder(case["video_other_size"]), case["out_other_size"])


def test_clip_of_one_tubelet(encoder, case):
    near(encoder(case["single_tubelet"]), case["out_single_tubelet"])


def test_the_exact_layout_is_another_function(case):
    exact = Encoder(width=64, depth=2, heads=2, rope="exact").eval().requires_grad_(False)
    exact.load_state_dict(case["state_dict"], strict=True)
    assert (exact(case["video"]) - case["out_full"]).abs().max() > 100 * TOLERANCE


def test_golden_sums(golden, cosine_input):
    out, taps = golden(cosine_input(2, 3, 8, 64, 64), taps=[0])
    near(out.sum(), -14.133430173)
    near(out.abs().mean(), 0.851194330)
    near(out[0, 0, :5], [0.965594803, -0.351003358, 0.610847741, 0.614375047, -1.109098091])
    near(out[-1, -1, -3:], [0.212625802, -0.31382487, -0.655110856])
    near(taps[0].sum(), -57.733682737)


def test_golden_sums_of_chosen_tokens(golden, cosine_input):
    ids = torch.tensor([[0, 5, 17, 33, 60], [1, 2, 3, 40, 63]])
    out = golden(cosine_input(2, 3, 8, 64, 64), ids)
    near(out.sum(), -1.104238275)
    near(out[0, 0, :3], [0.965137966, -0.34915117, 0.609580467])


def test_golden_sums_of_another_size(golden, cosine_input):
    out = golden(cosine_input(1, 3, 6, 48, 80))
    assert out.shape == (1, 45, 96)
    near(out.sum(), -4.812304031)
