"""Every corruption keeps the contract: identity at 0, range, type, one result for one key, coherence as declared."""

import hashlib
import math
import os
import subprocess
import sys

import pytest
import torch

from vjepa_lab.probes._corruptions import CORRUPTIONS, MAIN, corrupt

ALL = [(kind, severity) for kind, c in CORRUPTIONS.items() for severity in range(1, len(c.levels) + 1)]
PAPER_SIX = ("motion_blur", "snow", "pixelate", "impulse_noise", "brightness", "elastic_transform")


def textured(frames=3, side=48, seed=0):
    """A clip of coloured cosines of several scales that move, uint8, dark enough to be brightened."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    clip = torch.zeros(3, frames, side, side)
    for k in (1, 2, 4, 7, 11):
        for f in range(frames):
            turn, phase = torch.rand(3, generator=g) * 6.28, torch.rand(3, generator=g) * 6.28
            for c in range(3):
                wave = torch.cos(2 * math.pi * k * (x * turn[c].cos() + y * turn[c].sin()) + phase[c] + 0.3 * f)
                clip[c, f] += wave / 5
    return ((0.35 + 0.25 * clip) * 255).round().to(torch.uint8)


def still(side=48):
    return textured(1, side).expand(3, 3, side, side).contiguous()


def psnr(a, b):
    return -10 * math.log10(((a.double() - b.double()) / 255).square().mean().item())


def test_there_are_fifteen_main_types_of_five_severities():
    assert len(MAIN) == 15
    assert all(len(CORRUPTIONS[kind].levels) == 5 for kind in MAIN)
    assert {k for k in MAIN if CORRUPTIONS[k].video == "frame"} == {
        "gaussian_noise", "shot_noise", "impulse_noise", "jpeg_compression",
    }  # fmt: skip


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_nought_is_the_very_tensor(kind):
    for clip in (textured(), textured().float() / 255):
        assert corrupt(clip, kind, 0, keys="v") is clip


@pytest.mark.parametrize(("kind", "severity"), ALL)
def test_range_and_type_are_kept_and_something_happens(kind, severity):
    clip = textured(2, 96)
    pixels = corrupt(clip, kind, severity, keys="v")
    assert pixels.dtype == torch.uint8
    assert pixels.shape == clip.shape
    assert not torch.equal(pixels, clip)
    floats = corrupt(clip.float() / 255, kind, severity, keys="v")
    assert floats.dtype == torch.float32
    assert floats.min() >= 0
    assert floats.max() <= 1
    assert torch.equal((floats * 255).round().to(torch.uint8), pixels)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_result_depends_on_the_key_and_not_on_the_batch(kind):
    clip = textured(2, 64)
    state = torch.get_rng_state()
    severity = 3 if kind in MAIN else 1
    batch = corrupt(torch.stack((clip, clip)), kind, severity, keys=["v", "w"])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch[0], corrupt(clip, kind, severity, keys="v"))
    plain = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur"}
    assert torch.equal(batch[0], batch[1]) == (kind in plain | {"saturate", "blur_11"})


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_still_clip_stays_still_where_the_type_is_declared_coherent(kind):
    out = corrupt(still(), kind, 5 if kind in MAIN else 1, keys="v")
    frames_equal = torch.equal(out[:, 0], out[:, 1]) and torch.equal(out[:, 1], out[:, 2])
    fixed = CORRUPTIONS[kind].video == "clip" or kind == "jpeg_compression"  # no random numbers in a codec
    assert frames_equal == (fixed and kind != "snow")  # snow falls


@pytest.mark.parametrize("kind", ["glass_blur", "motion_blur", "snow", "frost", "fog", "elastic_transform"])
def test_without_coherence_every_frame_has_draws_of_its_own(kind):
    out = corrupt(still(), kind, 3, keys="v", coherent=False)
    assert not torch.equal(out[:, 0], out[:, 1])
    assert not torch.equal(out[:, 1], out[:, 2])


def test_falling_snow_is_one_layer_that_moves():
    black = torch.zeros(3, 4, 224, 224)
    out = corrupt(black, "snow", 1, keys="v")[0]
    best = max(
        (torch.corrcoef(torch.stack((out[0].roll((dy, dx), (0, 1)).flatten(), out[1].flatten())))[0, 1].item(), dy, dx)
        for dy in range(9, 15)
        for dx in range(-10, 11)
    )
    assert best[0] > 0.99
    assert math.hypot(best[1], best[2]) == pytest.approx(14, abs=0.8)
    apart = torch.corrcoef(torch.stack((out[0].flatten(), out[1].flatten())))[0, 1]
    assert apart < 0.3


@pytest.mark.parametrize("kind", [k for k in PAPER_SIX if k != "elastic_transform"])
def test_pictures_get_worse_from_severity_1_to_3_to_5(kind):
    clip = textured(2, 112)
    values = [psnr(corrupt(clip, kind, s, keys="v"), clip) for s in (1, 3, 5)]
    assert values[0] > values[1] > values[2], values


def test_noise_gets_worse_with_every_severity():
    clip = textured(2, 64)
    for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "jpeg_compression", "defocus_blur"):
        values = [psnr(corrupt(clip, kind, s, keys="v"), clip) for s in range(1, 6)]
        assert values == sorted(values, reverse=True), (kind, values)


@pytest.mark.parametrize(("kind", "side"), [("defocus_blur", 96), ("gaussian_blur", 96), ("motion_blur", 96)])
def test_lengths_are_scaled_to_the_side(kind, side):
    """A clip of twice the side, corrupted and shrunk, is the corrupted small clip: far nearer than the clean one."""
    large = torch.nn.functional.interpolate(textured(1, 48).float() / 255, size=(2 * side, 2 * side), mode="bicubic")
    large = large.clamp(0, 1)
    small = torch.nn.functional.avg_pool2d(large, 2)
    expected = corrupt(small, kind, 5, keys="v")
    got = torch.nn.functional.avg_pool2d(corrupt(large, kind, 5, keys="v"), 2)
    assert (got - expected).square().mean() < 0.01 * (expected - small).square().mean()


def test_another_process_draws_the_same_numbers():
    code = (
        "import hashlib, torch; torch.set_num_threads(1)\n"
        "from vjepa_lab.probes._corruptions import MAIN, corrupt\n"
        "clip = (torch.arange(3 * 2 * 32 * 32) * 7 % 256).to(torch.uint8).view(3, 2, 32, 32)\n"
        "print(hashlib.sha256(b''.join(corrupt(clip, k, 3, keys='v').numpy().tobytes() for k in MAIN)).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    clip = (torch.arange(3 * 2 * 32 * 32) * 7 % 256).to(torch.uint8).view(3, 2, 32, 32)
    here = hashlib.sha256(b"".join(corrupt(clip, k, 3, keys="v").numpy().tobytes() for k in MAIN)).hexdigest()
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("kind", "severity", "message"),
    [
        ("blur", 1, "got 'blur', expected one of gaussian_noise"),
        ("fog", 6, "severity of fog: got 6, expected 0 to 5"),
        ("noise_015", 2, "expected 0 to 1"),
        ("fog", -1, "got -1"),
    ],
)
def test_unknown_types_and_severities_are_refused(kind, severity, message):
    with pytest.raises(ValueError, match=message):
        corrupt(textured(), kind, severity, keys="v")
