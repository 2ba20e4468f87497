"""How healthy are the features? How many directions they use, whatever these mean; no labels, nothing is fitted.

Rows are clips: tokens averaged over the whole clip. Collapse shows as a rank near 1, a cosine near 1 and dead
dimensions; partial collapse as ranks far below those of a model of the same shape. The uncentred RankMe is the
published one: an offset common to all clips hides everything else in it, so compare the centred one first. Ranks grow
with the number of clips until there are many more than dimensions (RankMe was published with 25,600): compare equal
numbers.

- ``rankme``, ``rankme_uncentred``, ``effective_rank``, ``participation_ratio``, ``covariance_entropy``, ``lidar``: see
  ``_spectrum.py``. The views of a clip that LiDAR needs are its tubelets, so it costs no second pass; of clips with one
  tubelet there is none.
- ``knn_entropy``: differential entropy of the clips by the distance to the 5th neighbour, on the unit sphere, in 32
  principal dimensions.
- ``token_entropy``: how evenly tokens spread over 256 clusters, 0 to 1.
- ``cosine``: mean cosine of two clips.
- ``std_mean``, ``std_min``: deviation of a dimension over clips; ``dead``: share of the dimensions whose deviation is
  below 1 % of the largest.

Intervals leave out groups of clips in turn (``_spectrum.py`` says why); that of ``knn_entropy`` is a bootstrap over its
summands. ``std_min`` and ``dead`` have none: extremes have no such interval. A relative gain is always of one of these
figures: 10 % in RankMe are 2 % in nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab import dist
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import Demand, Estimate, Stream
from vjepa_lab.probes._entropy import clusters, evenness, neighbours
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._spectrum import Sums, half_width, jackknife, lidar, ranks
from vjepa_lab.probes._stats import bootstrap
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import Features, pooled

_DEAD = 0.01
_NEIGHBOUR = 5


@PROBES.register
@dataclass
class Health:
    """Ranks, entropies and deviations of the features: see the module's text."""

    every: int = 500
    "steps between two measurements during training"
    clips: int = 1024
    "clips to measure on, many more than the width of the encoder; 0: all of the source"
    batch: int = 32
    "clips per batch on each rank"
    layer: int = -1
    "block (from 0) whose features are measured; -1: the output of the encoder"
    tokens: int = 16
    "tokens of each clip, evenly spaced, for token_entropy"
    clusters: int = 256
    "clusters for token_entropy"
    groups: int = 20
    "groups of clips that are left out in turn for the intervals, each costs an eigendecomposition; 0: no intervals"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "synthetic", "split": "val"})
    "what to measure on; labels are not needed"

    def __post_init__(self) -> None:
        problems = [f"{n}: expected 0 or more, got {v}" for n in ("clips", "groups") if (v := getattr(self, n)) < 0]
        if self.tokens < 1:
            problems.append(f"tokens: expected at least 1, got {self.tokens}")
        if self.clusters < 2:
            problems.append(f"clusters: expected at least 2, got {self.clusters}")
        if problems:
            raise ValueError("probe health: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        return {"test": Demand(self.source, count=self.clips or None)}

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        def parts(features: Features) -> Tensor:
            n = features.tokens.shape[1]
            shown = torch.arange(self.tokens, device=features.tokens.device) * n // self.tokens
            return torch.cat([pooled(features, "tubelet"), features.tokens[:, shown]], 1)

        table = extract(
            encoder, streams["test"], layers=(self.layer,), pool=parts, tag=f"tubelets, {self.tokens} tokens"
        )
        views, tokens = table.x[self.layer].split([table.grid.t, self.tokens], 1)
        yield from self.figures(views, tokens, table.unit)

    def figures(self, views: Tensor, tokens: Tensor, unit: Tensor) -> Iterator[tuple[str, Estimate]]:
        """Figures of tubelets (n, t, D) and tokens (n, S, D) of clips, which belong to ``unit`` (n,)."""
        _, unit = torch.unique(unit, return_inverse=True)
        units = int(unit.max()) + 1
        rows = views.double().mean(1)
        if len(rows) <= _NEIGHBOUR:
            raise ValueError(f"probe health: got {len(rows)} clips, expected more than {_NEIGHBOUR}")
        many = max(min(self.groups, units), 1)
        members = [unit * many // units == g for g in range(many)]
        found = jackknife([Sums.of_views(views[m]) for m in members], _of_sums)
        found |= jackknife([Sums.of(F.normalize(rows[m], dim=1)) for m in members], _cosine)
        for name, triple in found.items():
            if name != "lidar" or views.shape[1] > 1:
                yield name, Estimate(*triple, units)

        summands, constant = neighbours(rows, k=_NEIGHBOUR)
        parts = torch.stack([summands, torch.ones_like(summands)], 1)
        yield "knn_entropy", bootstrap(parts, unit, lambda s: s[:, 0] / s[:, 1] + constant)
        yield "token_entropy", self._token_entropy(tokens, members, units)
        deviation = rows.std(0, correction=0)
        yield "std_min", Estimate(deviation.min().item(), units=units)
        yield "dead", Estimate((deviation <= _DEAD * deviation.max()).double().mean().item(), units=units)

    def _token_entropy(self, tokens: Tensor, members: list[Tensor], units: int) -> Estimate:
        n, count, _ = tokens.shape
        label = clusters(tokens.flatten(0, 1), count=self.clusters, seed=dist.derive("health", self.clusters))
        label = label.view(n, count)
        counts = torch.stack([torch.bincount(label[m].flatten(), minlength=self.clusters) for m in members])
        value = evenness(counts.sum(0), self.clusters).item()
        if len(members) < 2:
            return Estimate(value, units=units)
        half = half_width(evenness(counts.sum(0) - counts, self.clusters)[:, None]).item()
        return Estimate(value, value - half, value + half, units)


def _of_sums(sums: Sums) -> dict[str, float]:
    deviation = sums.covariance().diagonal().clamp_min(0).sqrt().mean().item()
    return ranks(sums) | {"lidar": lidar(sums), "std_mean": deviation}


def _cosine(sums: Sums) -> dict[str, float]:
    """Mean cosine of two rows, of rows of length 1."""
    n = sums.count
    return {"cosine": ((sums.total.square().sum() - n) / (n * (n - 1))).item()}
