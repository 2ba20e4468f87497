"""Does the encoder know which way time runs? Logistic regression on features: forwards or backwards.

Every clip is shown as it is and reversed, after its frames were chosen, so both show the same pictures. Fit, choice of
the penalty and report use disjoint videos. Yields ``accuracy`` (one clip at a time, chance 1/2), ``paired`` (which of a
clip and its reversal is the clip: less hidden by what differs between clips; ties one half), with several ``layers``
``layer03/accuracy`` for each and ``layer``, the one that was best on held-out videos, which the first two are of. On a
simulated world ``truth`` says what can be told at all: the accuracy of the same regression on the exact kinetic energy
of every disc in every frame.

A world must have an arrow to be asked for it. The laws of discs without friction are the same backwards, and any clip
of them, reversed, is as possible as itself: of one disc nothing can be told (``truth`` .50). With several, clips begin
with speeds that do not yet depend on mass, as they do after many collisions, which is worth a truth of .75 in 16 frames
of three discs: an encoder at chance there lacks little. Friction makes the direction plain (truth 1.00), so the
default source has it: speeds fall to a third within 16 frames.

Decision. Features are averaged over the whole time of a clip, so nothing but the encoder itself can bring in the order
of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _stats
from vjepa_lab.probes._choice import wins
from vjepa_lab.probes._extract import Transform, extract_each
from vjepa_lab.probes._logistic import fit_logistic
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES

_TRUTH = "energy_disc"


class Both(NamedTuple):
    """A split, forwards and backwards."""

    forward: dict[int, Tensor]
    "features by layer, (n, D)"
    backward: dict[int, Tensor]
    unit: Tensor
    "int64 (n,) video of each clip"
    truth: tuple[Tensor, Tensor] | None
    "kinetic energies (n, F * K), forwards and backwards, where they are known"


@PROBES.register
@dataclass
class Arrow:
    """Forwards or backwards. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val", "damping": 0.3})
    "what to fit on, and to measure on behind it: a world, or films, in which time has a direction"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on"
    fit_clips: int = 512
    "clips to fit and choose on; 0: all, where test is another source"
    test_clips: int = 256
    "clips to measure on; 0: all that are left"
    frames: int | None = None
    "frames per clip; null: the encoder's"
    fps: float | None = None
    "frames per second; null: as the driver says"
    spread: bool = False
    "spread the frames over the whole video instead"
    layers: list[int] = field(default_factory=lambda: [-1])
    "blocks (from 0), -1: the output; none: all of them"
    cells: int = 1
    "tokens are averaged within cells x cells regions, which stay apart: from 2 on, places survive"

    def __post_init__(self) -> None:
        problem = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        if problem:
            raise ValueError(f"probe arrow: {problem}")
        if self.cells < 1:
            raise ValueError(f"probe arrow: cells: got {self.cells}, expected at least 1")
        if self.spread and self.fps:
            raise ValueError(f"probe arrow: fps: got {self.fps} with spread, expected at most one of them")

    def demands(self) -> dict[str, Demand]:
        fit = Demand(
            self.source, count=self.fit_clips or None, frames=self.frames, fps=self.fps, spread=self.spread, share=0.2
        )
        return fit_select_test(fit, test=self.test, count=self.test_clips)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        layers = self.layers or [*range(encoder.depth), -1]
        splits = {name: read(encoder, stream, layers, self.cells) for name, stream in streams.items()}
        scores, found = {}, {}
        for layer in layers:
            pairs = {name: (both.forward[layer], both.backward[layer]) for name, both in splits.items()}
            scores[layer], found[layer] = told(pairs, splits["test"].unit)
        best = max(layers, key=lambda layer: scores[layer])
        yield from found[best].items()
        if len(layers) > 1:
            yield "layer", Estimate(float(best))
            for layer in layers:
                yield f"{'output' if layer == -1 else f'layer{layer:02d}'}/accuracy", found[layer]["accuracy"]
        truth = {name: both.truth for name, both in splits.items() if both.truth is not None}
        if len(truth) == len(splits):
            yield "truth", told(truth, splits["test"].unit)[1]["accuracy"]


def read(encoder: FrozenEncoder, stream: Stream, layers: list[int], cells: int = 1) -> Both:
    """Features of all clips of a split, forwards and backwards. A collective call."""
    transforms: dict[str, Transform | None] = {"": None, "reversed": lambda clip, _: clip.flip(2)}
    forward, backward = extract_each(encoder, stream, transforms, layers=layers, cells=cells).values()
    one, other = forward.x, backward.x
    energy = forward.y.get(_TRUTH)
    truth = None if energy is None else (energy.flatten(1), energy.flip(1).flatten(1))
    if stream.shuffled:  # the control: which of the two is the reversed one is drawn
        draws = torch.Generator().manual_seed(dist.derive(stream.seed, "arrow", stream.name, *stream.rows[:1].tolist()))
        swap = torch.rand(len(forward.unit), generator=draws) < 0.5
        pick = {
            k: (torch.where(swap[:, None], other[k], x), torch.where(swap[:, None], x, other[k]))
            for k, x in one.items()
        }
        one, other = ({k: pair[i] for k, pair in pick.items()} for i in (0, 1))
        truth = None
    return Both(one, other, forward.unit, truth)


def told(pairs: Mapping[str, tuple[Tensor, Tensor]], unit: Tensor) -> tuple[float, dict[str, Estimate]]:
    """How well a clip is told from its reversal: on the held-out videos, and the figures of those of the test.

    Args:
        pairs: features (n, D) of clips and of their reversals, by the name of the split: fit, select, test.
        unit: int64 (n,) videos of the test.
    """
    fit, select = (
        (torch.cat(pairs[name]), torch.arange(2).repeat_interleave(len(pairs[name][0]))) for name in ("fit", "select")
    )
    odds = fit_logistic(fit, select)
    chosen = ((odds(select[0]) > 0) == (select[1] > 0)).double().mean().item()
    forward, backward = (odds(x) for x in pairs["test"])
    right = (wins(-forward) + wins(backward)) / 2
    return chosen, {
        "accuracy": _stats.accuracy(right, unit),
        "paired": _stats.accuracy(wins(backward - forward), unit),
    }
