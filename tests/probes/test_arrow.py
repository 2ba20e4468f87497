"""The arrow of time: nothing for an encoder blind to order, the best possible for one that holds it, by the truth of
the world where time has a direction and where it has none."""

import math

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._controls import control
from vjepa_lab.probes.arrow import Arrow, told
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=8, crop=16)
SMALL = Arrow(fit_clips=80, test_clips=40, batch=20)


class Frames(nn.Module):
    """Grey pixels of every frame; averaged over frames where it is ``blind`` to their order."""

    tubelet, depth, width, statistics = 2, 2, 32, IMAGENET

    def __init__(self, *, blind):
        super().__init__()
        self.blind = blind
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip, taps):
        small = clip.mean((1, 4)).double()
        if self.blind:
            small = small.mean(1, keepdim=True).expand_as(small)
        weight = torch.linspace(-1, 1, small.shape[1], dtype=torch.float64)[:, None]
        x = torch.cat(((small * weight).mean(1), small.mean(1)), 1).float()[:, None] * self.scale
        return Features(x, Grid(1, 1, 1)), {tap: Features(torch.zeros_like(x), Grid(1, 1, 1)) for tap in taps}


def measured(encoder, probe=SMALL, shuffled=False):
    streams = {s: Stream(d, LOOK, batch=probe.batch, shuffled=shuffled) for s, d in probe.demands().items()}
    return dict(probe.run(encoder, streams))


def frozen(network):
    return FrozenEncoder(encoder=network, frames=8, crop=16)


def gaussian(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_arrow_of_an_antisymmetric_scalar_is_found_as_often_as_can_be():
    """Mean 1 and deviation 1 forwards, negated backwards: the best possible is Phi(1) = .841."""
    pairs = {}
    for seed, (name, n) in enumerate((("fit", 2000), ("select", 500), ("test", 4000))):
        z = torch.cat((1 + gaussian(n, 1, seed), gaussian(n, 7, 10 + seed)), 1)
        pairs[name] = (z, torch.cat((-z[:, :1], z[:, 1:]), 1))
    got = told(pairs, torch.arange(4000))[1]["accuracy"]
    assert got.value == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.03)
    assert got.low < got.value < got.high
    assert got.units == 4000


def test_a_time_symmetric_encoder_is_at_chance():
    got = measured(frozen(Frames(blind=True)))
    assert got["accuracy"].value == got["paired"].value == 0.5


def test_what_can_be_told_follows_from_the_world():
    """One disc is the same backwards; several begin with speeds that know no mass, which collisions mend; friction is
    plain."""
    world = {"name": "synthetic", "split": "val"}
    truth = {
        name: measured(frozen(Frames(blind=True)), Arrow(source=world | fields, fit_clips=60, test_clips=80, batch=40))
        for name, fields in {"one": {"discs": 1}, "many": {}, "friction": {"damping": 0.3}}.items()
    }
    assert truth["one"]["truth"].value == 0.5
    assert 0.55 < truth["many"]["truth"].value < 0.85
    assert truth["friction"]["truth"].value > 0.95


def test_shuffled_directions_are_chance_for_an_encoder_that_sees_pixels():
    probe = Arrow(fit_clips=80, test_clips=200, batch=40)
    got = measured(frozen(Frames(blind=False)), probe, shuffled=True)
    assert got["accuracy"].value == pytest.approx(0.5, abs=0.1)
    assert "truth" not in got


def test_layers_are_chosen_on_held_out_videos_and_reported_each():
    got = measured(frozen(Frames(blind=False)), Arrow(fit_clips=40, test_clips=20, batch=20, layers=[]))
    assert got["layer00/accuracy"].value == got["layer01/accuracy"].value == 0.5
    assert got["layer"].value == -1
    assert got["accuracy"] == got["output/accuracy"]


class Slowing(Frames):
    """How much more changes at the beginning than at the end: as it is in the upper half of the picture, and its
    negative in the lower one."""

    width = 1

    def forward(self, clip, taps):
        change = clip.diff(dim=2).abs().mean((1, 3, 4))
        fall = (change[:, 0] - change[:, -1])[:, None, None] * self.scale
        both = Features(torch.cat([fall, -fall], 1), Grid(1, 2, 1))
        return both, dict.fromkeys(taps, both)


def test_what_cancels_over_the_picture_is_kept_in_cells():
    encoder = frozen(Slowing(blind=False))
    assert measured(encoder)["accuracy"].value == pytest.approx(0.5, abs=0.01)
    assert measured(encoder, Arrow(fit_clips=80, test_clips=40, batch=20, cells=2))["accuracy"].value > 0.8


def test_a_constant_knows_nothing():
    assert measured(control("constant", frozen(Frames(blind=False))))["accuracy"].value == 0.5


def test_splits_share_no_video():
    demands = Arrow(fit_clips=50, test_clips=20).demands()
    rows = [set(Stream(d, LOOK, batch=10).rows.tolist()) for d in demands.values()]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 70


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 256"),
        ({"spread": True, "fps": 4.0}, "fps: got 4.0 with"),
        ({"cells": 0}, "cells: got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Arrow(**fields)
