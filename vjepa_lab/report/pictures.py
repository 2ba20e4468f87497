"""Images and films inside a page, as PNG in base64: exact pixels, no other file.

Films are animated PNG, which browsers play without a script. Who has asked the system for less motion sees the film's
first frame.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vjepa_lab.report.page import Html

Pixels: TypeAlias = "np.ndarray | Tensor"


def picture(pixels: Pixels, *, caption: str = "", alt: str = "", scale: float = 1.0) -> Html:
    """One image.

    Args:
        pixels: (H, W, 3) or (H, W), uint8, or floats in [0, 1].
        caption: what stands below it.
        alt: what it shows, for those who cannot see it; the caption if not given.
        scale: times larger on the page, without smoothing.

    Raises:
        ValueError: another shape or type, or floats outside [0, 1].
    """
    image = _checked(pixels)
    tag = _img(_encoded([image], 0), image, alt or caption or "picture", scale)
    return _figure(tag, caption)


def film(frames: Pixels, *, fps: float = 4.0, caption: str = "", alt: str = "", scale: float = 1.0) -> Html:
    """An endless film of frames (F, H, W, 3), uint8 or floats in [0, 1].

    Raises:
        ValueError: no frames, a rate of 0 or below, or as ``picture``.
    """
    if len(frames) == 0 or not fps > 0:
        raise ValueError(f"film: expected at least one frame and a positive rate, got {len(frames)} at fps={fps}")
    images = [_checked(frame) for frame in frames]
    moving = _img(_encoded(images, round(1000 / fps)), images[0], alt or caption or "film", scale)
    if len(images) == 1:
        return _figure(moving, caption)
    still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{_encoded(images[:1], 0)}">'
    return _figure(f"<picture>{still}{moving}</picture>", caption)


def gallery(rows: Mapping[str, Sequence[Pixels]], *, caption: str = "", scale: float = 1.0, gap: int = 2) -> Html:
    """Named rows of images of one size, one below the other, to compare what stands in a column.

    Raises:
        ValueError: rows differ in the number of images or images in size, or as ``picture``.
    """
    checked = {name: [_checked(p) for p in row] for name, row in rows.items()}
    shapes = {(len(row), *(image.shape for image in row)) for row in checked.values()}
    if len(shapes) != 1 or len({image.shape for row in checked.values() for image in row}) != 1:
        raise ValueError(f"gallery: expected rows of equally many images of one size, got {sorted(map(str, shapes))}")
    lines = []
    for name, row in checked.items():
        height = row[0].shape[0]
        opaque = [np.concatenate((image, np.full((*image.shape[:2], 1), 255, np.uint8)), 2) for image in row]
        clear = np.zeros((height, gap, 4), np.uint8)
        strip = np.concatenate([part for image in opaque for part in (image, clear)][:-1], 1)
        lines.append(f"<span>{escape(name)}</span>{_img(_encoded([strip], 0), strip, name, scale)}")
    return _figure(f'<div class="gallery">{"".join(lines)}</div>', caption)


def _checked(pixels: Pixels) -> np.ndarray:
    """(H, W, 3) uint8."""
    array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, -1)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"picture: expected (H, W, 3) or (H, W), got {array.shape}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"picture: expected uint8 or floats in [0, 1], got {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"picture: expected floats in [0, 1], got {array.min()} to {array.max()}")
    return np.round(array * 255).astype(np.uint8)


def _encoded(images: list[np.ndarray], milliseconds: int) -> str:
    """A data address; several images are an animated PNG."""
    first, *rest = [Image.fromarray(image) for image in images]
    out = io.BytesIO()
    if rest:
        first.save(out, "PNG", save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=True)
    else:
        first.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _img(address: str, image: np.ndarray, alt: str, scale: float) -> str:
    height, width = (round(side * scale) for side in image.shape[:2])
    return f'<img src="{address}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _figure(inner: str, caption: str) -> Html:
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{inner}{said}</figure>")
