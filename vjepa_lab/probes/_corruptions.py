"""The corruption library: the types of ImageNet-C at five severities, declared for video.

``corrupt(clip, kind, severity, keys=...)`` takes uint8 clips, or floats from 0 to 1. The result is a function of (key,
kind, severity) and the clip; severity 0 gives back the very tensor.

Each type is declared ``frame`` (drawn anew for every frame: noise) or ``clip`` (drawn once, coherent over the frames:
weather, optics, geometry, colour). ``coherent=False`` makes every frame a clip of its own, as if the corruptions of
images were applied to video; for elastic deformation this is the difference between a bent and a boiling picture.

Lengths in pixels are for a shorter side of 224 and are scaled to the clip's. ``MAIN`` are the 15 types of the
benchmark; four more may be used to choose something without touching those. Spatter is not offered. Two further
entries, ``noise_015`` and ``blur_11``, are the settings under which action R² is reported: one severity each, in
pixels of the clip as it is.

Reference: Hendrycks and Dietterich 2019 (types, constants); the files of the types say where and why we deviate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.probes import _corruptions_blur as blur
from vjepa_lab.probes import _corruptions_colour as colour
from vjepa_lab.probes import _corruptions_geometry as geometry
from vjepa_lab.probes import _corruptions_weather as weather
from vjepa_lab.probes._perturb import Draws, per_clip


class Corruption(NamedTuple):
    """One type."""

    apply: Callable[[Tensor, Sequence[float], Draws, float], Tensor]
    "(clip float32 (3, F, H, W), parameters, draws, side / 224) -> clip"
    video: Literal["frame", "clip"]
    "whether its random numbers are drawn for each frame or once"
    levels: tuple[tuple[float, ...], ...]
    "parameters of severity 1, 2, ..."


def _one(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((v,) for v in values)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(colour.gaussian_noise, "frame", _one(0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(colour.shot_noise, "frame", _one(60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(colour.impulse_noise, "frame", _one(0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(blur.defocus_blur, "clip", ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption(blur.glass_blur, "clip", ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(blur.motion_blur, "clip", ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(
        blur.zoom_blur, "clip", ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ),
    "snow": Corruption(
        weather.snow,
        "clip",
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(weather.frost, "clip", ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": Corruption(weather.fog, "clip", ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption(colour.brightness, "clip", _one(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(colour.contrast, "clip", _one(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        geometry.elastic_transform,
        "clip",
        tuple(
            (244 * a, 244 * s, 244 * m)
            for a, s, m in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    "pixelate": Corruption(geometry.pixelate, "clip", _one(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(geometry.jpeg_compression, "frame", _one(25, 18, 15, 10, 7)),
    "speckle_noise": Corruption(colour.speckle_noise, "frame", _one(0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": Corruption(blur.gaussian_blur, "clip", _one(1, 2, 3, 4, 6)),
    "saturate": Corruption(colour.saturate, "clip", ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    "noise_015": Corruption(colour.gaussian_noise, "frame", _one(0.15)),
    "blur_11": Corruption(blur.blur_11, "clip", _one(2.0)),
}
MAIN = tuple(CORRUPTIONS)[:15]
"the types of the benchmark"


def corrupt(clip: Tensor, kind: str, severity: int, *, keys: str | Sequence[str], coherent: bool = True) -> Tensor:
    """The corrupted clip, or batch of clips.

    Args:
        clip: uint8, or floats from 0 to 1: (3, F, H, W) with one key, or (B, 3, F, H, W) with B of them.
        kind: a name of ``CORRUPTIONS``.
        severity: 1 to 5; 0 changes nothing.
        keys: names of the clips: the draws depend on them, not on the batch.
        coherent: False draws everything for each frame.

    Raises:
        ValueError: no such type or severity, or a clip of the wrong shape, type or range.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption: got '{kind}', expected one of {', '.join(CORRUPTIONS)}")
    apply, _, levels = CORRUPTIONS[kind]
    if not 0 <= severity <= len(levels):
        raise ValueError(f"severity of {kind}: got {severity}, expected 0 to {len(levels)}")
    if severity == 0:
        return clip
    scale = min(clip.shape[-2:]) / 224

    def perturb(x: Tensor, draws: Draws) -> Tensor:
        return apply(x, levels[severity - 1], draws, scale)

    def frame_by_frame(x: Tensor, draws: Draws) -> Tensor:
        return torch.cat([perturb(x[:, f : f + 1], draws) for f in range(x.shape[1])], 1)

    return per_clip(clip, keys, ("corruption", kind, severity), perturb if coherent else frame_by_frame)
