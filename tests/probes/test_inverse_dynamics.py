"""The probe of actions knows the answers of worlds in which they are known, and its controls say what it may claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _mlp, _pairs
from vjepa_lab.probes._pairs import Names, joined
from vjepa_lab.probes.inverse_dynamics import InverseDynamics, Rows, scored
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import IMAGENET, Features

ARM = Names(("x", "y", "z", "rx", "ry", "rz", "gripper"), {"translation": slice(0, 3), "rotation": slice(3, 6)})
ARM.groups["gripper"] = slice(6, 7)


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def world(*, n: int = 20_000, k: float = 0.0, noise: float = 0.0, seen: int = 7, seed: int = 0):
    """Features in 32 dimensions before and after an action of 7 numbers, s' = s + a, a = -k s + e; and the labels."""
    g = numbers(seed)
    basis = torch.linalg.qr(torch.randn(32, 7, generator=numbers(99)))[0].T.clone()
    basis[seen:] = 0
    s = torch.randn(n, 7, generator=g)
    a = torch.randn(n, 7, generator=g) - k * s
    return s @ basis, (s + a) @ basis, a + noise * torch.randn(n, 7, generator=g)


def rows(x: Tensor, y: Tensor) -> Rows:
    return Rows(x, y, torch.arange(len(x)) // 50)


def ridge(fit: Rows, test: Rows, names: Names = ARM) -> dict[str, float]:
    fitted, _ = _pairs.linear(fit[:2], test[:2])
    return {name: value.value for name, value in scored(_pairs.predicted(fitted, test.x)[None], test, names)}


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_label_noise_costs_what_it_must(noise):
    """O-ID1: R² = 1 / (1 + sigma²)."""
    (f, g, a), (f2, g2, a2) = world(noise=noise), world(noise=noise, seed=1)
    found = ridge(rows(joined(f, g, "concat"), a), rows(joined(f2, g2, "concat"), a2))
    assert found["r2"] == pytest.approx(1 / (1 + noise**2), abs=0.01)
    differences = ridge(rows(joined(f, g, "diff"), a), rows(joined(f2, g2, "diff"), a2))
    assert differences["r2"] == pytest.approx(found["r2"], abs=1e-3)


def test_the_network_gets_what_the_ridge_gets():
    """O-ID1 by the network, at sigma = 0.5."""
    (f, g, a), (f2, g2, a2) = world(noise=0.5), world(noise=0.5, seed=1)
    net = _mlp.fit(joined(f, g, "concat"), a, seeds=(0,), steps=1000)
    test = rows(joined(f2, g2, "concat"), a2)
    found = {name: value.value for name, value in scored(net(test.x), test, ARM)}
    assert found["r2"] == pytest.approx(0.8, abs=0.01)


def test_groups_tell_what_the_encoder_shows():
    """O-ID2: an encoder that exposes translation alone."""
    (f, g, a), (f2, g2, a2) = world(seen=3), world(seen=3, seed=1)
    found = ridge(rows(joined(f, g, "concat"), a), rows(joined(f2, g2, "concat"), a2))
    assert found["translation"] == pytest.approx(1, abs=0.01)
    assert found["rotation"] == pytest.approx(0, abs=0.01)
    assert found["gripper"] == pytest.approx(0, abs=0.01)
    assert found["z"] == pytest.approx(1, abs=0.01)
    assert found["r2"] == pytest.approx(3 / 7, abs=0.01)


@pytest.mark.parametrize("k", [0.0, 1.0])
def test_a_policy_that_looks_at_the_state_is_half_known_from_one_frame(k):
    """O-ID3: a single-frame probe gets k² / (k² + 1)."""
    (f, _, a), (f2, _, a2) = world(k=k), world(k=k, seed=1)
    assert ridge(rows(f, a), rows(f2, a2))["r2"] == pytest.approx(k**2 / (k**2 + 1), abs=0.01)


def test_a_constant_encoder_and_shuffled_labels_score_nothing():
    """O-ID4 and O-ID5."""
    (f, g, a), (f2, g2, a2) = world(), world(seed=1)
    constant = ridge(rows(torch.ones(len(a), 4), a), rows(torch.ones(len(a2), 4), a2))
    assert -0.01 < constant["r2"] <= 0
    order = torch.randperm(len(a), generator=numbers(5))
    assert -0.01 < ridge(rows(joined(f, g, "concat"), a[order]), rows(joined(f2, g2, "concat"), a2))["r2"] <= 0


def test_averaging_over_dimensions_and_over_variance_are_two_things():
    """The trap: 0.275 against 0.990 on the same predictions where one dimension hardly varies."""
    target = torch.randn(5000, 2, generator=numbers(0)) * torch.tensor([1.0, 0.01])
    wrong = torch.randn(5000, 2, generator=numbers(1))
    prediction = target + wrong * torch.tensor([0.1, 0.012])
    test = Rows(target, target, torch.arange(5000) // 10)
    found = dict(scored(prediction[None], test, Names(("a", "b"), {"translation": slice(0, 2)})))
    assert found["r2_weighted"].value == pytest.approx(0.99, abs=0.003)
    assert found["r2"].value == pytest.approx((0.99 + 1 - 1.44) / 2, abs=0.05)


def test_what_an_action_lacks_has_no_figure_and_is_never_zero():
    (f, g, a), (f2, g2, a2) = world(n=1000), world(n=1000, seed=1)
    names = Names(("x", "y", "z"), {"translation": slice(0, 3)})
    found = ridge(rows(joined(f, g, "concat"), a[:, :3]), rows(joined(f2, g2, "concat"), a2[:, :3]), names)
    assert set(found) == {"r2", "r2_weighted", "translation", "x", "y", "z"}
    still = a2.clone()
    still[:, 6] = 1
    found = ridge(rows(joined(f, g, "concat"), a), rows(joined(f2, g2, "concat"), still))
    assert "gripper" not in found
    assert found["left_out"] == 1
    assert found["r2"] == pytest.approx(1, abs=1e-3), "a dimension that never varies is left out"


def test_a_gripper_of_two_values_is_also_ranked():
    (f, g, a), (f2, g2, a2) = world(), world(seed=1)
    a[:, 6], a2[:, 6] = a[:, 6].sign(), a2[:, 6].sign()
    found = ridge(rows(joined(f, g, "concat"), a), rows(joined(f2, g2, "concat"), a2))
    assert found["gripper_auroc"] > 0.999
    assert found["gripper"] == pytest.approx(2 / math.pi, abs=0.01), "the correlation of a number and its sign, squared"


def test_noise_on_features_costs_a_linear_probe_what_its_weights_say():
    """Corruption by latent noise of variance tau²: each squared error grows by tau² |w|²."""
    (f, g, a), (f2, g2, a2) = world(noise=0.5), world(noise=0.5, seed=1)
    fit, test = rows(joined(f, g, "concat"), a), rows(joined(f2, g2, "concat"), a2)
    fitted, _ = _pairs.linear(fit[:2], test[:2])
    clean = (_pairs.predicted(fitted, test.x) - a2).square().mean(0)
    for tau in (0.0, 0.3):
        noisy = test.x + tau * torch.randn(test.x.shape, generator=numbers(8))
        error = (_pairs.predicted(fitted, noisy) - a2).square().mean(0)
        grown = tau**2 * fitted.weight.square().sum(0)
        assert torch.allclose(error, clean + grown, rtol=0.02)
        drop = (grown / a2.double().var(0, unbiased=False)).mean().item()
        before, after = (
            dict(scored(_pairs.predicted(fitted, x)[None], test, ARM))["r2"].value for x in (test.x, noisy)
        )
        assert before - after == pytest.approx(drop, rel=0.02, abs=1e-12)


# ---- the whole probe, on films --------------------------------------------------------------------------------------


class Coarse(nn.Module):
    """One token of the coarse picture of each frame of a clip; layer 0 is blind."""

    width, depth, statistics = 2 * 3 * 100, 2, IMAGENET

    def __init__(self, tubelet: int = 2, blind: bool = False) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.gain = nn.Parameter(torch.tensor(0.0 if blind else 1.0))

    def forward(self, clip: Tensor, taps: list[int]):
        b, _, f = clip.shape[:3]
        small = F.adaptive_avg_pool2d(clip.transpose(1, 2).flatten(0, 1), 10).view(b, f, -1)
        token = self.gain * torch.cat([small[:, 0], small[:, -1]], 1)[:, None]
        grid = Grid(1, 1, 1)
        layers = {0: Features(torch.ones_like(token), grid), 1: Features(token, grid)}
        return layers[1], {i: layers[i] for i in taps}


class Patches(nn.Module):
    """One token per patch of 4 px, its colours in the first and in the last frame of a clip."""

    width, depth, tubelet, statistics = 6, 1, 2, IMAGENET

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor, taps: list[int]):
        ends = F.avg_pool2d(torch.cat([clip[:, :, 0], clip[:, :, -1]], 1), 4) * self.one
        found = Features(ends.flatten(2).transpose(1, 2), Grid(1, *ends.shape[2:]))
        return found, dict.fromkeys(taps, found)


def run(probe: InverseDynamics, encoder: nn.Module, size: int = 40, batch: int = 16) -> dict[str, float]:
    frozen = FrozenEncoder(encoder=encoder, frames=probe.frames, crop=size)
    look = Look(frames=probe.frames, crop=size)
    streams = {name: Stream(demand, look, batch=batch) for name, demand in probe.demands().items()}
    return {name: value.value for name, value in probe.run(frozen, streams)}


def disc(**fields) -> InverseDynamics:
    source = {"name": "synthetic", "split": "val", "drive": 0.25, "discs": 1, "background": 0.0}
    return PROBES.build(
        {"name": "inverse_dynamics", "source": source, "fit_clips": 200, "test_clips": 60, "heads": ["ridge"], **fields}
    )


@pytest.fixture(scope="module")
def seen() -> dict[str, float]:
    return run(disc(corruptions=["noise_015"]), Coarse())


def test_the_action_of_a_driven_disc_is_read_from_two_frames_and_not_from_one(seen):
    assert seen["alignment"] > 0.6, "but for collisions with the walls"
    assert seen["ridge/r2"] > 0.4
    assert seen["ridge/translation"] == pytest.approx(seen["ridge/r2"])
    assert seen["ridge/d_x"] > 0.3
    assert "ridge/rotation" not in seen
    assert seen["ridge/single_frame"] < 0.15
    assert seen["ridge/shuffled_pair"] < 0.3
    assert seen["policy"] < 0.1, "the drive does not look at the state"
    assert seen["image_difference"] > 0.1
    assert -0.05 < seen["constant"] <= 0
    assert seen["ridge/noise_015"] < seen["ridge/r2"]


@pytest.mark.parametrize("pair", ["concat", "clip"])
def test_the_motion_of_a_patch_is_lost_in_the_mean_over_a_picture_and_kept_in_cells(pair):
    assert run(disc(pair=pair, controls=False), Patches())["ridge/r2"] < 0.05
    kept = run(disc(pair=pair, cells=10), Patches())
    assert kept["ridge/r2"] > 0.3
    assert kept["ridge/shuffled_pair"] < kept["ridge/r2"] - 0.1


def test_a_blind_encoder_scores_nothing():
    found = run(disc(controls=False), Coarse(blind=True))
    assert -0.03 < found["ridge/r2"] <= 0


def test_the_best_layer_is_chosen_on_held_out_episodes_and_named(seen):
    found = run(disc(layers=[0, 1], controls=False), Coarse())
    assert found["layer"] == 1
    assert found["ridge/r2"] == pytest.approx(seen["ridge/r2"], abs=1e-9)


def test_a_clip_of_two_frames_shows_the_motion_to_the_encoder(seen):
    found = run(disc(pair="clip"), Coarse())
    assert found["ridge/r2"] == pytest.approx(seen["ridge/r2"], abs=0.05), "this encoder keeps both frames apart"
    assert found["ridge/shuffled_pair"] < found["ridge/r2"] - 0.2
    with pytest.raises(ValueError, match=r"pair: got 'clip', but a tubelet of the encoder holds 1 frame\(s\)"):
        run(disc(pair="clip"), Coarse(tubelet=1))


def test_several_networks_are_seeds_of_one_probe():
    probe = disc(heads=["mlp"], seeds=2, steps=30, fit_clips=40, test_clips=20, controls=False)
    frozen = FrozenEncoder(encoder=Coarse(), frames=8, crop=32)
    streams = {name: Stream(d, Look(frames=8, crop=32), batch=20) for name, d in probe.demands().items()}
    found = dict(probe.run(frozen, streams))
    assert found["mlp/r2"].sd > 0
    assert found["mlp/r2"].units == 20
    assert found["mlp/r2"].low < found["mlp/r2"].high


def test_clips_that_tell_no_action_are_refused():
    with pytest.raises(ValueError, match=r"tells no action of its clips .* expected the synthetic world with drive"):
        run(disc(source={"name": "synthetic", "split": "val"}, fit_clips=20, test_clips=4), Coarse())


# ---- robots ---------------------------------------------------------------------------------------------------------


def play(folder, *, shift: int = 0, recordings: int = 24, steps: int = 24, seed: int = 0) -> str:
    """CALVIN steps whose pictures tell x and y by their grey; ``shift`` delays the actions against them."""
    rng = np.random.default_rng(seed)
    ends, step = [], 0
    for _ in range(recordings):
        place = rng.uniform(-0.1, 0.1, 3)
        moved = rng.uniform(-1, 1, (steps + 2, 6))
        for t in range(steps):
            opened = float(rng.choice([-1, 1]))
            picture = np.zeros((24, 24, 3), np.uint8)
            picture[8:16], picture[16:] = (128 + 400 * place[:2]).round().clip(0, 255)
            picture[:4] = 255 * (opened > 0)
            np.savez(
                folder / f"episode_{step:07d}.npz",
                rgb_static=picture,
                robot_obs=np.concatenate([place, np.zeros(3), [0.04 + 0.04 * opened], np.zeros(8)]),
                rel_actions=np.concatenate([moved[max(0, t - shift)], [opened]]),
            )
            place = place + moved[t, :3] / 50
            step += 1
        ends.append((step - steps, step - 1))
    np.save(folder / "ep_start_end_ids.npy", np.array(ends))
    return str(folder)


def arm(folder: str, **fields) -> InverseDynamics:
    return InverseDynamics(
        source={"name": "calvin", "path": folder, "actions": "commands"},
        robot={"name": "droid"},
        fit_clips=20,
        test_clips=4,
        frames=20,
        heads=["ridge"],
        **fields,
    )


def test_commands_of_a_robot_are_probed_by_group_and_the_gripper_is_ranked(tmp_path):
    found = run(arm(play(tmp_path)), Coarse(), size=24, batch=4)
    assert found["alignment"] > 0.99
    assert found["ridge/gripper_auroc"] > 0.99, "the top of the picture tells it"
    assert found["ridge/d_x"] > 0.9
    assert found["ridge/d_z"] < 0.2, "height is not seen"
    assert {"ridge/translation", "ridge/rotation", "ridge/gripper", "ridge/d_gripper", "policy"} <= set(found)


def test_actions_of_the_wrong_pictures_are_refused_before_anything_is_fitted(tmp_path):
    with pytest.raises(ValueError, match=r"the motion .* is that of action t \+1, expected action t"):
        run(arm(play(tmp_path, shift=1)), Coarse(), size=24, batch=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pair": "sum"}, "pair: got 'sum', expected concat, diff or clip"),
        ({"frames": 3}, "frames: got 3, expected at least 4"),
        ({"layers": []}, "layers: got none"),
        ({"heads": ["svm"]}, r"heads: got \['svm'\], expected some of ridge, mlp"),
        ({"fit_clips": 0}, "fit_clips and test_clips: got 0 and 256"),
        ({"seeds": 0}, "seeds and steps: got 0 and 3000"),
        ({"cells": 0}, "cells: got 0, expected at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_named(fields, message):
    with pytest.raises(ValueError, match="probe inverse_dynamics: .*" + message):
        InverseDynamics(**fields)
