"""Do features tell classes apart without any training? Pairs of classes, by three measures, and the set as a whole.

For every pair of classes: is a clip's nearest neighbour (among the clips of the two) of its class; is it nearer to the
centroid of its class than to the other (centroids of the half of the clips that it does not belong to); and the area
under the ROC curve of the similarities within the two classes against those between them. A figure of a stratum of
pairs is the mean over its pairs. Similarity is the cosine after the mean of the set is taken away; distances to
centroids are Euclidean. All of it is unchanged by rotation and scale.

Strata are told from the names of the classes where these are phrases: pairs with the same first word (the verb), and
with different ones. Sources with the 174 classes of Something-Something v2 have the pairs of pretending and doing too.

Letters: n clips, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab.probes._choice import wins
from vjepa_lab.probes._pretend import CLASSES, PRETEND
from vjepa_lab.probes._stats import Estimate, accuracy, area, share


def strata(names: Sequence[str] | None, classes: int) -> dict[str, Tensor]:
    """Which pairs of classes belong to each stratum: symmetric bool (K, K) without the diagonal; empty ones are out."""
    every = ~torch.eye(classes, dtype=torch.bool)
    out = {"all": every}
    if names is not None and all(" " in name for name in names):
        verb = [name.split()[0].lower() for name in names]
        same = torch.tensor([[a == b for b in verb] for a in verb]) & every
        out |= {"same_verb": same, "different_verb": every & ~same}
    if classes == CLASSES:
        real = torch.zeros(classes, classes, dtype=torch.bool)
        for pretend, done in PRETEND.items():
            real[pretend, done] = real[done, pretend] = True
        out["pretend_vs_real"] = real
    return {name: pairs for name, pairs in out.items() if pairs.any()}


def discriminability(x: Tensor, label: Tensor, unit: Tensor, pairs: dict[str, Tensor]) -> dict[str, Estimate]:
    """All measures of features (n, D) with labels (n,); classes of fewer than two clips are left out.

    Args:
        unit: int64 (n,) videos; intervals are over them.
        pairs: as ``strata``.

    Raises:
        ValueError: fewer than two classes have two clips.
    """
    count = torch.bincount(label, minlength=len(pairs["all"]))
    full = torch.nonzero(count >= 2).flatten()
    if len(full) < 2:
        raise ValueError(f"discriminability: got {len(full)} classes with at least two clips, expected at least 2")
    number = torch.full_like(count, -1)
    number[full] = torch.arange(len(full))
    rows = number[label] >= 0
    x, label, unit = x[rows].double(), number[label[rows]], unit[rows]
    x = x - x.mean(0)
    near = F.normalize(x, dim=1)
    near = near @ near.T
    nearest = _nearest_of_class(near, label, len(full))
    closer = _prefers_own(nearest, label)
    central = nearer_centroid(x, label, len(full))
    areas = torch.zeros(len(full), len(full), dtype=torch.float64)
    for a, b in torch.nonzero(pairs["all"][full][:, full].triu()).tolist():
        areas[a, b] = _pair_area(near, label, a, b)
    out: dict[str, Estimate] = {}
    for name, chosen in pairs.items():
        chosen = chosen[full][:, full]
        if not chosen.any():
            continue
        # A mean over pairs: every class of a pair weighs one half of it, shared by its clips.
        weight = chosen[label].double() / torch.bincount(label)[label][:, None] / chosen.sum()
        out[f"{name}/neighbour"] = share((closer * weight).sum(1), weight.sum(1), unit)
        out[f"{name}/centroid"] = share((central * weight).sum(1), weight.sum(1), unit)
        out[f"{name}/auroc"] = Estimate(areas[chosen.triu()].mean().item(), units=len(torch.unique(unit)))
    right = (nearest.argmax(1) == label).double()
    out["neighbour"] = accuracy(right, unit)
    silhouette = _silhouette(near, label)
    out["silhouette"] = accuracy(silhouette, unit)
    out["scatter_ratio"] = Estimate(_scatter_ratio(x, label), units=len(torch.unique(unit)))
    return out


def _nearest_of_class(near: Tensor, label: Tensor, classes: int) -> Tensor:
    """Highest similarity of each row to the other rows of each class, (n, K)."""
    others = near.clone().fill_diagonal_(-torch.inf)
    out = torch.full((len(near), classes), -torch.inf, dtype=near.dtype)
    return out.scatter_reduce_(1, label.expand(len(near), -1), others, "amax")


def _prefers_own(score: Tensor, label: Tensor) -> Tensor:
    """1 where a row's own class has a higher score than class k, one half for a tie: (n, K)."""
    return wins(score.gather(1, label[:, None]) - score)


def nearer_centroid(x: Tensor, label: Tensor, classes: int) -> Tensor:
    """1 where a row (n, D) is nearer to the centroid of its class than to that of class k, one half for a tie: (n, K).
    Centroids are made of the half of the rows of each class that the row is not in."""
    half = torch.zeros_like(label)
    for k in range(classes):
        rows = torch.nonzero(label == k).flatten()
        half[rows] = torch.arange(len(rows)) % 2
    out = x.new_empty(len(x), classes)
    for side in (0, 1):
        other = half != side
        member = F.one_hot(label[other], classes).double()
        centroid = member.T @ x[other] / member.sum(0)[:, None]
        out[half == side] = torch.cdist(x[half == side], centroid)
    return _prefers_own(-out, label)


def _pair_area(near: Tensor, label: Tensor, a: int, b: int) -> float:
    one, other = torch.nonzero(label == a).flatten(), torch.nonzero(label == b).flatten()
    within = []
    for rows in (one, other):
        i, j = torch.triu_indices(len(rows), len(rows), 1)
        within.append(near[rows[i], rows[j]])
    between = near[one][:, other].flatten()
    values = torch.cat((*within, between))
    return area(values, torch.arange(len(values)) < len(values) - len(between))


def _silhouette(near: Tensor, label: Tensor) -> Tensor:
    """(b - a) / max(a, b) of each row: a its mean distance to its class, b the least to another; 1 - cosine, (n,)."""
    member = F.one_hot(label).double()
    count = member.sum(0)
    total = (1 - near).fill_diagonal_(0) @ member
    own = member.bool()
    a = total[own] / (count[label] - 1)
    b = (total / count).masked_fill(own, torch.inf).amin(1)
    return (b - a) / torch.maximum(a, b).clamp_min(1e-300)


def _scatter_ratio(x: Tensor, label: Tensor) -> float:
    """Trace of the scatter between classes over that within them."""
    member = F.one_hot(label).double()
    centroid = member.T @ x / member.sum(0)[:, None]
    within = (x - centroid[label]).square().sum()
    between = (centroid[label] - x.mean(0)).square().sum()
    return (between / within.clamp_min(1e-300)).item()
