"""A classifier fitted once, on clean clips, and then frozen: every degraded version of a split is read through it.

``linear`` and ``knn`` read the mean token (``_classifier.py``). ``attentive`` reads all tokens (``_sweep.py``): of a
grid of learning rates and weight decays the head that is best on the split ``select``. Of degraded clips only its
scores and the mean token are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.data.streams import Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._classifier import fit_classifier
from vjepa_lab.probes._extract import Table, Transform, extract, extract_each
from vjepa_lab.probes._heads import Bank, Head
from vjepa_lab.probes._labelled import labelled, outcome
from vjepa_lab.probes._sweep import Memory, Plan, Rows, best, sweep
from vjepa_lab.tokens import Features

Kind = Literal["linear", "knn", "attentive"]


class Read(NamedTuple):
    """A split as the head saw it; rows without a label are not among them."""

    scores: Tensor
    "float64 (n, K)"
    x: Tensor
    "(n, D) the mean token"
    label: Tensor
    "int64 (n,)"
    unit: Tensor
    "int64 (n,)"

    @property
    def right(self) -> Tensor:
        """Which rows are classified rightly, float64 (n,)."""
        return (self.scores.argmax(1) == self.label).double()


@dataclass
class Shape:
    """What an attentive head is, and what it is chosen from; the text of the probe's fields says more."""

    depth: int = 4
    heads: int = 16
    lrs: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    wds: tuple[float, ...] = (0.8, 0.4, 0.1, 0.01)
    epochs: int = 20
    rows: int = 128


class CleanHead:
    """A head on an encoder, fitted to the splits ``fit`` and ``select``. All methods are collective calls.

    Raises:
        ValueError: no clip has a label, or the head does not fit the encoder.
    """

    def __init__(self, encoder: FrozenEncoder, streams: Mapping[str, Stream], kind: Kind, shape: Shape) -> None:
        self.encoder = encoder
        self.bank: Bank | None = None
        pool = "none" if kind == "attentive" else "mean"
        fit, select = (
            labelled(extract(encoder, streams[name], pool=pool), streams[name].name) for name in ("fit", "select")
        )
        named = next((len(s.classes) for s in streams.values() if s.classes is not None), 0)
        self.classes: int = max(named, 2, *(int(t.y["label"].max()) + 1 for t in (fit, select)))
        if kind == "attentive":
            self.bank = _swept(fit, select, self.classes, shape, streams["fit"])
        else:
            self._score = fit_classifier(kind, *((t.x[-1], t.y["label"]) for t in (fit, select)), classes=self.classes)

    def read(self, stream: Stream, transforms: Mapping[str, Transform | None]) -> dict[str, Read]:
        """A split as each of the transforms leaves it, by their tags; its clips are read once for all of them."""
        if self.bank is None:
            tables = extract_each(self.encoder, stream, transforms)
            return {tag: self._seen(labelled(table, stream.name)) for tag, table in tables.items()}
        bank, pool, digest = self.bank, self.encoder.pool, _digest(self.bank)

        def look(features: Features) -> Tensor:
            return torch.cat((bank.scores(features.tokens)["label"][0], pool(features, "mean")), 1)

        named = {f"{tag} head {digest}": transform for tag, transform in transforms.items()}
        tables = extract_each(self.encoder, stream, named, pool=look)
        return {tag: self._seen(labelled(t, stream.name)) for tag, t in zip(transforms, tables.values(), strict=True)}

    def _seen(self, table: Table) -> Read:
        x = table.x[-1]
        scores, x = (self._score(x), x) if self.bank is None else (x[:, : self.classes], x[:, self.classes :])
        return Read(scores.double(), x, table.y["label"], table.unit)


def _swept(fit: Table, select: Table, classes: int, shape: Shape, stream: Stream) -> Bank:
    """The best attentive head."""
    head = Head("attentive", fit.x[-1].shape[-1], {"label": classes}, depth=shape.depth, heads=shape.heads)
    plan = Plan(shape.lrs, shape.wds, 1, shape.epochs, dist.derive(stream.seed, "robustness heads"))
    order = dist.derive(stream.seed, "robustness")
    fed = Memory(fit.x[-1], {"label": fit.y["label"]}, batch=shape.rows, shuffle=order, device=stream.device)
    swept = sweep(head, plan, fed, device=stream.device)
    asked = Memory(select.x[-1], {"label": select.y["label"]}, batch=stream.batch, device=stream.device)
    found = swept.measure(asked, _measure)
    return swept.subset(best(swept.trials, found["top1"].mean(0), found["loss"].mean(0))).bank


def _measure(bank: Bank, rows: Rows) -> dict[str, Tensor]:
    return outcome(bank, rows.x[:, None], rows.y["label"])


def _digest(bank: Bank) -> str:
    digest = sha256()
    for name, weight in sorted(bank.weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
