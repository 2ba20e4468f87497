"""Logistic regression for two classes, exact: penalised least log loss by Newton's method in float64, no learning rate.

The penalty is chosen by the log loss on rows of their own. Where there are fewer rows than features, the fit happens in
the space that the rows span, which holds the solution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTHS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"of the penalty strength / 2 * |weight|² beside the mean log loss, on features of deviation 1"
_STEPS = 100
_TOLERANCE = 1e-9
"of the norm of the gradient"


def fit_logistic(train: tuple[Tensor, Tensor], select: tuple[Tensor, Tensor]) -> Callable[[Tensor], Tensor]:
    """Fit to features (n, D) and whether each row is of the second class (n,).

    Args:
        train: rows to fit to; both classes are there.
        select: rows to choose the penalty on.

    Returns:
        Features (n, D) -> log odds of the second class, float64 (n,).

    Raises:
        ValueError: a class is missing in ``train``.
    """
    x, y = train[0].double(), train[1].double()
    if not 0 < y.mean() < 1:
        raise ValueError(
            f"logistic regression: got {int(y.sum())} of {len(y)} rows of one class, expected both classes"
        )
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    varies = deviation > 1e-12 * torch.maximum(deviation.max(), mean.abs().max()).clamp_min(1e-300)
    scale = torch.where(varies, deviation, torch.inf)
    x = (x - mean) / scale
    basis = _span(x)
    z = x @ basis
    others = ((select[0].double() - mean) / scale) @ basis
    state, best, least = z.new_zeros(z.shape[1] + 1), z.new_zeros(z.shape[1] + 1), float("inf")
    for strength in STRENGTHS:
        state = _newton(z, y, strength, state)
        loss = F.binary_cross_entropy_with_logits(others @ state[1:] + state[0], select[1].double()).item()
        if loss < least:
            best, least = state, loss
    weight = basis @ best[1:] / scale
    return lambda rows: (rows.double() - mean) @ weight + best[0]


def _span(x: Tensor) -> Tensor:
    """Orthonormal axes (D, r) that hold all rows of x (n, D); the identity where there are more rows than features."""
    n, d = x.shape
    if n >= d:
        return torch.eye(d, dtype=x.dtype)
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > 1e-12 * values[-1].clamp_min(1e-300)
    return x.T @ (vectors[:, kept] / values[kept].sqrt())


def _newton(z: Tensor, y: Tensor, strength: float, state: Tensor) -> Tensor:
    """Intercept and weights (1 + r,) of the least penalised loss, from a first guess. The intercept is free."""
    design = torch.cat((z.new_ones(len(z), 1), z), 1)
    penalty = torch.full_like(state, strength)
    penalty[0] = 0

    def loss(w: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(design @ w, y) + (penalty * w * w).sum() / 2

    now = loss(state)
    for _ in range(_STEPS):
        p = (design @ state).sigmoid()
        gradient = design.T @ (p - y) / len(y) + penalty * state
        if gradient.norm() < _TOLERANCE:
            break
        curvature = (design * (p * (1 - p) / len(y))[:, None]).T @ design + torch.diag(penalty)
        curvature.diagonal().add_(1e-12)
        step, share = torch.linalg.solve(curvature, gradient), 1.0
        while (then := loss(state - share * step)) > now and share > 1e-6:
            share /= 2
        if then >= now:  # as good as float64 can tell
            break
        state, now = state - share * step, then
    return state
