"""Checkpoints: written aside and renamed, opened without running code, checked before they are used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.config import PretrainConfig


class AtomicIO(TorchCheckpointIO):
    """A file under its final name is whole: it is written beside it, flushed to disk and renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read(Path(path))


class Start(NamedTuple):
    """Where a run begins."""

    step: int = 0
    resume: Path | None = None
    "checkpoint that Lightning restores everything from"
    weights: dict[str, Tensor] | None = None
    "weights to load before the first step"
    text: str = "from scratch"


def read(path: Path) -> dict[str, Any]:
    """Open a checkpoint of ours; memory-mapped, no code is run.

    Raises:
        ValueError: damaged, not a checkpoint, or it would need to run code to be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: cannot be read as a checkpoint: {first[:200]}") from None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "global_step" not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint of a run (no state_dict and global_step in it)")
    return checkpoint


def resume_from(path: Path, config: PretrainConfig) -> Start:
    """Go on with a run from its checkpoint.

    Raises:
        ValueError: unreadable, or the weights do not fit the model.
    """
    checkpoint = read(path)
    check_fit(path, checkpoint["state_dict"], config)
    step = int(checkpoint["global_step"])
    return Start(step=step, resume=path, text=f"resumed from {path} at step {step}")


def weights_from(path: Path, config: PretrainConfig) -> Start:
    """Start a new run from the weights of another, at step 0."""
    checkpoint = read(path)
    check_fit(path, checkpoint["state_dict"], config)
    return Start(weights=checkpoint["state_dict"], text=f"weights of {path} (step {checkpoint['global_step']})")


def restart_from(path: Path, config: PretrainConfig, run: Path) -> Start:
    """Start a new run from the weights and the optimizer of another, at step 0 (the released cooldown).

    The progress of the old run is taken out of a copy in the new folder, which every strategy can then resume from;
    the copy is deleted at the first checkpoint.
    """
    checkpoint = read(path)
    check_fit(path, checkpoint["state_dict"], config)
    if not checkpoint.get("optimizer_states"):
        raise ValueError(f"{path}: holds no optimizer; use init.load=weights")
    stripped = run / "init.ckpt"
    if dist.is_main_process():
        keep = ("state_dict", "optimizer_states", "lr_schedulers", "pytorch-lightning_version", "config")
        fresh = {name: checkpoint[name] for name in keep if name in checkpoint}
        AtomicIO().save_checkpoint({**fresh, "epoch": 0, "global_step": 0, "callbacks": {}}, stripped)
    return Start(resume=stripped, text=f"weights and optimizer of {path} (step {checkpoint['global_step']})")


def recount_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Make the progress of a checkpoint, in place, that of a run with ``accumulate`` micro-batches per step.

    Steps and samples stay as they are. Without this a run that goes on with fewer micro-batches per step (more
    devices, say) would already be past the end of its stream.
    """
    if "loops" not in checkpoint:
        return
    fit = checkpoint["loops"]["fit_loop"]
    progress = fit["epoch_loop.batch_progress"]
    more = checkpoint["global_step"] * accumulate - progress["current"]["ready"]
    for part in ("total", "current"):
        progress[part] = {name: count + more for name, count in progress[part].items()}
    for state in fit["state_dict"]["combined_loader"]:
        state["batches_seen"] += more


def load_weights(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy checked weights into a module that is not yet sharded."""
    module.load_state_dict(dict(weights))


def check_fit(path: Path, weights: Mapping[str, Tensor], config: PretrainConfig) -> None:
    """Compare names and shapes of ``weights`` with those of the model of ``config``.

    Raises:
        ValueError: they differ; the message lists the first differences and the sizes of both.
    """
    from vjepa_lab.jepa import build_jepa

    with torch.device("meta"):
        expected = {f"jepa.{name}": tuple(p.shape) for name, p in build_jepa(config).state_dict().items()}
    got = {name: tuple(p.shape) for name, p in weights.items()}
    if got == expected:
        return
    differences = [
        f"{name}: the file has {got.get(name, 'nothing')}, the model {expected.get(name, 'nothing')}"
        for name in sorted(got.keys() | expected.keys())
        if got.get(name) != expected.get(name)
    ]
    shown = "\n  ".join(differences[:4])
    more = f"\n  and {len(differences) - 4} more" if len(differences) > 4 else ""
    size = config.encoder.resolved()
    raise ValueError(
        f"{path}: its weights do not fit this model (encoder {config.encoder.size}: width {size.width}, depth "
        f"{size.depth}, patch {config.encoder.patch}; predictor width {config.predictor.width}, depth "
        f"{config.predictor.depth}):\n  {shown}{more}\nset encoder and predictor as in the run that wrote it, "
        "or give another run.dir"
    )
