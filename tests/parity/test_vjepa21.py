"""V-JEPA 2.1 encoder and predictor give what the released ones gave, for recorded and made-up weights."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor

LEVELS = [2, 5, 8, 11]


def near(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), atol=1e-5, rtol=0)


def encoder(width: int, heads: int, interpolate: bool) -> Encoder:
    reference = 16 if interpolate else None
    return Encoder(width=width, depth=12, heads=heads, levels=LEVELS, images=True, rope_reference=reference).eval()


def predictor(wide: int, interpolate: bool, **sizes: int) -> Predictor:
    reference = 16 if interpolate else None
    return Predictor(
        encoder_width=wide, depth=4, mask_tokens=3, levels=4, images=True, dense=True, rope_reference=reference, **sizes
    ).eval()


@pytest.mark.parametrize("interpolate", [False, True])
@torch.no_grad()
def test_recorded(recorded, interpolate):
    case = recorded(f"vjepa21_interpolate_{str(interpolate).lower()}")
    model = encoder(32, 2, interpolate)
    model.load_state_dict(case["encoder"])
    near(model(case["video"]), case["out_video"])
    near(model(case["video"], levels=True), case["out_hierarchical"])
    near(model(case["image"]), case["out_image"])
    context = model(case["video"], case["mask_context"], levels=True)
    near(context, case["out_context_hierarchical"])
    guess = predictor(32, interpolate, width=24, heads=2)
    guess.load_state_dict(case["predictor"])
    targets, seen = guess(context, case["mask_context"], case["mask_target"], Grid(2, 2, 2), case["mask_index"])
    near(targets, case["predicted_targets"])
    near(seen, case["predicted_context"])


@pytest.mark.parametrize(
    ("interpolate", "video", "hierarchical", "image", "targets", "context"),
    [
        (False, -21.578643861, -206.739892983, -2.918741341, 0.471695967, 2.158472119),
        (True, -21.578621267, -206.739579650, -2.918849627, 0.474579220, 2.160758925),
    ],
)
@torch.no_grad()
def test_golden_sums(sine_weights, cosine_input, interpolate, video, hierarchical, image, targets, context):
    model = sine_weights(encoder(96, 3, interpolate))
    clip = cosine_input(2, 3, 8, 64, 64)
    near(model(clip).sum(), video)
    near(model(clip, levels=True).sum(), hierarchical)
    near(model(cosine_input(1, 3, 1, 64, 64)).sum(), image)
    guess = sine_weights(predictor(96, interpolate, width=48, heads=4))
    context_ids = torch.tensor([[0, 5, 17, 33, 60], [1, 2, 3, 40, 63]])
    target_ids = torch.tensor([[4, 6, 7, 50], [0, 8, 9, 62]])
    near_both = guess(model(clip, context_ids, levels=True), context_ids, target_ids, Grid(4, 4, 4), 1)
    near(near_both[0].sum(), targets)
    near(near_both[1].sum(), context)
