"""Controls know nothing: fresh weights, bare pixels, no content."""

import pytest
import torch
from torch import nn

from vjepa_lab.baselines import of_timm
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._controls import control


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=2, heads=2, patch=8), frames=4, crop=32)


def clips(count=2, seed=0):
    return torch.randint(256, (count, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_the_untrained_twin_has_the_same_shape_and_fresh_weights_by_the_seed(encoder):
    with torch.no_grad():
        encoder.encoder.blocks[0].mlp.fc1.weight.fill_(1.0)
    state = torch.get_rng_state()
    a, b, c = (control("untrained", encoder, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert a.tokens(clips()).tokens.shape == encoder.tokens(clips()).tokens.shape
    weight = [e.encoder.blocks[0].mlp.fc1.weight for e in (a, b, c)]
    assert torch.equal(weight[0], weight[1])
    assert not torch.equal(weight[0], weight[2])
    assert weight[0].std() < 0.1  # not the ones of the trained network
    assert encoder.encoder.blocks[0].mlp.fc1.weight.eq(1).all()


def test_an_image_model_of_timm_is_drawn_anew_too():
    model = of_timm("vit_tiny_patch16_224", crop=32, pretrained=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    fresh = control("untrained", FrozenEncoder(encoder=model, frames=4, crop=32))
    assert not [n for n, p in fresh.encoder.named_parameters() if p.eq(0.5).all()]


def test_pixels_are_the_grey_clip_itself(encoder):
    pixels = control("pixels", encoder)
    found = pixels.tokens(torch.full((1, 3, 4, 32, 32), 51, dtype=torch.uint8))
    assert found.grid == (2, 4, 4)
    assert torch.allclose(found.tokens, torch.full((1, 32, 32), 0.2 * 0.999), atol=1e-3)
    clip = clips()
    flat = pixels.pooled(clip)
    assert flat.shape == (2, 4 * 16 * 16)
    grey = (clip.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(1) / 255
    small = nn.functional.avg_pool2d(grey, 2)
    assert torch.allclose(flat.sum(1), small.flatten(1).sum(1), rtol=1e-4)
    assert torch.allclose(pixels.tokens(clip).tokens[0, 0, :4], small[0, 0, 0, :4], atol=1e-5)


def test_constant_features_have_no_content(encoder):
    constant = control("constant", encoder)
    assert torch.equal(constant.pooled(clips(seed=0)), constant.pooled(clips(seed=1)))
    assert constant.width == encoder.width
