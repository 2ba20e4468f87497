"""Predictor: a narrow transformer that guesses features at hidden tokens from features at visible ones.

Letters: B clips, K context tokens, M target tokens, D width of the encoder, d width of the predictor.

The context is projected to d and joined by M copies of a learned mask token, told apart by their rotary positions
alone; the outputs at the target tokens are projected back to D. Attention does not depend on the order of tokens, so
none are sorted; positions come from the clip's own grid.

Decision. The released training loop allots several mask tokens and trains the first one only, so a new model has one.
Which token is used is an argument, because released evaluations use an untrained one.

V-JEPA 2.1 is this predictor with additions, each an argument of its own: ``levels`` of the encoder, side by side, are
read and predicted (deep supervision); ``dense`` predicts at the context tokens too, through a projection of their own;
``images`` adds a learned vector per modality to every token.

Reference: V-JEPA 2 paper, section 2.1; released file src/models/predictor.py, for V-JEPA 2.1 the file of that name
under app/vjepa_2_1/models. Parameter names and shapes are theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope as rotary
from vjepa_lab.nn.attention import Backend
from vjepa_lab.nn.blocks import MlpKind, init_weights, stack
from vjepa_lab.nn.linear import Linear


class Predictor(nn.Module):
    """Features at target tokens from features at context tokens. ``mlp_hidden`` is 4 * width if not given.

    ``out_width`` is levels * encoder_width if not given; a distilled V-JEPA 2.1 model predicts its teacher's width.
    """

    def __init__(
        self,
        *,
        encoder_width: int,
        width: int = 384,
        depth: int = 12,
        heads: int = 12,
        mlp_hidden: int | None = None,
        mask_tokens: int = 1,
        zero_init_mask_tokens: bool = True,
        rope: rotary.Layout = "exact",
        drop_path: float = 0.0,
        mlp: MlpKind = "gelu",
        attention: Backend = "sdpa",
        levels: int = 1,
        out_width: int | None = None,
        images: bool = False,
        dense: bool = False,
        rope_reference: int | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.rope: rotary.Layout = rope
        self.rope_reference = rope_reference
        self.zero_init_mask_tokens = zero_init_mask_tokens
        self.levels = levels
        self.images = images
        self.dense = dense
        if images:
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, width))
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, width))
        if levels == 1:
            self.predictor_embed = Linear(encoder_width, width)
        else:
            wide = Linear(levels * encoder_width, encoder_width)
            self.predictor_embed = nn.Sequential(wide, nn.GELU(), Linear(encoder_width, width))
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.empty(1, 1, width)) for _ in range(mask_tokens))
        self.predictor_blocks = stack(
            depth=depth,
            width=width,
            heads=heads,
            mlp_hidden=4 * width if mlp_hidden is None else mlp_hidden,
            mlp=mlp,
            drop_path=drop_path,
            attention=attention,
        )
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        out_width = levels * encoder_width if out_width is None else out_width
        self.predictor_proj = Linear(width, out_width)
        if dense:
            self.predictor_proj_context = Linear(width, out_width)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place (after ``to_empty`` when built on the meta device)."""
        init_weights(self, self.predictor_blocks)
        for token in self.mask_tokens:
            nn.init.zeros_(token) if self.zero_init_mask_tokens else nn.init.normal_(token, std=0.02)
        if self.images:
            nn.init.normal_(self.img_mod_embed, std=1e-6)
            nn.init.normal_(self.video_mod_embed, std=1e-6)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        grid: Grid,
        mask_token: int = 0,
        *,
        image: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predicted features (B, M, O); a dense predictor gives the pair of those and (B, K, O) at the context.

        Args:
            context: features of the context encoder, (B, K, D), or (B, K, L * D) with L levels.
            context_ids, target_ids: int64 (B, K) and (B, M), token ids on ``grid``.
            grid: token grid of the clip; a longer one than the encoder saw lets targets lie in the future.
            mask_token: which learned mask token stands at the targets.
            image: the clip is an image, a grid of one tubelet (read with ``images`` only).

        Raises:
            ValueError: there is no such mask token.
        """
        if not 0 <= mask_token < len(self.mask_tokens):
            raise ValueError(f"mask_token: expected 0..{len(self.mask_tokens) - 1}, got {mask_token}")
        ids = torch.cat((context_ids, target_ids), dim=1)
        cos, sin = rotary.tables(
            grid, ids, head_dim=self.head_dim, layout=self.rope, reference=self.rope_reference, device=context.device
        )
        hidden = self.mask_tokens[mask_token].expand(*target_ids.shape, -1)
        x = torch.cat((self.predictor_embed(context), hidden), dim=1)
        if self.images:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        *blocks, final = self.predictor_blocks
        for block in blocks:
            x = block(x, cos, sin)
        if self.dense:
            x = self.predictor_norm(final(x, cos, sin))
            at_context, at_target = x.split((context.shape[1], hidden.shape[1]), 1)
            return self.predictor_proj(at_target), self.predictor_proj_context(at_context)
        x = final(x, cos, sin, hidden.shape[1])  # (B, M, d): nobody reads what it would say of the context
        return self.predictor_proj(self.predictor_norm(x))
