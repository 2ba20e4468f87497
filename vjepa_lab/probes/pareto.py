"""Fidelity of pixels against knowledge of actions: PSNR of a frame decoder and R² of inverse dynamics on one split.

The two pull apart: an encoder may hold every pixel and tell no action, or the reverse. A point is an encoder, or with
several ``layers`` a layer of it; what no other point dominates is the front.

Yields, for every layer (``layer03/...``, ``output/...``; with one layer without that prefix), ``psnr`` and ``action``
(R²), and over the layers of the encoder ``hypervolume`` (the area that they dominate, from 10 dB and R² -0.1) and, with
several, ``<layer>/front`` (how often the layer is on the front) and ``spearman`` (rank correlation, where both vary).
The verb adds what its encoders are beside each other, baselines and controls among them, each with all of its layers:
``all/front`` (how often one of the encoder's points is on the front of all), ``all/hypervolume``, ``all/spearman`` and
``all/points``; and the report draws them.

Decisions.
- Both figures are of the same clips and frames. All points are resampled alike, by video or episode, so that how often
  a point is on the front is known, and not only where it lies.
- Frames are encoded one by one for both (see ``decode`` and ``inverse_dynamics``, whose engines these are).
- PSNR is that of reconstruction. That of predicted frames is another quantity, and has no place on this axis.

Reference: arXiv 2606.07687, whose decoder, axes and front are not described further.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import Compared, _pairs, _stats
from vjepa_lab.probes._fidelity import psnr
from vjepa_lab.probes._frames import read
from vjepa_lab.probes._front import front, hypervolume, membership, spearman
from vjepa_lab.probes._pairs import Pairs
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.probes.decode import Decode
from vjepa_lab.probes.inverse_dynamics import InverseDynamics
from vjepa_lab.probes.layers import named
from vjepa_lab.registry import PROBES
from vjepa_lab.report import Html, Mark, Section, Value, prose, scatter

_OURS = "this encoder"
_SHARED = ("source", "test", "robot", "fit_clips", "test_clips", "frames", "batch", "seeds")
"fields that both parts take from here"
_SET = {"decode": {*_SHARED, "layer", "feed", "name"}, "inverse_dynamics": {*_SHARED, "layers", "heads", "fps", "name"}}
"what may not be said of a part"


class Points(NamedTuple):
    """L layers of an encoder."""

    names: list[str]
    value: Tensor
    "float64 (L, 2): PSNR in dB, R²"
    resampled: Tensor
    "float64 (R, L, 2)"
    sd: Tensor
    "float64 (L, 2): over seeds, NaN for one"
    units: int


@PROBES.register
@dataclass
class Pareto:
    """PSNR against R² of the action. See the module's text for what it yields."""

    every: int = 10_000
    "steps between two measurements during training"
    batch: int = 16
    "stretches per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val", "drive": 0.25})
    "what to fit on, and to measure on behind it: robot episodes, or a synthetic world with drive above 0"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on: that of the held-out tasks"
    robot: dict[str, Any] = field(default_factory=dict)
    "description of the robot, {name: droid}; empty: clips that tell their action"
    fit_clips: int = 512
    "stretches to fit and choose on; 0: all, where test is another source"
    test_clips: int = 128
    "stretches to measure on; 0: all that are left"
    frames: int = 4
    "frames per stretch: all are decoded, and one pair less"
    fps: float | None = None
    "frames per second; null: every step of the recording"
    layers: list[int] = field(default_factory=lambda: [-1])
    "blocks (from 0), -1: the output; each is a point"
    head: Literal["ridge", "mlp"] = "ridge"
    "of inverse dynamics: ridge | mlp"
    seeds: int = 3
    "decoders, and networks of head mlp"
    decode: dict[str, Any] = field(default_factory=dict)
    "further fields of the probe decode: {form: vit, steps: ...}"
    inverse_dynamics: dict[str, Any] = field(default_factory=dict)
    "further fields of the probe inverse_dynamics: {steps: ...}"

    def __post_init__(self) -> None:
        self._points: Points | None = None
        problems = []
        if not self.layers or len(set(self.layers)) < len(self.layers):
            problems.append(f"layers: got {self.layers}, expected -1 (the output) or blocks, each once")
        if self.head not in ("ridge", "mlp"):
            problems.append(f"head: got '{self.head}', expected ridge or mlp")
        for part, known in _SET.items():
            taken = sorted(set(getattr(self, part)) & known)
            if taken:
                problems.append(f"{part}: got {', '.join(taken)}, which pareto sets for both; give it beside {part}")
        if self.inverse_dynamics.get("pair") == "clip":
            problems.append("inverse_dynamics.pair: got 'clip', which pareto does not encode; expected concat or diff")
        if problems:
            raise ValueError("probe pareto: " + "; ".join(problems))
        shared = {name: getattr(self, name) for name in _SHARED}
        self._decode: Decode = PROBES.build({"name": "decode", **shared, **self.decode})
        more = {"heads": [self.head], "layers": self.layers, "fps": self.fps}
        self._inverse: InverseDynamics = PROBES.build(
            {"name": "inverse_dynamics", **shared, **more, **self.inverse_dynamics}
        )

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why it cannot measure this encoder."""
        wrong = [layer for layer in self.layers if not -1 <= layer < encoder.depth]
        return f"layers: got {wrong}, expected -1 or 0 to {encoder.depth - 1}" if wrong else None

    def demands(self) -> dict[str, Demand]:
        return self._inverse.demands()

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        pairs = {s: self._inverse.read(encoder, stream) for s, stream in streams.items()}
        for split, stream in streams.items():
            _pairs.check_alignment(pairs[split], stream.name)
        draws = _stats.weights(len(torch.unique(pairs["test"].unit)))
        coordinates = [
            (self._fidelity(encoder, streams, k, draws), self._action(encoder, pairs, k, draws)) for k in self.layers
        ]
        value, resampled, sd = (
            torch.stack([torch.stack([part[place] for part in point], -1) for point in coordinates], -2)
            for place in range(3)
        )
        names = [named(layer) for layer in self.layers]
        self._points = Points(names, value, resampled, sd, draws.shape[1])
        yield from _figures(self._points)

    def note(self) -> Points:
        """The points of the last run."""
        assert self._points is not None
        return self._points

    def compare(self, notes: Mapping[str, Points]) -> Compared:
        """The front of all encoders, each with all of its layers."""
        value = torch.cat([points.value for points in notes.values()])
        resampled = torch.cat([points.resampled for points in notes.values()], 1)
        owner = torch.tensor([i for i, points in enumerate(notes.values()) for _ in points.names])
        on = front(resampled)
        units = next(iter(notes.values())).units
        metrics: dict[str, dict[str, Estimate]] = {
            name: {"all/front": Estimate(on[:, owner == i].any(1).double().mean().item(), units=units)}
            for i, name in enumerate(notes)
        }
        rank = spearman(value)
        ours = metrics.setdefault("", {})
        ours["all/hypervolume"] = _estimate(hypervolume(value), hypervolume(resampled), units)
        ours["all/points"] = Estimate(float(rank.n))
        if not math.isnan(rank.rho):
            ours["all/spearman"] = Estimate(rank.rho, units=units)
        return Compared(metrics, [Section("Pixels against actions", _drawn(notes))])

    def _fidelity(
        self, encoder: FrozenEncoder, streams: Mapping[str, Stream], layer: int, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PSNR: mean over seeds (), the same of each resample (R,), deviation over seeds ()."""
        wanted = [split for split in streams if split != "select" or len(self._decode.lrs) > 1]
        frames = {split: read(encoder, streams[split], layer=layer) for split in wanted}
        _, decoders = self._decode.decoders(encoder, frames, streams["fit"].seed)
        test, found = frames["test"], []
        for decoder in decoders:
            decibels = psnr(self._decode.judge(decoder, encoder, test).error, self._decode.cap)
            sums = _stats.sums_of_units(torch.stack([decibels, torch.ones_like(decibels)], 1), test.unit)
            found.append(_of_sums(sums, draws, lambda s: s[:, 0] / s[:, 1]))
        return _over_seeds(found)

    def _action(
        self, encoder: FrozenEncoder, pairs: Mapping[str, Pairs], layer: int, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """R² of the action, as ``_fidelity``.

        Raises:
            ValueError: the actions of the split never vary.
        """
        rows = {split: self._inverse.shown(part, None, layer) for split, part in pairs.items()}
        test = rows["test"]
        predicted = self._inverse.fitted(self.head, rows, encoder.device)(test.x)
        found = []
        for one in predicted:
            parts, figure = _stats.r2_parts(one, test.y)
            found.append(_of_sums(_stats.sums_of_units(parts, test.unit), draws, figure))
        if found[0][0].isnan():
            raise ValueError("probe pareto: the actions of the clips to measure on never vary: R² is not defined")
        return _over_seeds(found)


def _of_sums(sums: Tensor, draws: Tensor, figure: Any) -> tuple[Tensor, Tensor]:
    """A figure of sums over units (U, P), and of each resample (R,)."""
    return figure(sums.sum(0, keepdim=True))[0], figure(draws @ sums)


def _over_seeds(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.stack([value for value, _ in found])
    sd = values.std() if len(found) > 1 else torch.full_like(values[0], torch.nan)
    return values.mean(), torch.stack([resampled for _, resampled in found]).mean(0), sd


def _estimate(value: Tensor, resampled: Tensor, units: int, sd: float = torch.nan) -> Estimate:
    span = _stats.interval(resampled) if units > 1 else (torch.nan, torch.nan)
    return Estimate(value.item(), *span, units, sd)


def _figures(points: Points) -> Iterator[tuple[str, Estimate]]:
    several = len(points.names) > 1
    often = membership(points.resampled)
    for i, name in enumerate(points.names):
        prefix = f"{name}/" if several else ""
        for j, metric in enumerate(("psnr", "action")):
            sd = points.sd[i, j].item()
            yield prefix + metric, _estimate(points.value[i, j], points.resampled[:, i, j], points.units, sd)
        if several:
            yield f"{prefix}front", Estimate(often[i].item(), units=points.units)
    yield "hypervolume", _estimate(hypervolume(points.value), hypervolume(points.resampled), points.units)
    rank = spearman(points.value)
    if not math.isnan(rank.rho):
        yield "spearman", Estimate(rank.rho, units=points.units)


def _drawn(notes: Mapping[str, Points]) -> Html:
    """All points as a scatter plot, the front outlined."""
    several = any(len(points.names) > 1 for points in notes.values())
    on = iter(front(torch.cat([points.value for points in notes.values()])).tolist())
    marks = []
    for encoder, points in notes.items():
        whose = encoder or _OURS
        for i, layer in enumerate(points.names):
            x, y = (Value(*_estimate(points.value[i, j], points.resampled[:, i, j], points.units)[:3]) for j in (0, 1))
            mark = Mark(layer if several else whose, x, y, front=next(on), kind=whose if several else "")
            marks.append(mark)
    said = (
        "Filled points are on the front: no other is at least as good in both and better in one. Intervals are over "
        "videos or episodes."
    )
    plot = scatter(marks, title="front", x="PSNR of decoded frames (dB)", y="R² of the action")
    return Html(prose(said) + plot)
