"""How a frame decoder is trained on frozen tokens, and how it paints: a function of the frames, the plan and the seed.

Every rank trains the same decoder on all frames, so that any number of ranks gives the same figure; on GPUs, which do
not add in the same order every time, rank 0's is everybody's in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes._frames import Frames


class Plan(NamedTuple):
    """Of the training of a decoder, by AdamW on the mean squared error of pixels in [0, 1]."""

    steps: int
    frames: int
    "in each step"
    lr: float
    "peak; from there to 0 along a cosine"
    warmup: int
    "steps in which the learning rate rises"
    weight_decay: float
    clip: float | None
    "largest norm of the gradient"

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@torch.enable_grad()
def train(make: Callable[[], nn.Module], fit: Frames, plan: Plan, *, encoder: FrozenEncoder, seed: int) -> nn.Module:
    """A decoder of the frames ``fit``.

    Args:
        make: a decoder with weights drawn from the global numbers, which are as they were afterwards.
        encoder: says where and in which precision.
        seed: of the first weights and of the order of frames.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dist.derive(seed, "decoder"))
        decoder = make().to(encoder.device).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    order = _order(len(fit.pixels), plan, seed)
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    quiet = not dist.is_main_process()
    with cudnn, tqdm(order, total=plan.steps, desc="decoder", unit="step", leave=False, disable=quiet) as bar:
        for step, at in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            truth = fit.pixels[at].to(encoder.device, non_blocking=True).float() / 255
            loss = F.mse_loss(paint(decoder, fit, at, encoder=encoder), truth)
            optimizer.zero_grad()
            loss.backward()
            if plan.clip is not None:
                nn.utils.clip_grad_norm_(decoder.parameters(), plan.clip)
            optimizer.step()
    if dist.world() > 1:
        _same_on_all_ranks(decoder)
    return decoder.eval()


def paint(decoder: nn.Module, frames: Frames, at: Tensor, *, encoder: FrozenEncoder) -> Tensor:
    """The frames in places ``at`` (k,) as the decoder paints them from their tokens alone: float32 (k, 3, H, W)."""
    device = encoder.device
    tokens = frames.tokens[at // frames.per].to(device, non_blocking=True)
    which = (at % frames.per).to(device) if frames.per > 1 else None
    with torch.autocast(device.type, encoder.dtype, enabled=encoder.dtype != torch.float32):
        return decoder(tokens, frames.grid, which).float()


def _order(rows: int, plan: Plan, seed: int) -> Iterator[Tensor]:
    """Rows of each step: every row once before any comes again."""
    generator = torch.Generator().manual_seed(dist.derive(seed, "order"))
    pool = torch.empty(0, dtype=torch.int64)
    for _ in range(plan.steps):
        while len(pool) < plan.frames:
            pool = torch.cat((pool, torch.randperm(rows, generator=generator)))
        yield pool[: plan.frames]
        pool = pool[plan.frames :]


@torch.no_grad()
def _same_on_all_ranks(decoder: nn.Module) -> None:
    """Give every rank the decoder of rank 0."""
    for x in decoder.state_dict().values():
        x.copy_(dist.sum_over_ranks(x if dist.is_main_process() else torch.zeros_like(x)))
