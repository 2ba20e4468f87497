"""Clips frame by frame: the tokens of each frame and its pixels, for what is painted or measured per frame.

A frame becomes tokens by ``feed``: ``dup``, the frame repeated to fill a tubelet, as world models encode what they see;
``clip4``, the clip at once, where a tubelet's tokens stand for all of its frames.

The pixels travel as a target of the clip. So they are gathered, kept and, for the control, shuffled as any target is,
and no encoder sees them otherwise than through its clip.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, RobotBatch
from vjepa_lab.data.streams import Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._pairs import repeated
from vjepa_lab.tokens import Features

Feed = Literal["dup", "clip4"]
_AT_ONCE = 1024
"rows of tokens whose moments are summed at a time"


class Frames(NamedTuple):
    """A split of n clips of F frames, frame by frame."""

    tokens: Tensor
    "float32 (M, N, D): one row per frame, or per tubelet"
    pixels: Tensor
    "uint8 (n * F, 3, H, W)"
    unit: Tensor
    "int64 (n * F,) number of the video or episode"
    first: Tensor
    "bool (n * F,): the first frame of its clip"
    grid: Grid
    "of one row of tokens"

    @property
    def per(self) -> int:
        """Frames that a row of tokens stands for."""
        return len(self.pixels) // len(self.tokens)


def read(encoder: FrozenEncoder, stream: Stream, *, feed: Feed = "dup", layer: int = -1) -> Frames:
    """All frames of a split that could be read. A collective call.

    Args:
        layer: block (from 0) whose output is taken; -1: the output of the encoder.

    Raises:
        ValueError: nothing could be read, there is no such layer, or clips do not fill whole tubelets.
    """
    count = stream.spec.frames
    if feed == "clip4" and count % encoder.tubelet:
        raise ValueError(
            f"frames: got {count}, expected a multiple of the encoder's {encoder.tubelet} frames per tubelet; or "
            "feed: dup"
        )

    def single(clip: Tensor, keys: list[str]) -> Tensor:
        return repeated(clip, encoder.tubelet)

    def rows(features: Features) -> Tensor:
        """Tokens of each frame (B, F, N, D), or of each tubelet (B, t, N, D)."""
        tokens, grid = features
        return tokens.unflatten(0, (-1, count)) if feed == "dup" else tokens.unflatten(1, (grid.t, -1))

    table = extract(
        encoder,
        stream,
        layers=(layer,),
        pool=rows,
        transform=single if feed == "dup" else None,
        targets=_film,
        tag=f"frame by frame, {feed}",
    )
    pixels = table.y["pixels"].transpose(1, 2)  # (n, F, 3, H, W)
    return Frames(
        tokens=table.x[layer].flatten(0, 1),
        pixels=pixels.flatten(0, 1),
        unit=table.unit.repeat_interleave(count),
        first=(torch.arange(count) == 0).repeat(len(pixels)),
        grid=table.grid._replace(t=1),
    )


def moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel (D,) of tokens (M, N, D)."""
    count = tokens.shape[0] * tokens.shape[1]
    mean, square = torch.zeros(2, tokens.shape[2], dtype=torch.float64)
    for part in tokens.split(_AT_ONCE):
        mean += part.double().sum((0, 1)) / count
    for part in tokens.split(_AT_ONCE):
        square += (part.double() - mean).square().sum((0, 1)) / count
    return mean.float(), square.sqrt().float()


def _film(batch: Any) -> dict[str, Tensor]:
    return {"pixels": batch.frames if isinstance(batch, RobotBatch) else batch.clip}
