"""What happens beside the steps: rows of numbers, probes, checkpoints, signals. None of it touches the loss.

All act at the boundary of an optimizer step, in the order Signals, Record, Probes, Checkpoints: what is measured at a
step is written before the checkpoint of that step, so that a resumed run neither repeats nor loses a measurement.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from vjepa_lab import dist
from vjepa_lab.data.containers import REASONS
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.paired import PairedLoader
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.train import checkpoints
from vjepa_lab.train.flops import peak_flops
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.step import StepModule

log = logging.getLogger("vjepa_lab")

STOPPED_BY_SIGNAL = 75
"exit code after SIGTERM, SIGUSR1 or Ctrl-C: a checkpoint is written, the same command goes on from it"


class AtSteps(L.Callback):
    """Calls ``on_step`` once per optimizer step (gradient accumulation makes several batches of one)."""

    def __init__(self) -> None:
        self._step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: StepModule) -> None:  # type: ignore[override]
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: StepModule, *_: Any) -> None:  # type: ignore[override]
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.on_step(trainer, pl_module, trainer.global_step)

    def on_step(self, trainer: L.Trainer, module: StepModule, step: int) -> None: ...


class Signals(L.Callback):
    """SIGTERM, SIGUSR1 and Ctrl-C ask for a stop at the next step boundary. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.interrupted = False
        "it was Ctrl-C, somebody's wish: a SLURM job does not requeue itself"
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: StepModule) -> None:  # type: ignore[override]
        def ask(number: int, _frame: Any) -> None:
            if number == signal.SIGINT and pl_module.stop_asked:
                raise KeyboardInterrupt
            pl_module.stop_asked = True
            self.interrupted |= number == signal.SIGINT

        self._before = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Record(AtSteps):
    """One row of numbers every ``every`` steps, to all loggers.

    Beside the loss: learning rate, momentum, norm of the gradient; clips/s, tokens/s (tokens of the whole clips), MFU
    (arithmetic of the step by formula over the device's peak, see flops.py), share of the time spent waiting for data;
    collapse statistics: standard deviation of the features, RankMe of the last clips' pooled target features, gap
    between target and context features; and bad samples per reason, over all ranks since the start of the process.
    What ``beside`` holds at the time is in the row as well.
    """

    def __init__(
        self, loader: Loader | PairedLoader, every: int, *, beside: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        super().__init__()
        self.loader = loader
        self.every = every
        self.beside = beside
        self.rate = 0.0
        self._since = (0.0, 0, 0.0)
        self._peak: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: StepModule) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        self._peak = peak_flops(pl_module.device, pl_module.config.trainer.precision)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out what has passed since the last row (a probe, a checkpoint) from the rates."""
        self._since = (time.perf_counter(), self.loader.samples_seen, self.loader.waited)

    def on_step(self, trainer: L.Trainer, module: StepModule, step: int) -> None:
        module.log("loss", module.stats["loss"], prog_bar=True, logger=False, batch_size=1)
        module.log("clips/s", self.rate, prog_bar=True, logger=False, batch_size=1)
        last = step == trainer.max_steps or module.stop_agreed or trainer.should_stop
        if step % self.every and not last:
            return
        start, samples, waited = self._since
        seconds = max(time.perf_counter() - start, 1e-9)
        self.rate = (self.loader.samples_seen - samples) / seconds
        row = {
            **module.stats,
            "lr": module.lr(step),
            "weight_decay": module.weight_decay(step),
            **module.row(step),
            **self.beside,
            "clips/s": self.rate,
            "tokens/s": self.rate * module.tokens_per_sample,
            "data_stall": (self.loader.waited - waited) / seconds,
            "samples": self.loader.samples_seen,
        }
        if self._peak:
            row["mfu"] = self.rate * module.flops_per_sample / (self._peak * dist.world())
        bad = self.loader.skips.by_reason()
        counts = dist.sum_over_ranks(torch.tensor([bad.get(reason, 0) for reason in REASONS], device=module.device))
        row |= {f"bad/{reason}": n for reason, n in zip(REASONS, counts.tolist(), strict=True) if n}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
        self.restart_clock()


class Measure(AtSteps):
    """What measures the model now and then: a metric is logged beside its first value, ``<metric>_untrained``, which is
    kept in the checkpoint. ``record`` leaves the time it takes out of the rates."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self.untrained: dict[str, float] = {}
        self.latest: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.untrained, self.latest = state_dict["untrained"], state_dict["latest"]

    def write(self, trainer: L.Trainer, metrics: dict[str, float], step: int) -> None:
        """One row of ``metrics``, to all loggers."""
        self.latest |= metrics
        self.untrained = metrics | self.untrained  # the first measurement stays
        row = metrics | {f"{name}_untrained": self.untrained[name] for name in metrics}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)


