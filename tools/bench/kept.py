"""Time steps of a post-training with kept features beside steps that compute them.

    python tools/bench/kept.py configs/posttrain/sim-quick.yaml init.encoder=runs/sim-encoder/last.ckpt

Both have equal weights and stretches, their own loader with the workers of the configuration, and take turns in one
process; what counts is the ratio within each round. Their losses are compared at every step. Features are kept in a
folder of this measurement alone, and what it takes to compute them is told beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from step import machine

from vjepa_lab.batch import RobotBatch
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.loader import Loader, Reader
from vjepa_lab.data.skips import Skips
from vjepa_lab.merge import load
from vjepa_lab.registry import SOURCES
from vjepa_lab.train.cache import Keep, kept_readers
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.train.posttrain import open_readers
from vjepa_lab.train.world_starts import start_from


class Training:
    """A post-training that can be taken some steps further."""

    def __init__(self, config: PosttrainConfig, module: PosttrainModule, readers: list[Reader[Any]], run: Path) -> None:
        weights = [SOURCES.build(entry).weight for entry in config.data.sources]
        loader: Loader[Any] = Loader(
            readers,
            weights,
            batch=config.data.batch,
            batches=10**9,
            seed=config.run.seed,
            skips=Skips(run),
            workers=config.data.workers,
        )
        self.module = module
        self.batches: Iterator[RobotBatch] = iter(loader)
        self.optimizer = torch.optim.AdamW([p for p in module.world.parameters() if p.requires_grad], lr=1e-3)

    def steps(self, count: int) -> tuple[float, list[float]]:
        """Seconds and losses of some steps."""
        start, losses = time.perf_counter(), []
        for _ in range(count):
            batch = self.module.on_before_batch_transfer(next(self.batches), 0)
            batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
            loss = self.module.training_step(self.module.on_after_batch_transfer(batch, 0), 0)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return time.perf_counter() - start, losses


def trainings(config: PosttrainConfig, device: torch.device, folder: Path) -> tuple[dict[str, Training], float, float]:
    """The same post-training without and with kept features, the seconds that these took and their size in bytes."""
    _, loaded = start_from(config)
    assert loaded.encoder is not None
    config.encoder = loaded.config.encoder
    found, seconds, size = {}, 0.0, 0.0
    for name in ("computed", "kept"):
        config.cache.dir = str(folder / "features") if name == "kept" else None
        module = PosttrainModule(config)
        module.world.encoder.load_state_dict(loaded.encoder.state_dict())
        module.to(device)
        readers: list[Any] = open_readers(config, config.data.sources, random=True)
        if name == "kept":
            readers = kept_readers(config, readers, module.world.encoder)
            start = time.perf_counter()
            Keep(config, readers).compute(module.world, device)
            seconds = time.perf_counter() - start
            size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        found[name] = Training(config, module, readers, folder)
    return found, seconds, size


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measure what ``argv`` asks for, print it, and give it back as numbers."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load(PosttrainConfig, [args.config], args.overrides)
    print(f"torch {torch.__version__}, {machine(device)}, threads {args.threads}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        both, seconds, size = trainings(config, device, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in both}
        gap = 0.0
        for i in range(args.rounds + 1):
            losses = {}
            for name in list(both) if i % 2 == 0 else list(both)[::-1]:
                taken, losses[name] = both[name].steps(args.steps)
                if i:  # the first round warms up
                    times[name].append(taken / args.steps)
            gap = max([gap, *(abs(a - b) for a, b in zip(*losses.values(), strict=True))])
    ratios = [a / b for a, b in zip(times["computed"], times["kept"], strict=True)]
    result = {
        "ms": {name: 1000 * statistics.median(taken) for name, taken in times.items()},
        "times": (min(ratios), statistics.median(ratios), max(ratios)),
        "gap": gap,
        "seconds": seconds,
        "megabytes": size / 1e6,
    }
    rates = ", ".join(f"{name} {ms:.0f} ms/step" for name, ms in result["ms"].items())
    print(
        f"{rates}; computed / kept {' '.join(f'{x:.2f}' for x in result['times'])} (min median max of rounds); largest "
        f"gap of losses {gap:.1e}; features computed in {seconds:.0f} s, {result['megabytes']:.0f} MB"
    )
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time steps of a post-training with kept features beside steps that compute them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML of a post-training")
    parser.add_argument("overrides", nargs="*", help="key=value, as on the command line of posttrain")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each")
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    return parser


if __name__ == "__main__":
    main()
