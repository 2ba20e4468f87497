"""The collapse watch: are the features of the context encoder becoming all the same?

Every few steps two figures are read of the context encoder's layer-normed features at visible tokens, which precede
those of the target encoder by the memory of its moving average:

- ``spread``: their standard deviation over tokens, mean over dimensions (the metric ``context_std``); 0 when all tokens
  are one point.
- ``entropy``: log of their uncentred RankMe over log of the largest possible; 0 when all tokens lie on one line.

Both fall in healthy runs too, while features organise. An alarm is a figure below its share of the highest reading of
the run, ``patience`` times in a row. The default shares told all of 19 short runs whose features collapsed, and 1 of 22
healthy ones (tools/bench/collapse.py and RESULTS.md). An alarm says which figure, since when, and what the likely cause
is.

Rollback: weights, moments and the target encoder go back to a healthy checkpoint; the step, the schedules, the stream
and its masks go on, at a learning rate that is multiplied by ``lr_factor`` for the rest of the run. What collapsed
would do so again on the same steps at the same rate, and a step that comes once keeps metrics and resuming simple. With
``stop`` and ``rollback``, two checkpoints are kept to go back to: ``healthy.ckpt`` and the one before it, copies of
``last.ckpt`` from where no reading was below a limit, at least ``patience`` readings apart. A rollback takes the later
one that lies as far before the first bad reading, and the earlier one where it has been there before.

Decisions. Watching draws no random numbers and leaves the trained loss alone. Figures are averaged over all ranks, so
every rank decides alike. What the watch remembers is in the checkpoint.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vjepa_lab import dist
from vjepa_lab.config import WatchConfig
from vjepa_lab.probes._spectrum import rankme
from vjepa_lab.train import checkpoints
from vjepa_lab.train.callbacks import AtSteps
from vjepa_lab.train.modules import PretrainModule

log = logging.getLogger("vjepa_lab")

COLLAPSED = 3
"exit code after an alarm with ``on_collapse: stop``, or when no rollback is left: a checkpoint is written"

_NAMES = {
    "spread": "the deviation of the context features over tokens",
    "entropy": "the entropy of the context features' spectrum",
}
_GROWN, _SHRUNK = 2.0, 0.5
"sizes of the weights, relative to the first, that are told as a cause"
_SAME = 0.05
"distance of context and target features that is told as a cause"


class Reading(NamedTuple):
    """What is read at a step."""

    step: int
    spread: float
    entropy: float
    rank: float
    "uncentred RankMe of the tokens"
    gap: float
    "mean distance of context and target features at the same tokens"
    weights: float
    "root mean square of the weights of the context encoder, biases and norms left out"


class Alarm(NamedTuple):
    """A figure that has stayed below its limit."""

    figure: str
    value: float
    limit: float
    highest: float
    since: int
    "step of the first reading below the limit"


class Rule:
    """When readings make an alarm.

    Args:
        shares: limit of each figure, as a share of its highest reading.
        patience: readings in a row below a limit that make an alarm.
    """

    def __init__(self, shares: Mapping[str, float], *, patience: int) -> None:
        self.shares = shares
        self.patience = patience
        self.highest: dict[str, float] = {}
        self.low: dict[str, list[int]] = {}
        "of the figures that are below their limit: step of the first such reading, and how many there were"

    def add(self, step: int, figures: Mapping[str, float]) -> Alarm | None:
        """Take a reading; the alarm there is after it."""
        for name, share in self.shares.items():
            self.highest[name] = max(self.highest.get(name, 0.0), figures[name])
            if figures[name] < share * self.highest[name]:
                since, count = self.low.get(name, [step, 0])
                self.low[name] = [since, count + 1]
            else:
                self.low.pop(name, None)
        for name, (since, count) in self.low.items():
            if count >= self.patience:
                limit = self.shares[name] * self.highest[name]
                return Alarm(name, figures[name], limit, self.highest[name], since)
        return None


class Watch(AtSteps):
    """Reads, warns, stops or goes back: see the module's text. Comes before ``Record`` and ``Checkpoints``."""

    def __init__(self, config: WatchConfig, folder: Path) -> None:
        super().__init__()
        self.config = config
        self.kept = [folder / "healthy.ckpt", folder / "healthy-before.ckpt"]
        self._margin = config.patience * config.every
        self.rule = Rule({"spread": config.spread, "entropy": config.entropy}, patience=config.patience)
        self.first: Reading | None = None
        self.rollbacks = 0
        self.went_to = -1
        "step of the checkpoint that the last rollback went to"
        self.alarmed = False
        self.stopped = False
        self.latest: dict[str, float] = {}
        "metrics of the last reading"

    def state_dict(self) -> dict[str, Any]:
        return {
            "highest": self.rule.highest,
            "low": self.rule.low,
            "first": self.first and list(self.first),
            "rollbacks": self.rollbacks,
            "went_to": self.went_to,
            "alarmed": self.alarmed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rule.highest, self.rule.low = state_dict["highest"], state_dict["low"]
        self.first = state_dict["first"] and Reading(*state_dict["first"])
        self.rollbacks, self.went_to = state_dict["rollbacks"], state_dict["went_to"]
        self.alarmed = state_dict["alarmed"]

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        pl_module.lr_factor = self.config.lr_factor**self.rollbacks
        if trainer.is_global_zero:
            self._forget_after(trainer.global_step if trainer.global_step else -1)

    def on_step(self, trainer: L.Trainer, module: PretrainModule, step: int) -> None:  # type: ignore[override]
        if module.skipped or (step % self.config.every and self.first is not None):
            return
        reading = read(module, step)
        self.first = self.first or reading
        alarm = self.rule.add(step, reading._asdict())
        self.latest.update(
            context_rank=reading.rank, context_weights=reading.weights, collapse=float(alarm is not None)
        )
        if alarm is None:
            if self.alarmed and not self.rule.low:
                self.alarmed = False
                _say(trainer, f"step {step}: the features have recovered, all figures are above their limits")
            return
        if self.alarmed and self.config.on_collapse == "warn":
            return
        why = cause(self.first, reading, lr=module.lr(step), decay=module.weight_decay(step))
        text = in_words(alarm, step, why)
        if self.config.on_collapse == "warn":
            self.alarmed = True
            _say(trainer, text)
        elif self.config.on_collapse == "stop":
            self._stop(trainer, text)
        else:
            self._go_back(trainer, module, step, alarm, text)

    def saved(self, last: Path) -> None:
        """``last`` was written: keep it where it is healthy. In the main process alone."""
        if self.config.on_collapse == "warn" or self.rule.low or self.stopped:
            return
        newer, older = self.kept
        if newer.is_file():
            if _step_of(last) - _step_of(newer) < self._margin:
                return
            newer.replace(older)
        checkpoints.keep(last, newer)

    def _stop(self, trainer: L.Trainer, text: str) -> None:
        self.stopped = True
        trainer.should_stop = True
        there = [f"go on with run.resume={path} (step {step})" for path, step in self._healthy()]
        _say(trainer, f"{text} The run stops here; change what is named, and {there[0] if there else 'begin anew'}.")

    def _go_back(self, trainer: L.Trainer, module: PretrainModule, step: int, alarm: Alarm, text: str) -> None:
        bound = alarm.since - self._margin
        chosen = self._choose(bound) if trainer.is_global_zero else (None, -1)
        path, found = trainer.strategy.broadcast(chosen)
        if path is None or self.rollbacks >= self.config.rollbacks:
            tried = f"{self.rollbacks} of {self.config.rollbacks} rollbacks did not help" if self.rollbacks else ""
            none = f"there is no healthy checkpoint up to step {bound}, see run.save_every" if path is None else ""
            self._stop(trainer, f"{text} No rollback: {' and '.join(part for part in (tried, none) if part)}.")
            return
        if trainer.is_global_zero:
            self._forget_after(found)
        restore(trainer, path)
        self.rollbacks, self.went_to = self.rollbacks + 1, found
        self.rule.low.clear()
        module.lr_factor = self.config.lr_factor**self.rollbacks
        rate = f"the learning rate is {module.lr_factor:g} of the schedule's from here on"
        _say(trainer, f"{text} Rollback {self.rollbacks}: weights and moments of step {found}; {rate}.")

    def _choose(self, bound: int) -> tuple[Path | None, int]:
        """Checkpoint to go back to, and its step: the latest up to ``bound``; where that was tried, the one before."""
        there = [(path, step) for path, step in self._healthy() if step <= bound]
        if len(there) > 1 and there[0][1] == self.went_to:
            there = there[1:]
        return there[0] if there else (None, -1)

    def _healthy(self) -> list[tuple[Path, int]]:
        """Kept checkpoints and their steps, the latest first."""
        return [(path, _step_of(path)) for path in self.kept if path.is_file()]

    def _forget_after(self, bound: int) -> None:
        """Delete kept checkpoints of steps after ``bound``, of another history of the run."""
        for path, step in self._healthy():
            if step > bound:
                path.unlink()


def _step_of(checkpoint: Path) -> int:
    return int(checkpoints.read(checkpoint)["global_step"])


def _say(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        log.warning(text)


def read(module: PretrainModule, step: int) -> Reading:
    """Figures of the last micro-batch, means over ranks. A collective call."""
    assert module.tokens is not None, "after a step"
    share = max(len(module.tokens) // dist.world(), 1)
    tokens = dist.gather_rows(module.tokens[:: len(module.tokens) // share][:share])
    rank = rankme(tokens, centred=False)
    squares, count = _squares(module.jepa.context)
    stats = module.stats
    figures = [
        stats["context_std"],
        math.log(rank) / math.log(min(tokens.shape)),
        rank,
        stats["target_context_gap"],
        math.sqrt(squares / count),
    ]
    mean = dist.sum_over_ranks(torch.tensor(figures, device=module.device)) / dist.world()  # equal on every rank
    return Reading(step, *mean.tolist())


def _squares(network: nn.Module) -> tuple[float, int]:
    """Sum of squares and number of the weights with two or more dimensions, over all shards when sharded."""
    weights = [p.detach() for p in network.parameters() if p.ndim > 1]
    local: list[Tensor] = [w.to_local() if isinstance(w, DTensor) else w for w in weights]
    norms = torch._foreach_norm(local)  # type: ignore[attr-defined]
    total = torch.stack([n.float() for n in norms]).square().sum()
    if isinstance(weights[0], DTensor):
        dist.sum_over_ranks(total)
    return total.item(), sum(w.numel() for w in weights)


def restore(trainer: L.Trainer, path: Path) -> None:
    """Put weights and moments of a checkpoint into the run; its step and its stream go on. A collective call."""
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    trainer.strategy.load_model_state_dict(checkpoint, strict=True)
    trainer.strategy.load_optimizer_state_dict(checkpoint)


def cause(first: Reading, now: Reading, *, lr: float, decay: float) -> str:
    """What the collapse probably comes from, and what to change."""
    size = now.weights / max(first.weights, 1e-30)
    if size > _GROWN:
        return (
            f"the learning rate (now {lr:.2g}): the weights of the context encoder have grown to {size:.1f} times "
            "their first size; lower optim.lr, lengthen optim.warmup or set optim.clip"
        )
    if size < _SHRUNK:
        return (
            f"the weight decay (now {decay:.2g}, {lr * decay:.1e} of every weight per step): the weights of the "
            f"context encoder have shrunk to {size:.2f} of their first size; lower optim.weight_decay"
        )
    if now.gap < _SAME:
        return (
            f"the target encoder: its features are those of the context encoder (mean distance {now.gap:.2g}), so that "
            "both may agree on a constant; raise ema.start, and let no gradient into the targets"
        )
    return "not clear: weights and target encoder look as they should; look at masks and data, or lower optim.lr"


def in_words(alarm: Alarm, step: int, why: str) -> str:
    """An alarm for people."""
    return (
        f"step {step}: the features collapse: {_NAMES[alarm.figure]} is {alarm.value:.3g} and has been below "
        f"{alarm.limit:.3g} (its highest was {alarm.highest:.3g}) since step {alarm.since}. Likely cause: {why}."
    )
