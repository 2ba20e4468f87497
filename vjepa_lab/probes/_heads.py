"""K heads of one shape, side by side: their weights in stacked tensors, their scores and gradients from one batch.

Letters: K heads, B clips, N tokens, D width, H attention heads of width d, Q queries (one per set of classes),
C classes.

Three ways to compute them, which give the same numbers as K separate modules:

- **linear** on pooled features (B, D): one matrix product for all heads.
- **attentive, depth 1** (cross-attention alone). The query of a head is the same for every clip, so it is carried
  through the key projection, u = W_k^T q, and asks the normed tokens themselves; values are projected after the
  weighted sum, not before. The affine part of the token norm goes the same way (its offset and the bias of the keys
  shift all scores of a query alike and fall out of the softmax). No D x D product is left per token: 8 D H flops per
  token and head in place of 12 D^2, forward and backward, and the tokens of a batch meet all K * H queries in one
  matrix product over one shared norm.
- **attentive, deeper**: self-attention makes the tokens themselves differ from head to head, so nothing is shared but
  the features; the heads take turns on the batch, each holding its activations for its own turn only.

A batch that is too large for its activations is taken in parts, whose gradients add up; how large a part is depends on
the features alone, not on the number of heads.

Decisions. A head's first weights are a function of its seed alone, so heads with one seed and different learning rates
begin equal, and a head trained among others equals the head trained alone. Linear heads begin at N(0, 0.01) and 0.

Reference: V-JEPA 2 paper, section 5 and appendix C; ``nn/pooler.py`` for the module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vjepa_lab import dist
from vjepa_lab.nn.pooler import AttentiveClassifier

Scores = dict[str, Tensor]
"class scores (K, B, C) by name of the set of classes"

_AT_ONCE = 2**24
"numbers of the features of a part of a batch"


class Head(NamedTuple):
    """The shape of a head."""

    kind: Literal["attentive", "linear"]
    width: int
    "D of the features"
    classes: dict[str, int]
    "number of classes by name; a query each"
    depth: int = 4
    "blocks of an attentive head, the last of which is the cross-attention"
    heads: int = 16
    "attention heads"

    def check(self) -> None:
        """Raises:
        ValueError: a field is out of range, or the width is not a multiple of the heads.
        """
        if self.kind not in ("attentive", "linear"):
            raise ValueError(f"head: got '{self.kind}', expected attentive or linear")
        if not self.classes or min(self.classes.values()) < 2:
            raise ValueError(f"head: classes: got {self.classes}, expected at least two of each")
        if self.kind == "attentive" and (self.depth < 1 or self.heads < 1):
            raise ValueError(f"head: got depth={self.depth}, heads={self.heads}, expected at least 1")
        if self.kind == "attentive" and self.width % self.heads:
            fitting = max(h for h in range(1, self.heads + 1) if self.width % h == 0)
            raise ValueError(
                f"heads: got {self.heads}, expected a divisor of the features' width {self.width}; "
                f"the largest up to {self.heads} is {fitting}"
            )

    def module(self) -> nn.Module:
        """One such head, as it begins under torch's current random state."""
        if self.kind == "linear":
            return _Linear(self.width, self.classes)
        single = tuple(self.classes) == ("label",)
        return AttentiveClassifier(
            width=self.width,
            heads=self.heads,
            depth=self.depth,
            classes=self.classes["label"] if single else self.classes,
        )


