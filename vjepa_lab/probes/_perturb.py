"""What all perturbations of clips share: seeded draws, and one pass over the clips of a batch.

A perturbed clip is a function of the clip, its key and what is done to it. Neither the batch it came in, nor the
device, nor the process matters, so every model is shown the same pictures. Draws are counter-based (``batch.Rows``)
and made on the clip's device.

A perturbation sees float32 (3, F, H, W) with values from 0 to 1 and gives the same shape; uint8 clips are converted
and rounded back here, and what leaves the range is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vjepa_lab.batch import Rows
from vjepa_lab.dist import derive


class Draws:
    """Random numbers that are a function of ``parts`` alone, equal on every device."""

    def __init__(self, *parts: int | str, device: torch.device | str = "cpu") -> None:
        self._rows = Rows(derive(*parts), 0, 1, device)
        self.device = self._rows.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 of this shape in [low, high)."""
        return self._rows.uniform(*shape)[0].mul_(high - low).add_(low)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 of this shape (Box and Muller: two from every two uniforms)."""
        size = math.prod(shape)
        u = self._rows.uniform(2, (size + 1) // 2)[0]
        radius = torch.log1p(-u[0]).mul_(-2).sqrt_()  # of 1 - u, which is never 0
        angle = u[1].mul_(2 * math.pi)
        return torch.cat((radius * angle.cos(), radius * angle.sin()))[:size].view(shape)

    def permutation(self, n: int) -> Tensor:
        """int64 (n,): the numbers 0 to n - 1 in random order."""
        return self._rows.uniform(n)[0].sort(stable=True).indices


Perturbation = Callable[[Tensor, Draws], Tensor]


def per_clip(clip: Tensor, keys: str | Sequence[str], parts: Sequence[int | str], perturb: Perturbation) -> Tensor:
    """Apply ``perturb`` to each clip with draws of its own.

    Args:
        clip: uint8, or floats from 0 to 1: a clip (3, F, H, W) with one key, or a batch (B, 3, F, H, W) with B keys.
        keys: names of the clips; equal names give equal draws.
        parts: what is done, as it enters the seed.
        perturb: what to do to one clip.

    Returns:
        A clip or batch like the one given, of the same type (floats: float32).

    Raises:
        ValueError: a wrong shape, type, range or number of keys.
    """
    single = isinstance(keys, str)
    names = [keys] if isinstance(keys, str) else list(keys)
    batch = clip[None] if single else clip
    if batch.ndim != 5 or batch.shape[1] != 3 or len(names) != len(batch):
        wanted = "(3, F, H, W) with one key" if single else f"(B, 3, F, H, W) with B keys, got {len(names)} keys"
        raise ValueError(f"clip: expected {wanted}, got {tuple(clip.shape)}")
    if clip.dtype != torch.uint8:
        if not clip.is_floating_point():
            raise ValueError(f"clip: expected uint8, or floats from 0 to 1, got {clip.dtype}")
        if len(batch) and not (clip.min() >= 0 and clip.max() <= 1):
            raise ValueError(
                f"clip: expected floats from 0 to 1, got {clip.min():.3g} to {clip.max():.3g}; "
                "perturb pixels before they are normalised"
            )
    out = torch.empty_like(batch, dtype=torch.uint8 if clip.dtype == torch.uint8 else torch.float32)
    for i, name in enumerate(names):
        x = batch[i].float()
        x = x / 255 if clip.dtype == torch.uint8 else x
        y = perturb(x, Draws(*parts, name, device=clip.device)).clamp(0, 1)
        out[i] = y.mul_(255).round_() if clip.dtype == torch.uint8 else y
    return out[0] if single else out
