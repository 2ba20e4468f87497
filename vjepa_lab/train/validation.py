"""Is the world model better than doing nothing? Measured during post-training on held-out episodes, without a robot.

From the first frame of a stretch the model rolls out under the recorded actions. After each step are compared, with
the features of the true frame: the prediction, and a copy of the first frame. A model that does not beat the copy has
learned nothing. Then the recorded first action is ranked, by the energy of the predicted next frame to the true one,
among actions of other stretches: a model that looks at its actions ranks it first.

Metrics: ``world/l1@k`` and ``world/cosine@k`` after k steps, ``world/copy_l1@k`` of the copy, ``world/gain@k`` = 1 -
l1 / copy_l1 (above 0: better than copying); ``action/hit@1`` and ``action/hit@5``, the share of stretches whose true
action is the best or among the best five, and ``action/rank``, its mean rank as a share (0 best, 0.5 chance).

Decisions. Bad episodes are skipped, each rank keeping step with the others, as sharded models need. What is drawn is a
function of the run's seed. The untrained predictor is measured before the first step, as a baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_lab import dist
from vjepa_lab.batch import RobotBatch, RobotSample
from vjepa_lab.config_world import ValidationConfig
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.loader import Reader, collate
from vjepa_lab.train.callbacks import AtSteps, Record
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.world import World, energy


class Validation(AtSteps):
    """Runs before the first step, every ``config.every`` steps and at the last.

    Args:
        open_readers: opens the held-out sources; called at every validation, so that nothing is held open.
    """

    def __init__(
        self, config: ValidationConfig, open_readers: Callable[[], list[Reader[RobotSample]]], record: Record
    ) -> None:
        super().__init__()
        self.config = config
        self.open_readers = open_readers
        self.record = record
        self.untrained: dict[str, float] = {}
        self.latest: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"untrained": self.untrained, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.untrained, self.latest = state_dict["untrained"], state_dict["latest"]

    def on_train_start(self, trainer: L.Trainer, pl_module: PosttrainModule) -> None:  # type: ignore[override]
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0 and self.config.sources:
            self._measure(trainer, pl_module, 0)
        self.record.restart_clock()

    def on_step(self, trainer: L.Trainer, module: PosttrainModule, step: int) -> None:  # type: ignore[override]
        if self.config.sources and (step % self.config.every == 0 or step == trainer.max_steps):
            self._measure(trainer, module, step)
            self.record.restart_clock()

    def _measure(self, trainer: L.Trainer, module: PosttrainModule, step: int) -> None:
        module.world.eval()
        metrics = validate(module, self.config, self.open_readers())
        module.world.train()
        self.latest = metrics
        self.untrained = metrics | self.untrained
        row = metrics | {f"{name}_untrained": self.untrained[name] for name in metrics}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)


@torch.no_grad()
def validate(module: PosttrainModule, config: ValidationConfig, readers: list[Reader[RobotSample]]) -> dict[str, float]:
    """Metrics of a world model on the first stretches of held-out sources, the same on every rank.

    Raises:
        ValueError: none of the stretches can be read.
    """
    world, sums = module.world, torch.zeros(4 * config.steps + 4, dtype=torch.float64)
    rng = torch.Generator().manual_seed(dist.derive(module.config.run.seed, "validation", dist.rank()))
    for batch in stretches(readers, config.stretches, module.config.data.batch):
        moved = module.on_after_batch_transfer(module.transfer_batch_to_device(batch, module.device, 0), 0)
        features = world.encode(moved.frames)
        first = world.see(features[:, :1], moved.states[:, :1], moved.actions[:, :0], module.grid)
        rolled = world.rollout(first, moved.actions[:, : config.steps], module.grid).features
        true = features[:, 1 : config.steps + 1]
        per_step = [
            _mean((rolled - true).abs()),
            _mean(F.cosine_similarity(rolled, true, dim=-1)),
            _mean((features[:, :1] - true).abs()),
        ]
        places = _places(world, features, moved, config.candidates, module.grid, rng)
        ranks = [places == 0, places < 5, places / (config.candidates - 1), torch.ones_like(places)]
        numbers = torch.cat([*per_step, torch.stack([r.float() for r in ranks], 1)], 1)  # (B, 3 * steps + 4)
        sums[: numbers.shape[1]] += numbers[moved.valid].double().sum(0).cpu()
    total = dist.sum_over_ranks(sums.to(module.device, torch.float32)).double().cpu()
    count = total[3 * config.steps + 3].item()
    if count == 0:
        raise ValueError("validation.sources: none of the stretches can be read")
    means = (total / count).tolist()
    metrics: dict[str, float] = {}
    for k in range(config.steps):
        l1, cosine, copy = (means[part * config.steps + k] for part in range(3))
        metrics |= {f"world/l1@{k + 1}": l1, f"world/cosine@{k + 1}": cosine, f"world/copy_l1@{k + 1}": copy}
        metrics[f"world/gain@{k + 1}"] = 1.0 - l1 / copy if copy else 0.0
    hit1, hit5, rank = means[3 * config.steps : 3 * config.steps + 3]
    return metrics | {"action/hit@1": hit1, "action/hit@5": hit5, "action/rank": rank}


def stretches(readers: list[Reader[RobotSample]], count: int, batch: int) -> Iterator[RobotBatch]:
    """The first ``count`` stretches of all readers, in turns over ranks; the same number of batches on every rank.

    A stretch that cannot be read, and padding, repeats another of the batch with ``valid`` False; a batch of none but
    such is left out on no rank, so it is read from the last good one.
    """
    places = [(reader, i) for reader in readers for i in range(len(reader))][:count]
    world, rank = dist.world(), dist.rank()
    rounds = -(-len(places) // (batch * world))
    good: RobotSample | None = None
    for r in range(rounds):
        start = (r * world + rank) * batch
        samples: list[RobotSample | None] = []
        for place in range(start, start + batch):
            try:
                reader, index = places[place] if place < len(places) else (None, 0)
                sample = None if reader is None else reader.read(index, np.random.default_rng(0))
            except BadSample:
                sample = None
            samples.append(sample)
            good = good or sample
        if good is None:
            raise ValueError(f"validation.sources: the first {batch} stretches of rank {rank} cannot be read")
        yield collate([s or good for s in samples], valid=[s is not None for s in samples])


def _mean(values: Tensor) -> Tensor:
    """(B, T, ...) -> (B, T)."""
    return values.flatten(2).mean(2)


def _places(
    world: World, features: Tensor, batch: RobotBatch, candidates: int, grid: tuple[int, int], rng: torch.Generator
) -> Tensor:
    """How many of the other candidates have a lower energy than the true first action: int64 (B,)."""
    pool = batch.actions.flatten(0, 1)
    picks = torch.randint(len(pool), (len(features), candidates - 1), generator=rng).to(pool.device)
    places = []
    for b in range(len(features)):
        one = slice(b, b + 1)
        seen = world.see(features[one, :1], batch.states[one, :1], batch.actions[one, :0], grid)
        actions = torch.cat([batch.actions[b, :1], pool[picks[b]]]).unsqueeze(1)  # (C, 1, A), the true one first
        energies = energy(world.rollout(seen, actions, grid).features[:, 0], features[b, 1])
        places.append((energies[1:] < energies[0]).sum())
    return torch.stack(places)
