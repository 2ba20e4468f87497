"""Corruptions of shape and of coding: elastic deformation, pixelation, JPEG.

All take a clip x, float32 (3, F, H, W) from 0 to 1, the parameters of a severity, draws, and ``scale``, the shorter
side of the frames over 224 pixels.

Decisions.
- The elastic deformation is one random affine map and one smooth displacement, applied in one interpolation (the
  published code interpolates twice). The three points that fix the affine map move in the picture that is read, so no
  draw is degenerate. One field holds for the whole clip; drawn anew for every frame
  (``coherent=False``) it is a different, much harder corruption: the picture boils.
- The constants of the published elastic severities are kept, although they are no ladder: the affine part is a tenth
  and a fifth of the frame at severities 1 and 2, and a fiftieth above. What grows with each severity is the strain of
  the smooth part, so pictures of severity 1 are further from the original, pixel by pixel, than those of severity 5.
- JPEG goes through Pillow on the CPU, frame by frame, as the published files did.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.probes._corruptions_blur import displaced, smooth
from vjepa_lab.probes._perturb import Draws


def elastic_transform(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Displace by p[0] times uniform noise smoothed over p[1] pixels, after moving three points by up to p[2]."""
    h, w = x.shape[-2:]
    alpha, sigma, reach = (v * scale for v in p)
    shift = reach * draws.uniform(3, 2, low=-1)
    dy, dx = wobble(h, w, alpha, sigma, draws)
    row = torch.arange(h, device=x.device)[:, None] + dy
    column = torch.arange(w, device=x.device) + dx
    third = min(h, w) / 3
    points = x.new_tensor([[1.0, h / 2 + third, w / 2 + third], [1.0, h / 2 + third, w / 2 - third],
                           [1.0, h / 2 - third, w / 2 - third]])  # fmt: skip
    affine = torch.linalg.solve(points.double(), shift.double()).float()  # (3, 2): shift = [1, row, column] @ affine
    more = affine[0] + row[..., None] * affine[1] + column[..., None] * affine[2]
    return displaced(x, dy + more[..., 0], dx + more[..., 1])


def wobble(h: int, w: int, alpha: float, sigma: float, draws: Draws) -> Tensor:
    """Smooth displacement (2, h, w) in pixels: ``alpha`` times uniform noise from -1 to 1, blurred by ``sigma``."""
    return alpha * smooth(draws.uniform(2, h, w, low=-1), sigma)


def pixelate(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Average down to a share p[0] of each side, and enlarge without interpolation."""
    h, w = x.shape[-2:]
    small = F.interpolate(x, size=(max(1, int(h * p[0])), max(1, int(w * p[0]))), mode="area")
    return F.interpolate(small, size=(h, w), mode="nearest-exact")


def jpeg_compression(x: Tensor, p: Sequence[float], draws: Draws, scale: float) -> Tensor:
    """Write and read every frame as JPEG of quality p[0]."""
    frames = (x * 255).round().to("cpu", torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()  # (F, H, W, 3)
    out = np.empty_like(frames)
    for f, frame in enumerate(frames):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=int(p[0]))
        with Image.open(file) as coded:
            out[f] = np.asarray(coded)
    return torch.from_numpy(out).permute(3, 0, 1, 2).to(x.device).float() / 255
