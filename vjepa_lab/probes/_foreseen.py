"""An encoder whose tokens are those of a clip and, from the predictor, those of what comes after it.

It is an encoder like any other to whoever reads it: its tokens can be kept, and its hash covers the predictor and
whatever else decides what it gives.

Decisions.
- ``both`` puts the predicted tokens behind the tokens of the clip; ``encoder`` and ``predictor`` give one of the two.
- Networks that are no V-JEPA (bare pixels, features without content, other projects' encoders) foresee nothing: under
  ``both`` they are read by the tokens of the clip alone. A V-JEPA encoder that came without its predictor is refused.

Reference: V-JEPA 2 paper, section 6 and table 20; released file evals/action_anticipation_frozen/modelcustom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vjepa_lab.batch import Grid
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.tokens import IMAGENET, Features

Inputs = Literal["both", "encoder", "predictor"]


class Foreseen(nn.Module):
    """Tokens of clips and of one tubelet ``seconds`` after their end.

    Args:
        encoder: with its predictor, unless ``inputs`` is encoder.
        seconds: from the end of a clip, where a call does not say.
        fps: frames per second of the clips.
        mask_token: which of the predictor's mask tokens, see ``FrozenEncoder.future``.
        inputs: what is given; see the module's text.

    Raises:
        ValueError: there is no predictor.
    """

    statistics = IMAGENET
    depth = 0

    def __init__(self, encoder: FrozenEncoder, *, seconds: float, fps: float, mask_token: int, inputs: Inputs) -> None:
        super().__init__()
        foresees = encoder.predictor is not None
        if not foresees and (inputs == "predictor" or (inputs == "both" and isinstance(encoder.encoder, Encoder))):
            raise ValueError(f"inputs: got {inputs}, but this encoder came without a predictor; expected encoder")
        self.inner = encoder
        self.seconds, self.fps, self.mask_token = seconds, fps, mask_token
        self.inputs: Inputs = inputs if foresees else "encoder"
        self.width, self.tubelet = encoder.width, encoder.tubelet

    def tokens(self, clip: Tensor, seconds: Tensor | float | None = None) -> Features:
        """Tokens (B, N', D) of clips (B, 3, F, H, W), uint8 or normalised, and the grid of the clip alone.

        Args:
            seconds: one number or (B,), in place of the one that holds otherwise.
        """
        if self.inputs == "encoder":
            return self.inner.tokens(clip)
        found = self.inner.future(
            clip,
            seconds=self.seconds if seconds is None else seconds,
            fps=self.fps,
            mask_token=self.mask_token,
        )
        tokens = found.predicted if self.inputs == "predictor" else torch.cat((found.context, found.predicted), 1)
        network, (frames, height, width) = self.inner.encoder, clip.shape[2:]
        assert isinstance(network, Encoder), "only these come with a predictor"
        shape = max(frames, network.tubelet), height, width
        return Features(tokens, Grid.of(*shape, tubelet=network.tubelet, patch=network.patch))

    def predicted(self, frames: int, size: int) -> int:
        """How many of the tokens of a clip of so many frames, ``size`` pixels a side, come from the predictor."""
        if self.inputs == "encoder":
            return 0
        network = self.inner.encoder
        assert isinstance(network, Encoder), "only these come with a predictor"
        grid = Grid.of(frames, size, size, tubelet=network.tubelet, patch=network.patch)
        return grid.h * grid.w

    def forward(self, clip: Tensor, taps: Sequence[int]) -> tuple[Features, dict[int, Features]]:
        assert not taps, "has no layers"
        return self.tokens(clip), {}

    def frozen(self) -> FrozenEncoder:
        """Itself as an encoder. Its networks may be in training, so nothing about them is changed."""
        return FrozenEncoder(
            encoder=self, frames=self.inner.frames, crop=self.inner.crop, dtype=self.inner.dtype, freeze=False
        )