class Bank:
    """K heads with one set of stacked weights.

    Args:
        head: their shape.
        seeds: of the first weights of each head; K is their number.

    Raises:
        ValueError: as ``Head.check``.
    """

    def __init__(self, head: Head, seeds: Sequence[int], *, device: torch.device | str = "cpu") -> None:
        head.check()
        self.head = head
        self.size = len(seeds)
        begun = {seed: _begin(head, seed) for seed in dict.fromkeys(seeds)}
        self.weights = {name: torch.stack([begun[seed][name] for seed in seeds]).to(device) for name in begun[seeds[0]]}
        "(K, ...) by name of the parameter"
        self.gradients: dict[str, Tensor] = {}
        "the same, after ``differentiate``"
        self._turns = head.kind == "attentive" and head.depth > 1
        with torch.device("meta"):
            self._shape = head.module()

    def of(self, k: int) -> dict[str, Tensor]:
        """Weights of head k, views of the stacked ones: the state of ``head.module()``."""
        return {name: weight[k] for name, weight in self.weights.items()}

    def subset(self, which: Sequence[int]) -> Bank:
        """Some of the heads, as a bank of their own (copies)."""
        out = object.__new__(Bank)
        out.head, out.size, out.gradients = self.head, len(which), {}
        at = torch.tensor(list(which), device=next(iter(self.weights.values())).device)
        out.weights = {name: weight.index_select(0, at) for name, weight in self.weights.items()}
        out._turns, out._shape = self._turns, self._shape
        return out

    @torch.no_grad()
    def scores(self, x: Tensor) -> Scores:
        """Scores of all heads for features (B, N, D), or (B, D) for linear heads."""
        x = self._checked(x)
        found = [self._scores(x[part]) for part in _parts(x)]
        return {name: torch.cat([f[name] for f in found], 1) for name in self.head.classes}

    def _scores(self, x: Tensor) -> Scores:
        if not self._turns:
            return self._together(self.weights, x)
        parts = list(self._in_turn([self.of(k) for k in range(self.size)], x))
        return {name: torch.cat([p[name] for p in parts]) for name in self.head.classes}

    @torch.enable_grad()  # a run measures without
    def differentiate(self, x: Tensor, loss: Callable[[Scores, slice], Tensor]) -> Tensor:
        """Losses (K,) on one batch; their gradients are in ``gradients``.

        Args:
            loss: from scores of some heads (K', B', C) for a part of the rows to what these rows add to the loss of
                each head, (K',).
        """
        x = self._checked(x)
        if not self._turns:
            losses, found = self._differentiated(self.weights, x, loss)
            # As their weights lie in memory: some are transposed, and fused optimizers do not look.
            self.gradients = {name: gradient.contiguous() for name, gradient in found.items()}
            return losses
        self.gradients = {name: torch.empty_like(weight) for name, weight in self.weights.items()}
        kept = []
        for k in range(self.size):
            losses, found = self._differentiated(self.of(k), x, loss)
            for name, gradient in found.items():
                self.gradients[name][k] = gradient
            kept.append(losses)
        return torch.cat(kept)

    def _differentiated(
        self, weights: dict[str, Tensor], x: Tensor, loss: Callable[[Scores, slice], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and gradients of all heads, or of the one with these weights, summed over the parts of the batch."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        total, summed = None, []
        for part in _parts(x):
            scores = next(self._in_turn([leaves], x[part])) if self._turns else self._together(leaves, x[part])
            losses = loss(scores, part)
            found = torch.autograd.grad(losses.sum(), list(leaves.values()))
            total = losses.detach() if total is None else total + losses.detach()
            summed = list(found) if not summed else [a + b for a, b in zip(summed, found, strict=True)]
        assert total is not None, "a batch without rows"
        return total, dict(zip(leaves, summed, strict=True))

    def _checked(self, x: Tensor) -> Tensor:
        want = 3 if self.head.kind == "attentive" else 2
        if x.ndim != want or x.shape[-1] != self.head.width:
            shape = "(B, N, D)" if want == 3 else "(B, D)"
            raise ValueError(
                f"features: got {tuple(x.shape)}, expected {shape} with D={self.head.width} for {self.head.kind} heads"
            )
        return x.to(next(iter(self.weights.values())).dtype)

    def _in_turn(self, states: Sequence[dict[str, Tensor]], x: Tensor) -> Iterator[Scores]:
        for state in states:
            out = torch.func.functional_call(self._shape, state, (x,))
            out = out if isinstance(out, dict) else {"label": out}
            yield {name: scores[None] for name, scores in out.items()}

    def _together(self, weights: dict[str, Tensor], x: Tensor) -> Scores:
        names = list(self.head.classes)
        if self.head.kind == "linear":
            # Products head by head: in one product over all classes a head's sums would depend on its company.
            inputs = [x.expand(len(weights[f"{name}.bias"]), -1, -1) for name in names]
            layers = names
        else:
            inputs = _pool(weights, x, self.head.heads).unbind(1)
            layers = ["linear"] if names == ["label"] else [f"{name}_classifier" for name in names]
        return {
            name: _through(weights[f"{layer}.weight"], weights[f"{layer}.bias"], read)
            for name, layer, read in zip(names, layers, inputs, strict=True)
        }


def _parts(x: Tensor) -> list[slice]:
    """The rows of a batch, as many at a time as fit."""
    rows = max(1, _AT_ONCE // max(1, x[:1].numel()))
    return [slice(i, i + rows) for i in range(0, len(x), rows)]


def _pool(weights: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """What each head's queries read from tokens (B, N, D): (K, Q, B, D). The module's text says how."""
    block = {name.removeprefix("pooler.cross_attention_block."): w for name, w in weights.items()}
    first = weights["pooler.query_tokens"].squeeze(1)  # (K, Q, D)
    gain, shift = block["norm1.weight"], block["norm1.bias"]  # (K, D)
    (k, q, width), (b, n, _) = first.shape, x.shape
    d = width // heads
    keys, values = block["xattn.kv.weight"].unflatten(1, (2, heads, d)).unbind(1)  # (K, H, d, D)
    value_bias = block["xattn.kv.bias"].unflatten(1, (2, heads, d))[:, 1]  # (K, H, d)

    query = _through(block["xattn.q.weight"], block["xattn.q.bias"], first)
    query = query.unflatten(-1, (heads, d)).transpose(1, 2)  # (K, H, Q, d)
    asked = (query @ keys) * (gain / math.sqrt(d))[:, None, None]  # (K, H, Q, D)

    tokens = F.layer_norm(x, (width,), eps=1e-5)
    share = (asked.reshape(-1, width) @ tokens.reshape(-1, width).T).view(-1, b, n).softmax(-1)  # (K*H*Q, B, N)
    read = torch.bmm(share.transpose(0, 1), tokens)  # (B, K*H*Q, D)
    read = read.transpose(0, 1).view(k * heads, q, b, width).flatten(1, 2) if q > 1 else read.transpose(0, 1)

    offset = (values * shift[:, None, None]).sum(-1) + value_bias  # (K, H, d)
    projection = (values * gain[:, None, None]).flatten(0, 1)  # (K*H, d, D)
    y = _product(read, projection).view(k, heads, q * b, d).transpose(1, 2)  # (K, Q*B, H, d)
    y = y.reshape(k, q, b, width) + (first + offset.flatten(1)[:, None])[:, :, None]

    hidden = F.layer_norm(y, (width,), eps=1e-5).flatten(1, 2) * block["norm2.weight"][:, None]
    hidden = hidden + block["norm2.bias"][:, None]
    hidden = F.gelu(_through(block["mlp.fc1.weight"], block["mlp.fc1.bias"], hidden))
    hidden = _through(block["mlp.fc2.weight"], block["mlp.fc2.bias"], hidden)
    return y + hidden.view(k, q, b, width)


def _through(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """K linear layers (K, out, in) on rows (K, B, in): (K, B, out)."""
    return _product(x, weight) + bias[:, None]


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return _Product.apply(x, weight)  # type: ignore[return-value]


class _Product(torch.autograd.Function):
    """x W^T, batched. The gradient of W comes out as W lies in memory, where torch's own is to be transposed after."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        return torch.bmm(grad, weight) if ctx.needs_input_grad[0] else None, torch.bmm(grad.transpose(1, 2), x)


class _Linear(nn.Module):
    """One linear layer per set of classes, on pooled features."""

    def __init__(self, width: int, classes: dict[str, int]) -> None:
        super().__init__()
        self.names = tuple(classes)
        for name, count in classes.items():
            layer = nn.Linear(width, count)
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Scores:
        return {name: self.get_submodule(name)(x) for name in self.names}


def _begin(head: Head, seed: int) -> dict[str, Tensor]:
    """First weights of a head: a function of the seed, the caller's random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dist.derive(seed, "head"))
        return {name: weight.detach() for name, weight in head.module().named_parameters()}
