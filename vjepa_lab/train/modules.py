"""The Lightning modules of pretraining and post-training: networks and loss; ``step.py`` has what they share.

Masks and data are functions of (seed, micro-batch, rank), the momentum of the target encoder of the step.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from vjepa_lab import dist, masks
from vjepa_lab.batch import Both, ClipBatch, Grid, MaskPair, RobotBatch
from vjepa_lab.config import PretrainConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.transforms import normalize
from vjepa_lab.dense_jepa import DenseJEPA
from vjepa_lab.jepa import JEPA, build_encoder, build_jepa
from vjepa_lab.masks import Strategy
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._spectrum import rankme
from vjepa_lab.registry import MASKS
from vjepa_lab.robots import Statistics
from vjepa_lab.train import schedules
from vjepa_lab.train.flops import step_flops_per_clip, world_flops_per_stretch
from vjepa_lab.train.step import StepModule
from vjepa_lab.train.strategy import freeze_unused
from vjepa_lab.world import World, build_world

RECENT = 512
"clips per rank whose pooled features RankMe is computed on"
MOST_FEATURES = 4096
"the same over all ranks"


class PretrainModule(StepModule):
    """V-JEPA 2 pretraining (paper section 2.1; released file app/vjepa/train.py)."""

    config: PretrainConfig

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(config.run.seed, "init"))
            self.jepa = build_jepa(config)
        freeze_unused(self.jepa, images=bool(config.images.sources))
        encoder = config.encoder
        self.grid = Grid.of(encoder.frames, encoder.crop, encoder.crop, tubelet=encoder.tubelet, patch=encoder.patch)
        self.tokens_per_sample = self.grid.n
        self.strategies = [MASKS.build(entry) for entry in config.masks]
        self.image_strategies = [MASKS.build(entry) for entry in config.images.masks]
        self._recent: deque[Tensor] = deque(maxlen=max(RECENT // config.data.batch, 1))
        self.tokens: Tensor | None = None
        "context features of some tokens of the last micro-batch (TOKENS, D), layer-normed"
        self._static: dict[str, Tensor] = {}
        "clips of this rank that a mask was painted over without looking, as nothing moves in them"

    @property
    def network(self) -> JEPA:
        return self.jepa

    def on_after_batch_transfer(self, batch: ClipBatch | Both, dataloader_idx: int) -> ClipBatch | Both:
        if isinstance(batch, Both):
            return Both(*(part._replace(clip=normalize(part.clip)) for part in batch))
        return batch._replace(clip=normalize(batch.clip))

    def training_step(self, batch: ClipBatch | Both, batch_idx: int) -> Tensor:
        return self.keep(self.losses(batch, batch_idx))

    def losses(self, batch: ClipBatch | Both, batch_idx: int) -> dict[str, Tensor]:
        """``loss`` of a micro-batch, and what is said of it in the log."""
        torch.manual_seed(dist.derive(self.config.run.seed, "drop path", batch_idx, dist.rank()))
        clips, images = batch if isinstance(batch, Both) else (batch, None)
        self.flops_per_sample = 0.0
        notes: dict[str, Tensor] = {}
        pairs = self._masks(self.strategies, clips, batch_idx, "masks", notes)
        for name, share in notes.items():
            counted = f"{name}_clips"
            self._static[counted] = self._static.get(counted, torch.zeros_like(share)) + share * len(clips.key)
        if isinstance(self.jepa, DenseJEPA):
            still = [] if images is None else self._masks(self.image_strategies, images, batch_idx, "image masks", {})
            weight = self.context_weight(self.global_step + 1)
            out = self.jepa(clips.clip, pairs, None if images is None else images.clip, still, context_weight=weight)
        else:
            out = self.jepa(clips.clip, pairs)
        self.flops_per_sample /= len(clips.key)
        self._recent.append(out.pop("pooled"))
        self.tokens = out.pop("tokens")
        return out | notes

    def _masks(
        self, strategies: list[Strategy], batch: ClipBatch, step: int, purpose: str, notes: dict[str, Tensor]
    ) -> list[MaskPair]:
        """Mask pairs of a batch of clips, or of images; what they cost is added to ``flops_per_sample``."""
        grid, pairs = self.drawn(strategies, batch, step, purpose, taken=self.global_step, notes=notes)
        counts = [(pair.context.shape[1], pair.target.shape[1]) for pair in pairs]
        self.flops_per_sample += len(batch.clip) * step_flops_per_clip(self.config, grid, counts)
        return pairs

    def drawn(
        self,
        strategies: list[Strategy],
        batch: ClipBatch,
        index: int,
        purpose: str,
        *,
        taken: int,
        notes: dict[str, Tensor] | None = None,
    ) -> tuple[Grid, list[MaskPair]]:
        """The grid of micro-batch ``index``, and its mask pairs where ``taken`` steps have been made."""
        clip, encoder = batch.clip, self.config.encoder
        grid = Grid.of(*clip.shape[2:], tubelet=min(encoder.tubelet, clip.shape[2]), patch=encoder.patch)
        rng = dist.rng(self.config.run.seed, index, batch=len(clip), device=clip.device, purpose=purpose)
        fps = self.config.data.fps
        sight = masks.Sight(
            clip=clip,
            step=taken,
            steps=self.config.optim.steps,
            features=lambda: self._target_features(clip),
            event=batch.event[:, None] * fps if fps else None,
        )
        return grid, masks.sample(strategies, grid, rng, sight, self.config.keep, notes)  # type: ignore[arg-type]

    @torch.no_grad()
    def _target_features(self, clip: Tensor) -> Tensor:
        """(B, N, D) of the target encoder's last level, for masks that look at them."""
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=self.config.trainer.precision == "bf16-mixed"):
            return self.jepa.target(clip)

    def after_step(self, step: int) -> None:
        self.jepa.update_target(self.momentum(step))

    def momentum(self, step: int) -> float:
        """EMA momentum after a step."""
        ema = self.config.ema
        return schedules.momentum(step, start=ema.start, end=ema.end, total=self.config.optim.steps)

    def context_weight(self, step: int) -> tuple[float, float]:
        """Weight of the loss at context tokens, of clips and of images."""
        loss = self.config.loss
        ramp = schedules.ramp(step, start=loss.context_start, end=loss.context_end)
        return ramp * loss.context, ramp * loss.context_image

    def row(self, step: int) -> dict[str, float]:
        """Momentum, static clips per mask over all ranks since the start of the process, and RankMe of the last clips'
        pooled target features once enough have been seen."""
        row = {"momentum": self.momentum(step)}
        if self._static:
            counts = dist.sum_over_ranks(torch.stack(list(self._static.values()))).round().tolist()
            row |= dict(zip(self._static, counts, strict=True))
        if len(self._recent) == self._recent.maxlen:
            share = max(MOST_FEATURES // dist.world(), 1)
            row["rankme"] = rankme(dist.gather_rows(torch.cat(list(self._recent))[-share:]))
        return row

    def untrained_encoder(self) -> Encoder:
        """A fresh encoder of the same shape, as a baseline for probes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(self.config.run.seed, "init"))
            return build_encoder(self.config.encoder).requires_grad_(False).eval()


class PosttrainModule(StepModule):
    """V-JEPA 2-AC post-training (paper section 3.1; released file app/vjepa_droid/train.py).

    Args:
        config: its ``encoder`` block is that of the frozen encoder.
        statistics: of states and actions, where the predictor gets them standardised.
    """

    config: PosttrainConfig

    def __init__(self, config: PosttrainConfig, statistics: tuple[Statistics, Statistics] | None = None) -> None:
        super().__init__(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(config.run.seed, "init"))
            self.world = build_world(config, statistics)
        cells = config.crop // config.encoder.patch
        self.grid = (cells, cells)
        self.tokens_per_sample = config.data.frames * self.grid[0] * self.grid[1]
        self.flops_per_sample = world_flops_per_stretch(config)

    @property
    def network(self) -> World:
        return self.world

    def on_before_batch_transfer(self, batch: RobotBatch, dataloader_idx: int) -> RobotBatch:
        """Raises ValueError for a pose of the camera that the predictor reads and that a source has left out."""
        if self.config.predictor.extrinsics:
            lacks = ~batch.extrinsics.flatten(1).isfinite().all(1)
            if lacks.any():
                key = batch.key[int(lacks.int().argmax())]
                raise ValueError(f"{key}: predictor.extrinsics is true, and the source gives no pose of the camera")
        return batch

    def on_after_batch_transfer(self, batch: RobotBatch, dataloader_idx: int) -> RobotBatch:
        return batch if batch.features is not None else batch._replace(frames=normalize(batch.frames))

    def training_step(self, batch: RobotBatch, batch_idx: int) -> Tensor:
        features = self.world.encode(batch.frames) if batch.features is None else batch.features.float()
        return self.keep(self.world(features, batch.states, batch.actions, self.grid, batch.extrinsics))
