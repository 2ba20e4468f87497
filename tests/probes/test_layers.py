"""The sweep finds the layer that was planted, by clips that do not report, for every kind of target."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes.layers import Layers, Split, named, swept, targets
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import IMAGENET, Features

CURVE = (0.310, 0.359, 0.419, 0.492, 0.580, 0.689, 0.812, 0.928, 0.810, 0.691, 0.580, 0.492)


def planted(n: int, seed: int) -> Split:
    """Twelve layers show (s, s + a) under noise that is least at layer 7."""
    g = torch.Generator().manual_seed(seed)
    s, a = torch.randn(n, 7, generator=g), torch.randn(n, 7, generator=g)
    x = {}
    for layer in range(12):
        noise = 0.2 + 0.15 * abs(layer - 7)
        x[layer] = torch.cat([s, s + a], 1) + noise * torch.randn(n, 14, generator=g)
    return Split(x, a, torch.arange(n) // 50)


def test_the_curve_over_layers_has_its_closed_form():
    """O-LAY: c' Sigma^-1 c with Sigma = [[1 + q, 1], [1, 2 + q]]; 0.927 at the peak, layer 7."""
    splits = {"fit": planted(20_000, 0), "select": planted(4000, 1), "test": planted(20_000, 2)}
    found = {name: value.value for name, value in swept(splits, list(range(12)))}
    for layer, printed in enumerate(CURVE):
        q = (0.2 + 0.15 * abs(layer - 7)) ** 2
        sigma, c = torch.tensor([[1 + q, 1], [1, 2 + q]]), torch.tensor([0.0, 1.0])
        closed = (c @ torch.linalg.solve(sigma, c)).item()
        assert found[f"{named(layer)}/r2"] == pytest.approx(closed, abs=0.01)
        assert found[f"{named(layer)}/r2"] == pytest.approx(printed, abs=0.02)
    assert found["best_layer"] == 7
    assert found["best"] == pytest.approx(0.927, abs=0.01)


def test_the_best_layer_is_chosen_by_its_own_split_and_reported_on_another():
    """Layer 1 is best where it is reported; the choice does not see it."""
    fit, select, test = planted(3000, 0), planted(1000, 1), planted(1000, 2)
    test = test._replace(x={**test.x, 1: test.x[7], 7: test.x[0]})
    found = {name: value.value for name, value in swept({"fit": fit, "select": select, "test": test}, list(range(12)))}
    assert found["best_layer"] == 7
    assert found["best"] == found["layer07/r2"] < found["layer06/r2"]


def test_labels_are_told_by_the_largest_of_their_numbers():
    g = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        label = torch.randint(4, (n,), generator=g)
        clear = F.one_hot(label, 4) + 0.05 * torch.randn(n, 4, generator=g)
        return Split({0: torch.randn(n, 4, generator=g), 1: clear}, label, torch.arange(n))

    splits = {"fit": split(400), "select": split(200), "test": split(400)}
    found = {name: value.value for name, value in swept(splits, [0, 1])}
    assert found["layer01/accuracy"] == 1
    assert found["layer00/accuracy"] == pytest.approx(0.25, abs=0.08)
    assert found["best_layer"] == 1


def test_targets_that_change_with_time_are_averaged_over_the_frames_of_a_part():
    y = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
    assert torch.equal(targets(y, 4, 1)[:, 0], y.mean(1))
    assert torch.equal(targets(y, 4, 2)[:, 1], y[:, 2:].mean(1))
    assert torch.equal(targets(y[..., 0], 4, 2), y[..., :1].view(2, 2, 2, 1).mean(2))
    mass = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(targets(mass, 4, 2), mass[:, None].expand(-1, 2, -1)), "the same at all times"


# ---- the whole probe ------------------------------------------------------------------------------------------------


