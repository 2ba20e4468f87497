"""An encoder with its predictor gives tokens of a clip and of what comes after, and both networks name them."""

import pytest
import torch

from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._foreseen import Foreseen


def encoder_of(*, predictor=True, width=16, patch=8, crop=16, frames=4):
    torch.manual_seed(0)
    foresight = Predictor(encoder_width=width, width=16, depth=1, heads=2, mask_tokens=2, zero_init_mask_tokens=False)
    network = Encoder(width=width, depth=1, heads=2, patch=patch)
    return FrozenEncoder(encoder=network, predictor=foresight if predictor else None, frames=frames, crop=crop)


def clip(count=2, frames=4, size=16):
    return torch.randint(256, (count, 3, frames, size, size), generator=torch.Generator().manual_seed(1)).byte()


def foreseen(encoder=None, **fields):
    encoder = encoder or encoder_of()
    return Foreseen(encoder, **{"seconds": 1.0, "fps": 4.0, "mask_token": 0, "inputs": "both", **fields})


def test_both_are_the_tokens_of_the_clip_and_behind_them_the_predicted_ones():
    encoder = encoder_of()
    want = encoder.future(clip(), seconds=1.0, fps=4.0, mask_token=1)
    both, grid = foreseen(encoder, mask_token=1).tokens(clip())
    assert both.shape == (2, 8 + 4, 16)
    assert torch.equal(both, torch.cat((want.context, want.predicted), 1))
    assert grid == encoder.tokens(clip()).grid
    clips, ahead = (foreseen(encoder, mask_token=1, inputs=i).tokens(clip())[0] for i in ("encoder", "predictor"))
    assert torch.allclose(clips, both[:, :8], atol=1e-5)
    assert torch.equal(ahead, both[:, 8:])
    assert not torch.allclose(foreseen(encoder, mask_token=0).tokens(clip())[0], both)


def test_one_second_after_32_frames_at_8_per_second_is_tubelet_20():
    """Oracle EK-2: four tubelets are skipped, 4 * 256 tokens at 256 pixels."""
    encoder = encoder_of(patch=16, crop=256, frames=32)
    asked = []
    plain = encoder.predictor.forward
    encoder.predictor.forward = lambda *args: asked.append(args[2]) or plain(*args)
    seen = foreseen(encoder, fps=8.0)
    assert seen.predicted(32, 256) == 256
    tokens, grid = seen.tokens(clip(1, 32, 256))
    assert tokens.shape[1] == 16 * 256 + 256
    assert grid == (16, 16, 16)
    assert (asked[0] // 256).unique().tolist() == [20]


def test_every_clip_may_look_ahead_by_a_time_of_its_own():
    encoder = encoder_of()
    mixed = foreseen(encoder).tokens(clip(), torch.tensor([0.5, 1.0]))[0]
    for i, seconds in enumerate((0.5, 1.0)):
        alone = foreseen(encoder, seconds=seconds).tokens(clip()[i : i + 1])[0]
        assert torch.allclose(mixed[i : i + 1], alone, atol=1e-5)
    assert not torch.allclose(mixed[:1, 8:], foreseen(encoder).tokens(clip())[0][:1, 8:], atol=1e-5)


def test_kept_tokens_are_named_by_both_networks_and_nothing_is_frozen():
    encoder = encoder_of()
    encoder.requires_grad_(True)
    one = foreseen(encoder).frozen()
    assert torch.allclose(one.pooled(clip(), "none"), foreseen(encoder).tokens(clip())[0], atol=1e-6)
    before = one.fingerprint()
    with torch.no_grad():
        next(encoder.predictor.parameters()).add_(1)
    assert one.fingerprint() != before
    assert all(p.requires_grad for p in encoder.parameters())


def test_what_foresees_nothing_is_read_by_the_clip_alone_and_a_lost_predictor_is_refused():
    pixels = control("pixels", encoder_of())
    assert foreseen(pixels).tokens(clip())[0].shape[1] == pixels.tokens(clip()).tokens.shape[1]
    assert foreseen(pixels).predicted(4, 16) == 0
    with pytest.raises(ValueError, match="inputs: got both, but this encoder came without a predictor"):
        foreseen(encoder_of(predictor=False))
    with pytest.raises(ValueError, match="inputs: got predictor"):
        foreseen(pixels, inputs="predictor")
    assert foreseen(encoder_of(predictor=False), inputs="encoder").tokens(clip())[0].shape[1] == 8
