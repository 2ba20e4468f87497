"""A light classifier of pooled features: least squares on one-hot targets, or nearest neighbours. No optimiser.

Both have one choice to make (the strength of the penalty, the number of neighbours), made on rows of their own, and are
exact and equal on every machine: what differs between two measurements is the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.probes._ridge import Sums, fit

Kind = Literal["linear", "knn"]
Classifier = Callable[[Tensor], Tensor]
"features (n, D) -> class scores float64 (n, K), the highest is the prediction"

_NEIGHBOURS = (1, 5, 10, 20, 50)
_TEMPERATURE = 0.07
"of the votes of neighbours by cosine"
_ROWS = 2048
"rows compared at once"


def fit_classifier(kind: str, train: tuple[Tensor, Tensor], select: tuple[Tensor, Tensor], classes: int) -> Classifier:
    """Fit to features (n, D) and labels (n,).

    Args:
        kind: linear | knn.
        train: rows to fit to.
        select: rows to choose the penalty or the number of neighbours on.
        classes: K.

    Raises:
        ValueError: no such kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"head: got '{kind}', expected one of {', '.join(get_args(Kind))}")
    x = train[0].double()
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    if kind == "knn":
        return _knn(x - mean, mean, train[1], select, classes)
    scale = torch.where(deviation > 1e-12 * deviation.max().clamp_min(1e-300), deviation, torch.inf)
    sums = []
    for rows, label in (train, select):
        both = Sums()
        both.add((rows.double() - mean) / scale, F.one_hot(label, classes))
        sums.append(both.moments())
    fitted = fit(*sums)
    weight = fitted.weight / scale[:, None]
    return lambda rows: (rows.double() - mean) @ weight + fitted.bias


def _knn(x: Tensor, mean: Tensor, label: Tensor, select: tuple[Tensor, Tensor], classes: int) -> Classifier:
    known = F.normalize(x, dim=1)
    offered = [k for k in _NEIGHBOURS if k <= len(known)]

    def scores(rows: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
        """Part by part, the votes (len(counts), n, K)."""
        for part in rows.split(_ROWS):
            near, at = (F.normalize(part.double() - mean, dim=1) @ known.T).topk(max(counts), dim=1)
            weight, voted = ((near - near[:, :1]) / _TEMPERATURE).exp(), label[at]
            empty = weight.new_zeros(len(part), classes)
            yield torch.stack([empty.scatter_add(1, voted[:, :k], weight[:, :k]) for k in counts])

    answers = torch.cat([votes.argmax(2) for votes in scores(select[0], offered)], 1)
    best = offered[int((answers == select[1]).double().mean(1).argmax())]
    return lambda rows: torch.cat([votes[0] for votes in scores(rows, [best])])
