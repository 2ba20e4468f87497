"""What a run will be like, found out before it is trained: weights, data, tokens, operations, time.

Weights and data are hashed, so that arms of a seed can be shown to begin alike and to see the same clips. Tokens are
counted on masks drawn as the training draws them, on its own clips and random numbers, at steps spread over its length
(a curriculum changes them). Time is that of a few whole steps, masks included; it foretells the cost and is no result.

Letters: B clips, t h w token axes, K context ids, M target ids.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from vjepa_lab.batch import Both, ClipBatch
from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.skips import Skips
from vjepa_lab.features import fingerprint
from vjepa_lab.train import checkpoints, starts
from vjepa_lab.train.flops import step_flops_per_clip
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import training_loader
from vjepa_lab.train.strategy import device_kind


class Counts(NamedTuple):
    """Tokens of a clip that are seen and asked for: sums over the masks of a step, means over steps."""

    batch: int
    "clips per process"
    context: float
    target: float
    context_per_tubelet: list[float]
    "share of the tokens of each tubelet that is context, mean over masks"
    target_per_tubelet: list[float]


class Shape(NamedTuple):
    """Everything measured of an arm at one seed."""

    counts: list[Counts]
    "at the batch size of the arm, then at the further ones asked for"
    tokens: int
    "of a clip"
    flops: float
    "operations of a step per clip"
    mask_seconds: float
    "median time to draw the masks of a step"
    step_seconds: float
    "median time of a step, NaN if none was timed"


class Origin(NamedTuple):
    """Where a run begins: equal in all arms of a seed."""

    weights: str
    data: str


def origin(config: PretrainConfig, *, batches: int = 2) -> Origin:
    """Hashes of the initial weights, and of the clips of the first batches."""
    digest = hashlib.sha256()
    with torch.random.fork_rng(devices=[]):  # a loader takes a number from the global generator
        for batch in _batches(config, config.data.batch, batches):
            for part in _parts(batch):
                digest.update(repr(part.key).encode())
                digest.update(part.clip.contiguous().numpy().data)
    return Origin(fingerprint(_module(config).jepa), digest.hexdigest())


def shape(config: PretrainConfig, *, draws: int, batches: list[int], timed: int) -> Shape:
    """Tokens, operations and time of an arm.

    Args:
        draws: batches on which masks are drawn.
        batches: further batch sizes at which tokens are counted.
        timed: steps that are timed, after one that is not.
    """
    device = torch.device(device_kind(config.trainer))
    module = _module(config).to(device)
    with torch.random.fork_rng(devices=[]):
        counted, flops, seconds = _draw(module, config.data.batch, draws)
        others = [_draw(module, size, draws)[0] for size in batches if size != config.data.batch]
        step = _timed(module, timed) if timed else float("nan")
    return Shape([counted, *others], module.grid.n, flops, seconds, step)


def _module(config: PretrainConfig) -> PretrainModule:
    """The module of a run with the weights it begins with."""
    module = PretrainModule(config)
    if config.init.checkpoint is not None:
        weights_alone = replace(config, init=replace(config.init, load="weights"))
        start = starts.start_from(weights_alone, Path(config.run.dir))
        assert start.weights is not None
        checkpoints.load_weights(module.jepa, start.weights)
    return module


def _batches(config: PretrainConfig, size: int, count: int) -> Iterator[ClipBatch | Both]:
    """The first batches of the stream of a run, read in this process, with ``size`` clips each."""
    data = replace(config.data, workers=0, batch=size, global_batch=None)
    steps = replace(config.optim, steps=count)
    loader = training_loader(
        replace(config, data=data, optim=steps, trainer=replace(config.trainer, accumulate=1)), Skips(None)
    )
    for _, batch in zip(range(count), loader, strict=False):
        assert isinstance(batch, (ClipBatch, Both))
        yield batch


def _draw(module: PretrainModule, size: int, draws: int) -> tuple[Counts, float, float]:
    """Tokens at a batch size, operations of a step per clip, and the median time of drawing."""
    config, device, grid = module.config, module.device, module.grid
    sums = torch.zeros(2, grid.t, dtype=torch.float64)
    ids, flops, seconds, drawn = torch.zeros(2, dtype=torch.float64), 0.0, [], 0
    for i, batch in enumerate(_batches(config, size, draws)):
        step = i * config.optim.steps // draws
        seen = _shown(module, batch)
        clips, images = seen if isinstance(seen, Both) else (seen, None)
        start = _now(device)
        _, pairs = module.drawn(module.strategies, clips, i, "masks", taken=step)
        seconds.append(_now(device) - start)
        sizes = [(pair.context.shape[1], pair.target.shape[1]) for pair in pairs]
        flops += step_flops_per_clip(config, grid, sizes)
        if images is not None:
            still, parts = module.drawn(module.image_strategies, images, i, "image masks", taken=step)
            image_sizes = [(pair.context.shape[1], pair.target.shape[1]) for pair in parts]
            flops += step_flops_per_clip(config, still, image_sizes) * len(images.key) / len(clips.key)
        ids += torch.tensor(sizes, dtype=torch.float64).sum(0)
        for side, found in enumerate(zip(*pairs, strict=True)):
            for kept in found:
                sums[side] += torch.bincount((kept // (grid.h * grid.w)).flatten().cpu(), minlength=grid.t)
        drawn += len(pairs) * len(clips.key)
    share = (sums / (drawn * grid.h * grid.w)).tolist()
    context, target = (ids / draws).tolist()
    return Counts(size, context, target, *share), flops / draws, statistics.median(seconds)


def _shown(module: PretrainModule, batch: ClipBatch | Both) -> ClipBatch | Both:
    """A batch as the training sees it, on the device of the module."""
    device = module.device
    parts = [p._replace(clip=p.clip.to(device), event=p.event.to(device)) for p in _parts(batch)]
    return module.on_after_batch_transfer(Both(*parts) if len(parts) == 2 else parts[0], 0)


def _timed(module: PretrainModule, steps: int) -> float:
    """Median time of a forward and a backward pass with their masks, after one that is not counted."""
    device, config = module.device, module.config
    seen = _shown(module, next(_batches(config, config.data.batch, 1)))
    seconds = []
    for i in range(steps + 1):
        start = _now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
            loss = module.training_step(seen, i)
        loss.backward()
        seconds.append(_now(device) - start)
    return statistics.median(seconds[1:]) * config.trainer.accumulate


def _parts(batch: ClipBatch | Both) -> list[ClipBatch]:
    return [*batch] if isinstance(batch, Both) else [batch]


def _now(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, where other work may run, and of the clock beside a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() if device.type != "cpu" else time.process_time()
