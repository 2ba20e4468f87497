"""Arithmetic of a training step by formula, and what the device could do at best.

Counted: the matrix products of embedding, attention and MLP; a multiply-add is two operations; a backward pass is two
forward passes. Recomputation (activation checkpointing) is not counted: MFU is about useful work.
"""

from __future__ import annotations

import time

import torch

from vjepa_lab.batch import Grid
from vjepa_lab.config import PretrainConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.nn.linear import linear

# Dense bf16 tensor-core peaks in TFLOP/s, from the makers' data sheets; fp32 is measured instead.
_BF16_PEAKS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}


def blocks_flops(tokens: int, *, width: int, depth: int, mlp: int) -> float:
    """Forward operations of ``depth`` transformer blocks on one sequence of ``tokens``."""
    linear = 2 * tokens * (4 * width * width + 2 * width * mlp)
    attention = 4 * tokens * tokens * width
    return float(depth * (linear + attention))


def step_flops_per_clip(config: PretrainConfig, grid: Grid, pairs: list[tuple[int, int]]) -> float:
    """Operations per clip (or image) of one training step, for (context ids, target ids) counts of each mask."""
    size, predictor = config.encoder.resolved(), config.predictor
    wide, width = size.width * predictor.levels, predictor.width
    learns = config.inverse.weight is None or config.inverse.native > 0
    encoder_passes = 1 + 2 * learns * _learning_share(config)
    total = encode_flops(config, grid.n)
    for context, target in pairs:
        tokens = context + target
        enter = context * (wide * width if predictor.levels == 1 else wide * size.width + size.width * width)
        if config.encoder.family == "vjepa2.1":  # predicts at all tokens
            leave, last = tokens * wide * width, blocks_flops(tokens, width=width, depth=1, mlp=4 * width)
        else:  # of the last block only what the targets need: keys and values of all tokens, the rest at the targets
            leave = target * wide * width
            last = 2 * tokens * 2 * width**2 + 2 * target * 10 * width**2 + 4 * target * tokens * width
        inner = blocks_flops(tokens, width=width, depth=predictor.depth - 1, mlp=4 * width)
        total += encoder_passes * encode_flops(config, context)
        total += (3 if learns else 1) * (2.0 * (enter + leave) + inner + last)
    return total


def encode_flops(config: PretrainConfig, tokens: int) -> float:
    """Forward operations of the encoder on one sequence of ``tokens``."""
    size = config.encoder.resolved()
    embed = 2.0 * tokens * 3 * config.encoder.tubelet * config.encoder.patch**2 * size.width
    return embed + blocks_flops(tokens, width=size.width, depth=size.depth, mlp=size.mlp)


def inverse_flops_per_clip(config: PretrainConfig) -> float:
    """Operations per clip that action supervision adds to a training step: two frames, each encoded by itself or both
    as one tubelet, of the share of the clips that takes part."""
    tokens = (config.encoder.crop // config.encoder.patch) ** 2
    encodings = 1 if config.inverse.pair == "clip" else 2
    return config.inverse.budget * encodings * (1 + 2 * _learning_share(config)) * encode_flops(config, tokens)


def _learning_share(config: PretrainConfig) -> float:
    """Of the encoder's blocks, how many have a backward pass."""
    last = config.inverse.unfreeze_last if config.inverse.weight is not None else None
    depth = config.encoder.resolved().depth
    return 1.0 if last is None else last / depth


def world_flops_per_stretch(config: PosttrainConfig) -> float:
    """Operations per stretch of one post-training step: every frame through the encoder, the predictor trained once
    over all frames and once more per further step of the rollout. Causal attention counts as half of the full one."""
    size, predictor, frames = config.encoder.resolved(), config.predictor, config.data.frames
    tokens = (config.crop // config.encoder.patch) ** 2
    pixels = 3 * config.encoder.tubelet * config.encoder.patch**2
    encode = 2.0 * tokens * pixels * size.width
    encode += blocks_flops(tokens, width=size.width, depth=size.depth, mlp=size.mlp)
    per_frame = tokens + 2 + predictor.extrinsics
    passes = frames - 1 + max(config.world.steps - 1, 0)
    linear = blocks_flops(1, width=predictor.width, depth=predictor.depth, mlp=4 * predictor.width)
    predict = passes * (per_frame * linear + 4.0 * tokens * size.width * predictor.width)
    predict += predictor.depth * 2.0 * ((frames - 1) * per_frame) ** 2 * predictor.width
    return 3 * predict + (frames * encode if config.cache.dir is None else 0)


def peak_flops(device: torch.device, precision: str) -> float:
    """Operations per second that the device could do at best: the data sheet for known GPUs in bf16, else measured
    on a matrix product."""
    if device.type == "cuda" and precision == "bf16-mixed":
        name = torch.cuda.get_device_name(device)
        for known, tera in _BF16_PEAKS.items():
            if known in name:
                return tera * 1e12
    return _measured(device, torch.bfloat16 if precision == "bf16-mixed" and device.type == "cuda" else torch.float32)


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    n = 4096 if device.type == "cuda" else 768
    a = torch.ones(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        linear(a, a)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
