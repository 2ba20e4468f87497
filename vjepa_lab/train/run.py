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

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger

from vjepa_lab import dist
from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.loader import Augment, Loader, Reader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.data.skips import Skips
from vjepa_lab.registry import PROBES, SOURCES
from vjepa_lab.train import callbacks, checkpoints, folder, picture, starts, strategy
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.validate import launch_problem, requeued

log = logging.getLogger("vjepa_lab")


def pretrain(config: PretrainConfig) -> int:
    """Run a pretraining; returns the exit code (0, or 75 when a signal stopped it at a checkpoint).

    Raises:
        ValueError, OSError: what was asked cannot be done; the message says which field or file.
    """
    level = logging.INFO if dist.is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    _quiet()
    kind = strategy.device_kind(config.trainer)
    devices = strategy.device_count(config.trainer, kind)
    problem = launch_problem(devices, config.trainer.nodes)  # again, now that trainer.devices=0 is a number
    if problem is not None:
        raise ConfigError(problem)
    run = folder.open_run(config)
    start = _start(config, run)
    if start.step >= config.optim.steps:
        log.info(
            "%s is finished: step %d of optim.steps=%d. Raise optim.steps, or give another run.dir",
            run,
            start.step,
            config.optim.steps,
        )
        return 0

    skips = Skips(run)
    loader = training_loader(config, skips, pin_memory=kind == "cuda")
    module = PretrainModule(config)
    if start.weights is not None:
        checkpoints.load_weights(module.jepa, start.weights)
    record = callbacks.Record(loader, config.run.log_every)
    probes = callbacks.Probes([PROBES.build(e) for e in config.probes], lambda e: open_source(config, e), record)
    saver = callbacks.Checkpoints(
        run, save_every=config.run.save_every, keep_every=config.run.keep_every, record=record
    )
    signals = callbacks.Signals()
    bar = [callbacks.StepBar(refresh_rate=1 if sys.stdout.isatty() else 50)] if config.run.progress else []
    trainer = L.Trainer(
        accelerator=kind,
        devices=devices,
        num_nodes=config.trainer.nodes,
        strategy=strategy.trainer_strategy(config.trainer, accelerator=kind, processes=devices * config.trainer.nodes),
        precision={"fp32": "32-true", "bf16-mixed": "bf16-mixed"}[config.trainer.precision],  # type: ignore[arg-type]
        max_steps=config.optim.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.optim.clip,
        callbacks=[signals, record, probes, saver, *bar],
        logger=_loggers(config, run, start.step),
        plugins=_plugins(),
        enable_checkpointing=False,
        enable_progress_bar=config.run.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=config.run.log_every,
        default_root_dir=run,
    )
    log.info(folder.headline(config, module, processes=trainer.world_size, start=start))
    trainer.fit(module, loader, ckpt_path=start.resume, weights_only=True)
    return _finish(config, trainer, loader, signals, probes, saver, run)


def training_loader(config: PretrainConfig, skips: Skips, *, pin_memory: bool = False) -> Loader | PairedLoader:
    """The stream of a run: its sources, opened and mixed; with ``images.sources``, one of images beside it."""
    data, transform, images = config.data, config.transform, config.images

    def stream(sources: list[dict[str, Any]], batch: int, frames: int, crop: int, seed: int) -> Loader:
        built = [SOURCES.build(entry) for entry in sources]
        spec = _spec(config, frames=frames, crop=crop, random=True)
        return Loader(
            [source.open(spec) for source in built],
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
        )

    encoder, seed = config.encoder, config.run.seed
    clips = stream(data.sources, data.batch, encoder.frames, encoder.crop, seed)
    if not images.sources:
        return clips
    crop = images.crop or encoder.crop
    return PairedLoader(clips, stream(images.sources, images.batch, 1, crop, dist.derive(seed, "images")))


def open_source(config: PretrainConfig, entry: dict[str, Any]) -> Reader:
    """Open the source of a probe for clips of this run's size."""
    return SOURCES.build(entry).open(_spec(config, frames=config.encoder.frames, crop=config.encoder.crop))


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


def _start(config: PretrainConfig, run: Path) -> checkpoints.Start:
    last = run / "last.ckpt"
    if (config.run.resume == "auto" or requeued()) and last.is_file():
        return starts.resume_from(last, config)
    if config.run.resume not in ("auto", "never"):
        return starts.resume_from(Path(config.run.resume), config)
    if config.init.checkpoint is None:
        return checkpoints.Start()
    return starts.start_from(config, run)


def _loggers(config: PretrainConfig, run: Path, step: int) -> list[Logger]:
    loggers: list[Logger] = [folder.Csv(run, keep_until=step or -1)]  # a run from the start has no rows to keep
    if config.run.wandb is not None:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        offline = not wandb.login(prompt=False, verify=False)  # credentials found, nothing asked for
        same = f"{run.name}-{dist.derive(str(run.resolve())) % 10**8:08d}"  # a resumed run goes on in its own W&B run
        mode: dict[str, Any] = {"mode": "offline"} if offline else {}
        here: dict[str, Any] = {"name": run.name, "id": same, "save_dir": run, "resume": "allow"}
        loggers.append(WandbLogger(project=config.run.wandb, offline=offline, **here, **mode))
    if config.run.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            loggers.append(TensorBoardLogger(run, name="", version="tensorboard"))
        except ModuleNotFoundError:
            raise ValueError("run.tensorboard: tensorboard is not installed: pip install tensorboard") from None
    return loggers


def _plugins() -> list[Any]:
    plugins: list[Any] = [checkpoints.AtomicIO()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():  # torchrun may be started by SLURM
        # our own handler saves at a step boundary; Lightning's saves inside the signal
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def _finish(
    config: PretrainConfig,
    trainer: L.Trainer,
    loader: Loader | PairedLoader,
    signals: callbacks.Signals,
    probes: callbacks.Probes,
    saver: callbacks.Checkpoints,
    run: Path,
) -> int:
    report = loader.skips.report()
    if trainer.is_global_zero:
        if saver.stopped and not signals.interrupted:
            callbacks.requeue()  # before anything that could fail
        drawn = picture.draw(config, loader, run)
        width = config.encoder.resolved().width
        log.info(folder.summary(run, trainer.global_step, width, probes, drawn, report))
        if saver.stopped:
            log.info("stopped by a signal at step %d; the same command goes on from there", trainer.global_step)
            return callbacks.STOPPED_BY_SIGNAL
    elif loader.skips.counts:
        log.warning("rank %d: %s", dist.rank(), report)
    return 0  # from ranks above 0 always: a launcher that sees one fail ends the others, before rank 0 has finished


def _quiet() -> None:
    """Lightning's advice that does not apply here."""
    for text in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*no `val_dataloader`.*",
        ".*`max_epochs` was not set.*",
        ".*Starting from v1.9.0, `tensorboardX`.*",
        ".*srun.*command is available.*",
        ".*isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*module\\(s\\) in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", text)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
