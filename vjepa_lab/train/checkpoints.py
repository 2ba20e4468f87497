"""Checkpoints: written aside and renamed, opened without running code. What a run begins from is in ``starts.py``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from vjepa_lab.weights.files import open_pickle


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
    weights: Mapping[str, Mapping[str, Tensor]] | None = None
    "to load before the first step, by network: context, target and perhaps predictor"
    text: str = "from scratch"


def read(path: Path) -> dict[str, Any]:
    """Open a checkpoint of ours; memory-mapped, no code is run.

    Raises:
        ValueError: damaged, not a checkpoint, or it would need to run code to be read.
    """
    checkpoint = open_pickle(path)
    if "state_dict" not in checkpoint or "global_step" not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint of a run (no state_dict and global_step in it)")
    return checkpoint


def keep(path: Path, kept: Path) -> None:
    """Give a checkpoint a second name, under which it stays when a later one takes the first."""
    kept.unlink(missing_ok=True)
    try:
        os.link(path, kept)  # a later one is a new file, so this one stays as it is
    except OSError:  # a file system without links
        shutil.copyfile(path, kept)


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


def load_weights(jepa: torch.nn.Module, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy the checked weights of some networks into a model that is not yet sharded."""
    for name, tensors in weights.items():
        getattr(jepa, name).load_state_dict(tensors)
