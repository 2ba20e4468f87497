"""Fine-tuning with inverse dynamics as an auxiliary objective: a pretraining of the last blocks, and a head.

Beside the masked prediction of a clip, two neighbouring frames of it are encoded as the probe ``inverse_dynamics`` will
show them (``pair``: each repeated to fill a tubelet, or both as one clip); their averaged tokens tell a head the action
between them. All else (masks, target encoder, stream, resume, strategies, probes) is that of a pretraining.

Decisions:
- What takes no part (``inverse.budget``) is not encoded: small budgets cost little. Which samples do, and which pair of
  a clip's frames is looked at, are functions of (seed, micro-batch, sample) that draw from no other stream of numbers.
- The context encoder learns, and its moving average is what is probed and exported, as after every pretraining. The
  head is in the checkpoint of the run, to go on from, and in no other file.
- ``inverse.native: 0`` measures masked prediction without a gradient; the predictor then stays as it is.

Reference: arXiv 2606.07687 (lambda 0.05; how deep it fine-tunes and how it normalises is not stated).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vjepa_lab import consistency, dist, robots
from vjepa_lab.batch import Both, ClipBatch, RobotSample
from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.action_clips import ActionClips
from vjepa_lab.data.loader import Loader, sampled
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.inverse import InverseHead, inverse_loss, keep, unfreeze
from vjepa_lab.robots import Statistics
from vjepa_lab.train.flops import inverse_flops_per_clip
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.optim import build_optimizer
from vjepa_lab.train.strategy import freeze_unused, parallelise


class InverseModule(PretrainModule):
    """Pretraining under native * (masked prediction) + weight * (inverse dynamics).

    Args:
        config: its block ``inverse`` has a weight.
        actions: their statistics, for the head to standardise them.
    """

    def __init__(self, config: PretrainConfig, actions: Statistics) -> None:
        super().__init__(config)
        inverse, context = config.inverse, self.jepa.context
        unfreeze(context, inverse.unfreeze_last)
        if not inverse.native:
            self.jepa.predictor.requires_grad_(False)
            if context.levels:  # the others are masked prediction's
                context.norms_block[:-1].requires_grad_(False)
        freeze_unused(self.jepa, images=bool(config.images.sources))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dist.derive(config.run.seed, "init", "inverse"))
            parts = 1 if inverse.pair == "clip" else 2
            self.inverse = InverseHead(width=context.width, action_dim=len(actions.mean), parts=parts)
        self.inverse.fit(actions.mean, actions.std)
        self.inverse.requires_grad_(bool(inverse.weight))  # DDP would wait for gradients that never come

    @property
    def network(self) -> Any:
        """All that is trained: the networks of the pretraining and the head."""
        return self

    def configure_model(self) -> None:
        parallelise(self.jepa, self.config.trainer, self.device_mesh, head=self.inverse)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optim, inverse = self.config.optim, self.config.inverse
        return build_optimizer(
            self.jepa,
            lr=self.lr(1),
            weight_decay=self.weight_decay(1),
            betas=optim.betas,
            eps=optim.eps,
            head=self.inverse if inverse.weight else None,
            head_lr=inverse.head_lr,
        )

    def losses(self, batch: ClipBatch | Both, batch_idx: int) -> dict[str, Tensor]:
        inverse = self.config.inverse
        with torch.set_grad_enabled(inverse.native > 0):
            out = super().losses(batch, batch_idx)
        loss = inverse.native * out["loss"]
        out["loss/native"] = out["loss"].detach()
        if inverse.weight:
            told = self._inverse(batch.clips if isinstance(batch, Both) else batch, batch_idx)
            out["loss/inverse"] = told.detach()
            loss = loss + inverse.weight * told
            self.flops_per_sample += inverse_flops_per_clip(self.config)
        return out | {"loss": loss}

    def _inverse(self, batch: ClipBatch, step: int) -> Tensor:
        """Loss of the actions between two frames of every clip that takes part."""
        clip, actions, config = batch.clip, batch.truth["action"], self.config
        count, device = len(clip), clip.device
        drawn = dist.rng(config.run.seed, step, batch=count, device=device, purpose="inverse pairs").local.uniform()
        first = (drawn * actions.shape[1]).long().clamp_(max=actions.shape[1] - 1)
        rows, kept = torch.arange(count, device=device), None
        if config.inverse.budget < 1:
            kept = keep(config.inverse.budget, seed=config.run.seed, step=step, batch=count, device=device)
            rows = torch.nonzero(kept).flatten() if kept.any() else rows[:1]  # every rank encodes something
            kept = kept[rows]
        first = first[rows]
        both, tubelet = (clip[rows, :, first], clip[rows, :, first + 1]), config.encoder.tubelet  # (k, 3, H, W) each
        if config.inverse.pair == "clip":
            shown = torch.stack(both, 2).repeat_interleave(tubelet // 2, 2)
        else:
            shown = torch.cat(both).unsqueeze(2).expand(-1, -1, tubelet, -1, -1)
        features: Any = self.jepa.context(shown)
        return inverse_loss(
            self.inverse(*features.mean(1).split(len(rows))).float(),
            self.inverse.standardised(actions[rows, first].float()),
            kept,
            normalise=config.inverse.normalise,  # type: ignore[arg-type]
            batch=count,
        )


def module_of(config: PretrainConfig, loader: Loader[Any] | PairedLoader) -> InverseModule:
    """The module of a configuration, its actions standardised as those of the stream are spread.

    Raises:
        ValueError: a source tells no actions, flips its clips, or contradicts the description of the robot.
    """
    readers = loader.slots.readers
    per = max(-(-config.inverse.statistics // len(readers)), 2)
    return InverseModule(config, Statistics.of(torch.cat([_actions(config, reader, per) for reader in readers])))


def _actions(config: PretrainConfig, reader: Any, count: int) -> Tensor:
    """(n, F - 1, A) of up to ``count`` clips, spread over the source; equal on all ranks, which all read them."""
    if reader.augment and config.transform.flip:
        raise ValueError(
            f"transform.flip: true turns left into right in clips of {reader.name}, and not in their actions; expected "
            "false"
        )
    plain = reader.reader if isinstance(reader, ActionClips) else reader
    found: list[Any] = sampled(plain, count, key=dist.derive(config.run.seed, "inverse statistics"))
    if len(found) < 2:
        raise ValueError(f"data.sources: got {len(found)} clips of {reader.name} that can be read, expected at least 2")
    if isinstance(found[0], RobotSample):
        states, actions = (torch.stack([getattr(s, name) for s in found]) for name in ("states", "actions"))
        problems = consistency.check(robots.of(config.inverse.robot), states, actions)
        if problems:
            raise ValueError("\n  - ".join([f"{reader.name}: its episodes do not fit inverse.robot:", *problems]))
        return actions
    if "action" not in found[0].truth:
        raise ValueError(
            f"data.sources: {reader.name} tells no actions; expected {{name: synthetic, drive: 0.25}}, or the episodes "
            "of a robot that inverse.robot describes"
        )
    return torch.stack([sample.truth["action"] for sample in found])
