"""How fine does the encoder see contact? A disc touches a box, or stops a gap before it: which of the two?

Logistic regression on features, fitted for each gap of the source ``contact`` by itself. Yields ``gap/2`` (accuracy for
a gap of two pixels, chance one half) and ``gap/2/paired`` (which clip of a pair is the touch; ties one half); and
``push`` and ``push/paired``, where a touch moves the box, as touches do: there nothing but the difference between
standing and moving is to be seen. Intervals are over pairs.

The curve over gaps is a resolution: without the push, a gap far below what the encoder's cells resolve cannot be told.

Decision. Tokens are averaged over time and over a coarse grid of cells, as the contact may be anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes import _stats
from vjepa_lab.probes._choice import partners, wins
from vjepa_lab.probes._extract import Table, extract
from vjepa_lab.probes._logistic import fit_logistic
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.registry import PROBES
from vjepa_lab.tokens import Features, pool_cells

_PUSH = "push"


@PROBES.register
@dataclass
class Contact:
    """Touch or near miss. See the module's text for what it yields."""

    every: int = 5000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank"
    source: dict[str, Any] = field(default_factory=lambda: {"name": "contact", "split": "val"})
    "the world, without gap and push"
    gaps: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    "pixels between disc and box at a near miss"
    push: float = 2.0
    "pixels by which a touch moves the box where it does; measured at the first gap; 0: not measured"
    cells: int = 4
    "tokens are averaged over cells x cells regions"
    fit_clips: int = 400
    "clips to fit on, for each gap"
    select_clips: int = 100
    "clips to choose the penalty on"
    test_clips: int = 200
    "clips to report on"

    def __post_init__(self) -> None:
        problems = [
            f"{name}: got {value}, expected an even number above 0: clips come in pairs"
            for name in ("fit_clips", "select_clips", "test_clips")
            if (value := getattr(self, name)) < 2 or value % 2
        ]
        if not self.gaps or len(set(self.gaps)) < len(self.gaps):
            problems.append(f"gaps: got {self.gaps}, expected different widths")
        fixed = sorted({"gap", "push"} & set(self.source))
        if fixed:
            problems.append(f"source: got {fixed[0]}, expected none: give the probe gaps and push")
        if problems:
            raise ValueError("probe contact: " + "; ".join(problems))

    def demands(self) -> dict[str, Demand]:
        worlds = {f"gap/{gap:g}": {"gap": gap, "push": 0.0} for gap in self.gaps}
        if self.push:
            worlds[_PUSH] = {"gap": self.gaps[0], "push": self.push}
        ends = (self.fit_clips, self.select_clips, self.test_clips)
        return {
            f"{world}/{split}": Demand(self.source | fields, sum(ends[:i]), ends[i])
            for world, fields in worlds.items()
            for i, split in enumerate(("fit", "select", "test"))
        }

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        worlds = dict.fromkeys(name.rpartition("/")[0] for name in streams)
        for world in worlds:
            fit, select, test = (self._table(encoder, streams[f"{world}/{s}"]) for s in ("fit", "select", "test"))
            odds = fit_logistic(*((t.x[-1], t.y["label"] > 0) for t in (fit, select)))(test.x[-1])
            touch, pair = test.y["label"] > 0, test.y["pair"]
            yield world, _stats.accuracy(wins(odds.where(touch, -odds)), pair)
            both = partners(pair, touch)
            yield f"{world}/paired", _stats.accuracy(wins(odds[both.first] - odds[both.second]), pair[both.first])

    def _table(self, encoder: FrozenEncoder, stream: Stream) -> Table:
        def cells(features: Features) -> Tensor:
            return pool_cells(features, self.cells).mean(1)

        table = extract(encoder, stream, pool=cells, tag=f"cells over time {self.cells}")
        if "pair" not in table.y:
            raise ValueError(
                f"probe contact: source {stream.name} has no pairs; give the probe source: {{name: contact}}"
            )
        return table