class Probes(Measure):
    """Runs each probe on the target encoder before the first step and every ``probe.every`` steps.

    The measurement before the first step is the untrained encoder's. Where a run or a probe starts from a checkpoint,
    a fresh encoder is measured for it.
    """

    def __init__(self, probes: list[Any], look: Look, record: Record) -> None:
        super().__init__(record)
        self.probes = probes
        self.look = look

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        first = trainer.global_step == 0
        known = {metric.partition("/")[0] for metric in self.untrained}
        new = [probe for probe in self.probes if _name(probe) not in known]
        if new and not (first and pl_module.config.init.checkpoint is None):
            self.untrained |= self._measure(new, pl_module, pl_module.untrained_encoder().to(pl_module.device))
        if self.probes and first:
            self.write(trainer, self._measure(self.probes, pl_module, pl_module.jepa.target), 0)
        self.record.restart_clock()

    def on_step(self, trainer: L.Trainer, module: PretrainModule, step: int) -> None:
        last = step == trainer.max_steps
        due = [p for p in self.probes if last or step % p.every == 0]
        if due:
            self.write(trainer, self._measure(due, module, module.jepa.target), step)
            self.record.restart_clock()

    def _measure(self, probes: list[Any], module: PretrainModule, encoder: Encoder) -> dict[str, float]:
        devices = [module.device] if module.device.type == "cuda" else []
        encoder.eval()
        predictor, training = module.jepa.predictor, module.jepa.predictor.training
        predictor.eval()
        frozen = FrozenEncoder(
            encoder=encoder,
            predictor=predictor,
            frames=self.look.frames,
            crop=self.look.crop,
            freeze=False,  # the predictor trains on
        )
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            found = {
                f"{_name(probe)}/{metric}": estimate.value
                for probe in probes
                for metric, estimate in probe.run(frozen, self._streams(probe, module.device))
            }
        predictor.train(training)
        return found

    def _streams(self, probe: Any, device: torch.device) -> dict[str, Stream]:
        """Each split that the probe asks for."""
        demands = probe.demands().items()
        return {split: Stream(demand, self.look, batch=probe.batch, device=device) for split, demand in demands}


def _name(probe: Any) -> str:
    """The name in the registry: that of the module."""
    return type(probe).__module__.rpartition(".")[2]


class Checkpoints(AtSteps):
    """``last.ckpt`` every ``save_every`` steps, at the end and where the run stops; kept ones as ``step-<n>.ckpt``.

    ``saved`` is told of every checkpoint, in the main process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        save_every: int,
        keep_every: int,
        record: Record,
        saved: Callable[[Path], None] = lambda last: None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.save_every = save_every
        self.keep_every = keep_every
        self.record = record
        self.saved = saved
        self.stopped = False

    def on_step(self, trainer: L.Trainer, module: StepModule, step: int) -> None:
        keep = self.keep_every > 0 and step % self.keep_every == 0
        stops = module.stop_agreed or trainer.should_stop
        if keep or step % self.save_every == 0 or step == trainer.max_steps or stops:
            last = self.folder / "last.ckpt"
            trainer.save_checkpoint(last, weights_only=False)  # everything, not the weights alone
            if trainer.is_global_zero:
                (self.folder / "init.ckpt").unlink(missing_ok=True)
                if keep:
                    checkpoints.keep(last, self.folder / f"step-{step:07d}.ckpt")
                self.saved(last)
            self.record.restart_clock()
        if module.stop_agreed and step < trainer.max_steps:
            self.stopped = True
            trainer.should_stop = True


class StepBar(TQDMProgressBar):
    """Lightning's bar, counting steps of the run instead of batches of an epoch: loss, clips/s, time left."""

    def __init__(self, verb: str, *, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.verb = verb

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        bar = self.train_progress_bar
        bar.total = trainer.max_steps
        bar.initial = bar.n = trainer.global_step  # the time left counts from where this process began
        bar.set_description(self.verb)

    def on_train_epoch_start(self, *_: Any) -> None:
        """Nothing: Lightning's would count batches, and is left out where a run resumes."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args[:-1], batch_idx=trainer.global_step - 1)

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        metrics = super().get_metrics(*args)
        metrics.pop("v_num", None)
        return metrics


def requeue() -> None:
    """Ask SLURM to run this job again, if it is one (rank 0 alone calls this)."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}" if task else job
    done = subprocess.run(["scontrol", "requeue", name], check=False, capture_output=True, text=True)
    log.info("requeued job %s" if done.returncode == 0 else "scontrol requeue %s failed", name)
