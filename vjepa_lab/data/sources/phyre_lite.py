"""Tasks in the manner of PHYRE: place one ball, so that another comes to lie in the goal. Clips of what comes of it.

The world and its five templates are in ``_phyre_world.py``. A clip shows what happens after an action, from its first
frame on; the balls differ in colour and texture (the target is green with checks, the action's ball red and plain),
boxes are dark, and the goal is tinted. With ``role: actions`` clip number t * actions + a is action a of task t, any
action that fits into the room; with ``role: goals`` clip t * goals + g is another action that does solve task t: what a
planner may know of the goal. Task t is number t // T of template t % T, for T ``templates``.

Truth: ``task`` and ``template`` int64, ``solved`` bool (also the label), ``action`` float32 (3,): x, y and radius.

Frames lie ``step`` seconds of the world apart, whatever rate a run asks for. A task is a function of (seed, split,
template, its number, the number of actions, the frames and the step); all actions of a task are simulated at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Sample
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.render import CHECKS, PLAIN, RINGS, Look, draw_look, render
from vjepa_lab.data.sources._phyre_world import TEMPLATES, Room, Tried, goals, task
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

_GREEN, _BLUE, _RED = (40, 200, 60), (60, 90, 230), (225, 50, 40)
_BOX = 20
"brightness of boxes"
_TINT = np.array([250, 220, 60], dtype=np.float32)[:, None, None, None]
_TINTED = 0.35
_KEPT = 64
"tasks that are remembered"


@SOURCES.register
@dataclass
class PhyreLite:
    """Clips of actions in tasks. See the module's text."""

    weight: float = 1.0
    "share of this source in the mixture"
    role: Literal["actions", "goals"] = "actions"
    "any actions, or such as solve the task"
    split: Literal["train", "val"] = "train"
    "train and val draw from different random streams"
    seed: int = 0
    "another seed is another set of tasks"
    templates: list[str] = field(default_factory=lambda: list(TEMPLATES))
    "hit, ledge, block, bounce, chain"
    tasks: int = 20
    "of each template"
    actions: int = 1000
    "of each task"
    goals: int = 8
    "clips of each task that show it solved, where role is goals"
    step: float = 0.2
    "seconds of the world between frames: 16 frames are 3 seconds"

    def __post_init__(self) -> None:
        problems = [
            f"{name}: got {value}, expected at least 1"
            for name in ("tasks", "actions", "goals")
            if (value := getattr(self, name)) < 1
        ]
        unknown = [name for name in self.templates if name not in TEMPLATES]
        if unknown or not self.templates or len(set(self.templates)) < len(self.templates):
            problems.append(f"templates: got {self.templates}, expected some of {', '.join(TEMPLATES)}, each once")
        if self.role not in ("actions", "goals") or self.split not in ("train", "val"):
            problems.append(
                f"role and split: got {self.role} and {self.split}, expected actions or goals, train or val"
            )
        if self.step <= 0:
            problems.append(f"step: got {self.step}, expected above 0")
        if problems:
            raise ValueError("source 'phyre_lite': " + "; ".join(problems))

    def open(self, spec: ClipSpec) -> PhyreLiteReader:
        """Reader of clips of a square.

        Raises:
            ValueError: the clips are not square, or too short to show anything.
        """
        if spec.height != spec.width or spec.frames < 2:
            raise ValueError(
                f"source 'phyre_lite': got {spec.frames} frames of {spec.height} x {spec.width}, expected at least 2 "
                "of a square"
            )
        return PhyreLiteReader(self, spec)


class PhyreLiteReader:
    """Clips by number."""

    name = "phyre_lite"
    augment = False
    "crops and flips would part the clip from its task"
    classes = ["unsolved", "solved"]

    def __init__(self, config: PhyreLite, spec: ClipSpec) -> None:
        self.config = config
        self.frames, self.side = spec.frames, spec.height
        self.per_task = config.actions if config.role == "actions" else config.goals

    def __len__(self) -> int:
        return len(self.config.templates) * self.config.tasks * self.per_task

    def key(self, index: int) -> str:
        """Names the clip in reports."""
        number, clip = divmod(index, self.per_task)
        kinds = self.config.templates
        where = f"{self.config.seed}/{self.config.split}/{kinds[number % len(kinds)]}/{number // len(kinds):03d}"
        return f"phyre_lite/{where}/{self.config.role}/{clip:04d}"

    def read(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Clip ``index`` with its truth. ``rng`` is not used."""
        c, (number, clip) = self.config, divmod(index, self.per_task)
        kinds = c.templates
        template, place = kinds[number % len(kinds)], number // len(kinds)
        seed = derive("phyre lite", c.seed, c.split)
        count = c.goals if c.role == "goals" else 0
        made = _made(template, place, seed, c.actions, count, self.frames, c.step)
        shown = paint(made.room, made.path[clip], float(made.action[clip, 2]), self.side)
        facts = {"task": number, "template": TEMPLATES.index(template), "solved": bool(made.solved[clip])}
        truth = {name: torch.tensor(value) for name, value in facts.items()}
        truth["action"] = torch.from_numpy(made.action[clip].astype(np.float32))
        return Sample(torch.from_numpy(shown), label=int(made.solved[clip]), key=self.key(index), truth=truth)


def paint(room: Room, path: NDArray[np.float64], radius: float, side: int) -> NDArray[np.uint8]:
    """Frames uint8 (3, F, side, side) of a path (F, K, 2), whose last ball is the action's, of this radius."""
    count = path.shape[1]
    balls = [(_GREEN, CHECKS), *[(_BLUE, RINGS)] * (count - 2), (_RED, PLAIN)]
    light = np.array([colour for colour, _ in balls], dtype=np.float32)
    plain = draw_look(np.random.Generator(np.random.Philox(key=0)), count, background=0.0)
    look: Look = plain._replace(colour=np.stack([0.5 * light, light], 1), family=tuple(family for _, family in balls))
    clip = render(path, np.append(room.radius, radius), look, height=side, width=side)
    left, top, right, bottom = np.rint(room.goal * side).astype(int)
    goal = clip[..., top:bottom, left:right]
    goal[:] = ((1 - _TINTED) * goal + _TINTED * _TINT + 0.5).astype(np.uint8)
    for box in room.boxes:
        left, top, right, bottom = np.rint(box * side).astype(int)
        clip[..., top : max(bottom, top + 1), left:right] = _BOX
    return clip


@lru_cache(maxsize=_KEPT)
def _tried(template: str, number: int, seed: int, actions: int, frames: int, step: float) -> Tried:
    return task(template, number, seed, actions=actions, frames=frames, step=step)


@lru_cache(maxsize=_KEPT)
def _made(template: str, number: int, seed: int, actions: int, solving: int, frames: int, step: float) -> Tried:
    """A task, with all its actions, or with so many others that solve it."""
    tried = _tried(template, number, seed, actions, frames, step)
    if not solving:
        return tried
    key = derive(template, number, seed)
    path, radius = goals(tried, solving, key, frames=frames, step=step)
    action = np.concatenate([path[:, 0, -1], radius[:, None]], 1)
    return tried._replace(path=path, action=action, solved=np.ones(solving, dtype=bool))
