"""The V-JEPA 2.1 objective: predict several levels of features, at hidden and at visible tokens, of clips and images.

Three things are added to V-JEPA 2 (``jepa.py``), whose networks and moving average stay.

- Deep supervision. Context encoder and predictor work on four levels side by side: the outputs of four blocks, each
  through a layer norm of its own. Targets are the same levels of the target encoder, each layer-normed without weights.
- A dense loss. The predictor also says what the features at the visible tokens are. With z predictions, h targets and
  d the distance of a visible token to the nearest hidden one in tokens (time, rows and columns alike), its loss is
  mean |z - h|^p / sqrt(d) / p, and the objective of a batch is (loss at hidden) + weight * (loss at visible). The
  weight is the caller's, who ramps it up over training.
- Images have a patch embedding and a modality vector of their own.

Decisions. Clips and images are in every micro-batch of every rank and meet in one loss, (1 - share) * clips + share *
images. The released trainer gives images to some ranks and clips to the others and averages gradients over all of
them, which weighs them alike (``share`` is its ``rank_ratio``) but needs two ranks or more, and leaves what only one
modality uses with gradients of part of the ranks. Distances come from an exact distance transform of the grid, one
axis after the other, in place of all pairs of tokens.

Reference: V-JEPA 2.1 paper (arXiv 2603.14482); released files app/vjepa_2_1/train.py and
app/vjepa_2_1/models/utils/masks_dist.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.jepa import JEPA, normalise, some, spread
from vjepa_lab.nn.encoder import Encoder, Patches, take
from vjepa_lab.nn.predictor import Predictor


class DenseJEPA(JEPA):
    """JEPA under the V-JEPA 2.1 objective.

    Args:
        context: encoder with levels; copied to make the target encoder.
        predictor: a dense one, of as many levels as the encoder, or of one: the last.
        power: exponent of the loss.
        distance: weigh the loss of visible tokens down with their distance to the hidden ones.
        image_share: share of the images in the loss.
    """

    def __init__(
        self,
        *,
        context: Encoder,
        predictor: Predictor,
        power: float = 1.0,
        distance: bool = True,
        image_share: float = 0.5,
    ) -> None:
        assert predictor.dense
        assert predictor.levels in (1, len(context.levels))
        super().__init__(context=context, predictor=predictor, power=power)
        self.distance = distance
        self.image_share = image_share

    def forward(
        self,
        clip: Tensor,
        pairs: list[MaskPair],
        image: Tensor | None = None,
        image_pairs: list[MaskPair] | None = None,
        *,
        context_weight: tuple[float, float] = (0.0, 0.0),
    ) -> dict[str, Tensor]:
        """Losses and statistics of a normalised float clip (B, 3, F, H, W), and of images (B', 3, 1, H', W').

        Args:
            context_weight: weight of the loss at visible tokens, for clips and for images.

        Returns:
            ``loss``; of the clips, and with the prefix ``image/`` of the images: ``loss/target`` and ``loss/context``
            at hidden and visible tokens, ``loss/level<j>`` at the hidden tokens of level j, and the statistics of
            ``JEPA.forward``, all of the last level. ``pooled`` and ``tokens`` are of the clips. All but ``loss`` are
            detached.
        """
        out = self._of(clip, pairs, context_weight[0])
        if image is None:
            return out
        assert image_pairs, "at least one mask pair"
        still = self._of(image, image_pairs, context_weight[1])
        loss = (1.0 - self.image_share) * out["loss"] + self.image_share * still["loss"]
        del still["pooled"], still["tokens"]
        return out | {f"image/{name}": value.detach() for name, value in still.items()} | {"loss": loss}

    def _of(self, clip: Tensor, pairs: list[MaskPair], context_weight: float) -> dict[str, Tensor]:
        assert pairs, "at least one mask pair"
        patches = self.context.cut(clip)
        target = self.targets(patches)
        sums: dict[str, Tensor] = {}
        tokens = target[:0]
        for pair in pairs:
            context = self._encode(self.context, patches, pair.context)  # (B, K, L * D)
            predicted, seen = self.predictor(context, pair.context, pair.target, patches.grid, image=patches.image)
            # One number per token and level: (B, M, L) and (B, K, L)
            hidden = self._gap(predicted, take(target, pair.target))
            visible = self._gap(seen, take(target, pair.context))
            if self.distance:
                away = distance_to(pair.target, patches.grid).gather(1, pair.context)
                visible = visible * away.rsqrt().unsqueeze(-1)
            terms = {"loss/target": hidden.mean(), "loss/context": visible.mean()}
            terms |= {f"loss/level{j}": hidden[..., j].mean().detach() for j in range(hidden.shape[-1])}
            with torch.no_grad():
                last = self._normalise(context)[..., -1, :]
                terms["context_std"] = spread(last)
                tokens = some(last)
                terms["target_context_gap"] = (last - take(target, pair.context)[..., -1, :]).abs().mean()
            sums = {name: sums.get(name, 0.0) + value / len(pairs) for name, value in terms.items()}
        loss = sums["loss/target"] + context_weight * sums["loss/context"]
        last = target[..., -1, :]
        out = {name: value.detach() for name, value in sums.items()}
        return out | {"loss": loss, "target_std": spread(last), "pooled": last.mean(1), "tokens": tokens}

    @torch.no_grad()
    def targets(self, patches: Patches) -> Tensor:
        """What the features should have been: layer-normed target features (B, N, L, D) of every level."""
        return self._normalise(self._encode(self.target, patches))

    def _encode(self, encoder: Encoder, patches: Patches, ids: Tensor | None = None) -> Tensor:
        return encoder(patches, ids, levels=self.predictor.levels > 1)

    def _normalise(self, features: Tensor) -> Tensor:
        """Each level on its own: (B, N, L * D) -> (B, N, L, D)."""
        return normalise(features.unflatten(-1, (self.predictor.levels, -1)))

    def _gap(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Loss of each token and level (B, M, L) of predictions (B, M, L * D)."""
        gap = (predicted.float().unflatten(-1, target.shape[-2:]) - target).abs()
        return gap.mean(-1) if self.power == 1.0 else gap.pow(self.power).mean(-1) / self.power


def distance_to(ids: Tensor, grid: Grid) -> Tensor:
    """Euclidean distance, in tokens, of every cell of ``grid`` to the nearest of ``ids`` (B, M): float32 (B, N)."""
    far = float(sum(n * n for n in grid))  # the square of a distance that no two cells have
    square = torch.full((ids.shape[0], grid.n), far, device=ids.device)
    square = square.scatter_(1, ids, 0.0).unflatten(1, grid)
    for axis, n in enumerate(grid, start=1):
        place = torch.arange(n, device=ids.device)
        along = (place[:, None] - place).square().float()  # (to, from)
        square = (square.movedim(axis, -1).unsqueeze(-2) + along).amin(-1).movedim(-1, axis)
    return square.sqrt().flatten(1)
