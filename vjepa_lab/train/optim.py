"""AdamW with two groups of parameters: one with weight decay, one without; two more for a head that learns faster.

Biases and one-dimensional parameters (the scales of layer norms) are not decayed; everything else is, the mask tokens
of the predictor included, which have three dimensions (released file app/vjepa/utils.py).
The groups list parameters in the order of the modules, so that their numbering equals that of a released optimizer
state, whose four groups are encoder and predictor of each kind. Gradients, precision and schedules are none of this
file's business: ``set_hyper`` writes what ``schedules`` computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def param_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups in fixed order, decayed and not decayed, of the parameters that require a gradient.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (plain if "bias" in name or parameter.ndim == 1 else decayed).append(parameter)
    if not decayed and not plain:
        raise ValueError("optimizer: no parameter requires a gradient, expected at least one")
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    head: nn.Module | None = None,
    head_lr: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over what is trained in ``module``: one fused kernel on CUDA, multi-tensor kernels elsewhere.

    Build it once the parameters are where they stay: moved and sharded.

    Args:
        head: a further module to train, with ``head_lr`` times the learning rate.

    Raises:
        ValueError: no parameter requires a gradient, or a number out of range (from torch).
    """
    groups = param_groups(module.named_parameters(), weight_decay=weight_decay)
    if head is not None:
        further = param_groups(head.named_parameters(), weight_decay=weight_decay)
        groups += [{**group, "lr_ratio": head_lr} for group in further]
    fused = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused, foreach=not fused)


def set_hyper(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Write the values of the coming step: ``lr`` to all groups, ``weight_decay`` to the decayed ones."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
    for decayed in optimizer.param_groups[::2]:
        decayed["weight_decay"] = weight_decay
