"""At which depth does an encoder know something? One linear probe per layer, all from one pass over the clips.

The target is the label of a clip (``label``: one number per class, the largest wins), the action between two frames
(``action``, as the probe ``inverse_dynamics`` shows them), or a column of the truth of a simulated world (``position``,
``velocity``, ...). Yields ``layer00/r2`` (``layer00/accuracy`` for labels) for every block, ``output/r2`` for what the
encoder gives in the end, ``best_layer``, and ``best``: the figure of that layer.

Decisions:
- Layer l is what comes out of block l, counted from 0, through the norm that the encoder has for it.
- The best layer is the one that is best on a part of the clips that is held out of the fit, and so is each penalty; its
  figure is that of the test clips, which chose nothing.
- Features are averaged over a clip (``pool: mean``) or over each tubelet; targets that change with time likewise. The
  mean over a whole picture holds no place unless the encoder wrote it there; ``cells`` keeps regions apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _pairs, _stats
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES


class Split(NamedTuple):
    """What is known of one split."""

    x: dict[int, Tensor]
    "features by layer, (n, D)"
    y: Tensor
    "targets (n, K), or labels int64 (n,)"
    unit: Tensor
    "int64 (n,) video or episode of each row"


@PROBES.register
@dataclass
class Layers:
    """One linear probe per layer. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val"})
    "what to fit on, and to measure on behind it"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on: the validation split of a data set, or held-out tasks"
    robot: dict[str, Any] = field(default_factory=dict)
    "description of the robot, where source gives its episodes"
    target: str = "velocity"
    "label, action, or a column of the truth"
    pool: Literal["mean", "tubelet"] = "mean"
    "one row per clip or per tubelet; pairs of frames for actions, whatever this says"
    cells: int = 1
    "tokens are averaged within cells x cells regions, which stay apart: from 2 on, places survive"
    fit_clips: int = 1024
    "clips to fit and choose on; 0: all, where test is another source"
    test_clips: int = 512
    "clips to measure on; 0: all that are left"
    frames: int | None = None
    "frames per clip; null: the encoder's"
    fps: float | None = None
    "frames per second; null: as the driver says, and every step for actions"

    def __post_init__(self) -> None:
        problems = [] if self.cells > 0 else [f"cells: got {self.cells}, expected at least 1"]
        if self.pool not in ("mean", "tubelet"):
            problems.append(f"pool: got '{self.pool}', expected mean or tubelet")
        if self.pool == "tubelet" and self.target == "label":
            problems.append("pool: got tubelet for a label, which a clip has as a whole; expected mean")
        if self.robot and self.target != "action":
            problems.append(f"target: got '{self.target}' of a robot, expected action")
        if self.target == "action" and self.frames is not None and self.frames < 4:
            problems.append(f"frames: got {self.frames}, expected at least 4, to tell actions that are near")
        wrong = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems += [wrong] if wrong else []
        if problems:
            raise ValueError("probe layers: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        every = self.target == "action" and not self.fps
        fit = Demand(
            self.source,
            count=self.fit_clips or None,
            frames=self.frames,
            fps=self.fps,
            stride=1 if every else None,
            robot=self.robot or None,
        )
        return fit_select_test(fit, test=self.test, count=self.test_clips)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        layers = [*range(encoder.depth), -1]
        splits = {name: self._split(encoder, stream, layers) for name, stream in streams.items()}
        yield from swept(splits, layers)

    def _split(self, encoder: FrozenEncoder, stream: Stream, layers: list[int]) -> Split:
        if self.target == "action":
            pairs = _pairs.read(encoder, stream, layers=layers, robot=self.robot or None, cells=self.cells)
            _pairs.check_alignment(pairs, stream.name)
            x = {k: _pairs.joined(f[:, :-1], f[:, 1:], "concat").flatten(0, 1) for k, f in pairs.frames.items()}
            return Split(x, pairs.actions.flatten(0, 1), pairs.units)
        table = extract(encoder, stream, layers=layers, pool=self.pool, cells=self.cells)
        if self.target not in table.y:
            there = ", ".join(sorted(table.y))
            raise ValueError(f"probe layers: target: got '{self.target}', but source {stream.name} tells: {there}")
        y, unit, x = table.y[self.target], table.unit, table.x
        if self.target == "label":
            known = y >= 0
            if not known.any():
                raise ValueError(f"probe layers: target: got 'label', but source {stream.name} has no labels")
            return Split({k: v[known] for k, v in x.items()}, y[known], unit[known])
        y = targets(y.float(), stream.spec.frames, table.grid.t if self.pool == "tubelet" else 1)
        if self.pool == "tubelet":
            unit = unit.repeat_interleave(y.shape[1])
            return Split({k: v.flatten(0, 1) for k, v in x.items()}, y.flatten(0, 1), unit)
        return Split(x, y[:, 0], unit)


def targets(y: Tensor, frames: int, t: int) -> Tensor:
    """A column of truth (n, ...) as targets (n, t, K): averaged over the frames of each part, or the same for all.

    Args:
        frames: of a clip; a column whose first axis has as many changes with time.
        t: parts of a clip.
    """
    if y.ndim > 1 and y.shape[1] == frames:
        return y.reshape(len(y), t, frames // t, -1).mean(2)
    return y.reshape(len(y), 1, -1).expand(-1, t, -1)


def swept(splits: Mapping[str, Split], layers: list[int]) -> Iterator[tuple[str, Estimate]]:
    """The curve over layers, and the best one by the split ``select``. Labels are told from targets by their type."""
    fit, select, test = (splits[name] for name in ("fit", "select", "test"))
    labels = not fit.y.is_floating_point()
    classes = 1 + max(int(split.y.max()) for split in splits.values()) if labels else 0
    scores, figures = {}, {}
    for layer in layers:
        pairs = [(s.x[layer], F.one_hot(s.y, classes).double() if labels else s.y) for s in (fit, select)]
        fitted, score = _pairs.linear(*pairs)
        predicted = _pairs.predicted(fitted, test.x[layer])
        if labels:
            chosen = _pairs.predicted(fitted, select.x[layer]).argmax(1)
            score = (chosen == select.y).double().mean().item()
            figures[layer] = _stats.accuracy(predicted.argmax(1) == test.y, test.unit)
        else:
            figures[layer] = _stats.r2(predicted, test.y, test.unit)
        scores[layer] = score
        yield f"{named(layer)}/{'accuracy' if labels else 'r2'}", figures[layer]
    best = max(layers, key=lambda layer: scores[layer])
    yield "best_layer", Estimate(float(best))
    yield "best", figures[best]


def named(layer: int) -> str:
    """Of a layer, such that names sort by depth."""
    return "output" if layer == -1 else f"layer{layer:02d}"
