"""Probes: measurements of a frozen encoder. A probe sees features and streams and yields figures; it never trains the
encoder, and leaves its weights, its mode and the random state as they were.

A probe is one dataclass in one file of this folder, found by its name. Two drivers run the same object: a callback
during training (``train/callbacks.py``) and the verb ``probe`` on a checkpoint (``probes/_verb.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from vjepa_lab.data.streams import Demand, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._stats import Estimate
from vjepa_lab.report import Section

__all__ = ["Compared", "Compares", "Demand", "Estimate", "Probe", "Refuses", "Shows", "Stream"]


class Probe(Protocol):
    """What a probe offers to the callback and to the verb."""

    every: int
    "steps between two measurements during training"
    batch: int
    "clips per batch on each rank"

    def demands(self) -> dict[str, Demand]:
        """What it reads, by the name of the split."""
        ...

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        """Yield (metric, estimate). Every rank calls it with equally many batches and gets equal values."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A probe with pictures of its own."""

    def sections(self) -> list[Section]:
        """What the report shows of the last run, beside the table and the curves that every probe has."""
        ...


@runtime_checkable
class Refuses(Protocol):
    """A probe that cannot measure every encoder. The verb asks before it measures anything; controls and baselines that
    are refused are left out of the table."""

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why it cannot measure this one; None if it can."""
        ...


class Compared(NamedTuple):
    """What encoders are beside each other."""

    metrics: Mapping[str, Mapping[str, Estimate]]
    "further figures of some encoders, by their name and the metric's"
    sections: list[Section]
    "for the report"


@runtime_checkable
class Compares(Protocol):
    """A probe that puts the encoders of one call of the verb beside each other, controls and baselines among them."""

    def note(self) -> Any:
        """What the last run leaves for the comparison."""
        ...

    def compare(self, notes: Mapping[str, Any]) -> Compared:
        """Of the notes of all encoders by name; that of the one it is all about is empty."""
        ...
