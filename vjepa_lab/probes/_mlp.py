"""Small networks on features, K of them trained at once: one per seed, by batched products.

Each is Linear-GELU-Linear-GELU-Linear, trained by AdamW with a cosine to zero on the mean squared error of standardised
targets, or on the cross-entropy of events that are or are not. The K networks share the features and nothing else: each
has its own start and its own order of rows, so that their spread is that of repeating the probe. Predictions are in the
units of the targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vjepa_lab import dist

_ROWS = 4096
"rows per product when predicting"


class Scale(NamedTuple):
    """Shift and scale of columns (D,), as found on the rows that are fitted."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scale:
        """Of rows (n, D); columns that never change are divided by 1."""
        std, mean = torch.std_mean(x.double(), 0, unbiased=False)
        return cls(mean.float(), torch.where(std > 1e-6 * std.max().clamp_min(1e-30), std, 1.0).float())


class Networks:
    """K networks from features (n, D) to targets (n, A)."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], x: Scale, y: Scale) -> None:
        self.layers = layers
        "weight (K, in, out) and bias (K, 1, out) of each"
        self.x = x
        self.y = y

    def __call__(self, x: Tensor) -> Tensor:
        """Predictions (K, n, A) on the CPU."""
        device = self.layers[0][0].device
        with torch.no_grad():
            found = [
                forward(self.layers, ((part - self.x.mean) / self.x.std).to(device)) for part in x.float().split(_ROWS)
            ]
        return torch.cat([part.cpu() for part in found], 1) * self.y.std + self.y.mean


def forward(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """x (n, D), the same for all, or (K, n, D) -> (K, n, A)."""
    x = x.expand(len(layers[0][0]), *x.shape[-2:])
    for weight, bias in layers[:-1]:
        x = F.gelu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(layers[-1][1], x, layers[-1][0])


def fit(
    x: Tensor,
    y: Tensor,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    widths: Sequence[int] = (256, 128),
    steps: int = 3000,
    batch: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    logits: bool = False,
    device: torch.device | str = "cpu",
) -> Networks:
    """Train on features x (n, D) and targets y (n, A); a function of its arguments alone.

    Args:
        logits: targets are 0 or 1, and predictions are the logarithms of their odds, by binary cross-entropy.
    """
    assert len(x) == len(y) > 0, (len(x), len(y))
    of_x, of_y = Scale.of(x), Scale.of(y)
    if logits:
        of_y = Scale(torch.zeros_like(of_y.mean), torch.ones_like(of_y.std))
    x = ((x.float() - of_x.mean) / of_x.std).to(device)
    y = ((y.float() - of_y.mean) / of_y.std).to(device)
    sizes = [x.shape[1], *widths, y.shape[1]]
    generators = [torch.Generator().manual_seed(dist.derive("mlp", seed)) for seed in seeds]
    layers = [_layer(n, m, generators, device) for n, m in pairwise(sizes)]
    rows = torch.stack([torch.randint(len(x), (steps, batch), generator=g) for g in generators], 1).to(device)
    parameters = [p for layer in layers for p in layer]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
            at = rows[step]  # (K, batch)
            said, true = forward(layers, x[at]), y[at]
            if logits:
                errors = F.binary_cross_entropy_with_logits(said, true, reduction="none")
            else:
                errors = (said - true).square()
            # a mean over rows and targets for each network: the sum over networks leaves their gradients apart
            loss = errors.mean((1, 2)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Networks([(weight.detach(), bias.detach()) for weight, bias in layers], of_x, of_y)


def _layer(
    width: int, out: int, generators: Sequence[torch.Generator], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    bound = 1 / math.sqrt(width)
    both = torch.stack([(2 * torch.rand(width + 1, out, generator=g) - 1) * bound for g in generators]).to(device)
    return both[:, :-1].clone().requires_grad_(), both[:, -1:].clone().requires_grad_()
