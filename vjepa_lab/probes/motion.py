"""Does the encoder know where things are and how they move? Ridge regression from features to a simulated world.

The clips come from the synthetic source, whose positions, velocities and energies are exact. Features of a tubelet are
its tokens averaged over a coarse grid of cells, so that positions survive; targets are the state of the world averaged
over the frames of that tubelet. Fit, choice of the penalty and report use three disjoint sets of held-out clips. R² is
averaged over the discs and axes of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import Demand, Estimate, Stream
from vjepa_lab.probes._extract import Table, extract
from vjepa_lab.probes._ridge import Sums, fit
from vjepa_lab.probes._stats import r2
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import Features, pool_cells


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

    def demands(self) -> dict[str, Demand]:
        ends = (self.fit_clips, self.select_clips, self.test_clips)
        return {name: Demand(self.source, sum(ends[:i]), ends[i]) for i, name in enumerate(("fit", "select", "test"))}

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        tables = {split: self._table(encoder, stream) for split, stream in streams.items()}
        moments = {}
        for split in ("fit", "select"):
            x, y, _ = _rows(tables[split])
            sums = Sums()
            sums.add(x, y)
            moments[split] = sums.moments()
        fitted = fit(moments["fit"], moments["select"])
        x, y, columns = _rows(tables["test"])
        predicted = x.double() @ fitted.weight + fitted.bias
        unit = tables["test"].unit.repeat_interleave(tables["test"].x[-1].shape[1])
        groups = {name: r2(predicted[:, at], y[:, at], unit) for name, at in columns.items()}
        yield from groups.items()
        yield "mean", Estimate(sum(e.value for e in groups.values()) / len(groups), units=groups["position"].units)

    def _table(self, encoder: FrozenEncoder, stream: Stream) -> Table:
        def cells(features: Features) -> Tensor:
            return pool_cells(features, self.cells)

        return extract(encoder, stream, pool=cells, tag=f"cells {self.cells}")


def _rows(table: Table) -> tuple[Tensor, Tensor, dict[str, slice]]:
    """Features (n * t, R * D), targets (n * t, K) and the columns of each group."""
    x = table.x[-1]
    y, columns = state_per_tubelet(table.y, x.shape[1], table.key[0])
    return x.flatten(0, 1), y.flatten(0, 1), columns


def state_per_tubelet(truth: Mapping[str, Tensor], t: int, key: str) -> tuple[Tensor, dict[str, slice]]:
    """Targets (B, t, K) averaged over the frames of each tubelet, and the columns of each group.

    Raises:
        ValueError: the clips are not of a simulated world.
    """
    if "position" not in truth:
        raise ValueError(f"probe motion: {key} has no known motion; give the probe source: {{name: synthetic}}")
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
