"""The closed loop on a point that moves as it is told: who plans well arrives, who does nothing does not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from vjepa_lab.planning import loop
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.robots import Robot

POINT = Robot(name="point", position=("x", "y"), rotation="none", gripper=False, limits=(0.1, 0.0, 0.0))
CONFIG = CemConfig(samples=64, iterations=6, elites=8, translation=0.1, rotation=0.0, gripper=0.0)


class Seen(NamedTuple):
    image: np.ndarray
    state: np.ndarray


class Point:
    """A point in the plane; its picture is its position in grey."""

    robot = POINT

    def reset(self, seed: int) -> Seen:
        rng = np.random.default_rng(seed)
        self.state, targets = rng.uniform(-1, 0, 2), rng.uniform(0.0, 0.2, (2, 2)) - [[0.0], [0.4]]
        self.goals = [Seen(self.draw(target), target) for target in targets]
        self.aim(0)
        return self.observe()

    def aim(self, goal: int) -> None:
        self.goal = self.goals[goal]

    def draw(self, state: np.ndarray) -> np.ndarray:
        return np.broadcast_to((128 + 100 * state.mean()).round().astype(np.uint8), (4, 4, 3))

    def observe(self) -> Seen:
        return Seen(self.draw(self.state), self.state.copy())

    def act(self, action: np.ndarray) -> Seen:
        self.state = self.state + action
        return self.observe()

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(self.state - self.goal.state))

    @property
    def solved(self) -> bool:
        return self.distance < 0.05


class Known:
    """A model that knows the world: features are the position."""

    device = torch.device("cpu")

    def __init__(self, env: Point) -> None:
        self.env = env
        self.world = SimpleNamespace(robot=env.robot)

    def features(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.env.goal.state).float()

    def energy(self, image: np.ndarray, state: np.ndarray, goal: torch.Tensor, *, chunk: int) -> Any:
        start = torch.from_numpy(state).float()
        return lambda actions: (start + actions.sum(1) - goal).abs().sum(1)


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_model_that_knows_the_world_arrives_hardly_later_than_the_line(horizon):
    env = Point()
    config = CemConfig(**{**CONFIG.__dict__, "horizon": horizon})
    line = loop.attempt(env, loop.by_line(config), 3, schedule=[15])
    planned = loop.attempt(env, loop.by_model(Known(env), config, chunk=8), 3, schedule=[15])  # type: ignore[arg-type]
    assert line.solved
    assert planned.solved
    # Only the last of the planned steps is judged: a longer plan may arrive within it as late as it likes.
    assert len(planned.actions) <= len(line.actions) + horizon
    assert all(np.abs(a).max() <= 0.1 + 1e-6 for a in planned.actions)
    assert np.isfinite(planned.energies).all()


def test_doing_nothing_and_random_actions_do_not_arrive():
    env = Point()
    still = loop.attempt(env, loop.no_action(CONFIG), 3, schedule=[5])
    assert not still.solved
    assert len(set(still.distances)) == 1
    assert not loop.attempt(env, loop.at_random(CONFIG), 3, schedule=[5]).solved


def test_the_same_seed_gives_the_same_attempt():
    env = Point()
    one, two, other = (
        loop.attempt(env, loop.by_model(Known(env), CONFIG, chunk=8), seed, schedule=[4])  # type: ignore[arg-type]
        for seed in (3, 3, 4)
    )
    assert np.array_equal(one.actions, two.actions)
    assert one.distances != other.distances


def test_an_attempt_stops_where_it_arrives_unless_it_shall_go_on():
    env = Point()
    short = loop.attempt(env, loop.by_line(CONFIG), 3, schedule=[20])
    long = loop.attempt(env, loop.by_line(CONFIG), 3, schedule=[20], stop=False)
    assert len(short.actions) < len(long.actions) == 20
    assert short.distances == long.distances[: len(short.distances)]


def test_a_model_of_another_robot_does_not_plan_for_this_arm():
    env = Point()
    model = Known(env)
    model.world.robot = replace(env.robot, name="renamed", rate=3.0)
    assert loop.attempt(env, loop.by_model(model, CONFIG, chunk=8), 3, schedule=[1]).actions  # type: ignore[arg-type]
    model.world.robot = replace(env.robot, opened=1.0, closed=0.0)
    with pytest.raises(ValueError, match="the world model is of robot"):
        loop.attempt(env, loop.by_model(model, CONFIG, chunk=8), 3, schedule=[1])  # type: ignore[arg-type]


def test_goals_are_planned_for_in_turn_each_with_its_actions():
    """The first goal takes all its actions although it is reached before; the last ends the attempt."""
    env = Point()
    make = loop.by_model(Known(env), CONFIG, chunk=8)  # type: ignore[arg-type]
    tried = loop.attempt(env, make, 3, schedule=[15, 10])
    assert tried.reached == [True, True]
    assert tried.solved
    first = tried.distances.index(next(d for d in tried.distances if d < 0.05))
    assert first < 13
    assert 15 < len(tried.actions) < 25
    assert max(tried.distances[first:16]) < 0.05
    assert tried.distances[16] > 0.1, "from then on the distance is that to the second goal"
    assert tried.distances[-1] < 0.05


def test_a_goal_that_is_missed_on_the_way_is_a_failure():
    env = Point()
    tried = loop.attempt(env, loop.by_line(CONFIG), 3, schedule=[1, 30])
    assert tried.reached == [False, True]
    assert not tried.solved


def test_random_actions_towards_each_goal_are_new_ones():
    env = Point()
    actions = loop.attempt(env, loop.at_random(CONFIG), 3, schedule=[3, 3], stop=False).actions
    assert not np.allclose(actions[:3], actions[3:])
