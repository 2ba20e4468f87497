"""Is the world model better than doing nothing? Measured during post-training on held-out episodes, without a robot.

From the first frame of a stretch the model rolls out under the recorded actions. After each step are compared, with
the features of the true frame: the prediction, and a copy of the first frame. A model that does not beat the copy has
learned nothing. Then the recorded first action is ranked, by the energy of the predicted next frame to the true one,
among actions of the other stretches of its batch: a model that looks at its actions ranks it first.

Metrics: ``world/l1@k`` and ``world/cosine@k`` after k steps, ``world/copy_l1@k`` of the copy, ``world/gain@k`` = 1 -
l1 / copy_l1 (above 0: better than copying); ``action/hit@1`` and ``action/hit@5``, the share of stretches whose true
action is the best or among the best five, and ``action/rank``, its mean rank as a share (0 best, 0.5 chance).

Decisions. Bad episodes are skipped, each rank keeping step with the others, as sharded models need. What is drawn is a
function of the run's seed. The untrained predictor is measured before the first step, as a baseline.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate

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
from vjepa_lab.train.callbacks import Measure, Record
from vjepa_lab.train.modules import PosttrainModule
from vjepa_lab.world import World, energy


class Validation(Measure):
    """Runs before the first step, every ``config.every`` steps and at the last.

    Args:
        open_readers: opens the held-out sources; called at every validation, so that nothing is held open.
    """

    def __init__(
        self, config: ValidationConfig, open_readers: Callable[[], list[Reader[RobotSample]]], record: Record
    ) -> None:
        super().__init__(record)
        self.config = config
        self.open_readers = open_readers

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
        self.write(trainer, metrics, step)


@torch.no_grad()
def validate(module: PosttrainModule, config: ValidationConfig, readers: list[Reader[RobotSample]]) -> dict[str, float]:
    """Metrics of a world model on stretches of held-out sources, the same on every rank.

    Raises:
        ValueError: none of the stretches can be read.
    """
    world, sums = module.world, torch.zeros(3 * config.steps + 4, dtype=torch.float64)
    rng = torch.Generator().manual_seed(dist.derive(module.config.run.seed, "validation", dist.rank()))
    for batch in stretches(readers, config.stretches, module.config.data.batch):
        batch = module.on_before_batch_transfer(batch, 0)
        moved = module.on_after_batch_transfer(module.transfer_batch_to_device(batch, module.device, 0), 0)
        features = world.encode(moved.frames)
        first = world.see(
            features[:, :1], moved.states[:, :1], moved.actions[:, :0], module.grid, moved.extrinsics[:, :1]
        )
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
        sums += numbers[moved.valid].double().sum(0).cpu()
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
    """``count`` stretches spread over all readers, in turns over ranks; the same number of batches on every rank.

    A stretch that cannot be read, and padding, repeats a good one with ``valid`` False. A batch may be of none but
    such: there may be more ranks than batches.

    Raises:
        ValueError: none of the stretches can be read, on every rank alike.
    """
    ends = list(accumulate(len(reader) for reader in readers))
    count = min(count, ends[-1])
    places = []
    for i in (n * ends[-1] // count for n in range(count)):
        source = bisect(ends, i)
        places.append((readers[source], i - ends[source] + len(readers[source])))
    world, rank = dist.world(), dist.rank()
    rounds = -(-len(places) // (batch * world))
    good: RobotSample | None = None
    for r in range(rounds):
        start = (r * world + rank) * batch
        samples: list[RobotSample | None] = []
        for place in range(start, start + batch):
            sample = _read(*places[place]) if place < count else None
            samples.append(sample)
            good = good or sample
        good = good or _first_good(places)
        yield collate([s or good for s in samples], valid=[s is not None for s in samples])


def _read(reader: Reader[RobotSample], index: int) -> RobotSample | None:
    try:
        return reader.read(index, np.random.default_rng(0))
    except BadSample:
        return None


def _first_good(places: list[tuple[Reader[RobotSample], int]]) -> RobotSample:
    why = ""
    for reader, index in places:
        try:
            return reader.read(index, np.random.default_rng(0))
        except BadSample as error:
            why = why or str(error)
    raise ValueError(f"validation.sources: none of the {len(places)} stretches can be read; the first: {why}")


def _mean(values: Tensor) -> Tensor:
    """(B, T, ...) -> (B, T)."""
    return values.flatten(2).mean(2)


def _places(
    world: World, features: Tensor, batch: RobotBatch, candidates: int, grid: tuple[int, int], rng: torch.Generator
) -> Tensor:
    """How many of the other candidates have a lower energy than the true first action: int64 (B,)."""
    good = batch.valid.tolist()
    places = []
    for b in range(len(features)):
        one, others = slice(b, b + 1), [i for i, valid in enumerate(good) if valid and i != b]
        # of a stretch that is alone, its other actions
        pool = batch.actions[others].flatten(0, 1) if others else batch.actions[b]
        picks = torch.randint(len(pool), (candidates - 1,), generator=rng).to(pool.device)
        seen = world.see(
            features[one, :1], batch.states[one, :1], batch.actions[one, :0], grid, batch.extrinsics[one, :1]
        )
        actions = torch.cat([batch.actions[b, :1], pool[picks]]).unsqueeze(1)  # (C, 1, A), the true one first
        energies = energy(world.rollout(seen, actions, grid).features[:, 0], features[b, 1])
        places.append((energies[1:] < energies[0]).sum())
    return torch.stack(places)
