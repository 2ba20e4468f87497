"""The picture of a run: loss curve, probe curves, and one clip with its masks drawn over the frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from vjepa_lab import masks
from vjepa_lab.batch import Grid, Rng, Rows
from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.data.transforms import normalize
from vjepa_lab.dist import rng as rng_of
from vjepa_lab.maskview import _pixels
from vjepa_lab.registry import MASKS
from vjepa_lab.train.folder import read_metrics

MOST_FRAMES = 8


def draw(config: PretrainConfig, loader: Loader | PairedLoader, run: Path) -> Path | None:
    """Write ``summary.png`` into the run folder from its metrics and the first clip of the stream; its path."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = read_metrics(run)
    if not rows:
        return None
    clip = _first_clip(loader)
    figure = plt.figure(figsize=(12, 4 + 1.7 * (len(config.masks) + 1)), layout="constrained")
    curves, frames = figure.subfigures(2, 1, height_ratios=[4, 1.7 * (len(config.masks) + 1)])  # type: ignore[misc]
    _curves(curves, rows)
    if clip is not None:
        _film(frames, clip, config)
    path = run / "summary.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def draw_world(run: Path) -> Path | None:
    """Write ``summary.png`` of a post-training: losses, gain over copying, rank of the true action; its path."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = read_metrics(run)
    if not rows:
        return None
    names = {name for row in rows for name in row}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    _plot(left, rows, ["loss", "loss/teacher_forcing", "loss/rollout"])
    left.set(title="loss", xlabel="step")
    _plot(middle, rows, sorted(n for n in names if n.startswith("world/gain@") and not n.endswith("_untrained")))
    middle.axhline(0.0, color="black", linestyle=":", linewidth=1)
    middle.set(title="gain over copying the first frame", xlabel="step")
    _plot(right, rows, ["action/hit@1", "action/hit@5", "action/rank"])
    right.set(title="true action among those of other stretches", xlabel="step", ylim=(0, 1))
    for axes in (left, middle, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    path = run / "summary.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curves(figure: Any, rows: list[dict[str, float]]) -> None:
    left, middle, right = figure.subplots(1, 3)
    _plot(left, rows, ["loss"])
    left.set(title="loss", xlabel="step")
    names = sorted({k for row in rows for k in row if "/" in k and f"{k}_untrained" in row})
    for i, name in enumerate(names):
        _plot(middle, rows, [name], color=f"C{i}")
        first = next(row[f"{name}_untrained"] for row in rows if f"{name}_untrained" in row)
        middle.axhline(first, color=f"C{i}", linestyle=":", linewidth=1)
    middle.set(title="probes (dotted: untrained encoder)", xlabel="step")
    _plot(right, rows, ["target_std", "context_std", "target_context_gap"])
    twin = right.twinx()
    _plot(twin, rows, ["rankme"], color="black")
    right.set(title="features: deviation, gap (left), RankMe (right, black)", xlabel="step")
    for axes in (middle, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)


def _plot(axes: Any, rows: list[dict[str, float]], names: list[str], **style: Any) -> None:
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else "", **style)


def _first_clip(loader: Loader | PairedLoader) -> np.ndarray | None:
    sample, _, _ = loader.slots[0]
    return None if sample is None else sample.clip.permute(1, 2, 3, 0).numpy()  # (F, H, W, 3)


def _film(figure: Any, clip: np.ndarray, config: PretrainConfig) -> None:
    """Rows: the frames, then the frames under each mask as the first step drew it."""
    encoder = config.encoder
    grid = Grid.of(*clip.shape[:3], tubelet=encoder.tubelet, patch=encoder.patch)
    first = rng_of(config.run.seed, 0, batch=config.data.batch)
    rng = Rng(first.shared, Rows(first.local.key, 0, 1)) if config.keep == "random" else first
    seen = normalize(torch.from_numpy(clip).permute(3, 0, 1, 2)).expand(rng.local.count, -1, -1, -1, -1)
    sight = masks.Sight(seen, event=torch.full((len(seen), 1), torch.nan))
    pairs = masks.sample([MASKS.build(e) for e in config.masks], grid, rng, sight, keep=config.keep)  # type: ignore[arg-type]
    tubelets = np.unique(np.linspace(0, grid.t - 1, min(MOST_FRAMES, grid.t)).round().astype(int)) * encoder.tubelet
    masked = [_pixels.masked(clip, _pixels.roles_of(pair, grid)[0]) for pair in pairs]
    axes = figure.subplots(len(pairs) + 1, len(tubelets), squeeze=False)
    for row, frames in enumerate([clip, *masked]):
        for column, frame in enumerate(tubelets):
            axes[row, column].imshow(frames[frame])
            axes[0, column].set_title(f"frame {frame}", fontsize=8)
        if row:
            axes[row, 0].set_ylabel(f"mask {row - 1}", fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.suptitle(f"one clip; {_pixels.KEY}", fontsize=9)
