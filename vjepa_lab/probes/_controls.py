"""Encoders that know nothing, which every figure is to be compared with.

- ``untrained``: the same network with fresh weights. What it reads is there in any random projection of the clip.
- ``pixels``: the clip itself, in grey and 16 x 16 pixels a frame, as tokens of the same kind as an encoder's.
- ``constant``: features without content. A probe of it predicts the mean of what it was fitted on, or its commonest
  class.

The fourth control, shuffled targets, is a property of a stream.

Decision. Where a probe averages all tokens of a clip, the pixels are not averaged but laid side by side: their mean
would be one small picture without motion.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa_lab import dist
from vjepa_lab.batch import Grid
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.tokens import IMAGENET, Features, Pool, pooled

_SIDE = 16
_CELLS = 4
_GREY = (0.299, 0.587, 0.114)


class Pixels(nn.Module):
    """Grey pixels of a clip as tokens (B, t * 4 * 4, tubelet * 4 * 4), whatever the layer."""

    statistics = IMAGENET

    def __init__(self, *, tubelet: int, depth: int) -> None:
        super().__init__()
        self.tubelet = tubelet
        self.depth = depth
        self.width = tubelet * (_SIDE // _CELLS) ** 2
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)  # has a device, like an encoder

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        b, _, frames, height, width = clip.shape
        if frames % self.tubelet:
            raise ValueError(f"pixels: expected a multiple of {self.tubelet} frames, got {frames}")
        grey = (IMAGENET.restore(clip) * torch.tensor(_GREY, device=clip.device).view(3, 1, 1, 1)).sum(1) / 255
        small = F.adaptive_avg_pool2d(grey.view(b * frames, 1, height, width), _SIDE)
        side = _SIDE // _CELLS
        cut = small.view(b, frames // self.tubelet, self.tubelet, _CELLS, side, _CELLS, side)
        tokens = cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, -1, self.width) * self.scale
        found = Features(tokens, Grid(frames // self.tubelet, _CELLS, _CELLS))
        return found, dict.fromkeys(taps, found)

    def pool(self, features: Features, pool: Pool) -> Tensor:
        """As ``tokens.pooled``, but side by side instead of averaged over places."""
        tokens, grid = features
        if pool == "mean":
            return tokens.flatten(1)
        return tokens.unflatten(1, (grid.t, -1)).flatten(2) if pool == "tubelet" else pooled(features, pool)


class Constant(nn.Module):
    """Tokens of ones."""

    statistics = IMAGENET

    def __init__(self, *, width: int, tubelet: int, depth: int) -> None:
        super().__init__()
        self.width, self.tubelet, self.depth = width, tubelet, depth
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        grid = Grid(max(clip.shape[2] // self.tubelet, 1), _CELLS, _CELLS)
        found = Features(self.scale.expand(len(clip), grid.n, self.width), grid)
        return found, dict.fromkeys(taps, found)


def control(name: str, encoder: FrozenEncoder, *, seed: int = 0) -> FrozenEncoder:
    """The control ``untrained``, ``pixels`` or ``constant`` for an encoder; ``shuffled`` is the encoder itself."""
    if name == "shuffled":
        return encoder
    network: Any
    if name == "untrained":
        network = untrained(encoder, seed=seed)
    elif name == "pixels":
        network = Pixels(tubelet=encoder.tubelet, depth=encoder.depth)
    else:
        assert name == "constant", name
        network = Constant(width=encoder.width, tubelet=encoder.tubelet, depth=encoder.depth)
    predictor = copy.deepcopy(encoder.predictor) if name == "untrained" and encoder.predictor is not None else None
    if predictor is not None:
        _redraw(predictor, seed, "predictor")
    made = FrozenEncoder(
        encoder=network, predictor=predictor, frames=encoder.frames, crop=encoder.crop, dtype=encoder.dtype
    )
    return made.to(encoder.device)


def untrained(encoder: FrozenEncoder, *, seed: int = 0) -> nn.Module:
    """The same network with weights drawn anew, as its own module draws them."""
    network: Any = copy.deepcopy(encoder.encoder)
    _redraw(network, seed, "encoder")
    return network


def _redraw(network: Any, seed: int, purpose: str) -> None:
    """Weights as ``init_weights`` makes them; baselines of other projects: each layer's own default, and what belongs
    to no layer (positions, class tokens) from N(0, 0.02)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dist.derive(seed, "untrained", purpose))
        network.cpu()
        if isinstance(network, Encoder) or hasattr(network, "init_weights"):
            network.init_weights()
            return
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            else:
                for parameter in module.parameters(recurse=False):
                    nn.init.normal_(parameter, std=0.02)
