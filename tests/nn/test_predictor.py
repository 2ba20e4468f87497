"""The predictor: what it sees, where targets may lie, sizes and initialisation."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.nn.predictor import Predictor

GRID = Grid(2, 2, 3)
CONTEXT_IDS = torch.tensor([[0, 2, 5, 11], [1, 3, 4, 7]])
TARGET_IDS = torch.tensor([[1, 6, 8], [0, 9, 10]])


def tiny(**changes) -> Predictor:
    torch.manual_seed(0)
    predictor = Predictor(**{"encoder_width": 16, "width": 24, "depth": 2, "heads": 2, **changes}).eval()
    for p in predictor.predictor_blocks.parameters():
        torch.nn.init.normal_(p, std=0.3)  # far from initialisation, so that attention is not uniform
    return predictor


def context() -> torch.Tensor:
    return torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1))


def test_order_of_context_does_not_matter_and_outputs_follow_target_ids():
    predictor = tiny()
    out = predictor(context(), CONTEXT_IDS, TARGET_IDS, GRID)
    assert out.shape == (2, 3, 16)
    back, order = torch.tensor([3, 1, 0, 2]), torch.tensor([2, 0, 1])
    again = predictor(context()[:, back], CONTEXT_IDS[:, back], TARGET_IDS[:, order], GRID)
    torch.testing.assert_close(again, out[:, order], atol=1e-5, rtol=0)


def test_predictions_depend_on_context_and_on_where_the_target_is():
    predictor = tiny()
    out = predictor(context(), CONTEXT_IDS, TARGET_IDS, GRID)
    changed = context()
    changed[:, 2] += 1.0
    assert not torch.allclose(predictor(changed, CONTEXT_IDS, TARGET_IDS, GRID), out, atol=1e-3)
    moved = TARGET_IDS + torch.tensor([[2], [2]]) % GRID.n
    assert not torch.allclose(predictor(context(), CONTEXT_IDS, moved % GRID.n, GRID), out, atol=1e-3)


def test_a_longer_grid_lets_targets_lie_in_the_future():
    predictor = tiny()
    near = predictor(context(), CONTEXT_IDS, TARGET_IDS, GRID)
    long = Grid(4, 2, 3)
    torch.testing.assert_close(predictor(context(), CONTEXT_IDS, TARGET_IDS, long), near, atol=1e-6, rtol=0)
    future = predictor(context(), CONTEXT_IDS, TARGET_IDS + GRID.n, long)
    assert future.isfinite().all()
    assert not torch.allclose(future, near, atol=1e-3)


def test_the_chosen_mask_token_is_used():
    predictor = tiny(mask_tokens=2, zero_init_mask_tokens=False)
    args = context(), CONTEXT_IDS, TARGET_IDS, GRID
    first, second = predictor(*args, mask_token=0), predictor(*args, mask_token=1)
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(predictor(*args), first)
    with pytest.raises(ValueError, match=r"mask_token: expected 0..1, got 2"):
        predictor(*args, mask_token=2)


@pytest.mark.parametrize(("encoder_width", "millions"), [(1024, 22.086), (1280, 22.283), (1408, 22.381)])
def test_parameter_counts_of_released_predictors(encoder_width, millions):
    with torch.device("meta"):
        predictor = Predictor(encoder_width=encoder_width, mask_tokens=10)
    count = sum(p.numel() for p in predictor.parameters())
    block = (4 * 384 * 384 + 4 * 384) + (2 * 384 * 1536 + 384 + 1536) + 4 * 384
    assert count == 2 * encoder_width * 384 + 384 + encoder_width + 12 * block + 10 * 384 + 2 * 384
    assert count / 1e6 == pytest.approx(millions, abs=0.0005)


@pytest.mark.parametrize("zero", [True, False])
def test_initialisation_reaches_every_parameter(zero):
    with torch.device("meta"):
        predictor = Predictor(encoder_width=16, width=24, depth=2, heads=2, zero_init_mask_tokens=zero)
    predictor.to_empty(device="cpu")
    for p in predictor.parameters():
        torch.nn.init.constant_(p, float("nan"))
    predictor.init_weights()
    assert not any(p.isnan().any() for p in predictor.parameters())
    assert predictor.mask_tokens[0].any().item() is not zero


def test_a_dense_predictor_also_speaks_of_the_context_and_says_the_same_of_the_targets():
    torch.manual_seed(0)
    dense = Predictor(encoder_width=24, width=12, depth=2, heads=2, dense=True).eval()
    plain = Predictor(encoder_width=24, width=12, depth=2, heads=2).eval()
    plain.load_state_dict({k: v for k, v in dense.state_dict().items() if "proj_context" not in k})
    args = torch.randn(2, 3, 24), torch.tensor([[0, 1, 2]] * 2), torch.tensor([[3, 5]] * 2), Grid(2, 2, 2)
    targets, context = dense(*args)
    torch.testing.assert_close(targets, plain(*args))
    assert context.shape == (2, 3, 24)


def test_levels_widen_both_ends_and_a_teacher_sets_the_width_of_the_output():
    model = Predictor(encoder_width=24, width=12, depth=1, heads=2, levels=4)
    assert model.predictor_embed[0].weight.shape == (24, 96)
    assert model.predictor_proj.weight.shape == (96, 12)
    assert Predictor(encoder_width=24, width=12, depth=1, heads=2, out_width=40).predictor_proj.weight.shape == (40, 12)
