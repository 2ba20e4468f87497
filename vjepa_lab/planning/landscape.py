"""What an energy looks like over one or two numbers of an action, all others held: to a file, a picture and figures.

Letters: S samples, H steps of the horizon, A numbers of an action, n values along an axis.

The energy is the planner's, (S, H, A) -> (S,). A model that has understood an action has the minimum where the robot
truly went, in a smooth bowl. ``Landscape.summary`` says in numbers how far that holds.

Decision: a slice, with all other numbers held, as in the paper's figure 9. The released notebook draws a grid over
three numbers and sums over the third, which shows neither. A true action that lies outside the grid is allowed; the
minimum is then on the edge, and the summary says so.

Reference: V-JEPA 2 paper, figure 9; released file notebooks/energy_landscape_example.ipynb.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vjepa_lab.planning.cem import Energy, chunked


class Landscape(NamedTuple):
    """Energies over a grid of actions; on the CPU, float32."""

    names: tuple[str, ...]
    "what the one or two axes are"
    grid: tuple[Tensor, ...]
    "(n,) ascending values along each axis"
    energy: Tensor
    "(n,) or (n, n), the first axis first"
    truth: Tensor | None = None
    "(axes,) what the robot truly did"

    @property
    def minimum(self) -> Tensor:
        """Where the energy is lowest: (axes,)."""
        return torch.stack([values[i] for values, i in zip(self.grid, self._lowest(), strict=True)])

    @property
    def on_the_edge(self) -> bool:
        """Whether the minimum is at an end of an axis, so that the true one may lie outside."""
        return any(i in (0, len(values) - 1) for values, i in zip(self.grid, self._lowest(), strict=True))

    @property
    def cells(self) -> float:
        """Grid cells between the minimum and the true action, along the axis where they are more; NaN without truth."""
        if self.truth is None:
            return float("nan")
        width = torch.stack([values[1] - values[0] for values in self.grid])
        return ((self.minimum - self.truth).abs() / width).max().item()

    def summary(self) -> dict[str, float]:
        """Figures on the shape of the energy, and on the minimum against the true action (NaN where that is unknown).

        ``cells`` and ``on_the_edge``: see there. ``offset``: distance of the minimum from the truth, in the axes'
        units. ``cosine``, ``ratio``: direction and length of the minimum against those of the truth. ``rank``:
        Spearman's correlation of energy and distance from the truth. ``convex``: share of grid points that lie no
        higher than half-way between their two neighbours along an axis. ``depth``: (median - minimum) / interquartile
        range.
        """
        lowest = self.minimum
        truth = torch.full_like(lowest, torch.nan) if self.truth is None else self.truth
        points = torch.stack(torch.meshgrid(*self.grid, indexing="ij"), dim=-1).flatten(0, -2)
        distance = torch.linalg.vector_norm(points - truth, dim=-1)
        below, all_points = 0, 0
        for axis in range(self.energy.ndim):
            e = self.energy.movedim(axis, 0)
            below += int((e[1:-1] <= (e[:-2] + e[2:]) / 2 + 1e-6 * (e.max() - e.min())).sum())
            all_points += e[1:-1].numel()
        low, middle, high = torch.quantile(self.energy, torch.tensor([0.25, 0.5, 0.75])).tolist()
        return {
            "cells": self.cells,
            "on_the_edge": float(self.on_the_edge),
            "offset": torch.linalg.vector_norm(lowest - truth).item(),
            "cosine": torch.cosine_similarity(lowest, truth, dim=0).item(),
            "ratio": (torch.linalg.vector_norm(lowest) / torch.linalg.vector_norm(truth)).item(),
            "rank": _spearman(self.energy.flatten(), distance) if self.truth is not None else float("nan"),
            "convex": below / all_points,
            "depth": (middle - self.energy.min().item()) / max(high - low, 1e-12),
        }

    def save(self, path: Path) -> None:
        """Write an .npz file: names, grid0 (grid1), energy, truth where it is known."""
        arrays: dict[str, Any] = {f"grid{i}": values.numpy() for i, values in enumerate(self.grid)}
        arrays |= {"names": np.array(self.names), "energy": self.energy.numpy()}
        if self.truth is not None:
            arrays["truth"] = self.truth.numpy()
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """The inverse of ``save``."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = tuple(str(name) for name in arrays["names"])
        grid = tuple(torch.from_numpy(arrays[f"grid{i}"]) for i in range(len(names)))
        truth = torch.from_numpy(arrays["truth"]) if "truth" in arrays else None
        return cls(names, grid, torch.from_numpy(arrays["energy"]), truth)

    def draw(self, path: Path, title: str = "") -> None:
        """Write a picture: a curve or a map of the energy, with its minimum and the true action."""
        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if len(self.grid) == 1:
            axes.plot(self.grid[0].numpy(), self.energy.numpy(), color="black")
            axes.axvline(self.minimum.item(), color="tab:red", label="minimum")
            if self.truth is not None:
                axes.axvline(self.truth.item(), color="tab:blue", linestyle="--", label="true action")
            axes.set(xlabel=self.names[0], ylabel="energy")
        else:
            x, y = (values.numpy() for values in self.grid)
            colours = axes.pcolormesh(x, y, self.energy.T.numpy(), shading="nearest", cmap="viridis_r")
            figure.colorbar(colours, ax=axes, label="energy")
            axes.plot(*self.minimum.tolist(), "x", color="tab:red", markersize=10, markeredgewidth=2, label="minimum")
            if self.truth is not None:
                style = {"markerfacecolor": "none", "markeredgewidth": 2, "clip_on": False}
                axes.plot(*self.truth.tolist(), "o", color="black", markersize=10, label="true action", **style)
            axes.set(xlabel=self.names[0], ylabel=self.names[1])
        axes.set_title(title)
        axes.legend(loc="upper right", fontsize=8)
        figure.savefig(path, dpi=120)

    def _lowest(self) -> list[int]:
        return [int(i) for i in np.unravel_index(int(self.energy.argmin()), self.energy.shape)]


