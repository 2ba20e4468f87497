"""How much of the kinetic energy of a scene is in the features, and how much more than in plain differences of pixels.

The target is the energy per unit of mass, the sum of v^2 / 2 over the objects in sight, averaged over the frames of the
clip: masses cannot be seen (and CLEVRER has none). Ridge regression from features averaged over the clip; targets are
standardised by R² itself, features by the clips that are fitted.

Yields ``r2``; the same for other targets: ``peak`` (largest energy of a frame), ``log`` (logarithm of 1 + the energy in
units of its mean: the tail is heavy), ``tubelet`` (each tubelet's energy from its own features), ``rotation`` (with
0.2 r^2 w^2, where the world tells its spin) and ``mass`` (with the true masses, where it tells them); and what needs no
encoder: ``change`` (regression on the mean absolute difference of frames), ``objects`` (on the number of objects in
sight), ``both``, and ``gain``: R² of features and both together, less that of both. An encoder that stores how many
pixels change has a high ``r2`` and no ``gain``.

Decisions.
- Features in which velocity is linear give an R² of 0 here, by symmetry: v and -v have one energy. That is no fault of
  the regression; it is why ``motion/energy`` is near 0 where ``motion/velocity`` is not. The probe asks whether the
  *energy* is laid out linearly.
- The penalty is chosen on clips held out of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _ridge
from vjepa_lab.probes._mlp import Scale
from vjepa_lab.probes._stats import Estimate, bootstrap
from vjepa_lab.probes._summary import Summary, summarise, told
from vjepa_lab.registry import PROBES


class Rows(NamedTuple):
    """Features, targets and videos of one split."""

    x: Tensor
    "(n, D)"
    y: Tensor
    "(n,)"
    unit: Tensor
    "int64 (n,)"


@PROBES.register
@dataclass
class Energy:
    """R² of the kinetic energy per unit of mass. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 32
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val"})
    "what to fit on, and to measure on behind it: a source whose truth tells velocities and what is in sight"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on"
    fit_clips: int = 1024
    "clips to fit and choose on; 0: all, where test is another source"
    test_clips: int = 512
    "clips to measure on; 0: all that are left"
    share: float = 0.2
    "share of the clips of the fit that is held out to choose the penalty on"
    spread: bool = False
    "frames spread evenly over the whole video (CLEVRER: 16 of its 128), in place of the rate"

    def __post_init__(self) -> None:
        problem = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        if problem:
            raise ValueError(f"probe energy: {problem}")

    def demands(self) -> dict[str, Demand]:
        fit = Demand(self.source, count=self.fit_clips or None, share=self.share, spread=self.spread)
        return fit_select_test(fit, test=self.test, count=self.test_clips)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        read = {split: summarise(encoder, stream) for split, stream in streams.items()}
        told(read["test"], ("velocity", "visible"), "energy")
        energy = {split: kinetic(s.truth) for split, s in read.items()}
        scale = energy["fit"].mean().clamp_min(1e-30)

        def rows(x: str, y: Mapping[str, Tensor]) -> dict[str, Rows]:
            return {split: Rows(_inputs(s, x), y[split], s.unit) for split, s in read.items()}

        mean = {split: e.mean(1) for split, e in energy.items()}
        yield "r2", explained(rows("clip", mean))
        yield "peak", explained(rows("clip", {s: e.amax(1) for s, e in energy.items()}))
        yield "log", explained(rows("clip", {s: (e / scale).log1p() for s, e in mean.items()}))
        yield "tubelet", explained({split: _per_tubelet(s, energy[split]) for split, s in read.items()})
        if "spin" in read["test"].truth:
            yield "rotation", explained(rows("clip", {s: kinetic(r.truth, spin=True).mean(1) for s, r in read.items()}))
        if "energy" in read["test"].truth:
            yield "mass", explained(rows("clip", {s: r.truth["energy"].mean(1) for s, r in read.items()}))
        for plain in ("change", "objects", "both"):
            yield plain, explained(rows(plain, mean))
        yield "gain", gained(rows("both", mean), rows("all", mean))


def kinetic(truth: Mapping[str, Tensor], *, spin: bool = False) -> Tensor:
    """Energy per unit of mass of the objects in sight, (n, F): of velocities (n, F, K, axes) and, on request, of the
    rotation of balls of their radius."""
    each = 0.5 * truth["velocity"].double().square().sum(-1)
    if spin:
        inertia = 0.4 * truth["radius"].double().square()[:, None]  # of a ball, by its mass
        each = each + 0.5 * inertia * truth["spin"].double().square().sum(-1)
    return (each * (truth["visible"] > 0)).sum(-1)


def _inputs(summary: Summary, name: str) -> Tensor:
    change = summary.change.mean(1, keepdim=True)
    objects = (summary.truth["visible"] > 0).float().sum(2).mean(1, keepdim=True)
    parts = {
        "clip": [summary.clip],
        "change": [change],
        "objects": [objects],
        "both": [change, objects],
        "all": [summary.clip, change, objects],
    }
    return torch.cat(parts[name], 1)


def _per_tubelet(summary: Summary, energy: Tensor) -> Rows:
    t = summary.tubelet.shape[1]
    y = energy.unflatten(1, (t, -1)).mean(2)
    return Rows(summary.tubelet.flatten(0, 1), y.flatten(), summary.unit.repeat_interleave(t))


def explained(rows: Mapping[str, Rows]) -> Estimate:
    """R² on ``test`` of a ridge regression fitted on ``fit``, its penalty chosen on ``select``."""
    error, y = _errors(rows)
    parts = torch.stack([error, y, y.square(), torch.ones_like(y)], 1)
    return bootstrap(parts, rows["test"].unit, lambda s: 1 - s[:, 0] / _spread(s[:, 1:]))


def gained(less: Mapping[str, Rows], more: Mapping[str, Rows]) -> Estimate:
    """How much higher the R² of the second inputs is, with its own interval: both are wrong on the same clips."""
    (before, y), (after, _) = _errors(less), _errors(more)
    parts = torch.stack([before - after, y, y.square(), torch.ones_like(y)], 1)
    return bootstrap(parts, less["test"].unit, lambda s: s[:, 0] / _spread(s[:, 1:]))


def _spread(sums: Tensor) -> Tensor:
    """Squares around the mean, from sums (R, 3) of y, y^2 and 1; NaN where y is constant."""
    total = sums[:, 1] - sums[:, 0].square() / sums[:, 2]
    return torch.where(total > 1e-12 * sums[:, 1], total, torch.nan)


def _errors(rows: Mapping[str, Rows]) -> tuple[Tensor, Tensor]:
    """Squared errors (n,) on ``test``, and its targets less their mean, in units of the fitted targets."""
    of_x, of_y = Scale.of(rows["fit"].x), Scale.of(rows["fit"].y[:, None])
    moments, scaled = {}, {}
    for split, r in rows.items():
        scaled[split] = (r.x.double() - of_x.mean) / of_x.std, (r.y.double()[:, None] - of_y.mean) / of_y.std
        if split != "test":
            sums = _ridge.Sums()
            sums.add(*scaled[split])
            moments[split] = sums.moments()
    fitted = _ridge.fit(moments["fit"], moments["select"])
    x, y = scaled["test"]
    error = (x @ fitted.weight + fitted.bias - y).square()[:, 0]
    return error, y[:, 0] - y.mean()
