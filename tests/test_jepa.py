"""The objective: what it computes, what learns from it, and what may not be seen."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.jepa import JEPA
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor

GRID = Grid(2, 3, 3)


def tiny(power: float = 1.0, **changes) -> JEPA:
    torch.manual_seed(0)
    context = Encoder(**{"width": 24, "depth": 2, "heads": 2, "patch": 4, **changes})
    return JEPA(context=context, predictor=Predictor(encoder_width=24, width=12, depth=1, heads=2), power=power)


def clip() -> torch.Tensor:
    return torch.randn(2, 3, 4, 12, 12, generator=torch.Generator().manual_seed(1))


def pairs() -> list[MaskPair]:
    g = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(GRID.n, generator=g) for _ in range(2)])

    def part(a: int, b: int) -> torch.Tensor:
        return order[:, a:b].sort().values

    return [MaskPair(part(0, 6), part(6, 14)), MaskPair(part(9, 13), part(0, 9))]


def naive_loss(model: JEPA, x: torch.Tensor, pairs: list[MaskPair], power: float) -> torch.Tensor:
    """One sample and one hidden token at a time, target features normalised by hand."""
    total = torch.zeros(())
    for pair in pairs:
        numbers = []
        for b in range(len(x)):
            clip, seen, hidden = x[b : b + 1], pair.context[b : b + 1], pair.target[b : b + 1]
            h = model.target(clip)[0]
            h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            z = model.predictor(model.context(clip, seen), seen, hidden, GRID)[0]
            for i, token in enumerate(hidden[0].tolist()):
                numbers.append((z[i] - h[token]).abs() ** power / power)
        total = total + torch.stack(numbers).mean()
    return total / len(pairs)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_loss_equals_the_naive_version(power):
    model = tiny(power)
    out = model(clip(), pairs())
    torch.testing.assert_close(out["loss"], naive_loss(model, clip(), pairs(), power))
    for i, pair in enumerate(pairs()):
        torch.testing.assert_close(out[f"loss/{i}"], naive_loss(model, clip(), [pair], power).detach())


def test_no_gradient_reaches_the_target_and_all_else_learns():
    model = tiny()
    for token in model.predictor.mask_tokens:
        torch.nn.init.normal_(token)
    out = model(clip(), pairs())
    out["loss"].backward()
    assert all(p.grad is None for p in model.target.parameters())
    for part in (model.context, model.predictor):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")


def test_pixels_of_unseen_tokens_reach_the_loss_through_the_target_only():
    model, x = tiny(), clip()
    pair = pairs()[0]
    unseen = torch.ones(2, GRID.n, dtype=torch.bool).scatter(1, pair.context, False).view(2, *GRID)
    noise = unseen.repeat_interleave(2, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)[:, None].float()
    other = x + noise
    assert torch.equal(model.context(x, pair.context), model.context(other, pair.context))
    assert model(x, [pair])["loss"] != model(other, [pair])["loss"]


def test_update_is_the_moving_average_by_hand():
    model = tiny()
    with torch.no_grad():
        for p in model.context.parameters():
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in model.target.parameters()]
    model.update_target(0.9)
    for old, new, context in zip(before, model.target.parameters(), model.context.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * context)
    kept = [p.clone() for p in model.target.parameters()]
    model.update_target(1.0)
    assert all(torch.equal(a, b) for a, b in zip(kept, model.target.parameters(), strict=True))


def test_target_begins_as_a_copy_and_stays_in_evaluation_mode():
    model = tiny(drop_path=0.9)
    for a, b in zip(model.target.parameters(), model.context.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    model.train()
    assert model.context.training
    assert not any(part.training for part in model.target.modules())
    assert torch.equal(model.target(clip()), model.target(clip()))


def test_statistics_show_a_collapse():
    model, x = tiny(), clip()
    healthy = model(x, pairs())
    assert healthy["target_std"] > 0.1
    assert healthy["context_std"] > 0.1
    assert healthy["target_context_gap"] > 0
    same = model(x[:, :, :1, :1, :1].expand(-1, -1, 4, 12, 12)[:1].expand(2, -1, -1, -1, -1) * 0, pairs())
    assert same["target_std"] < 1e-5
    assert same["context_std"] < 1e-5


def test_gap_is_zero_where_both_encoders_see_all():
    everything = torch.arange(GRID.n).expand(2, -1)
    out = tiny()(clip(), [MaskPair(everything, everything)])
    assert out["target_context_gap"] < 1e-5


def test_initialisation_reaches_every_parameter_and_copies_to_the_target():
    with torch.device("meta"):
        model = tiny()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    model.init_weights()
    assert not any(p.isnan().any() for p in model.parameters())
    for a, b in zip(model.target.parameters(), model.context.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bf16_autocast_gives_a_float32_loss_near_the_exact_one():
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(clip(), pairs())
    out["loss"].backward()
    assert all(v.dtype == torch.float32 for v in out.values())
    assert out["loss"].item() == pytest.approx(model(clip(), pairs())["loss"].item(), rel=0.02)
