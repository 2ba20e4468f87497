"""The encoder: cutting a clip, choosing tokens, taps, sizes and initialisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.batch import Grid
from vjepa_lab.config import SIZES
from vjepa_lab.nn.encoder import Encoder, patchify, take


def tiny(**changes) -> Encoder:
    torch.manual_seed(0)
    return Encoder(**{"width": 24, "depth": 3, "heads": 2, "patch": 4, "tubelet": 2, **changes}).eval()


def clip(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_embedding_of_cut_pixels_equals_the_convolution():
    encoder = tiny()
    nn_bias = encoder.patch_embed.proj.bias
    torch.nn.init.normal_(nn_bias)
    x = clip(2, 3, 5, 13, 9)  # leaves a frame, a row and a column over
    patches = patchify(x, patch=4, tubelet=2)
    assert patches.grid == Grid(2, 3, 2)
    conv = F.conv3d(x, encoder.patch_embed.proj.weight, nn_bias, stride=(2, 4, 4))
    torch.testing.assert_close(encoder.patch_embed(patches.pixels), conv.flatten(2).mT, atol=1e-6, rtol=0)


def test_take_equals_a_loop_over_samples():
    x, ids = clip(3, 7, 5), torch.tensor([[0, 6], [3, 3], [5, 1]])
    assert torch.equal(take(x, ids), torch.stack([x[i, ids[i]] for i in range(3)]))


def test_all_ids_give_what_no_ids_give():
    encoder, x = tiny(), clip(2, 3, 4, 8, 12)
    ids = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(encoder(x, ids), encoder(x), atol=1e-5, rtol=0)


def test_features_follow_their_ids_when_ids_are_permuted():
    encoder, x = tiny(), clip(2, 3, 4, 8, 12)
    ids, order = torch.tensor([[0, 2, 5, 11], [1, 3, 4, 7]]), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(encoder(x, ids)[:, order], encoder(x, ids[:, order]), atol=1e-5, rtol=0)


def test_hidden_pixels_do_not_influence_chosen_tokens():
    encoder, x = tiny(), clip(1, 3, 4, 8, 12)
    other = x.clone()
    other[:, :, :, :, 8:] += 1.0  # the last column of tokens: ids 2, 5, 8, 11
    ids = torch.tensor([[0, 1, 4, 9]])
    assert torch.equal(encoder(x, ids), encoder(other, ids))
    assert not torch.allclose(encoder(x), encoder(other), atol=1e-3)


def test_cut_pixels_serve_instead_of_a_clip():
    encoder, x = tiny(), clip(2, 3, 4, 8, 12)
    patches = patchify(x, patch=encoder.patch, tubelet=encoder.tubelet)
    ids = torch.tensor([[0, 2], [1, 3]])
    assert torch.equal(encoder(patches, ids), encoder(x, ids))


def test_the_last_tap_is_the_output_and_a_tap_is_a_shorter_encoder():
    encoder, x = tiny(), clip(1, 3, 4, 8, 8)
    out, taps = encoder(x, taps=(1, 2))
    assert sorted(taps) == [1, 2]
    assert torch.equal(taps[2], out)
    del encoder.blocks[2]
    torch.testing.assert_close(encoder(x), taps[1], atol=1e-6, rtol=0)


def test_wrong_inputs_are_refused():
    encoder = tiny()
    with pytest.raises(ValueError, match=r"taps: expected blocks in 0..2, got \[3, -1\]"):
        encoder(clip(1, 3, 4, 8, 8), taps=(0, 3, -1))
    with pytest.raises(ValueError, match="at least one token of 2 frames x 4 x 4 pixels, got 1 frames x 8 x 8"):
        encoder(clip(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"expected \(B, 3, F, H, W\), got \(3, 4, 8, 8\)"):
        encoder(clip(3, 4, 8, 8))


def closed_form(width: int, depth: int, mlp: int) -> int:
    block = (4 * width * width + 4 * width) + (2 * width * mlp + width + mlp) + 4 * width
    return (3 * 2 * 16 * 16 + 1) * width + depth * block + 2 * width


# Millions of parameters of the released factories; those for "gigantic" have another MLP width by mistake.
MILLIONS = {
    "tiny": 5.634,
    "small": 21.885,
    "base": 86.236,
    "large": 303.885,
    "huge": 631.648,
    "giant": 1012.174,
}


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    width, depth, heads, mlp = SIZES[name]
    with torch.device("meta"):
        encoder = Encoder(width=width, depth=depth, heads=heads, mlp_hidden=mlp)
    count = sum(p.numel() for p in encoder.parameters())
    assert count == closed_form(width, depth, mlp)
    if name in MILLIONS:
        assert count / 1e6 == pytest.approx(MILLIONS[name], abs=0.0005)


def test_initialisation_reaches_every_parameter():
    with torch.device("meta"):
        encoder = tiny(mlp="swiglu")
    encoder.to_empty(device="cpu")
    for p in encoder.parameters():
        torch.nn.init.constant_(p, float("nan"))
    encoder.init_weights()
    assert not any(p.isnan().any() for p in encoder.parameters())
    assert encoder(clip(1, 3, 4, 8, 8)).isfinite().all()


@pytest.mark.parametrize("layout", ["released", "exact"])
def test_bf16_autocast_stays_near_float32(layout):
    encoder, x = tiny(rope=layout), clip(2, 3, 4, 8, 12)
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(x)
    torch.testing.assert_close(out.float(), encoder(x), atol=0.1, rtol=0)


LEVELS = {"levels": [1, 3], "images": True}


def test_levels_are_the_outputs_of_their_blocks_through_norms_of_their_own():
    torch.manual_seed(0)
    model = Encoder(width=24, depth=4, heads=2, patch=4, **LEVELS).eval()
    with torch.no_grad():
        for i, norm in enumerate(model.norms_block):
            norm.weight.fill_(i + 1.0)
    clip = torch.randn(2, 3, 4, 8, 8)
    both, taps = model(clip, taps=[0, 1, 3], levels=True)
    torch.testing.assert_close(both, torch.cat([taps[1], taps[3]], -1))
    torch.testing.assert_close(model(clip), taps[3])
    assert model.norm_of(0) is model.norm_of(1) is model.norms_block[0]
    assert model.norm_of(2) is model.norms_block[1]


def test_a_clip_of_one_frame_takes_the_image_branch():
    torch.manual_seed(0)
    model = Encoder(width=24, depth=4, heads=2, patch=4, **LEVELS).eval()
    image = torch.randn(2, 3, 1, 8, 8)
    assert model(image).shape == (2, 4, 24)
    before = model(image)
    with torch.no_grad():
        model.video_mod_embed.add_(1.0)
        model.patch_embed.proj.weight.add_(1.0)
    assert torch.equal(model(image), before)
    with torch.no_grad():
        model.img_mod_embed.add_(torch.randn(24))
    assert not torch.equal(model(image), before)


@pytest.mark.parametrize("levels", [[1, 2], [3, 1], [1, 1, 3], [4]])
def test_levels_that_do_not_end_with_the_last_block_are_refused(levels):
    with pytest.raises(ValueError, match="levels: expected rising blocks of which the last is 3"):
        Encoder(width=24, depth=4, heads=2, levels=levels)


def test_an_encoder_without_levels_has_none_to_give():
    model = Encoder(width=24, depth=2, heads=2, patch=4)
    with pytest.raises(ValueError, match="has none"):
        model(torch.randn(1, 3, 2, 8, 8), levels=True)
