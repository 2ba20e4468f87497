"""Elastic deformation bends more with each severity; pixelation and JPEG are what they are elsewhere."""

import pytest
import torch

from vjepa_lab.probes._corruptions import CORRUPTIONS, corrupt
from vjepa_lab.probes._corruptions_geometry import elastic_transform, wobble
from vjepa_lab.probes._perturb import Draws

ELASTIC = CORRUPTIONS["elastic_transform"].levels


def test_the_strain_of_the_smooth_part_grows_with_every_severity():
    strains = []
    for alpha, sigma, _ in ELASTIC:
        field = torch.stack([wobble(224, 224, alpha, sigma, Draws("strain", i)) for i in range(4)])
        strains.append((field[..., 1:] - field[..., :-1]).std().item())
    assert strains == sorted(strains), strains
    # White noise of variance 1/3 blurred by sigma has differences of variance 1 / (24 pi sigma^4), per pixel.
    for (alpha, sigma, _), strain in list(zip(ELASTIC, strains, strict=True))[2:]:
        assert strain == pytest.approx(alpha / sigma**2 * (24 * torch.pi) ** -0.5, rel=0.12)


def ramps(side=224):
    line = torch.arange(side) / side
    flat = torch.full((side, side), 0.5)
    return torch.stack((line[:, None].expand(side, side), line.expand(side, side), flat))[:, None]


def test_without_a_smooth_part_the_map_is_affine():
    x = ramps()
    moved = (elastic_transform(x, (0.0, 1.0, 24.4), Draws("a"), 1.0) - x)[:2, 0, 60:-60, 60:-60] * 224
    rows, columns = torch.meshgrid(torch.arange(60.0, 164), torch.arange(60.0, 164), indexing="ij")
    design = torch.stack((torch.ones_like(rows), rows, columns), -1).view(-1, 3).double()
    target = moved.flatten(1).T.double()
    fitted = torch.linalg.lstsq(design, target).solution
    assert (design @ fitted - target).abs().max() < 1e-2
    assert fitted.abs().max() > 1
    half = torch.tensor([[1.0, 112 + 224 / 3, 112 + 224 / 3]]).double() @ fitted
    assert half.abs().max() <= 24.4


def test_the_picture_bends_as_a_whole_or_boils():
    x = ramps().expand(3, 4, 224, 224)
    whole = corrupt(x, "elastic_transform", 3, keys="v")
    assert torch.equal(whole[:, 0], whole[:, 3])
    boiling = corrupt(x, "elastic_transform", 3, keys="v", coherent=False)
    jump = 224 * (boiling[0, 0] - boiling[0, 1])[60:-60, 60:-60]
    assert 0.5 < jump.std() < 10


@pytest.mark.parametrize(("severity", "block"), [(2, 2), (5, 4)])
def test_pixelating_what_is_constant_on_blocks_changes_nothing(severity, block):
    small = torch.randint(0, 256, (3, 2, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = small.repeat_interleave(block, 2).repeat_interleave(block, 3)
    assert torch.equal(corrupt(x, "pixelate", severity, keys="v"), x)


def test_pixels_become_the_means_of_their_blocks():
    x = torch.rand(3, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    out = corrupt(x, "pixelate", 5, keys="v")
    blocks = x.view(3, 1, 6, 4, 6, 4).mean((3, 5))
    assert torch.allclose(out, blocks.repeat_interleave(4, 2).repeat_interleave(4, 3), atol=1e-6)


@pytest.mark.parametrize(("severity", "quality"), [(2, 18), (5, 7)])
def test_jpeg_rounds_the_mean_of_a_block_to_the_step_of_its_quality(severity, quality):
    """libjpeg scales the table's first entry, 16, by 50 / quality; the coefficient is 8 times the mean less 128."""
    step = (16 * (5000 // quality) + 50) // 100 / 8
    grey = torch.arange(30, 226, dtype=torch.float64)
    x = grey.to(torch.uint8).view(14, 14).repeat_interleave(16, 0).repeat_interleave(16, 1).expand(3, 1, 224, 224)
    out = corrupt(x.contiguous(), "jpeg_compression", severity, keys="v")[0, 0, ::16, ::16].double().flatten()
    assert (out - (128 + step * ((grey - 128) / step).round())).abs().max() <= 1


def test_jpeg_gets_worse_with_falling_quality_and_codes_frames_alone():
    x = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(x.transpose(0, 1), scale_factor=4, mode="bicubic").transpose(0, 1).clamp(0, 1)
    out = [corrupt(x, "jpeg_compression", s, keys="v") for s in range(1, 6)]
    errors = [(o - x).square().mean().item() for o in out]
    assert errors == sorted(errors)
    assert torch.equal(out[2][:, 1:], corrupt(x[:, 1:], "jpeg_compression", 3, keys="w"))
