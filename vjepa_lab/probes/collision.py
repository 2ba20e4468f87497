"""Do two things collide in a clip, and when? A small network on frozen features, on as many clips with as without.

A clip counts as positive if a collision lies between two of its frames. Where it lies before the second frame or after
the last but one, nothing shows it: such clips are left out. Of the others, equally many of both kinds are used, so that
chance is 50 %.

Yields, for features averaged over the clip, ``accuracy`` and ``auroc``; ``time``: in which of the t tubelets a
collision lies, told by one network that sees each tubelet's own features (chance 1 / t; on positive clips with one
collision, where there are any); and ``place/accuracy`` and ``place/auroc``, the same network on the true positions of
the first frame in place of features: things that begin near each other collide more often, and a figure has to be read
against that.

Decisions.
- The published figure of this kind (82.1 % "Physical IQ") has no known definition and is not to be compared with.
- Networks are 128 wide and take as many steps as 10 epochs of 8,000 clips by 256: 312. Nothing is chosen, so there is
  nothing to hold out. Unlike the source of these settings, the nonlinearity is GELU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream, count_problem, fit_select_test
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _mlp, _stats
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.probes._summary import Summary, summarise, told
from vjepa_lab.registry import PROBES

_WIDTH = 128


class Windows(NamedTuple):
    """Which clips of a split count, and when something collides in them."""

    rows: Tensor
    "int64 (m,)"
    label: Tensor
    "bool (m,): two things collide"
    tubelet: Tensor
    "int64 (m,): in which tubelet; -1: never, or more than once"


@PROBES.register
@dataclass
class Collision:
    """Accuracy and AUROC of whether things collide. See the module's text for what it yields."""

    every: int = 2000
    "steps between two measurements during training"
    batch: int = 32
    "clips per batch on each rank"
    source: dict[str, Any] = field(
        default_factory=lambda: {"name": "synthetic", "split": "val", "label": "impact", "step": 0.125}
    )
    "what to fit on, and to measure on behind it: a source whose truth tells collisions and positions"
    test: dict[str, Any] = field(default_factory=dict)
    "another source to measure on"
    fit_clips: int = 1024
    "clips to fit on; 0: all, where test is another source"
    test_clips: int = 512
    "clips to measure on; 0: all that are left"
    seeds: int = 3
    "networks, which differ in their start and their order of rows"
    steps: int = 312
    "steps of each network, of 256 clips"
    stride: int | None = None
    "every n-th frame; 1 for CLEVRER: consecutive frames. null: as the driver says"

    def __post_init__(self) -> None:
        problem = count_problem(self.fit_clips, self.test_clips, elsewhere=bool(self.test))
        problems = [problem] if problem else []
        problems += [f"{n}: got {v}, expected at least 1" for n in ("seeds", "steps") if (v := getattr(self, n)) < 1]
        if problems:
            raise ValueError("probe collision: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        fit = Demand(self.source, count=self.fit_clips or None, stride=self.stride)
        asked = fit_select_test(fit, test=self.test, count=self.test_clips)
        return {"fit": fit, "test": asked["test"]}

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        read = {split: summarise(encoder, stream) for split, stream in streams.items()}
        told(read["test"], ("collision", "position"), "collision")
        chosen = {split: windows(s.truth["collision"], s.tubelet.shape[1]) for split, s in read.items()}
        for split, found in chosen.items():
            if not len(found.rows):
                raise ValueError(
                    f"probe collision: source {streams[split].name}: got {len(read[split].key)} clips, expected some "
                    "with a collision between two inner frames and some without; ask for more clips, or of synthetic "
                    "for the label impact"
                )
        yield from self._told_apart("", {s: r.clip for s, r in read.items()}, read, chosen, encoder.device)
        if all((found.tubelet >= 0).any() for found in chosen.values()):
            yield "time", self._timed(read, chosen, encoder.device)
        places = {s: r.truth["position"][:, 0].flatten(1) for s, r in read.items()}
        yield from self._told_apart("place/", places, read, chosen, torch.device("cpu"))

    def _told_apart(
        self,
        prefix: str,
        x: Mapping[str, Tensor],
        read: Mapping[str, Summary],
        chosen: Mapping[str, Windows],
        device: torch.device,
    ) -> Iterator[tuple[str, Estimate]]:
        rows, label, _ = chosen["fit"]
        networks = self._fit(x["fit"][rows], label, device)
        rows, label, _ = chosen["test"]
        scores, unit = networks(x["test"][rows])[..., 0], read["test"].unit[rows]  # (K, m)
        right = torch.where(scores == 0, 0.5, ((scores > 0) == label).double())
        yield f"{prefix}accuracy", _stats.over_seeds([_stats.accuracy(r, unit) for r in right])
        yield f"{prefix}auroc", _stats.over_seeds([_stats.auroc(s, label, unit) for s in scores])

    def _timed(self, read: Mapping[str, Summary], chosen: Mapping[str, Windows], device: torch.device) -> Estimate:
        x, when, unit = {}, {}, torch.zeros(0)
        for split, (rows, _, tubelet) in chosen.items():
            once = tubelet >= 0
            x[split], when[split] = read[split].tubelet[rows[once]], tubelet[once]
            unit = read[split].unit[rows[once]]
        t = x["fit"].shape[1]
        here = torch.arange(t) == when["fit"][:, None]
        networks = self._fit(x["fit"].flatten(0, 1), here.flatten(), device)
        scores = networks(x["test"].flatten(0, 1))[..., 0].unflatten(1, (-1, t))  # (K, m, t)
        top = scores == scores.amax(2, keepdim=True)
        right = top.gather(2, when["test"].expand(len(scores), -1)[..., None])[..., 0] / top.sum(2)
        return _stats.over_seeds([_stats.accuracy(r, unit) for r in right])

    def _fit(self, x: Tensor, label: Tensor, device: torch.device) -> _mlp.Networks:
        y = label.float()[:, None]
        return _mlp.fit(x, y, seeds=range(self.seeds), widths=(_WIDTH,), steps=self.steps, logits=True, device=device)


def windows(collision: Tensor, t: int) -> Windows:
    """Which clips are used, of those whose collisions are bool (n, F, K, K).

    Args:
        t: tubelets of a clip.
    """
    met = torch.triu(collision, 1).sum((2, 3))  # (n, F) pairs that collided since the frame before
    frames = met.shape[1]
    hidden = (met[:, 1] > 0) | (met[:, -1] > 0)
    label = (met.sum(1) > 0) & ~hidden
    kinds = [torch.nonzero(label).flatten(), torch.nonzero(~label & ~hidden).flatten()]
    fewest = min(len(kind) for kind in kinds)
    rows = torch.cat([kind[:fewest] for kind in kinds]).sort().values
    when = torch.where(met.sum(1) == 1, (met > 0).int().argmax(1) // (frames // t), -1)
    return Windows(rows, label[rows], when[rows])
