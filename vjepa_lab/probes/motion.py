"""Does the encoder know where things are and how they move? Ridge regression from features to a simulated world.

The clips come from the synthetic source, whose positions, velocities and energies are exact. Features of a tubelet are
its tokens averaged over a coarse grid of cells, so that positions survive; targets are the state of the world averaged
over the frames of that tubelet. Fit, choice of the penalty and report use three disjoint sets of held-out clips. R² is
averaged over the discs and axes of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.batch import ClipBatch, Grid
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._ridge import Sums, fit
from vjepa_lab.registry import PROBES


@PROBES.register
@dataclass
class Motion:
    """R² of position, velocity and energy on the synthetic world: yields position, velocity, energy and their mean."""

    every: int = 500
    "steps between two measurements during training"
    cells: int = 4
    "tokens of a tubelet are averaged over cells x cells regions; the fit costs (cells^2 x width)^3 operations"
    fit_clips: int = 1024
    "clips to fit on"
    select_clips: int = 256
    "clips to choose the penalty on"
    test_clips: int = 512
    "clips to report on"
    batch: int = 32
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val"})
    "the world to measure on; its clips carry their exact state"

    def demands(self) -> dict[str, tuple[dict[str, Any], int, int]]:
        ends = (self.fit_clips, self.select_clips, self.test_clips)
        return {name: (self.source, sum(ends[:i]), ends[i]) for i, name in enumerate(("fit", "select", "test"))}

    def run(self, encoder: Encoder, streams: Mapping[str, Iterable[ClipBatch]]) -> Iterator[tuple[str, float]]:
        summed = {split: _sum(encoder, stream, self.cells) for split, stream in streams.items()}
        moments = {split: sums.reduced() for split, (sums, _) in summed.items()}
        fitted = fit(moments["fit"], moments["select"])
        r2 = moments["test"].r2(fitted.weight, fitted.bias)
        columns = summed["test"][1]
        per_group = {name: r2[at].nanmean().item() for name, at in columns.items()}
        yield from per_group.items()
        yield "mean", sum(per_group.values()) / len(per_group)


def _sum(encoder: Encoder, stream: Iterable[ClipBatch], cells: int) -> tuple[Sums, dict[str, slice]]:
    sums, columns = Sums(), {}
    for batch in stream:
        frames, height, width = batch.clip.shape[2:]
        grid = Grid.of(frames, height, width, tubelet=encoder.tubelet, patch=encoder.patch)
        x = pool_cells(encoder(batch.clip).float(), grid, cells)
        y, columns = state_per_tubelet(batch, grid.t)
        sums.add(x[batch.valid].flatten(0, 1), y[batch.valid].flatten(0, 1))
    return sums, columns


def pool_cells(tokens: Tensor, grid: Grid, cells: int) -> Tensor:
    """Average tokens (B, N, D) of each tubelet over at most cells x cells regions: (B, t, regions * D)."""
    b, _, d = tokens.shape
    planes = tokens.view(b * grid.t, grid.h, grid.w, d).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(planes, (min(cells, grid.h), min(cells, grid.w)))
    return pooled.reshape(b, grid.t, -1)


def state_per_tubelet(batch: ClipBatch, t: int) -> tuple[Tensor, dict[str, slice]]:
    """Targets (B, t, K) averaged over the frames of each tubelet, and the columns of each group.

    Raises:
        ValueError: the clips are not of a simulated world.
    """
    truth = batch.truth
    if "position" not in truth:
        raise ValueError(
            f"probe motion: {batch.key[0]} has no known motion; give the probe source: {{name: synthetic}}"
        )
    groups = {
        "position": truth["position"].flatten(2),
        "velocity": truth["velocity"].flatten(2),
        "energy": truth["energy_disc"],
    }
    columns, start = {}, 0
    for name, value in groups.items():
        columns[name] = slice(start, start + value.shape[2])
        start += value.shape[2]
    y = torch.cat(list(groups.values()), 2)
    return y.unflatten(1, (t, y.shape[1] // t)).mean(2), columns
