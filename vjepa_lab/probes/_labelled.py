"""Tokens of labelled clips for attentive heads: several layers, several views, kept in memory or encoded anew.

Letters: B videos, S segments (clips of a video), W spatial views of each, V = S * W, segment by segment; K heads,
C classes.

Several layers are put behind each other on the token axis, (B, L * N, D), never on channels: a head has one query for
all of them. How several views make one answer is ``Views``:

- ``softmax_mean``: a head sees one view at a time, and the class probabilities of all are averaged.
- ``joint_tokens``: a head sees the tokens of all segments of one crop together, and the probabilities of the crops are
  averaged. Heads are trained on all segments too. This is what the released code does; the paper says the former.

Decision. Features that are encoded in every epoch are of clips drawn at random (``data/draws.py``); features in memory
are those of the clip in the middle of its segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.batch import ClipBatch
from vjepa_lab.data.draws import Draws
from vjepa_lab.data.streams import Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._extract import Table
from vjepa_lab.probes._heads import Bank
from vjepa_lab.probes._sweep import Rows, within

Aggregate = Literal["softmax_mean", "joint_tokens"]
Seen = Callable[[ClipBatch], Tensor]
"a batch -> what heads see of it, float32 (B, V', N', D)"


class Views(NamedTuple):
    """How the views of a video make one answer."""

    segments: int = 1
    views: int = 1
    aggregate: Aggregate = "softmax_mean"

    @property
    def trained(self) -> int:
        """Segments that a head is trained on at once."""
        return self.segments if self.aggregate == "joint_tokens" else 1

    def joined(self, tokens: Tensor) -> Tensor:
        """Tokens of all views (B, V, N, D), or of the only one (B, N, D) -> as heads are to see them (B, V', N', D)."""
        if tokens.ndim == 3:
            return tokens[:, None]
        if self.aggregate == "softmax_mean":
            return tokens
        apart = tokens.unflatten(1, (self.segments, -1)).transpose(1, 2)  # (B, W, S, N, D)
        return apart.flatten(2, 3)


def averaged(scores: Tensor) -> Tensor:
    """Class probabilities (K, B, C) from the scores of views (K, B, V, C): the mean of the softmax of each."""
    return scores.softmax(-1).mean(2)


def outcome(bank: Bank, seen: Tensor, label: Tensor) -> dict[str, Tensor]:
    """How each head does on a batch of (B, V', N', D), or (B, V', D): ``top1``, ``top5`` and ``loss`` (B, K)."""
    p = averaged(bank.scores(seen.flatten(0, 1))["label"].unflatten(1, seen.shape[:2]))
    at = label.clamp_min(0)[None, :, None].expand(len(p), -1, 1)
    loss = -p.gather(-1, at).squeeze(-1).clamp_min(1e-30).log()
    found = {"top1": within(p, label, 1), "top5": within(p, label, 5), "loss": loss}
    return {name: value.T for name, value in found.items()}


def tokens_of(encoder: FrozenEncoder, clip: Tensor, layers: Sequence[int]) -> Tensor:
    """Tokens (B, L * N, D) of clips (B, 3, F, H, W), or (B, V, L * N, D) of (B, V, 3, F, H, W)."""
    shown = clip.flatten(0, 1) if clip.ndim == 6 else clip
    found = encoder.layers(shown, layers)
    tokens = torch.cat([found[layer].tokens for layer in layers], 1)
    return tokens.unflatten(0, clip.shape[:2]) if clip.ndim == 6 else tokens


def labels_of(y: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """Which rows have all these labels: bool (n,)."""
    return torch.stack([y[name] >= 0 for name in names]).all(0)


class Shown:
    """A split to choose or report on, encoded as it is read; labels by name, and the unit of each row as ``unit``."""

    sharded = True

    def __init__(self, stream: Stream, seen: Seen, names: Sequence[str]) -> None:
        self.stream, self.seen, self.names = stream, seen, names

    def __len__(self) -> int:
        return -(-len(self.stream) // (self.stream.batch * dist.world()))

    def epoch(self, number: int) -> Iterator[Rows]:
        del number  # the same every time
        units = torch.from_numpy(self.stream.units).to(self.stream.device)
        for i, batch in enumerate(self.stream):
            first = (i * dist.world() + dist.rank()) * self.stream.batch
            at = torch.arange(first, first + len(batch.label), device=units.device).clamp_max(len(units) - 1)
            y = _labels(batch, self.names)
            yield Rows(self.seen(batch), {**y, "unit": units[at]}, batch.valid & labels_of(y, self.names))


class Encoded:
    """A split to train on, encoded anew in every epoch from clips and crops that are drawn at random."""

    sharded = True

    def __init__(self, stream: Stream, seen: Seen, names: Sequence[str]) -> None:
        self.draws, self.seen, self.names = Draws(stream), seen, names

    def __len__(self) -> int:
        return len(self.draws)

    def epoch(self, number: int) -> Iterator[Rows]:
        for batch in self.draws.epoch(number):
            yield Rows(self.seen(batch).flatten(1, 2), _labels(batch, self.names), batch.valid)


def labelled(table: Table, name: str, names: Sequence[str] = ("label",)) -> Table:
    """The rows of a table that have these labels.

    Args:
        name: of the source, for the error.

    Raises:
        ValueError: no row has.
    """
    there = labels_of(table.y, names) if set(names) <= set(table.y) else torch.zeros(len(table.key), dtype=torch.bool)
    rows = torch.nonzero(there).flatten()
    if not len(rows):
        raise ValueError(f"source {name}: none of its videos has a {' or '.join(names)}")
    if len(rows) == len(table.key):
        return table
    return table._replace(
        x={layer: x[rows] for layer, x in table.x.items()},
        y={column: y[rows] for column, y in table.y.items()},
        unit=table.unit[rows],
        key=[table.key[i] for i in rows.tolist()],
    )


def _labels(batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
    known = {"label": batch.label, **batch.truth}
    return {name: known[name] for name in names}
