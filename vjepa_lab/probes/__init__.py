"""Probes: measurements of a frozen encoder. A probe sees features and a stream and yields numbers; it never trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from vjepa_lab.batch import ClipBatch


class Probe(Protocol):
    """What a probe offers to the callback and to the verb."""

    every: int
    "steps between two measurements during training"
    batch: int
    "clips per batch on each rank"

    def demands(self) -> dict[str, tuple[dict[str, Any], int, int]]:
        """Split name -> (source entry, first clip, number of clips)."""
        ...

    def run(self, encoder: nn.Module, streams: Mapping[str, Iterable[ClipBatch]]) -> Iterator[tuple[str, float]]:
        """Yield (metric, value). Every rank calls it with equally many batches and gets equal values."""
        ...
