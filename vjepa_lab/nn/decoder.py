"""Frame decoders: the tokens of one frame back to its pixels, to see and to measure what features still hold.

Letters: B frames, N = h*w tokens of a frame, D width of the encoder, G cells along each side of the working grid,
S pixels along each side of the picture.

Two forms, one call ``decoder(tokens, grid)``. ``ConvDecoder`` doubles the grid until it is the picture: with the widths
that are its default it has 17 M parameters whatever the encoder, so that encoders are compared under one budget.
``VitDecoder`` is a transformer over the tokens and one linear layer from each token to its own pixels, as V-JEPA 2
looks at the predictions of its world model.

Decisions.
- A frame's tokens are all that a decoder reads. It never enters a loss of the model, and no gradient leaves it: the
  input is detached.
- Tokens on another grid than G x G are resized bilinearly; a clip's grid has to be cut into tubelets first.
- Pixels come out of a sigmoid, so they lie in [0, 1] without a clamp that would stop gradients.
- How tokens are scaled before they enter is part of the decoder and is stored with it. ``layer`` is a layer norm
  without parameters, in which the world models of V-JEPA 2-AC predict; ``standard`` takes mean and deviation per
  channel, to be set by ``scale.fit``; ``none`` leaves them alone.
- Where a token stands for several frames (a tubelet), a learned vector says which of them is wanted.

Reference: V-JEPA 2 paper, appendix B.3. Sizes of the convolutional form: as measured for the figure of 17 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope as rotary
from vjepa_lab.nn.attention import Backend
from vjepa_lab.nn.blocks import init_weights, stack
from vjepa_lab.nn.linear import Linear

Scale = Literal["layer", "standard", "none"]

WIDTHS = (512, 512, 320, 192, 96)
"of the stem and of four doublings, from 16 x 16 tokens to 256 x 256 pixels"


class TokenInput(nn.Module):
    """What both decoders do first: scale tokens, say which frame of a tubelet is wanted, resize to the working grid.

    Tokens (B, N, D) -> planes (B, D, G, G).

    Raises:
        ValueError: an unknown ``scale``, a side or a number of frames below 1, or tokens that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int, side: int, frames: int = 1, scale: Scale = "none") -> None:
        super().__init__()
        if scale not in ("layer", "standard", "none"):
            raise ValueError(f"scale: got '{scale}', expected layer, standard or none")
        if side < 1 or frames < 1:
            raise ValueError(f"decoder: expected at least one cell and one frame, got side={side}, frames={frames}")
        self.width = width
        self.side = side
        self.kind: Scale = scale
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.which = nn.Parameter(torch.empty(frames, width)) if frames > 1 else None

    def init_weights(self) -> None:
        """Initialise in place; what ``fit`` has set is forgotten."""
        self.mean.zero_()
        self.std.fill_(1.0)
        if self.which is not None:
            nn.init.normal_(self.which, std=0.02)

    @torch.no_grad()
    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and deviation (D,) for ``standard``; channels that do not vary are only centred.

        Raises:
            ValueError: this decoder scales its tokens otherwise.
        """
        if self.kind != "standard":
            raise ValueError(f"scale: got '{self.kind}', which is not fitted; expected standard")
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))

    def forward(self, tokens: Tensor, grid: Grid, frame: Tensor | None = None) -> Tensor:
        if grid.t != 1 or tokens.ndim != 3 or tokens.shape[1:] != (grid.n, self.width):
            raise ValueError(
                f"tokens: expected those of one frame, (B, {grid.n}, {self.width}) on a grid of one tubelet, got "
                f"{tuple(tokens.shape)} on {grid}"
            )
        if (frame is None) != (self.which is None):
            wanted = "no frame, as tokens stand for one" if self.which is None else "which frame of the tubelet (B,)"
            raise ValueError(f"frame: expected {wanted}, got {frame}")
        x = tokens.detach()
        if self.kind == "layer":
            x = F.layer_norm(x, (self.width,))
        elif self.kind == "standard":
            x = (x - self.mean) / self.std
        if self.which is not None:
            x = x + self.which[frame].unsqueeze(1)
        planes = x.transpose(1, 2).unflatten(2, (grid.h, grid.w))
        if (grid.h, grid.w) == (self.side, self.side):
            return planes
        return F.interpolate(planes, size=(self.side, self.side), mode="bilinear", antialias=True)


class ResidualBlock(nn.Module):
    """Twice group norm, SiLU and a 3 x 3 convolution, added to the input: (B, C, H, W) -> same."""

    def __init__(self, *, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Doubling(nn.Module):
    """Nearest neighbours to twice the side, a convolution to another width, a residual block."""

    def __init__(self, *, width: int, out: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1)
        self.block = ResidualBlock(width=out, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class ConvDecoder(nn.Module):
    """Tokens of one frame (B, N, D) -> its pixels (B, 3, S, S) in [0, 1], by convolutions.

    Args:
        width: D.
        size: S. The working grid is S halved once per doubling.
        widths: channels of the stem, then of each doubling.
        groups: of the group norms.
        frames: that one token stands for; above 1, the call says which.
        scale: see the module's text.

    Raises:
        ValueError: ``size`` cannot be halved so often, or a width is not a multiple of ``groups``.
    """

    def __init__(
        self,
        *,
        width: int,
        size: int = 256,
        widths: Sequence[int] = WIDTHS,
        groups: int = 32,
        frames: int = 1,
        scale: Scale = "none",
    ) -> None:
        super().__init__()
        side, rest = divmod(size, 2 ** (len(widths) - 1))
        if rest or side < 1:
            raise ValueError(f"size: got {size}, expected a multiple of {2 ** (len(widths) - 1)} for widths {widths}")
        if any(w % groups for w in widths):
            raise ValueError(f"widths: got {list(widths)}, expected multiples of groups={groups}")
        self.size = size
        self.scale = TokenInput(width=width, side=side, frames=frames, scale=scale)
        self.stem = nn.Conv2d(width, widths[0], 1)
        self.block = ResidualBlock(width=widths[0], groups=groups)
        self.doublings = nn.ModuleList(Doubling(width=a, out=b, groups=groups) for a, b in pairwise(widths))
        self.norm = nn.GroupNorm(groups, widths[-1])
        self.out = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place: as torch does, but residual branches begin as zero."""
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.GroupNorm)):
                part.reset_parameters()
        for part in self.modules():
            if isinstance(part, ResidualBlock):
                nn.init.zeros_(part.conv2.weight)
                nn.init.zeros_(part.conv2.bias)  # type: ignore[arg-type]
        self.scale.init_weights()

    def forward(self, tokens: Tensor, grid: Grid, frame: Tensor | None = None) -> Tensor:
        """``frame`` int64 (B,) says which frame of the tubelet is wanted, where tokens stand for several.

        Raises:
            ValueError: tokens that are not those of one frame, or ``frame`` given or missing against ``frames``.
        """
        x = self.block(self.stem(self.scale(tokens, grid, frame)))
        for doubling in self.doublings:
            x = doubling(x)
        return self.out(F.silu(self.norm(x))).sigmoid()


