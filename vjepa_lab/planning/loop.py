"""The closed loop: look, plan, act, look again; and who may plan in it.

A policy is a function of what is seen and of the goal. That of the world model plans anew after every action (receding
horizon), from its last plan. The others say what its success is worth: nothing at all, random actions of the same
size, and two ceilings: a straight line to the true pose of the goal, and the same planner with the true simulator in
place of the model, which judges actions by the picture they lead to.

A task may have several goals, each with a number of actions: the paper grasps by 4 actions towards a first picture, 10
towards a second and 4 towards a third. The schedule is fixed, as nobody tells a robot that it has arrived; the last
goal alone ends an attempt early. A policy is made anew for every goal, since a plan for the last one leads elsewhere.

Reference: V-JEPA 2 paper, section 3.2 and 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.dist import derive
from vjepa_lab.planning.cem import PlanningResult, plan
from vjepa_lab.planning.model import Model
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.robots import Robot

Array = NDArray[np.float64]


class Env(Protocol):
    """What a robot, or a simulated one, must offer to the loop (``sim.FrankaSim`` does)."""

    robot: Robot

    def reset(self, seed: int) -> Any:
        """Draw a start and goals, and aim at the first; an observation with ``image`` (H, W, 3) and ``state`` (S,)."""
        ...

    def aim(self, goal: int) -> None:
        """Make another of the goals the present one."""
        ...

    def act(self, action: Array) -> Any:
        """Do an action (A,), and look."""
        ...

    @property
    def goal(self) -> Any:
        """The present one, with ``image`` and ``state``, as an observation."""
        ...

    @property
    def distance(self) -> float:
        """To the present goal."""
        ...

    @property
    def solved(self) -> bool: ...


class Attempt(NamedTuple):
    """One try at one goal, or at several in turn."""

    seed: int
    reached: list[bool]
    "of each goal: at some step, within its actions"
    distances: list[float]
    "to the goal of that time: at the start and after every action"
    actions: list[Array]
    energies: list[float]
    "of each plan, where there is one"

    @property
    def solved(self) -> bool:
        """Have all goals been reached?"""
        return all(self.reached)


Policy = Callable[[Any], tuple[Array, float]]
"What is seen -> an action (A,) and the energy of its plan (NaN without one)"
MakePolicy = Callable[[Env, int], Policy]
"For every goal: the environment that aims at it, and a seed"


def attempt(env: Env, make: MakePolicy, seed: int, *, schedule: Sequence[int], stop: bool = True) -> Attempt:
    """Try to reach the goals of ``seed`` one after the other.

    Args:
        schedule: actions towards each goal.
        stop: no further than to the last goal.
    """
    seen = env.reset(seed)
    reached, distances, actions, energies = [], [env.distance], [], []
    for goal, steps in enumerate(schedule):
        env.aim(goal)
        policy = make(env, derive(seed, "goal", goal) if goal else seed)
        reached.append(env.solved)
        for _ in range(steps):
            action, energy = policy(seen)
            seen = env.act(action)
            distances.append(env.distance)
            actions.append(action)
            energies.append(energy)
            reached[goal] |= env.solved
            if reached[goal] and stop and goal == len(schedule) - 1:
                break
    return Attempt(seed, reached, distances, actions, energies)


def by_model(model: Model, config: CemConfig, *, chunk: int) -> MakePolicy:
    """Plans with the world model, each plan from the last one shifted by an action.

    Raises:
        ValueError: at the first attempt, when the model's robot describes other states or actions than the arm's.
    """

    def make(env: Env, seed: int) -> Policy:
        _same(model.world.robot, env.robot)
        goal, rng = model.features(env.goal.image), torch.Generator().manual_seed(derive(seed, "plan"))
        last: list[PlanningResult] = []

        def policy(seen: Any) -> tuple[Array, float]:
            energy = model.energy(seen.image, seen.state, goal, chunk=chunk)
            start = last[-1].shifted() if last and config.horizon > 1 else None
            found = _search(energy, config, rng, env.robot, start, model.device)
            last[:] = [found]
            return _first(found), found.energy

        return policy

    return make


def by_simulator(config: CemConfig) -> MakePolicy:
    """The same planner with the true simulator as its model: the energy is the mean difference of pictures, 0 to 1."""

    def make(env: Any, seed: int) -> Policy:
        rng, goal = torch.Generator().manual_seed(derive(seed, "plan")), env.goal.image.astype(np.float32)
        last: list[PlanningResult] = []

        def energy(actions: torch.Tensor) -> torch.Tensor:
            here, gaps = env.snapshot(), []
            for sequence in actions.double().numpy():
                env.restore(here)
                for action in sequence:
                    env.step(action)
                gaps.append(np.abs(env.observe().image.astype(np.float32) - goal).mean() / 255)
            env.restore(here)
            return torch.tensor(gaps)

        def policy(seen: Any) -> tuple[Array, float]:
            start = last[-1].shifted() if last and config.horizon > 1 else None
            found = _search(energy, config, rng, env.robot, start, torch.device("cpu"))
            last[:] = [found]
            return _first(found), found.energy

        return policy

    return make


def by_line(config: CemConfig) -> MakePolicy:
    """Straight to the goal's true pose, within the planner's limits."""

    def make(env: Env, seed: int) -> Policy:
        limits = _limits(config, env.robot)

        def policy(seen: Any) -> tuple[Array, float]:
            both = torch.from_numpy(np.stack([seen.state, env.goal.state]))
            return np.clip(env.robot.difference(both)[0].numpy(), -limits, limits), np.nan

        return policy

    return make


def at_random(config: CemConfig) -> MakePolicy:
    """Any action within the planner's limits."""

    def make(env: Env, seed: int) -> Policy:
        rng, limits = np.random.default_rng(derive(seed, "random")), _limits(config, env.robot)
        return lambda seen: (rng.uniform(-limits, limits), np.nan)

    return make


def no_action(config: CemConfig) -> MakePolicy:
    """Stays where it is."""
    return lambda env, seed: lambda seen: (np.zeros(env.robot.action_dim), np.nan)


def _same(robot: Robot, arm: Robot) -> None:
    """Limits and rate are the planner's and the recording's; what the numbers mean must agree."""
    named = {"name": arm.name, "limits": arm.limits, "rate": arm.rate}
    if replace(robot, **named) != arm:
        raise ValueError(f"the world model is of robot '{robot.name}', {robot}; the arm is '{arm.name}', {arm}")


def _limits(config: CemConfig, robot: Robot) -> Array:
    own = dict(zip(("translation", "rotation", "gripper"), robot.limits, strict=True))
    sizes = {n: own[n] if getattr(config, n) is None else getattr(config, n) for n in own}
    limits = np.zeros(robot.action_dim)
    for name, where in robot.groups.items():
        limits[where] = sizes[name]
    return limits


def _search(
    energy: Any,
    config: CemConfig,
    rng: torch.Generator,
    robot: Robot,
    start: PlanningResult | None,
    device: torch.device,
) -> PlanningResult:
    closing = robot.closed - robot.opened
    limits = robot.action_limits
    return plan(energy, config, rng, limits=limits, groups=robot.groups, start=start, closing=closing, device=device)


def _first(found: PlanningResult) -> Array:
    return found.actions[0].double().cpu().numpy()
