"""The folder of a run: what is written before the first step, its rows of numbers, and the words at start and end."""

from __future__ import annotations

import csv
import json
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from vjepa_lab import dist
from vjepa_lab.config import PretrainConfig
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.merge import to_yaml


def open_run(config: Any) -> Path:
    """Make the folder; write ``config.yaml`` (resolved), and ``run.jsonl``: argv, commit and versions of every start.

    Only the main process writes. An earlier, different ``config.yaml`` is kept as ``config.<n>.yaml``.
    """
    run = Path(config.run.dir)
    run.mkdir(parents=True, exist_ok=True)
    if dist.is_main_process():
        path, text = run / "config.yaml", to_yaml(config)
        if path.is_file() and path.read_text() != text:
            path.rename(run / f"config.{len(list(run.glob('config.*.yaml'))) + 1}.yaml")
        path.write_text(text)
        with (run / "run.jsonl").open("a") as file:
            file.write(json.dumps(_provenance()) + "\n")
    return run


def _provenance() -> dict[str, Any]:
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {
        "argv": shlex.join(sys.argv),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items())),
    }


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``-dirty`` for local changes; None elsewhere."""
    here = Path(__file__).parent
    tracked = ["ls-files", "--error-unmatch", Path(__file__).name]  # a checkout around the environment is not ours
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (tracked, describe):
            done = subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Csv(CSVLogger):
    """``metrics.csv`` in the run folder. A resumed run keeps its rows up to ``keep_until`` and goes on below them."""

    def __init__(self, run: Path, *, keep_until: int) -> None:
        super().__init__(run, name="", version="", flush_logs_every_n_steps=1)
        rows = read_metrics(run) if dist.is_main_process() else []
        self._kept = [row for row in rows if row["step"] <= keep_until]

    @property
    def experiment(self) -> Any:
        first = self._experiment is None
        writer = super().experiment
        if first and self._kept:
            writer.metrics.extend(self._kept)
            writer.save()
        return writer


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv`` without their empty cells; a last row that a kill cut short is left out."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="") as file:
        for raw in csv.DictReader(file):
            try:
                row = {k: float(v) for k, v in raw.items() if v}
            except (TypeError, ValueError):
                continue
            if "step" in row:
                rows.append(row)
    return rows


def headline(config: PretrainConfig, module: Any, *, processes: int, start: Any) -> str:
    """What is about to run, in a few lines."""
    encoder, size = config.encoder, config.encoder.resolved()
    jepa = module.jepa
    millions = {n: sum(p.numel() for p in getattr(jepa, n).parameters()) / 1e6 for n in ("context", "predictor")}
    batch = config.data.batch * processes * config.trainer.accumulate
    sources = ", ".join(f"{s['name']} x{s.get('weight', 1.0):g}" for s in config.data.sources)
    inverse, actions = config.inverse, []
    if inverse.weight is not None:
        last = f"the last {inverse.unfreeze_last}" if inverse.unfreeze_last is not None else "all"
        actions = [
            f"actions  {inverse.native:g} x masked prediction + {inverse.weight:g} x inverse dynamics, of a share of "
            f"{inverse.budget:g}; {last} of {size.depth} blocks learn"
        ]
    return "\n".join(
        [
            f"run      {config.run.dir} ({start.text})",
            f"encoder  {encoder.size} {millions['context']:.2f} M: width {size.width}, depth {size.depth}, heads "
            f"{size.heads}; predictor {millions['predictor']:.2f} M",
            f"clips    {encoder.frames} x {encoder.crop} x {encoder.crop}, grid {'x'.join(map(str, module.grid))} = "
            f"{module.grid.n} tokens; sources {sources}",
            *actions,
            f"steps    {config.optim.steps} of {batch} clips on {processes} process(es), {config.trainer.precision}",
        ]
    )


def headline_world(config: PosttrainConfig, module: Any, *, processes: int, start: Any) -> str:
    """What is about to run, in a few lines."""
    world, data = module.world, config.data
    millions = {n: sum(p.numel() for p in getattr(world, n).parameters()) / 1e6 for n in ("encoder", "predictor")}
    batch = data.batch * processes * config.trainer.accumulate
    sources = ", ".join(f"{s['name']} x{s.get('weight', 1.0):g}" for s in data.sources)
    return "\n".join(
        [
            f"run      {config.run.dir} ({start.text})",
            f"world    frozen encoder {millions['encoder']:.2f} M, AC predictor {millions['predictor']:.2f} M; robot "
            f"{world.robot.name}: {world.robot.state_dim} numbers of state, {world.robot.action_dim} of action",
            f"frames   {data.frames} x {config.crop} x {config.crop}, {module.grid[0]} x {module.grid[1]} tokens each; "
            f"sources {sources}",
            f"steps    {config.optim.steps} of {batch} stretches on {processes} process(es), "
            f"{config.trainer.precision}",
        ]
    )


def summary(run: Path, step: int, measured: Any, picture: Path | None, skipped: str) -> str:
    """What has come out, in a few lines."""
    rows = read_metrics(run)
    losses = [row["loss"] for row in rows if "loss" in row]
    rate = [row["clips/s"] for row in rows if "clips/s" in row]
    ranks = [row["rankme"] for row in rows if "rankme" in row]
    lines = [f"finished step {step}"]
    if losses:
        lines.append(f"  loss        {losses[0]:.4f} -> {losses[-1]:.4f} ({sum(rate) / len(rate):.1f} clips/s)")
    if ranks:
        lines.append(f"  RankMe      {ranks[0]:.1f} -> {ranks[-1]:.1f}")
    for name, value in measured.latest.items():
        lines.append(f"  {name:<18} {measured.untrained[name]:.3f} untrained -> {value:.3f}")
    lines.append("  " + skipped.replace("\n", "\n  "))
    lines.append(f"  folder      {run}" + (f", picture {picture}" if picture else ""))
    return "\n".join(lines)