def landscape(
    energy: Energy,
    base: Tensor,
    dims: Sequence[int],
    extents: Sequence[float],
    *,
    cells: int = 21,
    step: int = 0,
    truth: Tensor | None = None,
    names: Sequence[str] | None = None,
    chunk: int = 512,
) -> Landscape:
    """Energies of ``base`` with one or two of its numbers varied.

    Args:
        energy: (S,) of sequences (S, H, A) on the device of ``base``.
        base: (H, A) what the other numbers are; zeros is no motion.
        dims: which one or two numbers of an action vary.
        extents: how far each does, to both sides of zero.
        cells: values along each axis; an odd number has zero among them.
        step: which of the H actions varies.
        truth: (A,) what the robot truly did at that step.
        names: of the A numbers (``Robot.action_names``).
        chunk: most sequences in one call of ``energy``.

    Raises:
        ValueError: not one or two dims, an extent that is not above 0, or fewer than 3 cells.
    """
    if len(dims) not in (1, 2) or len(extents) != len(dims) or min(extents) <= 0 or cells < 3:
        raise ValueError(
            f"landscape: expected one or two dims with an extent above 0 each and at least 3 cells, "
            f"got dims {list(dims)}, extents {list(extents)}, {cells} cells"
        )
    grid = tuple(torch.linspace(-extent, extent, cells) for extent in extents)
    points = torch.stack(torch.meshgrid(*grid, indexing="ij"), dim=-1).flatten(0, -2)  # (n * n, axes)
    actions = base.repeat(len(points), 1, 1)
    actions[:, step, list(dims)] = points.to(actions)
    with torch.no_grad():
        energies = chunked(energy, chunk)(actions)
    return Landscape(
        names=tuple(f"action {dim}" if names is None else names[dim] for dim in dims),
        grid=grid,
        energy=energies.float().cpu().view((cells,) * len(dims)),
        truth=None if truth is None else truth[list(dims)].float().cpu(),
    )


def _spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.argsort().argsort().float() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()
