"""Which action led from one frame to the next? A small network and a ridge regression on the features of both.

Pairs come from robot episodes (``robot`` is then a description, as in post-training) or from the synthetic world with a
driven disc. The probe is fitted on stretches of some episodes and measured on those of others; R² is per dimension of
the action, and averaged over all (``r2``) and over translation, rotation and gripper. What an action lacks, or what
never varies in it, has no figure, never 0; ``left_out`` says how many dimensions that are. Where the gripper has two
values, its AUROC is there too: R² punishes calibration.

Yields, for each head (``ridge``, ``mlp``): ``<head>/r2``, ``r2_weighted`` (dimensions weighted by their variance), the
groups, every dimension by its name, ``gripper_auroc``, ``<corruption>`` (R² on corrupted frames of a probe fitted on
clean ones), and the controls ``single_frame`` (the second frame is not shown) and ``shuffled_pair`` (another frame of
the stretch in its place); and once ``image_difference`` (ridge on coarse differences of pixels), ``policy`` (ridge on
the robot's state: what can be known without seeing), ``constant`` (the mean action) and ``alignment`` (R² of the
translation from the states). ``policy`` is what a state-dependent policy gives away; a score below it says little.

Decisions:
- ``pair``: concat (f, f'), diff (f, f' - f) or clip (one clip of both frames: the encoder sees the motion; not to be
  compared with the others).
- The output of the encoder is measured. With several ``layers`` the one is taken whose ridge is best on a part of the
  episodes that is held out of the fit, and ``layer`` says which.
- An action that does not belong to its pair is refused before anything is fitted (see ``_pairs.check_alignment``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _mlp, _pairs, _stats
from vjepa_lab.probes._pairs import Names, Pairs
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES

GROUPS = ("translation", "rotation", "gripper")
HEADS = ("ridge", "mlp")


class Rows(NamedTuple):
    """Inputs, actions and episodes of the pairs of one split."""

    x: Tensor
    y: Tensor
    unit: Tensor


Predict = Callable[[Tensor], Tensor]
"(n, D) -> (K, n, A), one for each seed"


@PROBES.register
@dataclass
class InverseDynamics:
    """R² of the action between two frames. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 8
    "stretches per batch on each rank; each of their frames is encoded by itself"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val", "drive": 0.25})
    "what to fit on, and to measure on behind it: robot episodes, or a synthetic world with drive above 0"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on: that of the held-out tasks"
    robot: dict[str, Any] = field(default_factory=dict)
    "description of the robot, {name: droid}; empty: clips that tell their action"
    fit_clips: int = 512
    "stretches to fit and choose on; 0: all, where test is another source"
    test_clips: int = 256
    "stretches to measure on; 0: all that are left"
    frames: int = 8
    "frames per stretch: one pair less"
    fps: float | None = None
    "frames per second; null: every step of the recording"
    pair: Literal["concat", "diff", "clip"] = "concat"
    "how two frames are shown"
    cells: int = 1
    "tokens are averaged within cells x cells regions, which stay apart: from 2 on, places survive"
    layers: list[int] = field(default_factory=lambda: [-1])
    "blocks (from 0), -1: the output; of several the best is chosen on held-out episodes"
    heads: list[str] = field(default_factory=lambda: ["ridge", "mlp"])
    "ridge, mlp: ridge alone is the cheap form for use during training"
    seeds: int = 3
    "networks, which differ in their start and their order of rows"
    steps: int = 3000
    "steps of each network"
    corruptions: list[str] = field(default_factory=list)
    "types of the corruption library, as noise_015 and blur_11: R² on frames with the first severity of each"
    controls: bool = True
    "whether the controls are measured"

    def __post_init__(self) -> None:
        problems = []
        if self.pair not in ("concat", "diff", "clip"):
            problems.append(f"pair: got '{self.pair}', expected concat, diff or clip")
        if self.frames < 4:
            problems.append(
                f"frames: got {self.frames}, expected at least 4, by which neighbouring actions are told apart"
            )
        if self.cells < 1:
            problems.append(f"cells: got {self.cells}, expected at least 1")
        if not self.layers:
            problems.append("layers: got none, expected -1 (the output) or blocks")
        if not self.heads or set(self.heads) - set(HEADS):
            problems.append(f"heads: got {self.heads}, expected some of {', '.join(HEADS)}")
        wrong = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems += [wrong] if wrong else []
        if self.seeds < 1 or self.steps < 1:
            problems.append(f"seeds and steps: got {self.seeds} and {self.steps}, expected at least 1")
        if problems:
            raise ValueError("probe inverse_dynamics: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        fit = Demand(
            self.source,
            count=self.fit_clips or None,
            frames=self.frames,
            fps=self.fps,
            stride=None if self.fps else 1,
            robot=self.robot or None,
        )
        return fit_select_test(fit, test=self.test, count=self.test_clips)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        found = {name: self.read(encoder, stream) for name, stream in streams.items()}
        for name, pairs in found.items():
            scores = _pairs.check_alignment(pairs, streams[name].name)
            if name == "test" and scores:
                yield "alignment", Estimate(scores[0], units=len(torch.unique(pairs.unit)))
        names = found["test"].names
        clips = {} if self.pair != "clip" else {n: self._clips(encoder, s) for n, s in streams.items()}
        shown = {
            layer: {name: self.shown(pairs, clips.get(name), layer) for name, pairs in found.items()}
            for layer in self.layers
        }
        layer = self.layers[0]
        if len(self.layers) > 1:
            score = {k: _pairs.linear(rows["fit"][:2], rows["select"][:2])[1] for k, rows in shown.items()}
            layer = max(score, key=lambda k: score[k])
            yield "layer", Estimate(float(layer))
        main = shown[layer]
        heads = {head: self.fitted(head, main, encoder.device) for head in self.heads}
        for head, predict in heads.items():
            for metric, value in scored(predict(main["test"].x), main["test"], names):
                yield f"{head}/{metric}", value
        for kind in self.corruptions:
            pairs = self.read(encoder, streams["test"], layer, kind)
            clip = self._clips(encoder, streams["test"], layer, corruption=kind) if self.pair == "clip" else None
            rows = self.shown(pairs, clip, layer)
            for head, predict in heads.items():
                yield f"{head}/{kind}", mean_r2(predict(rows.x), rows)
        if self.controls:
            yield from self._controls(encoder, streams, found, layer)

    def _controls(
        self, encoder: FrozenEncoder, streams: Mapping[str, Stream], found: dict[str, Pairs], layer: int
    ) -> Iterator[tuple[str, Estimate]]:
        single = {n: Rows(*_flat(p.frames[layer][:, :-1], p)) for n, p in found.items()}
        if self.pair == "clip":
            clips = {n: self._clips(encoder, s, layer, shuffled=True) for n, s in streams.items()}
            shuffled = {n: Rows(*_flat(clips[n][layer], p)) for n, p in found.items()}
        else:
            shuffled = {n: Rows(*_flat(self._shuffled(p, layer), p)) for n, p in found.items()}
        for name, rows in (("single_frame", single), ("shuffled_pair", shuffled)):
            for head in self.heads:
                predict = self.fitted(head, rows, encoder.device)
                yield f"{head}/{name}", mean_r2(predict(rows["test"].x), rows["test"])
        pixels = {n: Rows(*_flat(p.pixels.diff(dim=1), p)) for n, p in found.items()}
        yield "image_difference", self._ridge(pixels)
        states = {n: Rows(*_flat(p.states[:, :-1], p)) for n, p in found.items() if p.states is not None}
        if len(states) == len(found):
            yield "policy", self._ridge(states)
        test = pixels["test"]
        yield "constant", mean_r2(pixels["fit"].y.double().mean(0).expand(1, len(test.y), -1), test)

    def _ridge(self, rows: dict[str, Rows]) -> Estimate:
        return mean_r2(self.fitted("ridge", rows, torch.device("cpu"))(rows["test"].x), rows["test"])

    def fitted(self, head: str, rows: dict[str, Rows], device: torch.device) -> Predict:
        """A head fitted on ``fit``, its penalty chosen on ``select``."""
        fit = rows["fit"]
        if head == "ridge":
            fitted, _ = _pairs.linear(fit[:2], rows["select"][:2])
            return lambda x: _pairs.predicted(fitted, x)[None]
        return _mlp.fit(fit.x, fit.y, seeds=range(self.seeds), steps=self.steps, device=device)

    def read(self, encoder: FrozenEncoder, stream: Stream, layer: int | None = None, corruption: str = "") -> Pairs:
        """Pairs of a split, of all layers or of one. A collective call."""
        layers = self.layers if layer is None else [layer]
        robot = self.robot or None
        return _pairs.read(encoder, stream, layers=layers, robot=robot, cells=self.cells, corruption=corruption)

    def _clips(
        self,
        encoder: FrozenEncoder,
        stream: Stream,
        layer: int | None = None,
        *,
        shuffled: bool = False,
        corruption: str = "",
    ) -> dict[int, Tensor]:
        layers = self.layers if layer is None else [layer]
        return _pairs.read_clips(
            encoder, stream, layers=layers, cells=self.cells, shuffled=shuffled, corruption=corruption
        )

    def shown(self, pairs: Pairs, clips: dict[int, Tensor] | None, layer: int) -> Rows:
        """Pairs of a split as heads see them: of a layer's frames, or of ``clips`` where pairs are encoded as such."""
        if clips is not None:
            return Rows(*_flat(clips[layer], pairs))
        frames = pairs.frames[layer]
        return Rows(*_flat(_pairs.joined(frames[:, :-1], frames[:, 1:], self.pair), pairs))

    def _shuffled(self, pairs: Pairs, layer: int) -> Tensor:
        frames = pairs.frames[layer]
        other = _pairs.partners(pairs.key, frames.shape[1])
        then = torch.take_along_dim(frames, other[:, :, None], 1)
        return _pairs.joined(frames[:, :-1], then, self.pair)


