"""Frame decoders: sizes by closed form, which token paints where, scales of the input, no way back to the tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.batch import Grid
from vjepa_lab.nn.decoder import WIDTHS, ConvDecoder, TokenInput, VitDecoder

GRID = Grid(1, 4, 4)
TOKENS = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))


def conv(**fields) -> ConvDecoder:
    torch.manual_seed(0)
    return ConvDecoder(**{"width": 24, "size": 16, "widths": (16, 16, 8), "groups": 4, **fields})


def vit(**fields) -> VitDecoder:
    torch.manual_seed(0)
    return VitDecoder(**{"width": 24, "size": 16, "dim": 24, "depth": 2, "heads": 2, "patch": 4, **fields})


FORMS = pytest.mark.parametrize("make", [conv, vit], ids=["conv", "vit"])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "million"), [(768, 17.07), (1024, 17.20), (1280, 17.33), (1408, 17.40)])
def test_the_default_has_17_million_parameters_whatever_the_encoder(width, million):
    with torch.device("meta"):
        got = count(ConvDecoder(width=width))
    square = [18 * w * w + 6 * w for w in WIDTHS]  # two convolutions and two norms
    steps = [9 * a * b + b for a, b in pairwise(WIDTHS)]
    assert got == (width + 1) * 512 + sum(square) + sum(steps) + 2 * 96 + 9 * 96 * 3 + 3
    assert got / 1e6 == pytest.approx(million, abs=0.005)
    assert abs(got - 17e6) < 0.03 * 17e6


def test_the_paper_form_is_a_large_transformer():
    with torch.device("meta"):
        decoder = VitDecoder(width=1024)
    block = 12 * 1024**2 + 13 * 1024
    assert count(decoder) == 24 * block + 1025 * 1024 + 2 * 1024 + 1025 * 768
    assert [len(decoder.blocks), decoder.head_dim, decoder.patch] == [24, 64, 16]


@FORMS
@pytest.mark.parametrize("grid", [GRID, Grid(1, 7, 5), Grid(1, 2, 2)], ids=str)
def test_any_grid_of_one_frame_becomes_a_picture(make, grid):
    picture = make()(torch.randn(2, grid.n, 24), grid)
    assert picture.shape == (2, 3, 16, 16)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_other_grids_are_resized_bilinearly():
    tokens = torch.arange(4.0).view(1, 4, 1).expand(-1, -1, 24)
    planes = TokenInput(width=24, side=4)(tokens, Grid(1, 2, 2))
    expected = F.interpolate(torch.tensor([[[[0.0, 1], [2, 3]]]]), size=(4, 4), mode="bilinear", align_corners=False)
    assert torch.allclose(planes[:, 3:4], expected)


def test_without_blocks_a_token_paints_its_own_square_alone():
    decoder = vit(depth=0)
    changed = TOKENS.clone()
    changed[0, 6] = -changed[0, 6]  # row 1, column 2
    differs = (decoder(changed, GRID) != decoder(TOKENS, GRID)).any(1)
    assert differs[0].nonzero().unique(dim=0).tolist() == [[y, x] for y in range(4, 8) for x in range(8, 12)]
    assert not differs[1].any()


def test_the_linear_head_writes_rows_columns_and_colours_in_order():
    decoder = vit(depth=0)
    with torch.no_grad():
        decoder.out.weight.zero_()
        decoder.out.bias.copy_(torch.arange(48.0) / 48)
    square = decoder(TOKENS, GRID)[0, :, 4:8, 8:12].logit()
    assert torch.allclose(square.permute(1, 2, 0).flatten(), torch.arange(48.0) / 48, atol=1e-5)


@FORMS
def test_a_token_in_a_corner_changes_that_corner_the_most(make):
    decoder = make()
    changed = TOKENS.clone()
    changed[0, 3] += torch.randn(24, generator=torch.Generator().manual_seed(2))  # row 0, column 3
    change = (decoder(changed, GRID) - decoder(TOKENS, GRID))[0].abs().sum(0)
    quarters = change.unflatten(0, (2, 8)).unflatten(2, (2, 8)).sum((1, 3))
    assert quarters.argmax() == 1


@FORMS
def test_no_gradient_reaches_the_tokens_and_every_parameter_has_one(make):
    decoder, tokens = make(frames=2), TOKENS.clone().requires_grad_()
    decoder(tokens, GRID, torch.tensor([0, 1])).square().mean().backward()
    assert tokens.grad is None
    assert all(p.grad is not None for p in decoder.parameters())


@FORMS
def test_initialisation_leaves_nothing_out(make):
    with torch.device("meta"):
        decoder = make(frames=2)
    decoder.to_empty(device="cpu")
    state = decoder.state_dict()
    for value in state.values():
        value.fill_(float("nan"))
    decoder.init_weights()
    assert not [name for name, value in state.items() if value.isnan().any()]


@FORMS
def test_it_learns_a_picture_that_is_linear_in_the_tokens(make):
    rng = torch.Generator().manual_seed(3)
    tokens = torch.randn(32, 16, 24, generator=rng)
    mix = torch.randn(24, 3, generator=rng) / 24**0.5
    truth = (tokens @ mix).sigmoid().transpose(1, 2).unflatten(2, (4, 4))
    truth = truth.repeat_interleave(4, 2).repeat_interleave(4, 3)
    decoder = make(scale="none")
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(120):
        loss = F.mse_loss(decoder(tokens, GRID), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * truth.var()


def test_the_layer_scale_ignores_offset_and_gain_of_a_token():
    scale = TokenInput(width=24, side=4, scale="layer")
    assert torch.allclose(scale(TOKENS * 3 + 5, GRID), scale(TOKENS, GRID), atol=1e-4)
    assert torch.allclose(scale(TOKENS, GRID).mean(1), torch.zeros(()), atol=1e-5)


def test_the_fitted_scale_ignores_offset_and_gain_of_a_channel_and_bears_a_dead_one():
    moved = TOKENS * torch.linspace(1, 9, 24) + torch.linspace(-5, 5, 24)
    moved[..., 7] = 4.0
    scale = TokenInput(width=24, side=4, scale="standard")
    scale.fit(moved.mean((0, 1)), moved.std((0, 1)))
    planes = scale(moved, GRID).transpose(0, 1).flatten(1)
    alive = [i for i in range(24) if i != 7]
    assert torch.allclose(planes[alive].std(1), torch.ones(23), atol=1e-4)
    assert torch.allclose(planes.mean(1), torch.zeros(24), atol=1e-4)
    assert scale(moved + 1.0, GRID)[:, 7].max() < 1.1  # not a division by nothing
    kept = TokenInput(width=24, side=4, scale="standard")
    kept.load_state_dict(scale.state_dict())
    assert torch.equal(kept(moved, GRID), scale(moved, GRID))


@FORMS
def test_frames_of_one_tubelet_come_from_the_same_tokens(make):
    decoder = make(frames=2)
    same = TOKENS[:1].expand(2, -1, -1)
    first, second = decoder(same, GRID, torch.tensor([0, 1]))
    assert (first - second).abs().max() > 0
    again = decoder(same, GRID, torch.tensor([1, 1]))
    assert torch.allclose(again[0], again[1], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv(size=18), "size: got 18, expected a multiple of 4"),
        (lambda: conv(groups=5), r"widths: got \[16, 16, 8\], expected multiples of groups=5"),
        (lambda: vit(size=18), "size: got 18, expected a multiple of patch=4"),
        (lambda: vit(scale="batch"), "scale: got 'batch', expected layer, standard or none"),
        (lambda: conv(frames=0), "at least one cell and one frame"),
        (lambda: conv()(TOKENS, Grid(2, 2, 4)), "expected those of one frame"),
        (lambda: conv()(TOKENS, Grid(1, 4, 5)), r"tokens: expected .*\(B, 20, 24\)"),
        (lambda: conv()(TOKENS, GRID, torch.tensor([0, 0])), "frame: expected no frame"),
        (lambda: conv(frames=2)(TOKENS, GRID), "frame: expected which frame"),
        (lambda: conv().scale.fit(torch.zeros(24), torch.ones(24)), "scale: got 'none', which is not fitted"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