class VitDecoder(nn.Module):
    """Tokens of one frame (B, N, D) -> its pixels (B, 3, S, S) in [0, 1], by a transformer.

    The defaults are those of V-JEPA 2 (a ViT-L). ``depth=4, dim=192, heads=3`` is for a CPU.

    Args:
        width: D.
        size: S. The working grid is S / patch.
        dim, depth, heads: width, blocks and attention heads of the transformer.
        patch: side of the square of pixels that a token paints.
        frames, scale: as ``ConvDecoder``.

    Raises:
        ValueError: ``size`` is no multiple of ``patch``, or ``dim`` none of ``heads``.
    """

    def __init__(
        self,
        *,
        width: int,
        size: int = 256,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        patch: int = 16,
        frames: int = 1,
        scale: Scale = "layer",
        attention: Backend = "sdpa",
    ) -> None:
        super().__init__()
        side, rest = divmod(size, patch)
        if rest or side < 1:
            raise ValueError(f"size: got {size}, expected a multiple of patch={patch}")
        self.size = size
        self.patch = patch
        self.head_dim = dim // heads
        self.scale = TokenInput(width=width, side=side, frames=frames, scale=scale)
        self.embed = Linear(width, dim)
        self.blocks = stack(depth=depth, width=dim, heads=heads, mlp_hidden=4 * dim, attention=attention)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.out = Linear(dim, patch * patch * 3)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place, as an encoder's."""
        init_weights(self, self.blocks)
        self.scale.init_weights()

    def forward(self, tokens: Tensor, grid: Grid, frame: Tensor | None = None) -> Tensor:
        """``frame`` and errors as ``ConvDecoder``."""
        planes = self.scale(tokens, grid, frame)  # (B, D, G, G)
        side, patch = planes.shape[-1], self.patch
        x = self.embed(planes.flatten(2).transpose(1, 2))
        cos, sin = rotary.tables(Grid(1, side, side), head_dim=self.head_dim, device=x.device)
        for block in self.blocks:
            x = block(x, cos, sin)
        cells = self.out(self.norm(x)).unflatten(2, (patch, patch, 3)).unflatten(1, (side, side))
        # (B, row, column, y, x, 3) -> (B, 3, row, y, column, x)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, self.size, self.size).sigmoid()
