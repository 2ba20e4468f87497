"""Post-training of a world model from its configuration: encoder, robot data, checks before the first step, fit.

The resume ladder, first case that holds:
1. ``run.resume: auto``, or a job that SLURM has requeued, and the folder holds ``last.ckpt``: go on from it, in the
   middle of the data. The encoder is in the checkpoint.
2. ``run.resume`` is a path: go on from that checkpoint.
3. ``init.encoder`` with ``init.predictor``: both begin from weights, at step 0.
4. ``init.encoder`` alone: the predictor begins from scratch.

Reference: V-JEPA 2 paper, section 3.1 and appendix; released file app/vjepa_droid/train.py.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from vjepa_lab import consistency, dist, robots
from vjepa_lab.batch import RobotSample
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.kept import KeptReader
from vjepa_lab.data.loader import Loader, Reader, sampled
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.skips import Skips
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import Robot, Statistics
from vjepa_lab.train import folder, picture
from vjepa_lab.train.cache import Keep, kept_readers
from vjepa_lab.train.fit import fit, is_finished, prepare
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.train.validation import Validation
from vjepa_lab.train.world_starts import fill_encoder, fill_predictor, read_predictor, resume_from, start_from
from vjepa_lab.validate import goes_on_from

log = logging.getLogger("vjepa_lab")


def posttrain(config: PosttrainConfig) -> int:
    """Run a post-training; returns the exit code (0, or 75 when a signal stopped it at a checkpoint).

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    last, loaded, predictor = goes_on_from(config.run), None, None
    if last is not None:
        start, config.encoder = resume_from(last, config)
    else:
        start, loaded = start_from(config)
        config.encoder = loaded.config.encoder
    if config.crop % config.encoder.patch:
        raise ValueError(f"crop: {config.crop} is not a multiple of the encoder's patch {config.encoder.patch}")
    if last is None and config.init.predictor is not None:
        predictor = read_predictor(config)
    place = prepare(config)
    if loaded is not None:
        log.info("%s", loaded.report)
    if is_finished(config, place, start):
        return 0
    skips = Skips(place.run)
    readers = open_readers(config, config.data.sources, random=True)
    statistics = None
    if last is None:
        statistics = _look(config, robots.of(config.world.robot), readers)
    module = PosttrainModule(config, statistics)
    if loaded is not None:
        assert loaded.encoder is not None
        module.world.encoder.load_state_dict(loaded.encoder.state_dict())
        loaded = None
    if predictor is not None:
        fill_predictor(module.world, predictor)
    kept: list[KeptReader] = []
    if config.cache.dir is not None:
        if start.resume is not None:
            fill_encoder(module.world, start.resume)
        kept = kept_readers(config, readers, module.world.encoder)
    loader = Loader(
        kept or readers,
        [SOURCES.build(entry).weight for entry in config.data.sources],
        batch=config.data.batch,
        batches=config.optim.steps * config.trainer.accumulate,
        seed=config.run.seed,
        skips=skips,
        workers=config.data.workers,
        pin_memory=place.kind == "cuda",
    )
    return fit(
        config,
        module,
        loader,
        verb="posttrain",
        place=place,
        start=start,
        headline=lambda processes: folder.headline_world(config, module, processes=processes, start=start),
        measure=lambda record: Validation(
            config.validation, lambda: open_readers(config, config.validation.sources), record
        ),
        draw=lambda: picture.draw_world(place.run),
        before=[Keep(config, kept)] if kept else [],
    )


def open_readers(
    config: PosttrainConfig, sources: list[dict[str, Any]], *, random: bool = False
) -> list[Reader[RobotSample]]:
    """Open robot sources for stretches of this run's size."""
    data = config.data
    spec = RobotSpec(
        frames=data.frames,
        height=config.crop,
        width=config.crop,
        fps=data.fps,
        robot=robots.of(config.world.robot),
        random=random,
        crop=data.crop if random or data.crop != "random" else "centre",
        scale=data.scale,
        aspect=data.aspect,
        decoder=data.decoder,
        threads=data.threads,
        timeout=data.timeout,
        extrinsics=config.predictor.extrinsics,
    )
    return [SOURCES.build(entry).open(spec) for entry in sources]


def _look(
    config: PosttrainConfig, robot: Robot, readers: list[Reader[RobotSample]]
) -> tuple[Statistics, Statistics] | None:
    """Look at some stretches before the first step: do they fit the robot's description, and what is their spread?

    Raises:
        ValueError: states and actions contradict the description; the message says how.
    """
    standardise = config.world.standardise
    count = max(config.data.check, 256 if standardise else 0)
    if count == 0:
        return None
    all_states, all_actions = [], []
    for reader in readers:
        found = sampled(reader, -(-count // len(readers)), key=dist.derive(config.run.seed, "look"))
        if not found:
            continue
        states, actions = torch.stack([s.states for s in found]), torch.stack([s.actions for s in found])
        if config.data.check:
            problems = consistency.check(robot, states, actions)
            if problems:
                listed = "\n  - ".join(problems)
                raise ValueError(
                    f"{reader.name}: states and actions do not fit robot '{robot.name}':\n  - {listed}\n"
                    "correct world.robot or the source; data.check=0 leaves this check out"
                )
        all_states.append(states)
        all_actions.append(actions)
    if not standardise:
        return None
    if sum(actions[..., 0].numel() for actions in all_actions) < 2:
        raise ValueError("world.standardise: no stretch of data.sources can be read, whose mean and deviation to take")
    return Statistics.of(torch.cat(all_states)), Statistics.of(torch.cat(all_actions))
