"""Learning rate, weight decay and EMA momentum as pure functions of the optimizer step.

Resuming needs the step and nothing else. Steps count from 1: ``schedule(s)`` is the value used for the s-th optimizer
step, and the s-th EMA update follows it with ``momentum(s, ...)``. This is the released convention (released file
src/utils/schedulers.py: the counter goes up before the value is computed), so the last step of warm-up is the first
one at full rate, and the last step of the run uses the final value.

Released recipes: ``wsd`` is post-training on robot data; ``cosine`` with ``final`` = ``ref`` is "warmup-constant"
pretraining; ``linear`` with no warm-up is the cooldown; weight decay is ``cosine`` without warm-up. The released
runs set ``total`` to 1.25 times the steps they take (``ipe_scale``), and so stop short of ``final``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["wsd", "cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from ``start`` to ``ref``, then a course of one of four kinds that ends in ``total`` steps.

    After ``total`` the value stays where it is.

    Raises:
        ValueError: an unknown kind, or numbers of steps that do not fit into one another.
    """

    kind: Kind
    "wsd: hold, then fall linearly in the last ``decay`` steps; linear: fall at once; cosine: half a wave; constant"
    ref: float
    "value at the end of the warm-up"
    total: int
    "steps from the first to the one that has the final value"
    start: float = 0.0
    "value that the warm-up sets out from, one step before step 1"
    final: float = 0.0
    "value of step ``total``; may lie above ``ref`` (weight decay); not used by constant"
    warmup: int = 0
    "steps of the warm-up"
    decay: int = 0
    "steps of the fall, wsd only"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"schedule: kind is {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if self.total < 1:
            raise ValueError(f"schedule: total is {self.total}, expected at least 1 step")
        for field in ("warmup", "decay"):
            if getattr(self, field) < 0:
                raise ValueError(f"schedule: {field} is {getattr(self, field)}, expected 0 or more steps")
        if self.decay and self.kind != "wsd":
            raise ValueError(f"schedule: decay is {self.decay} steps, but kind '{self.kind}' has no use for it")
        if self.warmup + self.decay > self.total:
            raise ValueError(
                f"schedule: warmup + decay is {self.warmup} + {self.decay} steps, expected at most total ({self.total})"
            )

    def __call__(self, step: int) -> float:
        """Value for optimizer step ``step``, counted from 1."""
        if step < self.warmup:
            return self.start + step / self.warmup * (self.ref - self.start)
        if self.kind == "constant":
            return self.ref
        length = self.decay if self.kind == "wsd" else self.total - self.warmup
        into = min(step, self.total) - (self.total - length)
        if into <= 0:
            return self.ref
        if self.kind == "cosine":
            return self.final + 0.5 * (self.ref - self.final) * (1 + math.cos(math.pi * into / length))
        return self.ref + into / length * (self.final - self.ref)


def momentum(step: int, *, start: float, end: float, total: int) -> float:
    """EMA momentum of the update after optimizer step ``step`` (from 1): ``start`` first, then linear towards ``end``.

    The released generator starts to count at 0 (app/vjepa/train.py): the last update of a run of ``total`` steps is
    one increment short of ``end``.
    """
    return start + min(step - 1, total) * (end - start) / total


def ramp(step: int, *, start: int, end: int) -> float:
    """0 in the first ``start`` steps, then linear, 1 once ``end`` have passed (released app/vjepa_2_1/train.py)."""
    passed = step - 1
    return float(passed >= start) if end <= start else min(max((passed - start) / (end - start), 0.0), 1.0)
