"""A run from its configuration: folder, resume ladder, loggers, Trainer, fit, summary.

The resume ladder, first case that holds:
1. ``run.resume: auto``, or a job that SLURM has requeued, and the folder holds ``last.ckpt``: go on from it, in the
   middle of the data.
2. ``run.resume`` is a path: go on from that checkpoint.
3. ``init.checkpoint`` with ``init.load: weights+optimizer``: its weights and optimizer, step 0 (cooldown).
4. ``init.checkpoint`` with ``init.load: weights``: its weights alone, step 0. ``init.load: auto`` is 3 or 4, whichever
   the file allows.
5. From scratch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vjepa_lab import dist, robots
from vjepa_lab.config import PretrainConfig
from vjepa_lab.data.action_clips import ActionClips
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.loader import Augment, Loader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.streams import Look
from vjepa_lab.registry import PROBES, SOURCES
from vjepa_lab.train import callbacks, checkpoints, folder, inverse, picture, starts
from vjepa_lab.train.collapse import Watch
from vjepa_lab.train.fit import fit, is_finished, prepare
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.validate import goes_on_from


def pretrain(config: PretrainConfig) -> int:
    """Run a pretraining; returns the exit code (0; 75 when a signal stopped it at a checkpoint, 3 when the watch did).

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    place = prepare(config)
    start = _start(config, place.run)
    if is_finished(config, place, start):
        return 0
    loader = training_loader(config, Skips(place.run), pin_memory=place.kind == "cuda")
    module = PretrainModule(config) if config.inverse.weight is None else inverse.module_of(config, loader)
    if start.weights is not None:
        checkpoints.load_weights(module.jepa, start.weights)
    probes = [PROBES.build(e) for e in config.probes]
    return fit(
        config,
        module,
        loader,
        verb="pretrain",
        place=place,
        start=start,
        headline=lambda processes: folder.headline(config, module, processes=processes, start=start),
        measure=lambda record: callbacks.Probes(probes, look(config), record),
        draw=lambda: picture.draw(config, loader, place.run),
        watch=Watch(config.watch, place.run) if config.watch.every else None,
    )


def training_loader(config: PretrainConfig, skips: Skips, *, pin_memory: bool = False) -> Loader | PairedLoader:
    """The stream of a run: its sources, opened and mixed; with ``images.sources``, one of images beside it."""
    data, transform, images = config.data, config.transform, config.images

    def stream(
        sources: list[dict[str, Any]], batch: int, frames: int, crop: int, seed: int, acting: bool = False
    ) -> Loader:
        built = [SOURCES.build(entry) for entry in sources]
        spec = _spec(config, frames=frames, crop=crop, random=True)
        episodes = acting and bool(config.inverse.robot)
        return Loader(
            [ActionClips(source.open(_stretch(config))) if episodes else source.open(spec) for source in built],
            [source.weight for source in built],
            batch=batch,
            batches=config.optim.steps * config.trainer.accumulate,
            seed=seed,
            augment=Augment(
                size=(crop, crop),
                scale=transform.scale,
                aspect=transform.aspect,
                flip=transform.flip,
                antialias=transform.antialias,
            ),
            skips=skips,
            workers=data.workers,
            pin_memory=pin_memory,
            truth=acting,
        )

    encoder, seed = config.encoder, config.run.seed
    acting = config.inverse.weight is not None
    clips = stream(data.sources, data.batch, encoder.frames, encoder.crop, seed, acting)
    if not images.sources:
        return clips
    crop = images.crop or encoder.crop
    return PairedLoader(clips, stream(images.sources, images.batch, 1, crop, dist.derive(seed, "images")))


def look(config: PretrainConfig) -> Look:
    """What the streams of this run's probes are read with."""
    data, encoder = config.data, config.encoder
    return Look(
        frames=encoder.frames,
        crop=encoder.crop,
        fps=data.fps,
        stride=data.stride,
        decoder=data.decoder,
        threads=data.threads,
        timeout=data.timeout,
        min_frames=data.min_frames,
    )


def _spec(config: PretrainConfig, *, frames: int, crop: int, random: bool = False) -> ClipSpec:
    data = config.data
    return ClipSpec(
        frames=frames,
        height=crop,
        width=crop,
        fps=data.fps,
        stride=data.stride,
        random=random,
        decoder=data.decoder,
        threads=data.threads,
        timeout=data.timeout,
        min_frames=min(data.min_frames, frames),
    )


def _stretch(config: PretrainConfig) -> RobotSpec:
    """What is read of a robot's episode, where actions supervise."""
    data, transform, crop = config.data, config.transform, config.encoder.crop
    return RobotSpec(
        frames=config.encoder.frames,
        height=crop,
        width=crop,
        fps=data.fps,
        robot=robots.of(config.inverse.robot),
        crop="random",
        scale=transform.scale,
        aspect=transform.aspect,
        antialias=transform.antialias,
        decoder=data.decoder,
        threads=data.threads,
        timeout=data.timeout,
    )


def _start(config: PretrainConfig, run: Path) -> checkpoints.Start:
    earlier = goes_on_from(config.run)
    if earlier is not None:
        return starts.resume_from(earlier, config)
    if config.init.checkpoint is None:
        return checkpoints.Start()
    return starts.start_from(config, run)
