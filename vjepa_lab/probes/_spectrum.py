"""Rank of a set of features."""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(features: Tensor, *, centred: bool = True, eps: float = 1e-7) -> float:
    """Effective rank exp(entropy of the normalised singular values) of features (n, D): RankMe, Garrido et al. 2023.

    The published definition is uncentred, where one offset common to all features hides everything else; ``centred``
    removes the mean first. Between 1 (collapsed) and min(n, D).
    """
    z = features.to("cpu" if features.device.type == "mps" else features.device, torch.float64)  # MPS lacks float64
    if centred:
        z = z - z.mean(0)
    gram = z.T @ z if z.shape[0] > z.shape[1] else z @ z.T  # the smaller one: many times faster than svdvals
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = singular / singular.sum().clamp_min(1e-300) + eps
    return torch.exp(-(p * p.log()).sum()).item()