def _flat(x: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    return x.flatten(0, 1), pairs.actions.flatten(0, 1), pairs.units


def mean_r2(prediction: Tensor, rows: Rows) -> Estimate:
    """R² of predictions (K, n, A), the mean over dimensions that vary, over K seeds."""
    return _stats.over_seeds([_stats.r2(p, rows.y, rows.unit) for p in prediction])


def scored(prediction: Tensor, rows: Rows, names: Names) -> Iterator[tuple[str, Estimate]]:
    """All figures of predictions (K, n, A). Groups that are not there, and dimensions that never vary, have none."""
    varying = _stats.varying(rows.y)
    yield "r2", mean_r2(prediction, rows)
    weighted = [_stats.r2(p, rows.y, rows.unit, weighting="variance") for p in prediction]
    yield "r2_weighted", _stats.over_seeds(weighted)
    for group in GROUPS:
        at = torch.zeros_like(varying)
        at[names.groups.get(group, slice(0))] = True
        at &= varying
        if at.any():
            yield group, mean_r2(prediction[:, :, at], rows._replace(y=rows.y[:, at]))
    for number, name in enumerate(names.dimensions):
        if varying[number]:
            yield name, mean_r2(prediction[:, :, [number]], rows._replace(y=rows.y[:, [number]]))
    if not varying.all():
        yield "left_out", Estimate(float((~varying).sum()))
    where = names.groups.get("gripper")
    if where is not None:
        gripper = rows.y[:, where.start]
        values = torch.unique(gripper)
        if len(values) == 2:
            closing = gripper == values[1]
            scores = [_stats.auroc(p[:, where.start], closing, rows.unit) for p in prediction]
            yield "gripper_auroc", _stats.over_seeds(scores)
