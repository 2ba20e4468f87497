"""What every training has in common at an optimizer step, whatever its model and loss.

Order of a step: learning rate and weight decay are written, the micro-batches give their losses and gradients, all
ranks agree that everything is finite, the optimizer steps, the module does what follows. Learning rate and weight
decay are functions of the step; there is no other state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vjepa_lab import dist
from vjepa_lab.config import OptimConfig
from vjepa_lab.merge import to_plain
from vjepa_lab.train.checkpoints import recount_batches
from vjepa_lab.train.optim import build_optimizer, set_hyper
from vjepa_lab.train.schedules import Schedule
from vjepa_lab.train.strategy import parallelise


class StepModule(L.LightningModule):
    """A network under training. ``config`` has the blocks ``run``, ``optim`` and ``trainer``.

    What is trained is all of ``network`` that requires a gradient. A subclass makes the network, its
    ``training_step``, which passes its losses to ``keep``, and may add ``after_step`` and ``row``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self._lr, self.weight_decay = _plans(config.optim)
        self.lr_factor = 1.0
        "what the learning rate of the schedule is multiplied by"
        self.stats: dict[str, float] = {}
        "means over ranks and micro-batches of the last step: losses, statistics, grad_norm"
        self.skipped = 0
        "steps in a row that were skipped because something was not finite"
        self.stop_asked = False
        "a signal reached this process; all ranks learn of it in ``stop_agreed`` at the next step"
        self.stop_agreed = False
        self.flops_per_sample = 0.0
        "operations of the last micro-batch per sample, see flops.py"
        self.tokens_per_sample = 0
        self._micro: list[dict[str, Tensor]] = []

    def lr(self, step: int) -> float:
        """Learning rate of a step (1 for the first)."""
        return self.lr_factor * self._lr(step)

    @property
    def network(self) -> nn.Module:
        """What is trained and saved."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """What follows an optimizer step that was taken."""

    def row(self, step: int) -> dict[str, float]:
        """Further numbers for the log. A collective call: every rank makes it."""
        return {}

    def keep(self, out: dict[str, Tensor]) -> Tensor:
        """Note the losses and statistics of a micro-batch, scalars; returns ``loss``."""
        self._micro.append({name: value.detach() for name, value in out.items()})
        return out["loss"]

    def configure_model(self) -> None:
        parallelise(self.network, self.config.trainer, self.device_mesh)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        return build_optimizer(
            self.network, lr=self.lr(1), weight_decay=self.weight_decay(1), betas=optim.betas, eps=optim.eps
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """One reduction over ranks: means of the statistics, is everything finite, has a signal come."""
        names = sorted(self._micro[0])
        means = torch.stack([torch.stack([m[n].float() for m in self._micro]).mean() for n in names])
        self._micro.clear()
        norm = grad_norm(self.network)
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
            self.after_step(step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = to_plain(self.config)
        if not isinstance(self.trainer.strategy, ModelParallelStrategy):  # which numbers them like this already
            number_by_module(checkpoint["optimizer_states"], self.trainer.optimizers, self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        recount_batches(checkpoint, self.config.trainer.accumulate)

    def _give_up_or_warn(self) -> None:
        most = self.config.optim.max_skips
        text = f"step {self.global_step + 1}: the loss or a gradient is not finite on at least one rank"
        if self.skipped > most:
            raise ValueError(
                f"{text}, for {self.skipped} steps in a row; the weights are those before. Lower optim.lr, lengthen "
                "optim.warmup, or set optim.clip=1.0, and resume from an earlier checkpoint"
            )
        rank_zero_warn(f"{text}; the step is skipped ({self.skipped} of {most} in a row)")


def _plans(optim: OptimConfig) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Learning rate and weight decay as functions of the step (1 for the first)."""
    lr = Schedule(
        kind=optim.schedule,  # type: ignore[arg-type]
        start=optim.start_lr,
        ref=optim.lr,
        final=optim.min_lr,
        warmup=optim.warmup,
        decay=optim.decay,
        total=optim.steps,
    )
    final = optim.weight_decay if optim.final_weight_decay is None else optim.final_weight_decay
    return lr, Schedule(kind="cosine", ref=optim.weight_decay, final=final, total=optim.steps)


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
