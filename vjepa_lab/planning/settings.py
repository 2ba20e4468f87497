"""How a planner searches: the settings of ``cem.plan``, and the presets.

Reference: V-JEPA 2 paper, section 3.2 (``paper``); released file notebooks/utils/world_model_wrapper.py (``released``);
iCEM, arXiv 2008.06389 (``icem``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Ball = Literal["box", "l1"]
Answer = Literal["best", "mean"]


@dataclass
class CemConfig:
    """How to search. Sizes of actions are per step; momentum m makes new = (1 - m) elites + m old."""

    samples: int = 800
    "action sequences drawn per iteration"
    horizon: int = 1
    "actions per sequence"
    iterations: int = 10
    elites: int = 10
    "best sequences, whose mean and deviation the next are drawn around"
    momentum_mean: float = 0.15
    momentum_std: float = 0.15
    momentum_mean_gripper: float = 0.15
    momentum_std_gripper: float = 0.15
    translation: float | None = 0.075
    "largest size of a translation: along each axis (box) or summed over axes (l1); null: the robot's"
    rotation: float | None = 0.0
    "largest rotation about each axis in radians, 0 for none; null: the robot's"
    gripper: float | None = 0.75
    "largest change of the gripper, 0 for none; null: the robot's"
    ball: Ball = "box"
    "shape of the translations that are allowed"
    spread: float = 1.0
    "first deviation, as a multiple of the limit"
    spread_gripper: float = 4 / 3
    "the same of the gripper"
    fixed: dict[int, float] = field(default_factory=dict)
    "numbers of an action (by position) that are held at a value"
    close_gripper: int | None = None
    "step of the horizon from which on the gripper closes; null: as the search finds"
    gripper_threshold: float = 0.25
    "smaller changes of the gripper are left out of the answer"
    answer: Answer = "best"
    "best of all that was drawn, or the last mean"
    colour: float = 0.0
    "exponent of the noise along the horizon: 0 white; 2 and more smooth"
    keep: float = 0.0
    "share of the elites that the next iteration, or the next plan, gets besides its own samples"
    shrink: float = 1.0
    "each iteration draws so many times fewer samples, but at least twice the elites"
    warm_spread: float = 1.0
    "first deviation of a plan that starts from the last one, as a multiple of that of one that does not"
    gradient_steps: int = 0
    "steps of gradient descent after the search; the energy must be differentiable"
    gradient_rate: float = 0.1
    "size of the first of those steps, as a multiple of the limit; it falls linearly to zero"

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, expected at least {least}"
            for name, least in (("horizon", 1), ("iterations", 1), ("elites", 2), ("gradient_steps", 0), ("shrink", 1))
            if getattr(self, name) < least
        ]
        if self.samples < self.elites:
            problems.append(f"samples is {self.samples}, expected at least as many as elites ({self.elites})")
        for name in ("momentum_mean", "momentum_std", "momentum_mean_gripper", "momentum_std_gripper", "keep"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name, allowed in (("ball", Ball), ("answer", Answer)):
            if getattr(self, name) not in get_args(allowed):
                problems.append(f"{name} is '{getattr(self, name)}', expected one of {', '.join(get_args(allowed))}")
        if problems:
            raise ValueError(f"planner: {'; '.join(problems)}")

    @classmethod
    def preset(cls, name: str) -> CemConfig:
        """Settings of the ``paper``; of the ``released`` code; ``icem``: a quarter of the samples, most of them early.

        Raises:
            ValueError: another name.
        """
        presets = {
            "paper": cls(spread=1 / 0.075, spread_gripper=1 / 0.75, answer="mean"),
            "released": cls(samples=400, horizon=2, translation=0.05, answer="mean"),
            "icem": cls(
                samples=320,
                iterations=16,
                elites=7,
                momentum_mean=0.05,
                momentum_std=0.05,
                colour=1.0,
                keep=1.0,
                shrink=1.2,
            ),
        }
        if name not in presets:
            raise ValueError(f"planner: got preset '{name}', expected one of {', '.join(presets)}")
        return presets[name]
