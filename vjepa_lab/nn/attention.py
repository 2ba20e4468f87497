"""Multi-head attention with rotary positions, and the one place that chooses the attention kernel.

Letters: B clips, N tokens, H heads, d width of a head, D = H * d; for a sequence of frames, T frames of n tokens.

``sdpa`` is torch's own attention and always there. ``xformers`` is imported only when asked for, and refused with its
reason where its kernels cannot run.

Attention that is causal over frames needs no mask here: the queries of frame t are a call of their own, against the
keys up to the end of frame t. A dense mask takes N x N bytes, does up to twice the work, as it computes what it then
discards, and keeps a GPU from its flash kernels; compiled block masks need a compiler and a start-up time. T calls of
hundreds of queries each are plain rectangles, which every kernel takes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
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


def attend_causally(q: Tensor, k: Tensor, v: Tensor, *, frames: int, backend: Backend = "sdpa") -> Tensor:
    """As ``attend``, but every token of a frame sees the tokens of that frame and of those before, all of them.

    Args:
        q: (B, H, frames * n, d), the queries of the last ``frames`` frames.
        k, v: (B, H, P + frames * n, d), of P tokens that came before, which all queries see, and of those frames.

    Returns:
        (B, H, frames * n, d).

    Raises:
        ValueError: as ``attend``.
    """
    n, rest = divmod(q.shape[2], frames)
    assert rest == 0, f"{q.shape[2]} queries for {frames} frames"
    assert k.shape[2] >= q.shape[2], f"{k.shape[2]} keys for {q.shape[2]} queries"
    if frames == 1:
        return attend(q, k, v, backend=backend)
    outputs = []
    # From the last frame back, each slice cut from the one before: a slice's gradient fills a tensor of what it was
    # cut from, which so shrinks with the frames instead of being the whole each time.
    for query in reversed(q.split(n, dim=2)):
        outputs.append(attend(query, k, v, backend=backend).transpose(1, 2))
        k, v = k[:, :, :-n], v[:, :, :-n]
    return torch.cat(outputs[::-1], dim=1).transpose(1, 2)


class KeyValues(NamedTuple):
    """What one attention remembers of some frames: rotated keys and values."""

    keys: Tensor
    "(B or 1, H, tokens, d); a batch of 1 serves all samples"
    values: Tensor
    "same shape"


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
        q, k, v = self._project(x, cos, sin)
        if last is not None:
            q = q[:, :, -last:]
        return self._merge(attend(q, k, v, backend=self.backend))

    def over_frames(
        self, x: Tensor, cos: Tensor, sin: Tensor, frames: int, past: tuple[KeyValues, ...] | None = None
    ) -> tuple[Tensor, KeyValues | None]:
        """Attention that is causal over frames, on a sequence (B, frames * n, D) of whole frames.

        Args:
            past: what earlier calls returned, in order of time; all tokens see it. It is joined with the new keys for
                the time of this call alone, so a batch of 1 is held once, however many samples share it.

        Returns:
            (B, frames * n, D), and keys and values of these frames; None for the latter if ``past`` is None.
        """
        q, k, v = self._project(x, cos, sin)
        if past is None:
            return self._merge(attend_causally(q, k, v, frames=frames, backend=self.backend)), None
        # Copies: k and v are parts of the tensors that hold the queries as well, which need not be remembered.
        kept = KeyValues(*(t.clone(memory_format=torch.contiguous_format) for t in (k, v)))
        if past:
            k = torch.cat([*(p.keys.expand(len(k), -1, -1, -1) for p in past), k], dim=2)
            v = torch.cat([*(p.values.expand(len(v), -1, -1, -1) for p in past), v], dim=2)
        return self._merge(attend_causally(q, k, v, frames=frames, backend=self.backend)), kept

    def _project(self, x: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both rotated) and values (B, H, N, d)."""
        width = x.shape[-1]
        # Splits rather than slices: the backward pass of a slice fills a tensor of the whole with zeros.
        qk, v = self.qkv(x).split((2 * width, width), dim=-1)
        qk = qk.unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)  # (B, 2H, N, d)
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if cos is not None and sin is not None:
            qk = rope.apply(qk, cos, sin).to(v.dtype)
        q, k = qk.split(self.heads, dim=1)
        return q, k, v

    def _merge(self, y: Tensor) -> Tensor:
        return self.proj(y.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of queries to other tokens, without positions and without an output projection.

    Parameters ``q`` and ``kv`` are laid out as released.

    Raises:
        ValueError: ``width`` is not a multiple of ``heads``.
    """

    def __init__(self, *, width: int, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: width must be a multiple of heads, got width={width}, heads={heads}")
        self.heads = heads
        self.backend: Backend = backend
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """``query`` (B or 1, Q, D), a batch of 1 serving all samples, and ``tokens`` (B, N, D): (B, Q, D)."""
        q = self.q(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B or 1, H, Q, d)
        kv = self.kv(tokens).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)  # (B, 2H, N, d)
        k, v = kv.split(self.heads, dim=1)
        y = attend(q.expand(len(tokens), -1, -1, -1), k, v, backend=self.backend)
        return y.transpose(1, 2).flatten(2)


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
