"""Video encoder: a vision transformer over chosen tubelets of a clip.

Letters: B clips, F frames, N = t*h*w tokens of the grid, K chosen tokens, P = 3 * tubelet * patch * patch, D width.

Decisions. The clip is cut into pixels per token first (``patchify``, a pure function), so that hidden tokens cost
nothing, not even their embedding, and several encoders and masks share one cut. The embedding is stored as the
Conv3d of the released weights and applied as the linear map it is. The grid is that of the clip at hand: any size, and
an image is a clip of one tubelet. Positions are those of the full grid whichever tokens are kept.

V-JEPA 2.1 is this encoder with three additions, each an argument of its own: ``levels``, blocks whose output has a
layer norm of its own in place of one final norm, and which may be returned side by side; ``images``, an embedding for
clips of one frame, and a learned vector per modality that is added to every token; ``rope_reference``, rows and columns
scaled to those of a reference resolution.

Reference: V-JEPA 2 paper, section 2.1 and Table 12; released file src/models/vision_transformer.py, for V-JEPA 2.1 the
file of that name under app/vjepa_2_1/models. Parameter names and shapes are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope as rotary
from vjepa_lab.nn.attention import Backend
from vjepa_lab.nn.blocks import MlpKind, init_weights, stack
from vjepa_lab.nn.linear import linear


class Patches(NamedTuple):
    """A clip cut into tokens, before any parameter has touched it."""

    pixels: Tensor
    "(B, N, P), in each token ordered channel, frame, row, column, as the embedding's weight"
    grid: Grid
    image: bool = False
    "a clip of one frame, cut for the image branch: its tokens are one frame long"


def patchify(clip: Tensor, *, patch: int, tubelet: int) -> Patches:
    """Cut a clip (B, 3, F, H, W) into pixels per token; what does not fill a token is cut off.

    Raises:
        ValueError: not five dimensions with three channels, or a clip smaller than one token.
    """
    if clip.ndim != 5 or clip.shape[1] != 3:
        raise ValueError(f"clip: expected (B, 3, F, H, W), got {tuple(clip.shape)}")
    b, c, frames, height, width = clip.shape
    grid = Grid.of(frames, height, width, tubelet=tubelet, patch=patch)
    if grid.n == 0:
        raise ValueError(
            f"clip: expected at least one token of {tubelet} frames x {patch} x {patch} pixels, "
            f"got {frames} frames x {height} x {width}"
        )
    t, h, w = grid
    cells = clip[:, :, : t * tubelet, : h * patch, : w * patch].reshape(b, c, t, tubelet, h, patch, w, patch)
    # (B, C, t, tubelet, h, patch, w, patch) -> (B, t, h, w, C, tubelet, patch, patch)
    return Patches(cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, grid.n, -1), grid)


def take(x: Tensor, ids: Tensor) -> Tensor:
    """Rows ``ids`` (B, K) of every sample of ``x`` (B, N, D): (B, K, D)."""
    b, n = x.shape[:2]
    assert ids.shape[0] == b, f"{ids.shape[0]} rows of ids for {b} samples"
    first = torch.arange(b, device=ids.device).unsqueeze(1) * n
    return x.flatten(0, 1).index_select(0, (ids + first).flatten()).unflatten(0, ids.shape)


class PatchEmbed(nn.Module):
    """Linear map of each token's pixels, (B, N, P) -> (B, N, D)."""

    def __init__(self, *, width: int, patch: int, tubelet: int) -> None:
        super().__init__()
        kernel = (tubelet, patch, patch)
        self.proj = nn.Conv3d(3, width, kernel_size=kernel, stride=kernel)

    def forward(self, pixels: Tensor) -> Tensor:
        return linear(pixels, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """ViT over a clip or over chosen tokens of it. ``mlp_hidden`` is the MLP's inner width, 4 * width if not given."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_hidden: int | None = None,
        patch: int = 16,
        tubelet: int = 2,
        rope: rotary.Layout = "exact",
        drop_path: float = 0.0,
        mlp: MlpKind = "gelu",
        attention: Backend = "sdpa",
        levels: Sequence[int] = (),
        images: bool = False,
        rope_reference: int | None = None,
    ) -> None:
        super().__init__()
        if list(levels) != sorted({*levels}) or (levels and (levels[0] < 0 or levels[-1] != depth - 1)):
            raise ValueError(f"levels: expected rising blocks of which the last is {depth - 1}, got {list(levels)}")
        self.width = width
        self.depth = depth
        self.head_dim = width // heads
        self.patch = patch
        self.tubelet = tubelet
        self.rope: rotary.Layout = rope
        self.rope_reference = rope_reference
        self.levels = tuple(levels)
        self.images = images
        if images:
            self.img_mod_embed = nn.Parameter(torch.empty(1, 1, width))
            self.video_mod_embed = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embed = PatchEmbed(width=width, patch=patch, tubelet=tubelet)
        if images:
            self.patch_embed_img = PatchEmbed(width=width, patch=patch, tubelet=1)
        self.blocks = stack(
            depth=depth,
            width=width,
            heads=heads,
            mlp_hidden=4 * width if mlp_hidden is None else mlp_hidden,
            mlp=mlp,
            drop_path=drop_path,
            attention=attention,
        )
        if levels:
            self.norms_block = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in levels)
        else:
            self.norm = nn.LayerNorm(width, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all parameters in place (after ``to_empty`` when built on the meta device)."""
        init_weights(self, self.blocks)
        if self.images:
            nn.init.normal_(self.img_mod_embed, std=1e-6)
            nn.init.normal_(self.video_mod_embed, std=1e-6)

    def cut(self, clip: Tensor) -> Patches:
        """``patchify`` for this encoder: a clip of one frame is cut for the image branch where there is one."""
        if self.images and clip.ndim == 5 and clip.shape[2] == 1:
            return patchify(clip, patch=self.patch, tubelet=1)._replace(image=True)
        return patchify(clip, patch=self.patch, tubelet=self.tubelet)

    def norm_of(self, block: int) -> nn.LayerNorm:
        """The norm that features after ``block`` go through: the final one, or that of the next level from there."""
        if not self.levels:
            return self.norm
        return self.norms_block[next(i for i, level in enumerate(self.levels) if level >= block)]  # type: ignore[return-value]

    def forward(
        self, clip: Tensor | Patches, ids: Tensor | None = None, taps: Sequence[int] = (), *, levels: bool = False
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Features of a normalised float clip (B, 3, F, H, W), or of pixels cut by ``cut`` or ``patchify``.

        Args:
            ids: int64 (B, K), the tokens to encode; the others are not seen at all. None encodes all N.
            taps: blocks (from 0) after which features are also returned, each through its norm (``norm_of``).
            levels: return the features of all levels, side by side on the last axis, in place of those of the last.

        Returns:
            (B, K or N, D), with ``levels`` (B, K or N, L * D); with ``taps`` a pair of that and a dict from block to
            features.

        Raises:
            ValueError: a clip of the wrong shape or smaller than one token, or a tap that is not a block.
        """
        wrong = [i for i in taps if not 0 <= i < self.depth]
        if wrong:
            raise ValueError(f"taps: expected blocks in 0..{self.depth - 1}, got {wrong}")
        if levels and not self.levels:
            raise ValueError("levels: this encoder has none, only a final norm; use taps")
        if not isinstance(clip, Patches):
            clip = self.cut(clip)
        pixels, grid, image = clip
        if ids is not None:
            pixels = take(pixels, ids)
        cos, sin = rotary.tables(
            grid, ids, head_dim=self.head_dim, layout=self.rope, reference=self.rope_reference, device=pixels.device
        )
        x = self._embed(pixels, image)
        wanted = {*taps, *(self.levels if levels else ())}
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin)
            if i in wanted:
                kept[i] = self.norm_of(i)(x)
        x = torch.cat([kept[i] for i in self.levels], -1) if levels else self.norm_of(self.depth - 1)(x)
        return (x, {i: kept[i] for i in taps}) if taps else x

    def _embed(self, pixels: Tensor, image: bool) -> Tensor:
        if not self.images:
            return self.patch_embed(pixels)
        if image:
            return self.patch_embed_img(pixels) + self.img_mod_embed
        return self.patch_embed(pixels) + self.video_mod_embed
