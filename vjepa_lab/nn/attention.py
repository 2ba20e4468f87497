"""Multi-head self-attention with rotary positions, and the one place that chooses the attention kernel.

Letters: B clips, N tokens, H heads, d width of a head, D = H * d.

``sdpa`` is torch's own attention and always there. ``xformers`` is imported only when asked for, and refused with its
reason where its kernels cannot run.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vjepa_lab.nn import rope
from vjepa_lab.nn.linear import Linear

Backend = Literal["sdpa", "xformers"]


def attend(q: Tensor, k: Tensor, v: Tensor, *, backend: Backend = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(d)) v for (B, H, N, d) tensors of one dtype.

    Raises:
        ValueError: unknown backend, or xformers is not installed or has no kernel for these tensors.
    """
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v)
    if backend == "xformers":
        return _xformers(q, k, v)
    raise ValueError(f"attention: expected 'sdpa' or 'xformers', got '{backend}'")


class Attention(nn.Module):
    """Self-attention (B, N, D) -> (B, N, D); parameters ``qkv`` and ``proj`` are laid out as released.

    Raises:
        ValueError: ``width`` is not a multiple of ``heads``.
    """

    def __init__(self, *, width: int, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads = heads
        self.backend: Backend = backend
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(
        self, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, last: int | None = None
    ) -> Tensor:
        """``cos`` and ``sin`` are a ``rope.RopeTable``; without them tokens have no positions.

        With ``last``, only the last so many tokens ask and are returned, (B, last, D); all tokens answer.
        """
        width = x.shape[-1]
        # Splits rather than slices: the backward pass of a slice fills a tensor of the whole with zeros.
        qk, v = self.qkv(x).split((2 * width, width), dim=-1)
        qk = qk.unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)  # (B, 2H, N, d)
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if cos is not None and sin is not None:
            qk = rope.apply(qk, cos, sin).to(v.dtype)
        q, k = qk.split(self.heads, dim=1)
        if last is not None:
            q = q[:, :, -last:]
        y = attend(q, k, v, backend=self.backend)
        return self.proj(y.transpose(1, 2).flatten(2))


def _xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError as error:
        raise ValueError(f"attention: 'xformers' cannot be imported ({error}); use attention: sdpa") from error
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # xformers wants (B, N, H, d)
    try:
        return memory_efficient_attention(q, k, v).transpose(1, 2)
    except NotImplementedError as error:
        raise ValueError(
            f"attention: the installed xformers has no kernel for {q.dtype} tensors on {q.device.type}; "
            "use attention: sdpa"
        ) from error
