"""What every training has in common around its steps: folder, devices, loggers, Trainer, checkpoints, words at the end.

A verb calls ``prepare``, finds out where the run begins, makes its module and its stream, and calls ``fit``.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger

from vjepa_lab import dist
from vjepa_lab.config import ConfigError
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.train import callbacks, checkpoints, folder, strategy
from vjepa_lab.train.checkpoints import Start
from vjepa_lab.train.collapse import COLLAPSED, Watch
from vjepa_lab.train.step import StepModule
from vjepa_lab.validate import launch_problem

log = logging.getLogger("vjepa_lab")


class Place(NamedTuple):
    """Where a run runs."""

    run: Path
    kind: str
    "cuda | mps | cpu"
    devices: int
    "processes per node"


def prepare(config: Any) -> Place:
    """Set up the log, count devices and open the folder of the run.

    Raises:
        ValueError: a device that is not there, or another number of processes than asked for.
    """
    level = logging.INFO if dist.is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    _quiet()
    kind = strategy.device_kind(config.trainer)
    devices = strategy.device_count(config.trainer, kind)
    problem = launch_problem(devices, config.trainer.nodes)  # again, now that trainer.devices=0 is a number
    if problem is not None:
        raise ConfigError(problem)
    return Place(folder.open_run(config), kind, devices)


def is_finished(config: Any, place: Place, start: Start) -> bool:
    """Whether there is nothing left to do; says so."""
    if start.step < config.optim.steps:
        return False
    log.info(
        "%s is finished: step %d of optim.steps=%d. Raise optim.steps, or give another run.dir",
        place.run,
        start.step,
        config.optim.steps,
    )
    return True


def fit(
    config: Any,
    module: StepModule,
    loader: Loader[Any] | PairedLoader,
    *,
    verb: str,
    place: Place,
    start: Start,
    headline: Callable[[int], str],
    measure: Callable[[callbacks.Record], callbacks.Measure],
    draw: Callable[[], Path | None],
    before: Sequence[L.Callback] = (),
    watch: Watch | None = None,
) -> int:
    """Train to the end, to a signal or to an alarm; returns the exit code (0, 75 when a signal stopped it at a
    checkpoint, 3 when the watch did).

    Args:
        headline: what is about to run, given the number of processes.
        measure: makes the callback that measures.
        draw: writes the picture of the run, in the main process, at the end.
        before: what else is called at its hooks, ahead of all others.
        watch: looks out for a collapse of the features.
    """
    run = place.run
    record = callbacks.Record(loader, config.run.log_every, beside=watch.latest if watch else {})
    measured = measure(record)
    saver = callbacks.Checkpoints(
        run,
        save_every=config.run.save_every,
        keep_every=config.run.keep_every,
        record=record,
        saved=watch.saved if watch else lambda last: None,
    )
    signals = callbacks.Signals()
    bar = [callbacks.StepBar(verb, refresh_rate=1 if sys.stdout.isatty() else 50)] if config.run.progress else []
    processes = place.devices * config.trainer.nodes
    trainer = L.Trainer(
        accelerator=place.kind,
        devices=place.devices,
        num_nodes=config.trainer.nodes,
        strategy=strategy.trainer_strategy(config.trainer, accelerator=place.kind, processes=processes),
        precision={"fp32": "32-true", "bf16-mixed": "bf16-mixed"}[config.trainer.precision],  # type: ignore[arg-type]
        max_steps=config.optim.steps,
        max_epochs=-1,
        accumulate_grad_batches=config.trainer.accumulate,
        gradient_clip_val=config.optim.clip,
        callbacks=[*before, signals, *([watch] if watch else []), record, measured, saver, *bar],
        logger=_loggers(config, run, start.step),
        plugins=_plugins(),
        enable_checkpointing=False,
        enable_progress_bar=config.run.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=config.run.log_every,
        default_root_dir=run,
    )
    log.info(headline(trainer.world_size))
    trainer.fit(module, loader, ckpt_path=start.resume, weights_only=True)

    report = loader.skips.report()
    if trainer.is_global_zero:
        collapsed = watch is not None and watch.stopped
        if saver.stopped and not signals.interrupted and not collapsed:
            callbacks.requeue()  # before anything that could fail
        log.info(folder.summary(run, trainer.global_step, measured, draw(), report))
        if collapsed:
            log.info("stopped by the watch at step %d; why is said above", trainer.global_step)
            return COLLAPSED
        if saver.stopped:
            log.info("stopped by a signal at step %d; the same command goes on from there", trainer.global_step)
            return callbacks.STOPPED_BY_SIGNAL
    elif loader.skips.counts:
        log.warning("rank %d: %s", dist.rank(), report)
    return 0  # from ranks above 0 always: a launcher that sees one fail ends the others, before rank 0 has finished


def _loggers(config: Any, run: Path, step: int) -> list[Logger]:
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
