"""K heads trained in one pass over the features: every learning rate with every weight decay, for several seeds.

AdamW, cosine to 0, no warm-up; decay on all parameters, as released. Nothing here knows an encoder: features come from
a ``Feed``, which holds them in memory or makes them anew in every epoch.

Decisions.
- All heads see the same batches in the same order, a function of ``Plan.seed``: this is what lets them share the pass.
  A seed of the plan is thus a draw of first weights; the spread over seeds tells of that and not of the order.
- The best head of each seed is chosen by ``best`` on rows that the caller holds out, never here.
- A head that diverges (a loss that is not finite) is never chosen, and does not touch the others.
- A race (``RACE``) compares the heads early, on the rows that the caller holds out, and goes on with the best: a grid
  of 20 for the price of about two heads. A head that goes on is not touched by it. It is not what was published, and
  who learns slowly at first is left behind.
- Among equal scores, correctness is counted in expectation: a constant predictor gets k / C, not 0 or 1.
- Under several ranks, a feed that is ``sharded`` brings other rows on each rank and gradients are summed over ranks;
  any other feed is the same everywhere, and so is the training.

Reference: V-JEPA 2 paper, section 5; released file evals/video_classification_frozen/eval.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vjepa_lab import dist
from vjepa_lab.probes._heads import Bank, Head, Scores

Loss = Callable[[Tensor, Tensor], Tensor]
"scores (K, B, C) and labels int64 (B,) -> loss of each head and row (K, B)"
RACE = ((0.03, 0.25), (0.08, 0.1), (0.16, 0.0))
"after which share of all steps a race goes on with which share of the heads of each seed, at least one: of 20 heads "
"5, 2 and 1, or 1.85 times the steps of one head"


class Rows(NamedTuple):
    """A batch of features and labels."""

    x: Tensor
    "(B, N, D), or (B, D) for linear heads; in evaluation with an axis of views behind B, if the measure knows of it"
    y: dict[str, Tensor]
    "int64 (B,) by name; -1: no label. Names beyond those of the classes are passed on to measures"
    valid: Tensor
    "bool (B,): False for padding and for what could not be read"


class Feed(Protocol):
    """Features, epoch by epoch."""

    sharded: bool
    "each rank brings rows of its own, all ranks equally many batches"

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Rows]: ...


class Memory:
    """Features that lie in memory (or in a file mapped into it), of any floating type.

    Args:
        x: (n, ...) features.
        y: int64 (n,) labels by name.
        batch: rows per batch; the last one is what is left.
        shuffle: seed of the order, which is another in each epoch; None: the order of the rows.
        device: where batches go.
    """

    sharded = False

    def __init__(
        self,
        x: Tensor,
        y: Mapping[str, Tensor],
        *,
        batch: int,
        shuffle: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.x, self.y, self.batch, self.shuffle, self.device = x, dict(y), batch, shuffle, device

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch)

    def epoch(self, number: int) -> Iterator[Rows]:
        n = len(self.x)
        order = torch.arange(n)
        if self.shuffle is not None:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(dist.derive(self.shuffle, number)))
        for at in order.split(self.batch):
            at = at.sort().values  # a mapped file is read forwards
            y = {name: values[at.to(values.device)].to(self.device) for name, values in self.y.items()}
            x = self.x[at.to(self.x.device)].to(self.device, non_blocking=True)
            yield Rows(x, y, torch.ones(len(at), dtype=torch.bool, device=self.device))


class Trial(NamedTuple):
    """What distinguishes one head from the others."""

    seed: int
    lr: float
    wd: float


class Plan(NamedTuple):
    """The grid, and how long."""

    lrs: Sequence[float] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    wds: Sequence[float] = (0.8, 0.4, 0.1, 0.01)
    seeds: int = 3
    epochs: int = 20
    seed: int = 0
    "of first weights"

    def trials(self) -> list[Trial]:
        """All heads, seed by seed.

        Raises:
            ValueError: the grid is empty, or a number is out of range.
        """
        if not self.lrs or not self.wds or min(self.lrs) <= 0 or min(self.wds) < 0:
            raise ValueError(
                f"sweep: got lrs {list(self.lrs)} and wds {list(self.wds)}, expected some above 0 (wds: or 0)"
            )
        if self.seeds < 1 or self.epochs < 1:
            raise ValueError(f"sweep: got seeds={self.seeds}, epochs={self.epochs}, expected at least 1")
        return [Trial(s, lr, wd) for s in range(self.seeds) for lr in self.lrs for wd in self.wds]


class Swept(NamedTuple):
    """Trained heads."""

    bank: Bank
    trials: list[Trial]

    def subset(self, which: Sequence[int]) -> Swept:
        """Some of them."""
        return Swept(self.bank.subset(which), [self.trials[k] for k in which])

    @torch.no_grad()
    def measure(self, feed: Feed, of: Callable[[Bank, Rows], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What ``of`` says of each batch, for all valid rows of one epoch over all ranks, in order.

        Args:
            of: gives tensors (B, ...) by name.

        Returns:
            CPU tensors (n, ...) by the same names.
        """
        parts: dict[str, list[Tensor]] = {}
        for rows in feed.epoch(0):
            for name, value in {**of(self.bank, rows), "": rows.valid}.items():
                parts.setdefault(name, []).append(value)
        if feed.sharded:
            joined = {name: _over_ranks(torch.stack(values)) for name, values in parts.items()}
        else:
            joined = {name: torch.cat(values) for name, values in parts.items()}
        valid = joined.pop("")
        return {name: values[valid].cpu() for name, values in joined.items()}


