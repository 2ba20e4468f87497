"""The rule behind the recorded sums: sine weights and cosine inputs, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"


@pytest.fixture
def recorded() -> Callable[[str], dict]:
    """Opens a recorded case by name."""
    return lambda name: torch.load(DATA / f"{name}.pt", weights_only=True)


@pytest.fixture
def sine_weights() -> Callable[[nn.Module], nn.Module]:
    """Sets parameter i (by sorted name) to 0.05 sin(0.37 k + 0.11 i) over flat index k; plus 1 for norm weights."""

    def fill(module: nn.Module) -> nn.Module:
        module.double()
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for i, name in enumerate(sorted(parameters)):
                p = parameters[name]
                k = torch.arange(p.numel(), dtype=torch.float64)
                p.copy_((0.05 * torch.sin(0.37 * k + 0.11 * i)).view_as(p))
                if p.ndim == 1 and name.endswith("weight"):
                    p.add_(1.0)
        return module

    return fill


@pytest.fixture
def cosine_input() -> Callable[..., Tensor]:
    """A tensor of a shape with x.flat[k] = cos(0.013 k)."""

    def make(*shape: int) -> Tensor:
        return torch.cos(0.013 * torch.arange(math.prod(shape), dtype=torch.float64)).view(*shape)

    return make