class Sharpening(nn.Module):
    """Shows each tubelet coarsely, in 3 layers; layer 1 alone is not blurred, and the output is blind."""

    width, depth, tubelet, statistics = 2 * 3 * 64, 3, 2, IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor, taps: list[int]):
        b, _, f = clip.shape[:3]
        frames = clip.transpose(1, 2).flatten(0, 1)
        grid = Grid(f // 2, 1, 1)
        layers = {}
        for layer, cells in enumerate((1, 5, 2)):
            small = F.interpolate(F.adaptive_avg_pool2d(frames, cells), (8, 8))
            layers[layer] = Features(self.one * small.reshape(b, f // 2, -1), grid)
        blind = Features(torch.ones_like(layers[0].tokens), grid)
        return blind, {i: layers[i] for i in taps}


class Patches(nn.Module):
    """One token per patch of 4 px and tubelet, its mean colour: only the token's own place tells where a thing is."""

    width, depth, tubelet, statistics = 3, 1, 2, IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor, taps: list[int]):
        tokens = self.one * F.avg_pool3d(clip, (2, 4, 4))
        found = Features(tokens.flatten(2).transpose(1, 2), Grid(*tokens.shape[2:]))
        return found, dict.fromkeys(taps, found)


def run(size: int = 32, encoder: type[nn.Module] = Sharpening, **fields) -> dict[str, float]:
    probe = PROBES.build({"name": "layers", "fit_clips": 300, "test_clips": 100, "frames": 4, "batch": 25, **fields})
    frozen = FrozenEncoder(encoder=encoder(), frames=4, crop=size)
    streams = {name: Stream(d, Look(frames=4, crop=size), batch=probe.batch) for name, d in probe.demands().items()}
    return {name: value.value for name, value in probe.run(frozen, streams)}


WORLD = {"name": "synthetic", "split": "val", "discs": 1, "background": 0.0}


@pytest.mark.parametrize("pool", ["mean", "tubelet"])
def test_truth_is_found_at_the_layer_that_shows_it(pool):
    found = run(source=WORLD, target="position", pool=pool)
    assert set(found) == {"layer00/r2", "layer01/r2", "layer02/r2", "output/r2", "best_layer", "best"}
    assert found["best_layer"] == 1
    assert found["layer01/r2"] > 0.6
    assert found["layer01/r2"] > max(found["layer02/r2"], found["layer00/r2"])
    assert -0.05 < found["output/r2"] <= 0


@pytest.mark.parametrize("pool", ["mean", "tubelet"])
def test_places_are_lost_in_the_mean_over_a_picture_and_kept_in_that_over_cells(pool):
    fields = {"source": WORLD, "target": "position", "pool": pool, "encoder": Patches}
    assert run(**fields)["best"] < 0.1
    assert run(**fields, cells=4)["best"] > 0.5


def test_actions_are_found_at_the_layer_that_shows_them():
    found = run(source={**WORLD, "drive": 0.25}, target="action")
    assert found["best_layer"] == 1
    assert found["layer01/r2"] > 0.3
    assert found["layer00/r2"] < 0.2


def test_labels_of_a_source_are_probed():
    found = run(source=WORLD, target="label")
    assert found["best_layer"] in (0, 1, 2, -1)
    assert 0 <= found["output/accuracy"] < 0.3
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "max"}, "pool: got 'max', expected mean or tubelet"),
        ({"pool": "tubelet", "target": "label"}, "pool: got tubelet for a label"),
        ({"robot": {"name": "droid"}}, "target: got 'velocity' of a robot, expected action"),
        ({"target": "action", "frames": 3}, "frames: got 3, expected at least 4"),
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 512"),
        ({"cells": 0}, "cells: got 0, expected at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_named(fields, message):
    with pytest.raises(ValueError, match="probe layers: .*" + message):
        Layers(**fields)


def test_a_target_that_the_source_does_not_tell_is_named_with_those_that_it_does():
    with pytest.raises(ValueError, match=r"target: got 'temperature', but source synthetic tells: collision, energy"):
        run(target="temperature", fit_clips=20, test_clips=5)
