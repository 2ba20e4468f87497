"""Fields of action supervision beside pretraining; see ``config.py``, and ``inverse.py`` for what they mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class InverseConfig:
    """Fine-tuning with inverse dynamics as an auxiliary objective: data.sources then have to tell actions."""

    weight: float | None = None
    "lambda in loss = native * (masked prediction) + weight * (inverse dynamics), 0.05 in the paper; null: none of this"
    budget: float = 1.0
    "p: each sample takes part in inverse dynamics with this probability"
    normalise: str = "kept"
    "divide by the samples that take part (kept), or by all (batch), which scales weight by budget"
    pair: str = "concat"
    "how two frames are shown: concat (each by itself, as the probe does) | clip (as one clip: the encoder sees motion)"
    unfreeze_last: int | None = 4
    "blocks at the end of the encoder that learn; those before stay as they are. null: all of it learns"
    native: float = 1.0
    "weight of masked prediction; 0: it is measured, and nothing learns from it"
    head_lr: float = 100.0
    "learning rate of the head that tells the action, as a multiple of optim.lr: 100 suits an optim.lr near 1e-5, \
1 one near 1e-3"
    robot: dict[str, Any] = field(default_factory=dict)
    "description of the robot whose episodes data.sources are, {name: libero}; empty: clips that tell their action"
    statistics: int = 256
    "stretches that are read before the first step, to standardise actions"
