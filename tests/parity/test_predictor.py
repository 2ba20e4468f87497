"""The predictor gives what the released predictor gave, for recorded weights and for weights made by a rule."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor


@pytest.mark.parametrize("i", [0, 1])
def test_recorded_masks(recorded, i):
    case = recorded("predictor")
    predictor = Predictor(encoder_width=64, width=48, depth=2, heads=2, mask_tokens=2, rope="released").eval()
    predictor.load_state_dict(case["state_dict"], strict=True)
    args = case["context"][i], case["masks_context"][i], case["masks_target"][i]
    out = predictor(*args, Grid(3, 3, 3), mask_token=case["mask_index"][i])
    torch.testing.assert_close(out, case["out"][i], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mask_token", "total", "size"), [(1, 3.858148525, 0.447867965), (0, 3.635531986, 0.440252761)]
)
def test_golden_sums(sine_weights, cosine_input, mask_token, total, size):
    encoder = sine_weights(Encoder(width=96, depth=2, heads=3, rope="released"))
    predictor = sine_weights(Predictor(encoder_width=96, width=48, depth=2, heads=4, mask_tokens=3, rope="released"))
    context_ids = torch.tensor([[0, 5, 17, 33, 60], [1, 2, 3, 40, 63]])
    target_ids = torch.tensor([[4, 6, 7, 50], [0, 8, 9, 62]])
    context = encoder(cosine_input(2, 3, 8, 64, 64), context_ids)
    out = predictor(context, context_ids, target_ids, Grid(4, 4, 4), mask_token=mask_token)
    assert out.shape == (2, 4, 96)
    assert out.sum().item() == pytest.approx(total, abs=1e-5)
    assert out.abs().mean().item() == pytest.approx(size, abs=1e-6)
