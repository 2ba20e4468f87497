"""Which action solves a task? A world model tries all of them in its head: the tasks of the source ``phyre_lite``.

Of every action the first frames are encoded and the predictor guesses the features at the end of the clip. Actions are
tried in the order of their energy, the mean absolute difference between this guess and what the end looks like where
the task is solved: the mean, over some clips of other actions that solve it, of the features at their end. Nothing is
fitted.

Yields ``auccess`` (``_auccess.py``), ``success@1`` and ``success@10``, means over tasks, and ``<template>/auccess``;
the same (without templates) in place of the guess with the true features of the end (``seen/...``: a perfect
prediction, what is missing is the representation's fault), with those of the last frames of the context (``held/...``:
nothing is predicted), and for actions near to one that solved another task of the template (``near/...``: no vision);
and by closed form ``random/...`` (any order) and ``optimal/auccess`` (solving actions first: 1).

Decisions.
- The published "PHYRE-lite" is undefined; this is one definition of it and its figures are comparable among themselves.
- Actions are as many as the source says (1,000 for a figure to report); they are all possible ones, and PHYRE does not
  count impossible ones either.
- Guesses and features are layer-normed without weights, as targets are in pretraining.

Reference: PHYRE (Bakhtin et al. 2019) for AUCCESS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vjepa_lab.data.streams import Demand, Stream
from vjepa_lab.features import FrozenEncoder, fingerprint
from vjepa_lab.jepa import normalise
from vjepa_lab.probes._auccess import auccess, by_chance, expected, first_solved, within
from vjepa_lab.probes._extract import extract
from vjepa_lab.probes._stats import Estimate, accuracy
from vjepa_lab.probes.surprise import Surprise
from vjepa_lab.registry import PROBES

_FACTS = ("task", "template", "solved", "action")
_SCORES = ("", "seen/", "held/")


class Tasks(NamedTuple):
    """What is known of n actions."""

    task: Tensor
    "int64 (n,)"
    template: Tensor
    "int64 (n,)"
    solved: Tensor
    "bool (n,)"
    action: Tensor
    "(n, 3)"


@PROBES.register
@dataclass
class PhyreLite:
    """AUCCESS of a world model that ranks actions. See the module's text for what it yields."""

    every: int = 5000
    "steps between two measurements during training"
    batch: int = 16
    "clips per batch on each rank"
    source: dict[str, Any] = field(
        default_factory=lambda: {"name": "phyre_lite", "split": "val", "tasks": 2, "actions": 100, "goals": 8}
    )
    "the tasks; its role is set here"
    context: int | None = None
    "frames that are seen of each action, a multiple of a tubelet; null: a quarter of the encoder's"

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 1:
            raise ValueError(f"probe phyre_lite: context: got {self.context}, expected at least 1")
        if "role" in self.source:
            raise ValueError(f"probe phyre_lite: source: got role: {self.source['role']}, expected none: both are read")

    def demands(self) -> dict[str, Demand]:
        return {role: Demand({**self.source, "role": role}) for role in ("goals", "actions")}

    def refusal(self, encoder: FrozenEncoder) -> str | None:
        """Why an encoder cannot be measured, if it cannot."""
        return Surprise().refusal(encoder)

    def run(self, encoder: FrozenEncoder, streams: Mapping[str, Stream]) -> Iterator[tuple[str, Estimate]]:
        refused = self.refusal(encoder)
        if refused:
            raise ValueError(f"probe phyre_lite: {refused}")
        context = self.span(encoder)
        goals = extract(encoder, streams["goals"], measure=lambda clip: _end(encoder, clip), tag="end")
        lacking = [name for name in _FACTS if name not in goals.y]
        if lacking:
            raise ValueError(
                f"probe phyre_lite: source {streams['goals'].name} tells no {lacking[0]} of its clips; expected "
                "source: {name: phyre_lite}"
            )
        order, place = goals.y["task"].unique(return_inverse=True)
        total = torch.zeros(len(order), *goals.x[-1].shape[1:]).index_add_(0, place, goals.x[-1])
        centre = total / place.bincount()[:, None, None]

        def measure(clip: Tensor) -> Tensor:
            return energies(encoder, clip, centre.to(clip.device), context=context)

        assert encoder.predictor is not None
        weights = fingerprint(encoder.predictor) if streams["actions"].cache else ""
        tag = f"energies {context} {weights} {streams['goals'].digest()}"
        table = extract(encoder, streams["actions"], measure=measure, tag=tag)
        tasks = Tasks(*(table.y[name] for name in _FACTS))
        column = torch.searchsorted(order, tasks.task)
        energy = torch.take_along_dim(table.x[-1], column[:, None, None], 2)[..., 0]  # (n, 3)
        names = streams["actions"].reader.config.templates
        yield from ranked(tasks, -energy, names)

    def span(self, encoder: FrozenEncoder) -> int:
        """Frames of the context.

        Raises:
            ValueError: they do not fit the encoder.
        """
        tubelet, frames = encoder.tubelet, encoder.frames
        context = self.context or max(frames // 4 // tubelet, 1) * tubelet
        if context % tubelet or context > frames - tubelet:
            raise ValueError(
                f"probe phyre_lite: context: got {context} frames, expected a multiple of the tubelet ({tubelet}) "
                f"up to {frames - tubelet}"
            )
        return context


def _end(encoder: FrozenEncoder, clip: Tensor) -> Tensor:
    """Features of the last tubelet of clips (B, 3, F, H, W): (B, h * w, D)."""
    tokens, grid = encoder.tokens(clip)
    return normalise(tokens[:, -grid.h * grid.w :])


def energies(encoder: FrozenEncoder, clip: Tensor, centre: Tensor, *, context: int) -> Tensor:
    """How far the end of clips (B, 3, F, H, W) is from the ends (T, h * w, D) of T solved tasks: (B, 3, T), as guessed
    from the context, as it is, and as the context ends."""
    end = _end(encoder, clip)
    tubelet = encoder.tubelet
    skipped = (clip.shape[2] - context) // tubelet - 1
    seen, guess, _ = encoder.future(clip[:, :, :context], seconds=float(skipped * tubelet), fps=1.0)
    held = normalise(seen[:, -end.shape[1] :])
    ways = torch.stack([normalise(guess), end, held], 1).flatten(2)  # (B, 3, h * w * D)
    return torch.cdist(ways, centre.flatten(1).expand(len(clip), -1, -1), p=1) / ways.shape[2]


def ranked(tasks: Tasks, scores: Tensor, templates: list[str]) -> Iterator[tuple[str, Estimate]]:
    """All figures of actions with scores (n, 3), the highest of which is tried first: see the probe's text.

    Args:
        templates: names of those that there are, as the tasks take turns in them.
    """
    numbers = tasks.task.unique()
    rows = [torch.nonzero(tasks.task == number).flatten() for number in numbers]
    kinds = torch.stack([tasks.template[r[0]] for r in rows])
    for g, prefix in enumerate(_SCORES):
        attempt = _attempts(rows, tasks.solved, lambda r, g=g: scores[r, g])
        yield from _figures(prefix, attempt)
        if not prefix:
            named = dict(zip((numbers % len(templates)).tolist(), kinds.tolist(), strict=True))
            for place, kind in sorted(named.items()):
                yield f"{templates[place]}/auccess", _mean(auccess(attempt[kinds == kind]))
    yield from _figures("near/", _attempts(rows, tasks.solved, lambda r: nearness(tasks, r)))
    chance = torch.stack([by_chance(int(tasks.solved[r].sum()), len(r)) for r in rows])
    yield "random/auccess", _mean(torch.stack([expected(c) for c in chance]))
    yield "random/success@1", _mean(chance[:, 0])
    yield "random/success@10", _mean(chance[:, 9])
    yield "optimal/auccess", _mean(auccess(_attempts(rows, tasks.solved, lambda r: tasks.solved[r].float())))


def nearness(tasks: Tasks, rows: Tensor) -> Tensor:
    """How near actions (of one task) are to the nearest that solved another task of the template, (len(rows),)."""
    here = rows[0]
    others = tasks.solved & (tasks.template == tasks.template[here]) & (tasks.task != tasks.task[here])
    if not others.any():
        return torch.zeros(len(rows))
    return -torch.cdist(tasks.action[rows], tasks.action[others]).amin(1)


def _attempts(rows: list[Tensor], solved: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([first_solved(score(r), solved[r]) for r in rows])


def _figures(prefix: str, attempt: Tensor) -> Iterator[tuple[str, Estimate]]:
    yield f"{prefix}auccess", _mean(auccess(attempt))
    yield f"{prefix}success@1", _mean(within(attempt, 1))
    yield f"{prefix}success@10", _mean(within(attempt, 10))


def _mean(value: Tensor) -> Estimate:
    """Mean over tasks (n,), with its interval over them."""
    return accuracy(value, torch.arange(len(value)))
