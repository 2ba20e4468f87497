"""The V-JEPA 2 objective: predict, in feature space, what is hidden of a clip.

Three networks. The context encoder sees the visible tokens only. The predictor guesses features at the hidden tokens
from the context encoder's. The target encoder sees the whole clip and says what the features should have been; it is
never trained but follows the context encoder as an exponential moving average.

Per mask pair the loss is mean |z - h|^p / p over all numbers, where z are predictions and h are target features after a
layer norm without weights; pairs are averaged.

Decisions. Networks are only ever called as modules, so that sharding hooks fire. The clip is cut into pixels per token
once for the target and all pairs. Target features, loss and statistics are in float32 under autocast too.

Reference: V-JEPA 2 paper, section 2.1, equation 1; released file app/vjepa/train.py.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vjepa_lab.batch import MaskPair
from vjepa_lab.config import EncoderConfig, PretrainConfig, levels_of
from vjepa_lab.nn.encoder import Encoder, Patches, patchify, take
from vjepa_lab.nn.predictor import Predictor

TOKENS = 512
"context tokens of a micro-batch that are handed out to look at"


class JEPA(nn.Module):
    """Context encoder, its moving average, and predictor. ``context`` is copied to make the target encoder."""

    def __init__(self, *, context: Encoder, predictor: Predictor, power: float = 1.0) -> None:
        super().__init__()
        self.context = context
        self.target = copy.deepcopy(context).requires_grad_(False).eval()
        self.predictor = predictor
        self.power = power

    def init_weights(self) -> None:
        """Initialise context encoder and predictor in place; the target becomes a copy of the context encoder."""
        self.context.init_weights()
        self.predictor.init_weights()
        with torch.no_grad():
            for target, context in zip(_local(self.target), _local(self.context), strict=True):
                target.copy_(context)

    def train(self, mode: bool = True) -> JEPA:
        """As in every module, but the target encoder stays in evaluation mode."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, clip: Tensor, pairs: list[MaskPair]) -> dict[str, Tensor]:
        """Losses and statistics of a normalised float clip (B, 3, F, H, W). All but ``loss`` are detached.

        Returns:
            ``loss``; ``loss/<i>`` of pair i; ``target_std`` and ``context_std``, the deviation of layer-normed features
            over the tokens of the batch, mean over dimensions, which is 0 when all tokens have collapsed to one point;
            ``target_context_gap``, the mean distance of context and target features at the same visible tokens;
            ``pooled`` (B, D), target features of each clip, averaged over its tokens; ``tokens`` (TOKENS, D),
            layer-normed context features of some visible tokens of the last pair.
        """
        assert pairs, "at least one mask pair"
        patches = patchify(clip, patch=self.context.patch, tubelet=self.context.tubelet)
        target = self.targets(patches)

        out: dict[str, Tensor] = {}
        losses, context_std, gap = [], [], []
        for pair in pairs:
            context = self.context(patches, pair.context)  # (B, K, D)
            predicted = self.predictor(context, pair.context, pair.target, patches.grid)  # (B, M, D)
            losses.append(self._distance(predicted.float(), take(target, pair.target)))
            with torch.no_grad():
                context = normalise(context)
                context_std.append(spread(context))
                gap.append((context - take(target, pair.context)).abs().mean())
                out["tokens"] = some(context)

        out["loss"] = torch.stack(losses).mean()
        out |= {f"loss/{i}": loss.detach() for i, loss in enumerate(losses)}
        out["target_std"] = spread(target)
        out["context_std"] = torch.stack(context_std).mean()
        out["target_context_gap"] = torch.stack(gap).mean()
        out["pooled"] = target.mean(1)
        return out

    @torch.no_grad()
    def targets(self, patches: Patches) -> Tensor:
        """What the features should have been: layer-normed target features (B, N, D)."""
        return normalise(self.target(patches))

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * context, for every parameter; local shards when sharded."""
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            _local(self.target), _local(self.context), 1.0 - momentum
        )

    def _distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        gap = (predicted - target).abs()
        return gap.mean() if self.power == 1.0 else gap.pow(self.power).mean() / self.power


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that a configuration describes."""
    size, newer = config.resolved(), config.family == "vjepa2.1"
    return Encoder(
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        mlp_hidden=size.mlp,
        patch=config.patch,
        tubelet=config.tubelet,
        rope=config.rope,  # type: ignore[arg-type]
        mlp=config.mlp,  # type: ignore[arg-type]
        drop_path=config.drop_path,
        attention=config.attention,  # type: ignore[arg-type]
        levels=levels_of(size.depth) if newer else (),
        images=newer,
        rope_reference=config.rope_reference,
    )


def build_predictor(config: PretrainConfig) -> Predictor:
    """The predictor that a configuration describes."""
    encoder, predictor, newer = config.encoder, config.predictor, config.encoder.family == "vjepa2.1"
    return Predictor(
        encoder_width=encoder.resolved().width,
        width=predictor.width,
        depth=predictor.depth,
        heads=predictor.heads,
        mask_tokens=predictor.mask_tokens,
        rope=encoder.rope,  # type: ignore[arg-type]
        drop_path=encoder.drop_path,
        attention=encoder.attention,  # type: ignore[arg-type]
        levels=predictor.levels,
        out_width=predictor.out_width,
        images=newer,
        dense=newer,
        rope_reference=encoder.rope_reference,
    )


def build_jepa(config: PretrainConfig) -> JEPA:
    """The three networks of a pretraining configuration, under the objective of its family."""
    context, predictor, power = build_encoder(config.encoder), build_predictor(config), config.loss.power
    if config.encoder.family == "vjepa2.1":
        from vjepa_lab.dense_jepa import DenseJEPA  # which builds on this file

        distance, share = config.loss.context_distance, config.images.weight
        return DenseJEPA(context=context, predictor=predictor, power=power, distance=distance, image_share=share)
    return JEPA(context=context, predictor=predictor, power=power)


def normalise(features: Tensor) -> Tensor:
    """Layer norm over the last axis, without weights, in float32."""
    return F.layer_norm(features.float(), features.shape[-1:], eps=1e-5)


def spread(features: Tensor) -> Tensor:
    """Standard deviation over all tokens, mean over the last axis."""
    return features.flatten(0, -2).std(dim=0, correction=0).mean()


def some(features: Tensor) -> Tensor:
    """``TOKENS`` of the tokens (B, K, D), evenly spaced, some more than once if there are fewer: (TOKENS, D)."""
    flat = features.flatten(0, -2)
    return flat[torch.arange(TOKENS, device=flat.device) * len(flat) // TOKENS]


def _local(module: nn.Module) -> list[Tensor]:
    """Parameters, or this rank's shards of them: context and target are sharded alike, so shards match."""
    return [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