Judge = Callable[["Swept"], tuple[Tensor, Tensor]]
"heads -> how good each is (K,), the higher the better, and its loss (K,)"


def sweep(
    head: Head,
    plan: Plan,
    feed: Feed,
    *,
    loss: Loss | None = None,
    race: Judge | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Swept:
    """Train all heads of the plan on ``feed``.

    Args:
        loss: of one set of classes; the losses of all sets are added. Default: cross-entropy.
        progress: show a bar, on a terminal.
        race: judges heads in a race, on rows that are not reported; None: all are trained to the end.

    Raises:
        ValueError: as ``Head.check`` and ``Plan.trials``, the features do not fit the head, or all heads of a seed have
            diverged in a race.
    """
    trials = plan.trials()
    bank = Bank(head, [dist.derive(plan.seed, "trial", t.seed) for t in trials], device=device)
    leaves, optimizer = _trained(bank, trials)
    total, step, grid = plan.epochs * len(feed), 0, len(plan.lrs) * len(plan.wds)
    halts = {math.ceil(at * total): math.ceil(share * grid) or 1 for at, share in RACE} if race is not None else {}
    hidden = None if progress else True  # None: where there is no terminal
    with tqdm(total=total, desc=f"{bank.size} heads", unit="batch", disable=hidden, leave=False) as bar:
        for epoch in range(plan.epochs):
            for rows in feed.epoch(epoch):
                for group, trial in zip(optimizer.param_groups, trials, strict=True):
                    group["lr"] = trial.lr * 0.5 * (1 + math.cos(math.pi * step / total))
                _differentiate(bank, rows, loss or cross_entropy, feed.sharded)
                for k, leaf in enumerate(leaves):
                    for name, parameter in leaf.items():
                        parameter.grad = bank.gradients[name][k]
                optimizer.step()
                step += 1
                bar.update()
                if race is not None and step in halts:
                    order = ranked(trials, *race(Swept(bank, trials)))
                    which = sorted(k for heads in order for k in heads[: halts[step]])
                    state = [[optimizer.state[p] for p in leaves[k].values()] for k in which]
                    bank, trials = bank.subset(which), [trials[k] for k in which]
                    leaves, optimizer = _trained(bank, trials)
                    for leaf, known in zip(leaves, state, strict=True):
                        optimizer.state.update(zip(leaf.values(), known, strict=True))
                    bar.set_description(f"{bank.size} heads")
    bank.gradients = {}
    return Swept(bank, trials)


def _trained(bank: Bank, trials: Sequence[Trial]) -> tuple[list[dict[str, nn.Parameter]], torch.optim.AdamW]:
    """The weights of each head as parameters, and the optimizer of them all."""
    leaves = [{name: nn.Parameter(weight) for name, weight in bank.of(k).items()} for k in range(bank.size)]
    groups = [
        {"params": list(leaf.values()), "lr": trial.lr, "weight_decay": trial.wd}
        for leaf, trial in zip(leaves, trials, strict=True)
    ]
    device = next(iter(bank.weights.values())).device
    return leaves, torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))


