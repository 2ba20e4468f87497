"""Crops and sizes: one box per clip, pixels equal to a plain float computation, views where they should be."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from vjepa_lab.data.transforms import central_box, cover, crop, eval_views, normalize, random_box, train_transform


def smooth_clip(frames: int, height: int, width: int) -> torch.Tensor:
    """A clip as a decoder gives it: a (3, F, h, w) view of (F, h, w, 3)."""
    coarse = torch.rand(frames, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 255
    clip = interpolate(coarse, (height, width), mode="bilinear").round().to(torch.uint8)
    return clip.permute(0, 2, 3, 1).contiguous().permute(3, 0, 1, 2)


def plain(clip: torch.Tensor, box: tuple[int, int, int, int], size: tuple[int, int], antialias: bool) -> torch.Tensor:
    """The slow reference in float64, not rounded: (3, F, H, W)."""
    top, left, h, w = box
    frames = clip[:, :, top : top + h, left : left + w].permute(1, 0, 2, 3).double()
    return interpolate(frames, size, mode="bilinear", antialias=antialias).permute(1, 0, 2, 3)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("shape", [(60, 80), (240, 320), (37, 121)])
def test_a_training_pixel_is_within_one_level_of_the_exact_value_and_hardly_biased(shape, antialias):
    clip = smooth_clip(4, *shape)
    for seed in range(5):
        out = train_transform(clip, np.random.default_rng(seed), size=(64, 64), flip=False, antialias=antialias)
        box = random_box(np.random.default_rng(seed), shape, scale=(0.3, 1.0), aspect=(0.75, 1.35))
        error = out.double() - plain(clip, box, (64, 64), antialias)
        assert error.abs().max() <= 1.01
        assert abs(error.mean()) < 0.1


def test_the_result_is_contiguous_bytes_in_the_asked_size():
    out = train_transform(smooth_clip(3, 50, 70), np.random.default_rng(0), size=(32, 48))
    assert out.shape == (3, 3, 32, 48)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()


def test_all_frames_get_the_same_box_and_flip():
    clip = smooth_clip(1, 60, 80).expand(3, 8, 60, 80)
    for seed in range(8):
        out = train_transform(clip, np.random.default_rng(seed), size=(32, 32))
        assert (out == out[:, :1]).all()


def test_half_of_the_clips_are_mirrored():
    clip = torch.arange(64, dtype=torch.uint8).repeat(3, 1, 64, 1)
    rising = [
        bool((train_transform(clip, np.random.default_rng(s), size=(16, 16))[0, 0, 0].int().diff() >= 0).all())
        for s in range(400)
    ]
    assert 160 < sum(rising) < 240


def test_boxes_have_the_share_and_aspect_that_were_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, (1000, 1000), scale=(0.3, 0.5), aspect=(0.75, 1.35)) for _ in range(2000)])
    top, left, h, w = boxes.T
    share, ratio = h * w / 1e6, w / h
    assert share.min() >= 0.299
    assert share.max() <= 0.501
    assert abs(share.mean() - 0.4) < 0.01
    assert ratio.min() >= 0.749
    assert ratio.max() <= 1.351
    assert abs(np.log(ratio).mean() - (np.log(0.75) + np.log(1.35)) / 2) < 0.01
    assert (top + h <= 1000).all()
    assert (left + w <= 1000).all()


def test_boxes_reach_every_edge():
    rng = np.random.default_rng(0)
    boxes = [random_box(rng, (8, 8), scale=(0.2, 0.4), aspect=(1.0, 1.0)) for _ in range(500)]
    assert {(t, left) for t, left, h, w in boxes} >= {(0, 0), (8 - boxes[0][2], 8 - boxes[0][3])}


@pytest.mark.parametrize(("shape", "expected"), [((20, 1000), (20, 27)), ((1000, 20), (27, 20)), ((1, 1), (1, 1))])
def test_where_no_box_fits_the_largest_central_one_of_a_fair_aspect_is_taken(shape, expected):
    top, left, h, w = random_box(np.random.default_rng(0), shape, scale=(0.9, 1.0), aspect=(0.75, 1.35))
    assert (h, w) == expected
    assert (top, left) == ((shape[0] - h) // 2, (shape[1] - w) // 2)


def test_a_crop_is_the_box_of_every_frame_and_a_square_box_lies_in_the_middle():
    clip = torch.randint(0, 256, (3, 2, 20, 30), dtype=torch.uint8)
    assert central_box((20, 30), aspect=(1.0, 1.0)) == (0, 5, 20, 20)
    assert torch.equal(crop(clip, (3, 5, 7, 9), (7, 9)), clip[:, :, 3:10, 5:14])


def test_the_single_view_is_the_centre_at_256_of_224():
    clip = smooth_clip(2, 240, 320)
    out = eval_views(clip, size=(112, 112))
    resized = plain(clip, (0, 0, 240, 320), (128, 170), False).round().to(torch.uint8)
    assert out.shape == (1, 3, 2, 112, 112)
    assert (out[0] == resized[:, :, 8:120, 29:141]).all()


def test_views_lie_evenly_along_the_longer_side():
    for clip, along in [(smooth_clip(1, 40, 100), 3), (smooth_clip(1, 100, 40), 2)]:
        out = eval_views(clip, size=(40, 40), views=4)
        expected = [clip.narrow(along, start, 40) for start in (0, 20, 40, 60)]
        assert (out == torch.stack(expected)).all()


def test_a_picture_just_covers_a_frame_of_any_aspect():
    for shape in [(240, 320), (320, 240), (100, 100), (17, 999)]:
        for frame in [(64, 64), (64, 128), (128, 64)]:
            h, w = cover(shape, frame)
            assert h >= frame[0]
            assert w >= frame[1]
            assert h == frame[0] or w == frame[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalised_pixels_are_those_of_imagenet(dtype):
    clip = torch.randint(0, 256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    before = clip.clone()
    out = normalize(clip, dtype=dtype)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    assert out.dtype == dtype
    assert torch.allclose(out.float(), (clip / 255 - mean) / std, atol=1e-5 if dtype == torch.float32 else 0.02)
    assert (clip == before).all()
