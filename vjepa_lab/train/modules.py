"""The Lightning module of pretraining: what happens in one step, and nothing else.

Order of a step: learning rate and weight decay are written, the micro-batches give their losses and gradients, all
ranks agree that everything is finite, the optimizer steps, the target encoder follows. Learning rate, weight decay and
momentum are functions of the step; masks and data are functions of (seed, micro-batch, rank): there is no other state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vjepa_lab import dist, masks
from vjepa_lab.batch import Both, ClipBatch, Grid, MaskPair
from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.transforms import normalize
from vjepa_lab.dense_jepa import DenseJEPA
from vjepa_lab.jepa import build_encoder, build_jepa
from vjepa_lab.merge import to_plain
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.registry import MASKS
from vjepa_lab.train import schedules
from vjepa_lab.train.checkpoints import recount_batches
from vjepa_lab.train.flops import step_flops_per_clip
from vjepa_lab.train.optim import build_optimizer, set_hyper
from vjepa_lab.train.strategy import freeze_unused, parallelise

RECENT = 512
"clips per rank whose pooled features RankMe is computed on"


class PretrainModule(L.LightningModule):
    """V-JEPA 2 pretraining (paper section 2.1; released file app/vjepa/train.py)."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(config.run.seed, "init"))
            self.jepa = build_jepa(config)
        freeze_unused(self.jepa, images=bool(config.images.sources))
        encoder = config.encoder
        self.grid = Grid.of(encoder.frames, encoder.crop, encoder.crop, tubelet=encoder.tubelet, patch=encoder.patch)
        self.strategies = [MASKS.build(entry) for entry in config.masks]
        self.image_strategies = [MASKS.build(entry) for entry in config.images.masks]
        self.lr, self.weight_decay, self.momentum, self.context_weight = _plans(config)
        self.stats: dict[str, float] = {}
        "means over ranks and micro-batches of the last step: loss, loss/<i>, statistics, grad_norm"
        self.skipped = 0
        "steps in a row that were skipped because something was not finite"
        self.stop_asked = False
        "a signal reached this process; all ranks learn of it in ``stop_agreed`` at the next step"
        self.stop_agreed = False
        self.flops_per_clip = 0.0
        "operations of the last micro-batch per clip, images included, see flops.py"
        self._micro: list[dict[str, Tensor]] = []
        self._recent: deque[Tensor] = deque(maxlen=max(RECENT // config.data.batch, 1))

    def configure_model(self) -> None:
        parallelise(self.jepa, self.config.trainer, self.device_mesh)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        return build_optimizer(
            self.jepa, lr=self.lr(1), weight_decay=self.weight_decay(1), betas=optim.betas, eps=optim.eps
        )

    def on_after_batch_transfer(self, batch: ClipBatch | Both, dataloader_idx: int) -> ClipBatch | Both:
        if isinstance(batch, Both):
            return Both(*(part._replace(clip=normalize(part.clip)) for part in batch))
        return batch._replace(clip=normalize(batch.clip))

    def training_step(self, batch: ClipBatch | Both, batch_idx: int) -> Tensor:
        torch.manual_seed(dist.derive(self.config.run.seed, "drop path", batch_idx, dist.rank()))
        clips, images = batch if isinstance(batch, Both) else (batch, None)
        self.flops_per_clip = 0.0
        pairs = self._masks(self.strategies, clips, batch_idx, "masks")
        if isinstance(self.jepa, DenseJEPA):
            still = [] if images is None else self._masks(self.image_strategies, images, batch_idx, "image masks")
            weight = self.context_weight(self.global_step + 1)
            out = self.jepa(clips.clip, pairs, None if images is None else images.clip, still, context_weight=weight)
        else:
            out = self.jepa(clips.clip, pairs)
        self.flops_per_clip /= len(clips.key)
        self._recent.append(out.pop("pooled"))
        self._micro.append({name: value.detach() for name, value in out.items()})
        return out["loss"]

    def _masks(self, strategies: list[Any], batch: ClipBatch, step: int, purpose: str) -> list[MaskPair]:
        """Mask pairs of a batch of clips, or of images; what they cost is added to ``flops_per_clip``."""
        clip, encoder = batch.clip, self.config.encoder
        grid = Grid.of(*clip.shape[2:], tubelet=min(encoder.tubelet, clip.shape[2]), patch=encoder.patch)
        rng = dist.rng(self.config.run.seed, step, batch=len(clip), device=clip.device, purpose=purpose)
        pairs = masks.sample(strategies, grid, rng, clip, keep=self.config.keep)  # type: ignore[arg-type]
        counts = [(pair.context.shape[1], pair.target.shape[1]) for pair in pairs]
        self.flops_per_clip += len(clip) * step_flops_per_clip(self.config, grid, counts)
        return pairs

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """One reduction over ranks: means of the statistics, is everything finite, has a signal come."""
        names = sorted(self._micro[0])
        means = torch.stack([torch.stack([m[n].float() for m in self._micro]).mean() for n in names])
        self._micro.clear()
        norm = grad_norm(self.jepa)
        finite = torch.isfinite(means).all() & torch.isfinite(norm)
        flags = torch.stack([(~finite).float(), torch.tensor(float(self.stop_asked), device=means.device)])
        # A value that is not finite must not spread over ranks through the sum: the flag tells of it.
        total = dist.sum_over_ranks(torch.cat([flags, means.nan_to_num(0.0, 0.0, 0.0)])) / dist.world()
        bad, stop, *values = total.tolist()
        self.stop_agreed = stop > 0
        self.stats = dict(zip(names, values, strict=True)) | {"grad_norm": norm.item()}
        self.skipped = self.skipped + 1 if bad else 0
        if bad:
            optimizer.zero_grad(set_to_none=True)  # AdamW passes over parameters without a gradient
            self._give_up_or_warn()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        step = self.global_step + 1
        set_hyper(optimizer, lr=self.lr(step), weight_decay=self.weight_decay(step))
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if not self.skipped:
            self.jepa.update_target(self.momentum(step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = to_plain(self.config)
        if not isinstance(self.trainer.strategy, ModelParallelStrategy):  # which numbers them like this already
            number_by_module(checkpoint["optimizer_states"], self.trainer.optimizers, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        recount_batches(checkpoint, self.config.trainer.accumulate)

    def recent_features(self) -> Tensor | None:
        """Pooled target features (n, D) of this rank's last clips; None until enough have been seen."""
        return torch.cat(list(self._recent)) if len(self._recent) == self._recent.maxlen else None

    def untrained_encoder(self) -> Encoder:
        """A fresh encoder of the same shape, as a baseline for probes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(self.config.run.seed, "init"))
            return build_encoder(self.config.encoder).requires_grad_(False).eval()

    def _give_up_or_warn(self) -> None:
        most = self.config.optim.max_skips
        text = f"step {self.global_step + 1}: the loss or a gradient is not finite on at least one rank"
        if self.skipped > most:
            raise ValueError(
                f"{text}, for {self.skipped} steps in a row; the weights are those before. Lower optim.lr, lengthen "
                "optim.warmup, or set optim.clip=1.0, and resume from an earlier checkpoint"
            )
        rank_zero_warn(f"{text}; the step is skipped ({self.skipped} of {most} in a row)")


def _plans(config: PretrainConfig) -> tuple[Callable[[int], Any], ...]:
    """Learning rate, weight decay, EMA momentum, and weights of the loss at context tokens of clips and of images, as
    functions of the step (1 for the first)."""
    optim, ema, loss = config.optim, config.ema, config.loss
    lr = schedules.Schedule(
        kind=optim.schedule,  # type: ignore[arg-type]
        start=optim.start_lr,
        ref=optim.lr,
        final=optim.min_lr,
        warmup=optim.warmup,
        decay=optim.decay,
        total=optim.steps,
    )
    final = optim.weight_decay if optim.final_weight_decay is None else optim.final_weight_decay
    weight_decay = schedules.Schedule(kind="cosine", ref=optim.weight_decay, final=final, total=optim.steps)
    momentum = partial(schedules.momentum, start=ema.start, end=ema.end, total=optim.steps)

    def context_weight(step: int) -> tuple[float, float]:
        ramp = schedules.ramp(step, start=loss.context_start, end=loss.context_end)
        return ramp * loss.context, ramp * loss.context_image

    return lr, weight_decay, momentum, context_weight


def number_by_module(states: list[dict[str, Any]], optimizers: list[torch.optim.Optimizer], module: nn.Module) -> None:
    """Renumber parameters in optimizer states, in place: from their place in the groups to their place in the module.

    FSDP2 reads and writes the latter, so a file of one strategy resumes under the others.
    """
    place = {parameter: i for i, parameter in enumerate(module.parameters())}
    for state, optimizer in zip(states, optimizers, strict=True):
        order = [place[p] for group in optimizer.param_groups for p in group["params"]]
        state["state"] = {order[i]: value for i, value in state["state"].items()}
        state["param_groups"] = [{**g, "params": [order[i] for i in g["params"]]} for g in state["param_groups"]]


def grad_norm(module: nn.Module) -> Tensor:
    """Norm of all gradients, over all shards when sharded (then a collective call)."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    sharded = bool(grads) and isinstance(grads[0], DTensor)
    local = [g.to_local() if isinstance(g, DTensor) else g for g in grads]
    norms = torch._foreach_norm(local)  # type: ignore[attr-defined]
    squared = torch.stack([n.float() for n in norms]).square().sum()
    return (dist.sum_over_ranks(squared) if sharded else squared).sqrt()
