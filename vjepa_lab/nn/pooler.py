"""Attentive pooling: a few learned queries read the tokens of a clip; and a classifier on top of it.

Letters: B clips, N tokens, Q queries, D width.

Self-attention blocks over the tokens, then one cross-attention block in which the queries ask. Tokens carry no
positions here: whatever the encoder said of them stays in their features.

Decisions. The number of heads and the layer norms' eps are arguments, because nothing in a file of weights tells them
and they differ: released probes have 16 heads and 1e-5; the same weights in Hugging Face form are run with 1e-6 and as
many heads as the encoder has. There is one query per classifier.

Reference: V-JEPA 2 paper, section 4; released files src/models/attentive_pooler.py and
evals/action_anticipation_frozen/models.py, whose parameter names and shapes these are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vjepa_lab.nn.attention import Backend, CrossAttention
from vjepa_lab.nn.blocks import Block, Mlp, init_weights
from vjepa_lab.nn.linear import Linear


class CrossAttentionBlock(nn.Module):
    """Queries (B or 1, Q, D) read tokens (B, N, D): (B, Q, D). The tokens are normed, the queries are not."""

    def __init__(
        self, *, width: int, heads: int, mlp_hidden: int, attention: Backend = "sdpa", eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.xattn = CrossAttention(width=width, heads=heads, backend=attention)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width=width, hidden=mlp_hidden)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        query = query + self.xattn(query, self.norm1(tokens))
        return query + self.mlp(self.norm2(query))


class AttentivePooler(nn.Module):
    """Tokens (B, N, D) -> (B, queries, D). Of ``depth`` blocks the last is the cross-attention.

    ``mlp_hidden`` is 4 * width if not given.

    Raises:
        ValueError: ``depth`` or ``queries`` is below 1, or ``width`` is not a multiple of ``heads``.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int = 16,
        depth: int = 4,
        queries: int = 1,
        mlp_hidden: int | None = None,
        attention: Backend = "sdpa",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if depth < 1 or queries < 1:
            raise ValueError(f"pooler: expected depth and queries of at least 1, got depth={depth}, queries={queries}")
        hidden = 4 * width if mlp_hidden is None else mlp_hidden
        # In the order of the released parameters, by which the state of an optimizer is numbered.
        self.query_tokens = nn.Parameter(torch.empty(1, queries, width))
        self.cross_attention_block = CrossAttentionBlock(
            width=width, heads=heads, mlp_hidden=hidden, attention=attention, eps=eps
        )
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, mlp_hidden=hidden, attention=attention, eps=eps) for _ in range(depth - 1)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place: as an encoder's, queries N(0, 0.02); the cross-attention's MLP is
        rescaled by the depth of the last block before it, not by its own (as released)."""
        init_weights(self, self.blocks)
        nn.init.normal_(self.query_tokens, std=0.02)
        with torch.no_grad():
            self.cross_attention_block.mlp.out.weight.div_(math.sqrt(2 * max(len(self.blocks), 1)))

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross_attention_block(self.query_tokens, tokens)


class AttentiveClassifier(nn.Module):
    """Class scores of a clip from its tokens (B, N, D).

    Args:
        classes: a number of classes, for one query and the layer ``linear``; or numbers by name, such as verb, noun and
            action, for a query and a layer ``<name>_classifier`` each, in this order.

    Raises:
        ValueError: no classes, a name that is no identifier, or as ``AttentivePooler``.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int = 16,
        depth: int = 4,
        classes: int | dict[str, int],
        mlp_hidden: int | None = None,
        attention: Backend = "sdpa",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.classes = classes
        if isinstance(classes, int):
            counts = {"linear": classes}
        else:
            counts = {f"{name}_classifier": count for name, count in classes.items() if name.isidentifier()}
        if len(counts) != (1 if isinstance(classes, int) else len(classes)) or min(counts.values(), default=0) < 1:
            raise ValueError(f"classes: expected a positive number, or such numbers by identifier, got {classes}")
        self.pooler = AttentivePooler(
            width=width,
            heads=heads,
            depth=depth,
            queries=len(counts),
            mlp_hidden=mlp_hidden,
            attention=attention,
            eps=eps,
        )
        self._layers = tuple(counts)
        for name, count in counts.items():
            self.add_module(name, Linear(width, count))

    def init_weights(self) -> None:
        """Initialise all parameters in place: the pooler's as it says, the last layers as torch does (as released)."""
        self.pooler.init_weights()
        for name in self._layers:
            self.get_submodule(name).reset_parameters()  # type: ignore[operator]

    def forward(self, tokens: Tensor) -> Tensor | dict[str, Tensor]:
        """Scores (B, classes); with classes by name a dict from name to such."""
        pooled = self.pooler(tokens).unbind(1)
        scores = [self.get_submodule(name)(x) for name, x in zip(self._layers, pooled, strict=True)]
        return scores[0] if isinstance(self.classes, int) else dict(zip(self.classes, scores, strict=True))
