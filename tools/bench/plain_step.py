"""A plain training step, the yardstick of ``step.py``: what the V-JEPA 2 paper and the released trainer describe, done
in the straightforward way.

It is a second implementation: nothing of ``vjepa_lab`` is imported, parameters bear the released names. What it does
as the released trainer does, and ``vjepa_lab`` does not:

- every layer works out positions from ids (repeated over heads), frequencies, sines and cosines, for queries and keys
  and for each axis, and concatenates the rotated pieces;
- the whole clip is embedded for the target and once more for each mask, then tokens are gathered mask by mask;
- the predictor makes a mask token for each place of the grid, gathers those at the targets, sorts tokens into raster
  order row by row in Python, and unsorts its output;
- the moving average is a loop over parameters, and so is AdamW where torch's default is a loop (on a CPU).

Activation checkpointing, which every released configuration turns on, is off unless asked for (``recompute``): it is
a choice of memory over time, which ``vjepa_lab`` offers as well.

Letters: B clips, N tokens of the grid, K context tokens, M target tokens, D width, H heads, d width of a head.

Reference: released files src/models/{vision_transformer,predictor}.py, src/models/utils/modules.py, src/masks/utils.py,
app/vjepa/{train,utils}.py, described in words and written anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding of one axis, released layout: ``x`` (B, H, N, m), ``positions`` (N,) or (B, H, N)."""
    half = x.shape[-1] // 2
    omega = torch.arange(half, dtype=x.dtype, device=x.device)
    omega = 1.0 / 10000 ** (omega / half)
    angle = positions.unsqueeze(-1) * omega  # (..., N, m / 2)
    repeats = (1,) * (angle.ndim - 1) + (2,)
    sin, cos = angle.sin().repeat(repeats), angle.cos().repeat(repeats)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    swapped = torch.stack((-odd, even), dim=-1).flatten(-2)
    return x * cos + swapped * sin


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, ids: Tensor | None, grid: tuple[int, int, int]) -> Tensor:
        b, n, width = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B, H, N, d)
        if ids is None:
            ids = torch.arange(n, device=x.device)
        else:
            ids = ids.unsqueeze(1).repeat(1, self.heads, 1)
        _, rows, columns = grid
        time = ids // (rows * columns)
        row = (ids - time * rows * columns) // columns
        column = ids - time * rows * columns - row * columns
        m = 2 * ((q.shape[-1] // 3) // 2)
        q_parts, k_parts = [], []
        for i, positions in enumerate((time, row, column)):
            q_parts.append(rotate(q[..., i * m : (i + 1) * m], positions))
            k_parts.append(rotate(k[..., i * m : (i + 1) * m], positions))
        if 3 * m < q.shape[-1]:
            q_parts.append(q[..., 3 * m :])
            k_parts.append(k[..., 3 * m :])
        q, k = torch.cat(q_parts, dim=-1), torch.cat(k_parts, dim=-1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, width))


class PlainMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = PlainAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = PlainMlp(width, hidden)

    def forward(self, x: Tensor, ids: Tensor | None, grid: tuple[int, int, int]) -> Tensor:
        x = x + self.attn(self.norm1(x), ids, grid)
        return x + self.mlp(self.norm2(x))


def gather(x: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Tokens (B, N, D) at each of ``masks`` (B, K), one below the other: (len(masks) * B, K, D)."""
    return torch.cat([torch.gather(x, 1, ids.unsqueeze(-1).repeat(1, 1, x.shape[-1])) for ids in masks], dim=0)


def gather_rows(x: Tensor, ids: Tensor) -> Tensor:
    """The same for one mask, row by row."""
    return torch.stack([row[i] for row, i in zip(x, ids, strict=True)])


class PlainEncoder(nn.Module):
    def __init__(self, *, width: int, depth: int, heads: int, hidden: int, patch: int, tubelet: int) -> None:
        super().__init__()
        kernel = (tubelet, patch, patch)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, kernel_size=kernel, stride=kernel)})
        self.blocks = nn.ModuleList(PlainBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.recompute = False

    def forward(self, clip: Tensor, ids: Tensor | None = None) -> Tensor:
        """Features (B, N or K, D) of a clip (B, 3, F, H, W)."""
        x = self.patch_embed["proj"](clip)
        grid = (x.shape[2], x.shape[3], x.shape[4])
        x = x.flatten(2).transpose(1, 2)
        if ids is not None:
            x = gather(x, [ids])
        for block in self.blocks:
            x = checkpoint(block, x, ids, grid, use_reentrant=False) if self.recompute else block(x, ids, grid)
        return self.norm(x)


class PlainPredictor(nn.Module):
    def __init__(
        self,
        *,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        mask_tokens: int,
        grid: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.grid = grid
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, width)) for _ in range(mask_tokens))
        self.predictor_blocks = nn.ModuleList(PlainBlock(width, heads, 4 * width) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, encoder_width)
        self.recompute = False

    def forward(self, context: Tensor, context_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Features (B, M, D) at ``target_ids`` from those at ``context_ids`` (B, K, D)."""
        b, k, _ = context.shape
        n = self.grid[0] * self.grid[1] * self.grid[2]
        hidden = gather(self.mask_tokens[0].repeat(b, n, 1), [target_ids])
        x = torch.cat((self.predictor_embed(context), hidden), dim=1)
        ids = torch.cat((context_ids, target_ids), dim=1)
        order = ids.argsort(dim=1)
        ids, x = gather_rows(ids, order), gather_rows(x, order)
        for block in self.predictor_blocks:
            if self.recompute:
                x = checkpoint(block, x, ids, self.grid, use_reentrant=False)
            else:
                x = block(x, ids, self.grid)
        x = gather_rows(self.predictor_norm(x), order.argsort(dim=1))
        return self.predictor_proj(x[:, k:])


class PlainStep:
    """Networks, optimizer and the order of one step. ``power`` is the exponent of the loss."""

    def __init__(
        self,
        *,
        context: PlainEncoder,
        predictor: PlainPredictor,
        lr: float,
        weight_decay: float,
        momentum: float,
        power: float = 1.0,
        bf16: bool = False,
        recompute: bool = False,
    ) -> None:
        self.context, self.predictor = context, predictor
        self.target = copy.deepcopy(context).requires_grad_(False)
        self.lr, self.weight_decay, self.momentum, self.power, self.bf16 = lr, weight_decay, momentum, power, bf16
        context.recompute = predictor.recompute = recompute
        networks = (context, predictor)
        decayed = [[p for n, p in m.named_parameters() if not ("bias" in n or p.ndim == 1)] for m in networks]
        plain = [[p for n, p in m.named_parameters() if "bias" in n or p.ndim == 1] for m in networks]
        groups = [{"params": p} for p in decayed] + [{"params": p, "weight_decay": 0.0} for p in plain]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8)

    def __call__(self, clip: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """One optimizer step on a normalised clip (B, 3, F, H, W) and pairs of context and target ids; the loss."""
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.lr
            if i < 2:
                group["weight_decay"] = self.weight_decay
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                h = self.target(clip)
                h = F.layer_norm(h, (h.shape[-1],))
            z = [self.predictor(self.context(clip, c), c, t) for c, t in pairs]
            loss = torch.zeros((), device=clip.device)
            for predicted, (_, target_ids) in zip(z, pairs, strict=True):
                gap = torch.abs(predicted - gather(h, [target_ids]))
                loss = loss + torch.mean(gap**self.power) / self.power
            loss = loss / len(pairs)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for target, context in zip(self.target.parameters(), self.context.parameters(), strict=True):
                target.mul_(self.momentum).add_((1.0 - self.momentum) * context.detach())
        return loss.detach()
