"""Crops, flips and sizes of clips: one box and one flip for all frames, uint8 in, uint8 out.

The training transform is that of V-JEPA 2 (released file app/vjepa/transforms.py): a random resized crop and a flip.
Normalising waits until the clip is on the device, where it costs nothing and has not made the copy four times larger.

Decisions:
- Crop, then resize the box only, then order the axes. A decoder gives (F, h, w, 3), whose view as (3, F, h, w) is
  "channels last" to torch: the byte kernels of ``interpolate`` read it as it is, 4 to 10 times faster than through
  float32 (1.6 against 6.1 ms for 16 frames of 340x256, 2.9 against 21 ms of 640x480, one core).
- Those kernels round after each axis. A training pixel is therefore within one grey level of the exact value, and the
  mean of a clip within a tenth of one. Evaluation resizes in float32 and rounds once.
- No antialiasing by default, as released, in training and in evaluation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
Size = tuple[int, int]
Range = tuple[float, float]
Box = tuple[int, int, int, int]
"top, left, height, width"


def train_transform(
    clip: Tensor,
    rng: np.random.Generator,
    *,
    size: Size,
    scale: Range = (0.3, 1.0),
    aspect: Range = (0.75, 1.35),
    flip: bool = True,
    antialias: bool = False,
) -> Tensor:
    """Random resized crop and horizontal flip, the same for all frames.

    Args:
        clip: uint8 (3, F, h, w).
        rng: decides the box and the flip.
        size: (H, W) of the result.
        scale: range of the box's share of the area.
        aspect: range of its width / height, drawn log-uniformly.
        flip: mirror half of the clips.
        antialias: average over the pixels that a smaller one covers.

    Returns:
        uint8 (3, F, H, W), contiguous.
    """
    out = crop(clip, random_box(rng, clip.shape[-2:], scale=scale, aspect=aspect), size, antialias=antialias)
    if flip and rng.random() < 0.5:
        out = out.flip(-1)
    return out.contiguous()


def crop(clip: Tensor, box: Box, size: Size, *, antialias: bool = False) -> Tensor:
    """uint8 (3, F, h, w) -> uint8 (3, F, H, W): the box of every frame, resized to ``size``."""
    top, left, height, width = box
    return _resize_bytes(clip[:, :, top : top + height, left : left + width], size, antialias)


def random_box(rng: np.random.Generator, shape: torch.Size | Size, *, scale: Range, aspect: Range) -> Box:
    """(top, left, height, width) of a crop of (h, w): ten tries, then the largest central one of a fair aspect."""
    height, width = shape
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return central_box(shape, aspect=aspect)


def central_box(shape: torch.Size | Size, *, aspect: Range) -> Box:
    """(top, left, height, width) of the largest central crop of (h, w) whose width / height lies in ``aspect``."""
    height, width = shape
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def eval_views(clip: Tensor, *, size: Size, views: int = 1, antialias: bool = False) -> Tensor:
    """The views of a clip on which it is evaluated.

    One view is the centre of the clip, resized to 256/224 of ``size``; several views cover the clip, resized to
    ``size`` across, evenly along its longer side (both as released: evals/video_classification_frozen/utils.py).

    Args:
        clip: uint8 (3, F, h, w).
        size: (H, W) of a view.
        views: how many.
        antialias: average over the pixels that a smaller one covers.

    Returns:
        uint8 (views, 3, F, H, W), contiguous.
    """
    height, width = size
    frame = size if views > 1 else (int(height * 256 / 224), int(width * 256 / 224))
    clip = _resize_float(clip, cover(clip.shape[-2:], frame), antialias)
    free_h, free_w = clip.shape[-2] - height, clip.shape[-1] - width
    if views == 1:
        corners = [(round(free_h / 2), round(free_w / 2))]
    else:
        corners = [(i * (free_h // (views - 1)), i * (free_w // (views - 1))) for i in range(views)]
    return torch.stack([clip[:, :, top : top + height, left : left + width] for top, left in corners])


def cover(shape: torch.Size | Size, frame: Size) -> Size:
    """The size of a picture of ``shape`` (h, w), its aspect kept, once it just covers ``frame``."""
    (h, w), (height, width) = shape, frame
    if height * w <= width * h:  # the width decides
        return max(height, int(width * h / w)), width
    return height, max(width, int(height * w / h))


def normalize(clip: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 (..., 3, F, H, W) to ``dtype`` with the mean and deviation of ImageNet, on the device of the clip."""
    mean = torch.tensor(MEAN, device=clip.device).view(3, 1, 1, 1) * 255
    std = torch.tensor(STD, device=clip.device).view(3, 1, 1, 1) * 255
    return clip.to(torch.float32).sub_(mean).div_(std).to(dtype)


def _resize_bytes(clip: Tensor, size: Size, antialias: bool) -> Tensor:
    """uint8 (3, F, h, w) -> uint8 (3, F, H, W) through the byte kernels."""
    if clip.shape[-2:] == size:
        return clip
    frames = clip.permute(1, 0, 2, 3)
    return interpolate(frames, size, mode="bilinear", antialias=antialias).permute(1, 0, 2, 3)


def _resize_float(clip: Tensor, size: Size, antialias: bool) -> Tensor:
    """uint8 (3, F, h, w) -> uint8 (3, F, H, W) through float32, rounded once."""
    if clip.shape[-2:] == size:
        return clip
    frames = clip.permute(1, 0, 2, 3).float()
    frames = interpolate(frames, size, mode="bilinear", antialias=antialias)
    return frames.round_().clamp_(0, 255).to(torch.uint8).permute(1, 0, 2, 3)
