"""What probes of motion read of a split in one pass: features of whole clips and of their tubelets, the truth beside
them, and how much the pixels change, which is what a figure about motion has to be compared with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._extract import extract
from vjepa_lab.tokens import Features


class Summary(NamedTuple):
    """n clips of F frames and t tubelets."""

    clip: Tensor
    "float32 (n, D) features averaged over space and time"
    tubelet: Tensor
    "(n, t, D') averaged over space"
    change: Tensor
    "(n, F - 1) mean absolute difference of the pixels of a frame and the next one, from 0 to 1"
    truth: dict[str, Tensor]
    unit: Tensor
    "int64 (n,) number of the video"
    key: list[str]


def summarise(encoder: FrozenEncoder, stream: Stream) -> Summary:
    """Read a split. A collective call.

    Raises:
        ValueError: nothing could be read.
    """
    seen: list[Tensor] = []

    def look(clip: Tensor, keys: list[str]) -> Tensor:
        x = clip.float() / 255
        seen[:] = [x.diff(dim=2).abs().mean((1, 3, 4))]
        return clip

    def beside(features: Features) -> Tensor:
        parts = [encoder.pool(features, pool).float().flatten(1) for pool in ("mean", "tubelet")]
        return torch.cat([*parts, seen[0].to(parts[0].device)], 1)

    table = extract(encoder, stream, pool=beside, transform=look, tag="summary")
    blank = Features(torch.zeros(1, table.grid.n, encoder.width), table.grid)  # tells the widths, also of kept tables
    width, inner = encoder.pool(blank, "mean").shape[1], encoder.pool(blank, "tubelet").shape[2]
    x = table.x[-1]
    clip, tubelets, change = x.split([width, table.grid.t * inner, x.shape[1] - width - table.grid.t * inner], 1)
    return Summary(clip, tubelets.unflatten(1, (table.grid.t, inner)), change, table.y, table.unit, table.key)


def told(summary: Summary, names: tuple[str, ...], probe: str) -> None:
    """Check that the clips are of a world whose state is known.

    Raises:
        ValueError: a fact is missing.
    """
    lacking = [name for name in names if name not in summary.truth]
    if lacking:
        raise ValueError(
            f"probe {probe}: {summary.key[0]} tells no {', '.join(lacking)}; expected a source whose truth does: "
            "{name: synthetic}, {name: clevrer_toy} or {name: clevrer}"
        )