def _differentiate(bank: Bank, rows: Rows, loss: Loss, sharded: bool) -> None:
    """Leave in the bank the gradients of the mean loss over the labelled rows of the batch, of all ranks."""
    labels = {name: rows.y[name] for name in bank.head.classes}
    shares = {}
    for name, label in labels.items():
        known = (rows.valid & (label >= 0)).float()
        count = dist.sum_over_ranks(known.sum()) if sharded else known.sum()
        shares[name] = known / count.clamp_min(1)

    def total(scores: Scores, part: slice) -> Tensor:
        per_set = [(loss(s, labels[name][part].clamp_min(0)) * shares[name][part]).sum(1) for name, s in scores.items()]
        return torch.stack(per_set).sum(0)

    bank.differentiate(rows.x, total)
    if sharded:
        for gradient in bank.gradients.values():
            dist.sum_over_ranks(gradient)


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (K, B) of scores (K, B, C) with labels (B,)."""
    k, b, c = scores.shape
    return F.cross_entropy(scores.reshape(k * b, c), labels.repeat(k), reduction="none").view(k, b)


def within(scores: Tensor, labels: Tensor, top: int) -> Tensor:
    """Is the label among the ``top`` highest of scores (..., B, C)? (..., B), in expectation over ties; 0 where a
    score of the label is not a number."""
    own = scores.gather(-1, labels.clamp_min(0).expand(scores.shape[:-1]).unsqueeze(-1))
    above, equal = (scores > own).sum(-1), (scores == own).sum(-1)
    return ((top - above) / equal.clamp_min(1)).clamp(0, 1) * (equal > 0)


def ranked(trials: Sequence[Trial], value: Tensor, loss: Tensor) -> list[list[int]]:
    """Indices of the heads of each seed, the best first: by ``value`` (K,), among equals by the lower ``loss`` (K,).
    Heads that have diverged are left out.

    Raises:
        ValueError: all heads of a seed have.
    """
    sound = torch.isfinite(loss) & torch.isfinite(value)
    values, losses, order = value.tolist(), loss.tolist(), []
    for seed in dict.fromkeys(t.seed for t in trials):
        own = [k for k, t in enumerate(trials) if t.seed == seed]
        good = [k for k in own if sound[k]]
        if not good:
            raise ValueError(
                f"sweep: all {len(own)} heads of seed {seed} have diverged; expected a smaller lr among "
                f"lrs {sorted({t.lr for t in trials})}"
            )
        order.append(sorted(good, key=lambda k: (-values[k], losses[k])))
    return order


def best(trials: Sequence[Trial], value: Tensor, loss: Tensor) -> list[int]:
    """Index of the best head of each seed, as ``ranked``.

    Raises:
        ValueError: all heads of a seed have diverged.
    """
    return [heads[0] for heads in ranked(trials, value, loss)]


def _over_ranks(stacked: Tensor) -> Tensor:
    """(batches, B, ...) of this rank -> rows of all ranks in the order of the source."""
    gathered = dist.gather_rows(stacked).unflatten(0, (dist.world(), stacked.shape[0]))
    return gathered.transpose(0, 1).flatten(0, 2)
