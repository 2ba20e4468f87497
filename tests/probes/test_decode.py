"""A decoder paints what features hold and nothing else, under one budget, chosen without a look at the test."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import Shows, _painter
from vjepa_lab.probes._controls import Constant
from vjepa_lab.probes._fidelity import psnr
from vjepa_lab.probes._frames import Frames, read
from vjepa_lab.probes._painter import Plan
from vjepa_lab.probes.decode import Decode
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=4, crop=16)
SMALL = {"fit_clips": 48, "test_clips": 12, "frames": 2, "batch": 16, "form": "vit", "dim": 32, "depth": 1, "heads": 2}
SMALL |= {"patch": 4, "steps": 60, "frames_per_step": 16, "lrs": [5e-3], "seeds": 1, "scale": "none"}
"""Settings for pictures of 16 x 16 pixels: a second of training."""


class Squares(nn.Module):
    """Tokens are the pixels of 4 x 4 squares of the first frame of each tubelet: a repeated frame is whole in them."""

    tubelet, depth, width, statistics = 2, 1, 48, IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor, taps) -> tuple[Features, dict[int, Features]]:
        b, _, f, h, w = clip.shape
        cut = clip[:, :, ::2].unflatten(4, (-1, 4)).unflatten(3, (-1, 4))  # (B, 3, t, h, 4, w, 4)
        tokens = cut.permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 48) * self.scale
        return Features(tokens, Grid(f // 2, h // 4, w // 4)), {}


def frozen(network: nn.Module) -> FrozenEncoder:
    return FrozenEncoder(encoder=network, frames=4, crop=16)


def streams_of(probe: Decode, *, shuffled: bool = False) -> dict[str, Stream]:
    return {s: Stream(d, LOOK, batch=probe.batch, shuffled=shuffled) for s, d in probe.demands().items()}


def measured(network: nn.Module, *, shuffled: bool = False, **fields) -> dict[str, float]:
    probe = PROBES.build({"name": "decode", **SMALL, **fields})
    return {k: e.value for k, e in probe.run(frozen(network), streams_of(probe, shuffled=shuffled))}


def test_pixels_that_are_in_the_features_come_back_and_others_do_not():
    full = measured(Squares())
    blind = measured(Constant(width=48, tubelet=2, depth=1))
    other = measured(Squares(), shuffled=True)
    assert full["over/mean_frame"] > 5
    assert full["psnr"] > max(blind["psnr"], other["psnr"]) + 5
    assert abs(blind["over/mean_frame"]) < 1, "without content the best is the mean of all frames"
    assert other["over/mean_frame"] < 0.5
    assert full["ssim"] > blind["ssim"] + 0.1


@pytest.mark.parametrize(
    "fields", [{"form": "conv", "widths": [16, 16, 8], "groups": 4, "scale": None}, {"feed": "clip4"}]
)
def test_the_other_form_and_the_other_feed_paint_too(fields):
    assert measured(Squares(), steps=50, **fields)["over/mean_frame"] > 1


def test_what_is_painted_depends_on_no_pixel_but_through_the_features():
    probe = PROBES.build({"name": "decode", **SMALL, "steps": 5})
    encoder = frozen(Squares())
    frames = {split: read(encoder, stream) for split, stream in streams_of(probe).items()}
    _, (decoder,) = probe.decoders(encoder, frames, 0)
    test = frames["test"]
    at = torch.arange(len(test.pixels))
    black = test._replace(pixels=torch.zeros_like(test.pixels))
    with torch.no_grad():
        assert torch.equal(
            _painter.paint(decoder, test, at, encoder=encoder), _painter.paint(decoder, black, at, encoder=encoder)
        )
    tokens = test.tokens.clone().requires_grad_()
    _painter.paint(decoder, test._replace(tokens=tokens), at, encoder=encoder).mean().backward()
    assert tokens.grad is None


def test_frames_are_painted_from_their_own_tokens_whatever_stands_beside_them():
    probe = PROBES.build({"name": "decode", **SMALL, "steps": 1})
    encoder = frozen(Squares())
    frames = {split: read(encoder, stream) for split, stream in streams_of(probe).items()}
    _, (decoder,) = probe.decoders(encoder, frames, 0)
    with torch.no_grad():
        together = _painter.paint(decoder, frames["test"], torch.tensor([3, 9, 17]), encoder=encoder)
        alone = _painter.paint(decoder, frames["test"], torch.tensor([9]), encoder=encoder)
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_predictors_without_features_have_the_figures_that_pixels_give():
    found = measured(Squares(), steps=1)
    probe = PROBES.build({"name": "decode", **SMALL})
    fit, test = (torch.cat([b.clip[b.valid] for b in s]).transpose(1, 2) / 255 for s in streams_of(probe).values())
    mean = fit.flatten(0, 1).double().mean(0)
    errors = (test - mean).square().flatten(2).mean(2).flatten()
    assert found["mean_frame/psnr"] == pytest.approx(psnr(errors).mean().item(), abs=1e-3)
    assert found["mean_frame/psnr_pooled"] == pytest.approx(psnr(errors.mean()).item(), abs=1e-3)
    steps = (test[:, 1] - test[:, 0]).square().flatten(1).mean(1)  # first frames have none before them
    assert found["copy_previous/psnr"] == pytest.approx(psnr(steps, 60.0).mean().item(), abs=1e-3)


def test_clips_of_one_frame_have_no_frame_before():
    found = measured(Squares(), frames=1, steps=1)
    assert not [name for name in found if "copy_previous" in name]
    assert "over/mean_frame" in found


def test_intervals_are_over_clips_and_deviations_over_decoders():
    probe = PROBES.build({"name": "decode", **SMALL, "steps": 5, "seeds": 2})
    found = dict(probe.run(frozen(Squares()), streams_of(probe)))
    assert {e.units for e in found.values()} == {12}
    assert found["psnr"].low < found["psnr"].value < found["psnr"].high
    assert found["psnr"].sd > 0
    assert not found["mean_frame/psnr"].sd > 0


def test_the_learning_rate_is_chosen_on_held_out_clips_and_the_choice_is_told():
    probe = PROBES.build({"name": "decode", **SMALL, "lrs": [1e-7, 5e-3], "steps": 60})
    demands = probe.demands()
    assert set(demands) == {"fit", "select", "test"}
    assert demands["fit"].part == "train"
    assert demands["select"].part == "select"
    found = {k: e.value for k, e in probe.run(frozen(Squares()), streams_of(probe))}
    assert found["lr"] == 5e-3
    assert found["over/mean_frame"] > 1
    alone = PROBES.build({"name": "decode", **SMALL})
    assert set(alone.demands()) == {"fit", "test"}, "nothing is held out where there is no choice"


def test_the_choice_looks_at_the_select_split_and_not_at_the_test():
    probe = PROBES.build({"name": "decode", **SMALL, "lrs": [1e-7, 5e-3], "steps": 30})
    encoder = frozen(Squares())
    frames = {split: read(encoder, stream) for split, stream in streams_of(probe).items()}
    wrong = frames["select"]._replace(pixels=frames["select"].pixels.flip(0))
    grey = Frames(wrong.tokens, torch.full_like(wrong.pixels, 128), wrong.unit, wrong.first, wrong.grid)
    assert probe.decoders(encoder, frames, 0)[0] == 5e-3
    assert probe.decoders(encoder, frames | {"select": grey}, 0)[0] == 1e-7, "an idle decoder paints grey"
    assert probe.decoders(encoder, frames | {"test": grey}, 0)[0] == 5e-3


def test_the_learning_rate_rises_and_falls_as_planned():
    plan = Plan(steps=10, frames=1, lr=2.0, warmup=4, weight_decay=0.0, clip=None)
    rates = [plan.rate(step) for step in range(10)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[7] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates[4:]))


def test_every_frame_comes_once_before_any_comes_again():
    plan = Plan(steps=5, frames=4, lr=1.0, warmup=0, weight_decay=0.0, clip=None)
    order = torch.cat(list(_painter._order(10, plan, 0)))
    assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))


def test_the_report_shows_frames_beside_what_is_painted():
    probe = PROBES.build({"name": "decode", **SMALL, "steps": 2})
    assert isinstance(probe, Shows)
    assert probe.sections() == []
    list(probe.run(frozen(Squares()), streams_of(probe)))
    (section,) = probe.sections()
    assert section.title == "Decoded frames"
    assert all(f"<span>{row}</span>" in section.body for row in ("frame", "decoded", "mean frame", "copy previous"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 12"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
        ({"lrs": []}, r"lrs: got \[\], expected at least one above 0"),
        ({"warmup": 60}, r"warmup: got 60, expected fewer than steps \(60\)"),
        ({"scale": "batch"}, "scale: got 'batch', expected standard, layer, none or null"),
        ({"form": "mlp"}, "form"),
        ({"feed": "all"}, "feed"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PROBES.build({"name": "decode", **SMALL, **fields})
