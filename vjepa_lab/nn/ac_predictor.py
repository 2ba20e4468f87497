"""Action-conditioned predictor: the features of the next frame from frames, actions and states so far (V-JEPA 2-AC).

Letters: B clips, T frames, h w rows and columns of a frame's tokens, D width of the encoder, d width of the predictor,
n = c + h*w tokens per frame, of which c = 2 are conditions (3 with extrinsics).

The sequence is, frame by frame, [action, state, (extrinsics), patches in raster order]. Every token sees all tokens of
its own frame and of the frames before, so what is said at the patches of frame t is a prediction of frame t + 1 from
frames, states and actions up to t. Patches stand at (time, row, column), conditions at (time, 0, 0).

Decisions. The grid and the number of frames are those of the call: nothing is sized in advance. Rows and columns are
plain counts; the released file squeezes columns to the number of rows where it is set up for frames that are not
square, which no released model was.

As no frame sees a later one, keys and values of past frames never change. ``FrameCache`` holds them, so that a rollout
computes each frame once. A cache is a value: extending it gives a new one, and many continuations may start from the
same. It is differentiable, so the loss on a rollout may start from what a teacher-forced pass has computed
(``FrameCache.first``).

Reference: V-JEPA 2 paper, section 3; released file src/models/ac_predictor.py, whose parameter names and shapes these
are. There the encoder of extrinsics is present also where it is not used; so here, without a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope as rotary
from vjepa_lab.nn.attention import Backend, KeyValues
from vjepa_lab.nn.blocks import CausalBlock, init_weights
from vjepa_lab.nn.linear import Linear


class FrameCache(NamedTuple):
    """What the predictor remembers of the first ``frames`` frames of B clips, or of one clip that all samples share."""

    frames: int
    "frames remembered"
    blocks: tuple[tuple[KeyValues, ...], ...]
    "for each block, pieces in order of time, each of whole frames"

    @property
    def batch(self) -> int:
        """Samples remembered: 1 if all samples share these frames, or if there are none."""
        return max((len(piece.keys) for piece in self.blocks[0]), default=1)

    @property
    def tokens(self) -> int:
        """Tokens remembered, conditions included."""
        return sum(piece.keys.shape[2] for piece in self.blocks[0])

    def first(self, frames: int) -> FrameCache:
        """The cache as it was after the first ``frames`` frames; no copy.

        Raises:
            ValueError: there are not so many frames.
        """
        if not 0 <= frames <= self.frames:
            raise ValueError(f"cache: expected 0 to {self.frames} frames, got {frames}")
        wanted = self.tokens // max(self.frames, 1) * frames
        return FrameCache(frames, tuple(_first(pieces, wanted) for pieces in self.blocks))


class ACPredictor(nn.Module):
    """Features of the next frame, for every frame of a sequence. ``mlp_hidden`` is 4 * width if not given."""

    def __init__(
        self,
        *,
        encoder_width: int,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_hidden: int | None = None,
        action_dim: int = 7,
        state_dim: int = 7,
        extrinsics_dim: int = 6,
        use_extrinsics: bool = False,
        rope: rotary.Layout = "released",
        attention: Backend = "sdpa",
    ) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.rope: rotary.Layout = rope
        self.use_extrinsics = use_extrinsics
        self.predictor_embed = Linear(encoder_width, width)
        self.action_encoder = Linear(action_dim, width)
        self.state_encoder = Linear(state_dim, width)
        self.extrinsics_encoder = Linear(extrinsics_dim, width)
        self.extrinsics_encoder.requires_grad_(use_extrinsics)
        self.predictor_blocks = nn.ModuleList(
            CausalBlock(
                width=width,
                heads=heads,
                mlp_hidden=4 * width if mlp_hidden is None else mlp_hidden,
                attention=attention,
            )
            for _ in range(depth)
        )
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = Linear(width, encoder_width)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place (after ``to_empty`` when built on the meta device)."""
        init_weights(self, self.predictor_blocks)

    def cache(self) -> FrameCache:
        """A cache of no frames, to begin with."""
        return FrameCache(0, ((),) * len(self.predictor_blocks))

    def forward(
        self,
        tokens: Tensor,
        actions: Tensor,
        states: Tensor,
        grid: Grid | tuple[int, int],
        extrinsics: Tensor | None = None,
        cache: FrameCache | None = None,
    ) -> Tensor | tuple[Tensor, FrameCache]:
        """Predicted features (B, T, h*w, D): those at frame t are a prediction of frame t + 1.

        Inputs may have a batch of 1 beside others of B, and then serve all samples; so may the cache.

        Args:
            tokens: features of the frames, (B, T, h*w, D), patches in raster order.
            actions: what is done between frame t and t + 1, (B, T, action_dim).
            states: state at frame t, (B, T, state_dim).
            grid: rows and columns of a frame's tokens, (h, w); of a ``Grid`` its time is not read.
            extrinsics: camera pose at frame t, (B, T, extrinsics_dim), if the predictor uses it.
            cache: earlier frames (``cache()`` for none). The frames given are then those that follow.

        Returns:
            (B, T, h*w, D); with ``cache`` a pair of that and the cache of all frames up to these.

        Raises:
            ValueError: shapes that do not fit each other, the predictor or the cache; extrinsics where there should be
                none or none where there should be.
        """
        h, w = grid[-2:]
        conditions = self._conditions(actions, states, extrinsics)
        batch, frames = self._check(tokens, conditions, h * w, cache)
        start = 0 if cache is None else cache.frames
        encoded = [encoder(value).unsqueeze(2) for encoder, value in conditions.values()]  # (B or 1, T, 1, d)
        parts = [*encoded, self.predictor_embed(tokens)]
        x = torch.cat([part.expand(batch, -1, -1, -1) for part in parts], dim=2).flatten(1, 2)  # (B, T * n, d)
        cos, sin = self._positions(start, frames, h, w, len(conditions), x.device)

        remembered: list[tuple[KeyValues, ...]] = []
        for i, block in enumerate(self.predictor_blocks):
            if cache is None:
                x = block(x, cos, sin, frames)
            else:
                x, new = block(x, cos, sin, frames, cache.blocks[i])
                remembered.append((*cache.blocks[i], new))

        x = x.unflatten(1, (frames, -1)).split((len(conditions), h * w), dim=2)[1]
        x = self.predictor_proj(self.predictor_norm(x))
        return x if cache is None else (x, FrameCache(start + frames, tuple(remembered)))

    def _conditions(
        self, actions: Tensor, states: Tensor, extrinsics: Tensor | None
    ) -> dict[str, tuple[Linear, Tensor]]:
        """What stands before the patches, in order: encoder and input by name."""
        if (extrinsics is not None) != self.use_extrinsics:
            expected, got = ("a tensor", "None") if self.use_extrinsics else ("None", "a tensor")
            raise ValueError(f"extrinsics: expected {expected} (use_extrinsics={self.use_extrinsics}), got {got}")
        conditions = {"actions": (self.action_encoder, actions), "states": (self.state_encoder, states)}
        if extrinsics is not None:
            conditions["extrinsics"] = (self.extrinsics_encoder, extrinsics)
        return conditions

    def _check(
        self, tokens: Tensor, conditions: dict[str, tuple[Linear, Tensor]], cells: int, cache: FrameCache | None
    ) -> tuple[int, int]:
        """Batch and number of frames, once all shapes agree."""
        width = self.predictor_embed.in_features
        if tokens.ndim != 4 or tokens.shape[1] == 0 or tokens.shape[2:] != (cells, width):
            raise ValueError(f"tokens: expected (B, T, {cells}, {width}), got {tuple(tokens.shape)}")
        frames = tokens.shape[1]
        for name, (encoder, value) in conditions.items():
            if value.ndim != 3 or value.shape[1:] != (frames, encoder.in_features):
                raise ValueError(f"{name}: expected (B, {frames}, {encoder.in_features}), got {tuple(value.shape)}")
        batches = {"tokens": len(tokens)} | {name: len(value) for name, (_, value) in conditions.items()}
        if cache is not None:
            assert len(cache.blocks) == len(self.predictor_blocks), "a cache of another predictor"
            expected = cache.frames * (cells + len(conditions))
            if cache.tokens != expected:
                raise ValueError(f"cache: expected {expected} tokens in {cache.frames} frames, got {cache.tokens}")
            batches["cache"] = cache.batch
        batch = max(batches.values())
        if not {*batches.values()} <= {1, batch}:
            raise ValueError(f"batch: expected 1 or {batch} samples everywhere, got {batches}")
        return batch, frames

    def _positions(
        self, start: int, frames: int, h: int, w: int, conditions: int, device: torch.device
    ) -> rotary.RopeTable:
        """Table (1, 1, frames * n, head_dim). At (time, 0, 0) is also the first patch, whose row conditions share."""
        first = torch.arange(start, start + frames, device=device).unsqueeze(1) * (h * w)
        patches = first + torch.arange(h * w, device=device)
        ids = torch.cat((first.expand(-1, conditions), patches), dim=1).view(1, -1)
        grid = Grid(start + frames, h, w)
        return rotary.tables(grid, ids, head_dim=self.head_dim, layout=self.rope, device=device)


def _first(pieces: tuple[KeyValues, ...], tokens: int) -> tuple[KeyValues, ...]:
    kept: list[KeyValues] = []
    for piece in pieces:
        if tokens == 0:
            break
        take = min(tokens, piece.keys.shape[2])
        kept.append(KeyValues(piece.keys[:, :, :take], piece.values[:, :, :take]))
        tokens -= take
    return tuple(kept)
