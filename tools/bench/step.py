# /// script
# dependencies = ["vjepa_lab"]
# ///
"""Time one training step, beside a plain implementation of the same step.

    python tools/bench/step.py cpu-small --threads 2
    python tools/bench/step.py vitl-256 --compile both

A step is: sampled masks and a normalised clip in; forward, backward, AdamW and the moving average done. Both
implementations start from the same weights, get the same clips and masks, and take turns in one process, so that
whatever else the machine does touches both alike; what counts is the ratio within each pair. Their losses are compared
at every step, all of which train. Peak memory is that of a process which runs one implementation alone.

The plain implementation is described in ``plain_step.py``, results and how they were got in ``RESULTS.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import plain_step
import torch
from torch import Tensor

from vjepa_lab import dist, masks
from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.config import PretrainConfig, TrainerConfig
from vjepa_lab.jepa import JEPA, build_jepa
from vjepa_lab.merge import load
from vjepa_lab.registry import MASKS
from vjepa_lab.train.flops import peak_flops, step_flops_per_clip
from vjepa_lab.train.optim import build_optimizer
from vjepa_lab.train.strategy import parallelise

ROOT = Path(__file__).parents[2]
GIB = 2**30
Step = Callable[[Tensor, list[MaskPair]], Tensor]


class Preset(NamedTuple):
    """A configuration file (or none) and what is changed in it; all presets use the released rotary layout."""

    files: list[str]
    changes: list[str]
    needs_gpu: bool


NAMES = ["plain", "recomputing", "ours", "compiled"]
_FULL = ["trainer.checkpoint_activations=false", "keep=random"]
PRESETS = {
    "cpu-small": Preset([], ["encoder.size=tiny", "encoder.crop=128", "data.batch=4"], False),
    "quickstart": Preset(["configs/quickstart.yaml"], [], False),
    "vitl-256": Preset(["configs/pretrain/vitl16-256-16f.yaml"], _FULL, True),
    "vitg-256": Preset(["configs/pretrain/vitg16-256-16f.yaml"], _FULL, True),
}


@dataclass
class Timing:
    """What one implementation did, step by step."""

    seconds: list[float]
    processor: list[float]
    "processor time of all threads"
    losses: list[float]


def configuration(preset: Preset) -> PretrainConfig:
    """The configuration of a preset."""
    return load(PretrainConfig, [ROOT / f for f in preset.files], [*preset.changes, "encoder.rope=released"])


class Inputs:
    """Clips and masks of a configuration, functions of the step."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        encoder = config.encoder
        self.config, self.device = config, device
        self.grid = Grid.of(encoder.frames, encoder.crop, encoder.crop, tubelet=encoder.tubelet, patch=encoder.patch)
        self.strategies = [MASKS.build(entry) for entry in config.masks]

    def __call__(self, step: int) -> tuple[Tensor, list[MaskPair]]:
        """A clip (B, 3, F, H, W) of noise and its masks."""
        batch, encoder = self.config.data.batch, self.config.encoder
        noise = torch.Generator().manual_seed(step)
        clip = torch.randn(batch, 3, encoder.frames, encoder.crop, encoder.crop, generator=noise)
        rng = dist.rng(0, step, batch=batch, device=self.device)
        return clip.to(self.device), masks.sample(self.strategies, self.grid, rng, keep=self.config.keep)  # type: ignore[arg-type]


def our_step(config: PretrainConfig, jepa: JEPA, *, compile: bool = False) -> Step:
    """A step as ``vjepa-lab pretrain`` does it, without its loader, logging and Trainer."""
    parallelise(jepa, TrainerConfig(compile=compile))
    optimizer = build_optimizer(jepa, lr=config.optim.start_lr, weight_decay=config.optim.weight_decay)
    bf16 = config.trainer.precision == "bf16-mixed"

    def step(clip: Tensor, pairs: list[MaskPair]) -> Tensor:
        with torch.autocast(clip.device.type, torch.bfloat16, enabled=bf16):
            loss = jepa(clip, pairs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        jepa.update_target(config.ema.start)
        return loss.detach()

    return step


def the_plain_step(config: PretrainConfig, jepa: JEPA, grid: Grid, *, recompute: bool = False) -> Step:
    """The plain step with the weights that ``jepa`` has now."""
    size = config.encoder.resolved()
    context = plain_step.PlainEncoder(
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        hidden=size.mlp,
        patch=config.encoder.patch,
        tubelet=config.encoder.tubelet,
    )
    predictor = plain_step.PlainPredictor(
        encoder_width=size.width,
        width=config.predictor.width,
        depth=config.predictor.depth,
        heads=config.predictor.heads,
        mask_tokens=config.predictor.mask_tokens,
        grid=grid,
    )
    context.load_state_dict(jepa.context.state_dict())
    predictor.load_state_dict(jepa.predictor.state_dict())
    device = next(jepa.parameters()).device
    return plain_step.PlainStep(
        context=context.to(device),
        predictor=predictor.to(device),
        lr=config.optim.start_lr,
        weight_decay=config.optim.weight_decay,
        momentum=config.ema.start,
        power=config.loss.power,
        bf16=config.trainer.precision == "bf16-mixed",
        recompute=recompute,
    )


def build(config: PretrainConfig, names: list[str], device: torch.device) -> dict[str, Step]:
    """The steps called ``names`` (some of ``NAMES``), all from the same weights."""
    grid = Inputs(config, device).grid
    steps: dict[str, Step] = {}
    for name in names:
        torch.manual_seed(0)
        jepa = build_jepa(config).to(device).train()
        if name in ("plain", "recomputing"):
            steps[name] = the_plain_step(config, jepa, grid, recompute=name == "recomputing")
        else:
            steps[name] = our_step(config, jepa, compile=name == "compiled")
    return steps


def interleave(
    steps: dict[str, Step],
    inputs: Callable[[int], tuple[Tensor, list[MaskPair]]],
    device: torch.device,
    *,
    warmup: int,
    rounds: int,
) -> dict[str, Timing]:
    """Let the steps take turns, first in order and then backwards; those of ``warmup`` rounds are not timed."""
    timings = {name: Timing([], [], []) for name in steps}
    for i in range(warmup + rounds):
        clip, pairs = inputs(i)
        names = list(steps) if i % 2 == 0 else list(steps)[::-1]
        for name in names:
            _wait(device)
            wall, processor = time.perf_counter(), time.process_time()
            loss = steps[name](clip, pairs)
            _wait(device)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            timings[name].losses.append(loss.item())
            if i >= warmup:
                timings[name].seconds.append(wall)
                timings[name].processor.append(processor)
    return timings


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(name: str, implementation: str, threads: int) -> int:
    """Bytes that a process of its own takes at most for two steps of one implementation."""
    command = [sys.executable, __file__, name, "--memory-of", implementation, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _own_peak(config: PretrainConfig, implementation: str, device: torch.device) -> int:
    interleave(build(config, [implementation], device), Inputs(config, device), device, warmup=2, rounds=0)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent process had at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure one preset and print it; the same as numbers."""
    config = configuration(PRESETS[name])
    names = ["plain", *(["recomputing"] if args.recomputing else [])]
    names += {"off": ["ours"], "on": ["compiled"], "both": ["ours", "compiled"]}[args.compile]
    inputs = Inputs(config, device)
    timings = interleave(build(config, names, device), inputs, device, warmup=args.warmup, rounds=args.pairs)
    operations = [
        step_flops_per_clip(config, inputs.grid, [(p.context.shape[1], p.target.shape[1]) for p in inputs(i)[1]])
        for i in range(args.warmup, args.warmup + args.pairs)
    ]
    peak = peak_flops(device, config.trainer.precision)

    result: dict[str, Any] = {"preset": name, "peak_tflops": peak / 1e12, "implementations": {}}
    print(
        f"\n{name}: batch {config.data.batch}, grid {tuple(inputs.grid)}, {config.trainer.precision}, "
        f"peak {peak / 1e12:.3f} TFLOP/s; 'times' is plain / this, wall (and processor) time, min median max of pairs"
    )
    print(f"{'':12}{'ms/step':>9}{'clips/s':>9}{'tokens/s':>10}{'MFU':>7}{'GiB':>7}{'loss gap':>10}   times")
    for one in names:
        timing, plain = timings[one], timings["plain"]
        median = statistics.median(timing.seconds)
        clips = config.data.batch / median
        useful = [n * config.data.batch / s / peak for n, s in zip(operations, timing.seconds, strict=True)]
        row = {
            "ms": 1e3 * median,
            "clips_per_s": clips,
            "tokens_per_s": clips * inputs.grid.n,
            "mfu": statistics.median(useful),
            "peak_gib": peak_memory(name, one, args.threads) / GIB,
            "loss_gap": max(abs(a - b) for a, b in zip(timing.losses, plain.losses, strict=True)),
            "times_wall": _spread(plain.seconds, timing.seconds),
            "times_processor": _spread(plain.processor, timing.processor),
        }
        result["implementations"][one] = row
        wall, processor = (" ".join(f"{x:.2f}" for x in row[key]) for key in ("times_wall", "times_processor"))
        print(
            f"{one:12}{row['ms']:9.1f}{clips:9.2f}{row['tokens_per_s']:10.0f}{row['mfu']:7.1%}"
            f"{row['peak_gib']:7.2f}{row['loss_gap']:10.1e}   {wall} ({processor})",
            flush=True,
        )
    return result


def _spread(plain: list[float], ours: list[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.memory_of:
        print(_own_peak(configuration(PRESETS[args.presets[0]]), args.memory_of, device))
        return
    facts = {"torch": torch.__version__, "device": machine(device), "threads": args.threads, "load": os.getloadavg()[0]}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    results = []
    for name in args.presets:
        preset = PRESETS[name]
        if preset.needs_gpu and device.type != "cuda":
            print(f"\n{name}: skipped, torch sees no CUDA device")
        elif missing := [f for f in preset.files if not (ROOT / f).is_file()]:
            print(f"\n{name}: skipped, there is no {missing[0]}")
        else:
            results.append(run(name, args, device))
    if args.json:
        args.json.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


def _preset(text: str) -> str:
    if text not in PRESETS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PRESETS)}, got '{text}'")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time one training step beside a plain implementation of it, and compare their losses.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    known = ", ".join(PRESETS)
    parser.add_argument("presets", nargs="*", type=_preset, default=["cpu-small"], metavar="preset", help=known)
    parser.add_argument("--pairs", type=int, default=5, help="timed steps of each implementation")
    parser.add_argument("--warmup", type=int, default=1, help="steps before that; with --compile at least 5")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch on the CPU")
    parser.add_argument("--compile", choices=["off", "on", "both"], default="off", help="torch.compile our blocks")
    parser.add_argument(
        "--recomputing", action="store_true", help="also the plain step with activation checkpointing, as released"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
