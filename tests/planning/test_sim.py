"""The simulated arm: poses by forward kinematics, moves that arrive, pictures that show the state, open goals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vjepa_lab.planning import _arm, loop
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.planning.sim import DOWN, TABLE, WORKSPACE, FrankaSim, behind
from vjepa_lab.poses import euler_to_matrix, rotation_angle
from vjepa_lab.robots import DROID

NO_CUBE = np.array([0.45, 0.5, 0.0])
"on the table and out of the way"

# Denavit and Hartenberg's parameters of the Panda after Craig, from its manual: (a, d, alpha); the last is the flange.
PANDA = (
    (0, 0.333, 0),
    (0, 0, -math.pi / 2),
    (0, 0.316, math.pi / 2),
    (0.0825, 0, math.pi / 2),
    (-0.0825, 0.384, -math.pi / 2),
    (0, 0, math.pi / 2),
    (0.088, 0, math.pi / 2),
    (0, 0.107, 0),
)


def flange(joints: np.ndarray) -> np.ndarray:
    """(4, 4) pose of the flange by the manual's table."""
    pose = np.eye(4)
    for (a, d, alpha), q in zip(PANDA, [*joints, 0.0], strict=True):
        (ca, sa), (cq, sq) = (math.cos(alpha), math.sin(alpha)), (math.cos(q), math.sin(q))
        rows = ((cq, -sq, 0, a), (sq * ca, cq * ca, -sa, -d * sa), (sq * sa, cq * sa, ca, d * ca), (0, 0, 0, 1))
        pose = pose @ np.array(rows)
    return pose


def angle_between(one: np.ndarray, two: np.ndarray) -> float:
    """Of the rotations of two states, rad."""
    first, second = (euler_to_matrix(torch.from_numpy(state[3:6])) for state in (one, two))
    return float(rotation_angle(second @ first.mT))


def middle(**changes: float) -> np.ndarray:
    state = {"x": 0.5, "y": 0.0, "z": 0.32, "roll": DOWN[0], "pitch": DOWN[1], "yaw": DOWN[2], "gripper": 0.0}
    return np.array(list((state | changes).values()))


def toward(sim: FrankaSim, limit: float = 0.05) -> np.ndarray:
    """The straight line to the goal, which knows the goal's pose."""
    action = DROID.difference(torch.from_numpy(np.stack([sim.state, sim.goal.state])))[0].numpy()
    action[:3] = action[:3].clip(-limit, limit)
    action[6] = 0
    return action


def test_the_state_is_the_flange_of_the_pandas_manual(sim):
    draws = np.random.default_rng(0)
    for _ in range(5):
        tilt = draws.uniform(-0.3, 0.3, 3)
        sim.place(np.array([*draws.uniform(*WORKSPACE), *(DOWN + tilt), 0.3]), NO_CUBE)
        sim.drive(middle(), 0.1)  # in motion, not at a pose that was solved for
        pose, state = flange(sim.joints[0]), sim.state
        np.testing.assert_allclose(state[:3], pose[:3, 3], atol=1e-6)
        np.testing.assert_allclose(euler_to_matrix(torch.from_numpy(state[3:6])).numpy(), pose[:3, :3], atol=1e-6)


def test_different_states_give_different_pictures_and_the_same_state_the_same(needs_simulator):
    with FrankaSim(size=48) as first, FrankaSim(size=48) as second:  # two at once: OSMesa fails here
        pictures = []
        for simulator in (first, second, first):
            for y in (-0.1, 0.1):
                simulator.place(middle(y=y), NO_CUBE)
                pictures.append(simulator.observe().image.astype(int))
        for camera in ("right", "wrist"):
            assert np.abs(first.observe(camera).image - pictures[1]).mean() > 5
    assert pictures[0].shape == (48, 48, 3)
    assert np.abs(pictures[0] - pictures[1]).mean() > 2
    assert all((pictures[i] == pictures[i % 2]).all() for i in range(6))


def test_a_small_move_shows_in_a_small_picture(sim):
    seen = []
    for y in (0.0, 0.01):
        sim.place(middle(y=y), NO_CUBE)
        seen.append(sim.observe().image.astype(int))
    assert np.abs(seen[0] - seen[1]).max() > 10


def test_a_zero_action_stays(sim):
    sim.place(middle(gripper=0.5), NO_CUBE)
    before = sim.state
    for _ in range(8):
        after = sim.step(np.zeros(7))
    assert np.linalg.norm(after[:3] - before[:3]) < 1e-4
    assert angle_between(before, after) < 1e-3
    assert abs(after[6] - before[6]) < 0.01


def test_commanded_moves_arrive_within_a_millimetre(sim):
    draws = np.random.default_rng(0)
    sim.place(middle(), NO_CUBE)
    for _ in range(20):
        move, turn = draws.uniform(-0.075, 0.075, 3), draws.uniform(-0.1, 0.1, 3)
        here = sim.state
        move = (here[:3] + move).clip((0.4, -0.2, 0.25), (0.6, 0.2, 0.42)) - here[:3]
        action = np.array([*move, *turn, 0])
        wanted = DROID.integrate(torch.from_numpy(here), torch.from_numpy(action)).numpy()
        if abs(math.remainder(wanted[3] - math.pi, 2 * math.pi)) + abs(wanted[4]) > 0.5:
            action[3:6] = 0
            wanted[3:6] = here[3:6]
        there = sim.step(action)
        assert np.linalg.norm(there[:3] - wanted[:3]) < 1e-3
        assert angle_between(there, wanted) < 2e-3


def test_the_gripper_goes_where_it_is_told_and_keeps_its_grip(sim):
    sim.place(middle(), NO_CUBE)
    assert sim.state[6] < 0.02
    for target in (0.25, 0.5, 0.75, 1.0):
        sim.step([0, 0, 0, 0, 0, 0, 0.25])
        assert sim.step(np.zeros(7))[6] == pytest.approx(target, abs=0.02)


def test_the_arm_stops_at_the_walls_of_the_workspace(sim):
    sim.place(middle(), NO_CUBE)
    for _ in range(8):
        state = sim.step([0, 0, -0.075, 0, 0, 0, 0])
    assert state[2] == pytest.approx(WORKSPACE[0][2], abs=2e-3)


def test_extrinsics_say_where_the_camera_sees_the_cube(sim):
    # The cube is the only red thing. Project its centre as a pinhole camera with these extrinsics would.
    for camera in ("left", "right"):
        sim.place(middle(x=0.4, y=-0.25, z=0.45), np.array([0.5, 0.12, 0.0]))
        pose = sim.extrinsics(camera)
        rotation = euler_to_matrix(torch.from_numpy(pose[3:])).numpy()
        x, y, depth = rotation.T @ (sim.cube - pose[:3])
        focal = 0.5 / math.tan(math.radians(44) / 2)  # in picture heights
        pixel = 48 * (0.5 + focal * np.array([y, x]) / depth)
        image = sim.observe(camera).image.astype(int)
        red = np.argwhere((image[..., 0] > 120) & (image[..., 1] < 100))
        np.testing.assert_allclose(red.mean(0) + 0.5, pixel, atol=1.0)


def test_a_seed_decides_start_goal_and_pictures(sim):
    first = sim.reset(3)
    goal = sim.goal
    other = sim.reset(4)
    assert not (other.image == first.image).all()
    with FrankaSim(size=48) as again:
        second = again.reset(3)
        assert (second.image == first.image).all()
        assert (again.goal.image == goal.image).all()
        np.testing.assert_array_equal(second.state, first.state)


@pytest.mark.parametrize("task", ["reach", "push"])
def test_no_start_is_solved_and_the_straight_line_solves_them_all(needs_simulator, task):
    with FrankaSim(size=16, task=task) as sim:
        for seed in range(6):
            sim.reset(seed)
            assert sim.near - 1e-3 <= sim.distance <= sim.far + 1e-3
            assert not sim.solved
            steps = 0
            while not sim.solved:
                sim.step(toward(sim))
                steps += 1
                assert steps <= 10


def test_goals_in_turn_lie_apart_and_the_first_is_that_of_a_single_one(needs_simulator):
    with FrankaSim(size=16) as one, FrankaSim(size=16, goals=3) as three:
        for seed in range(4):
            start, same = one.reset(seed), three.reset(seed)
            np.testing.assert_array_equal(start.state, same.state)
            np.testing.assert_array_equal(one.goal.state, three.goal.state)
            places = [same.state[:3]]
            for goal in range(3):
                three.aim(goal)
                assert three.distance == pytest.approx(np.linalg.norm(same.state[:3] - three.goal.state[:3]))
                assert three.near - 1e-3 <= np.linalg.norm(three.goal.state[:3] - places[-1]) <= three.far + 1e-3
                places.append(three.goal.state[:3])
        with pytest.raises(ValueError, match="goal: got 3, expected one of the 3"):
            three.aim(3)
    with pytest.raises(ValueError, match="goals: got 2, expected 1 of the task push"):
        FrankaSim(task="push", goals=2)


def test_the_simulator_as_the_model_solves_what_the_line_solves(needs_simulator):
    """The ceiling: the planner judges actions by the pictures that they truly lead to."""
    config = CemConfig(samples=12, iterations=3, elites=3, gripper=0.0)
    with FrankaSim(size=32, goals=2, rate=12.0) as sim:
        tried = loop.attempt(sim, loop.by_simulator(config), 5, schedule=[5, 5])
    assert tried.solved
    assert np.isfinite(tried.energies).all()


def test_doing_nothing_solves_nothing(sim):
    for seed in range(3):
        sim.reset(seed)
        for _ in range(3):
            sim.step(np.zeros(7))
        assert not sim.solved


def test_the_goals_picture_is_what_the_arm_sees_there(sim):
    sim.reset(1)
    goal, start = sim.goal, sim.observe().image.astype(int)
    for _ in range(8):
        sim.step(toward(sim, limit=0.1))
    left = np.abs(sim.observe().image.astype(int) - goal.image).mean()
    assert sim.distance < 2e-3
    assert left < 0.1 * np.abs(start - goal.image).mean()


def test_a_snapshot_brings_back_the_same_future(needs_simulator):
    with FrankaSim(size=16, task="push") as sim:
        sim.reset(0)
        sim.step([0.02, 0.0, 0, 0, 0, 0, 0])  # moving, and in contact soon
        snapshot = sim.snapshot()
        actions = np.random.default_rng(0).uniform(-0.05, 0.05, (3, 7))
        futures = []
        for _ in range(2):
            sim.restore(snapshot)
            futures.append(np.stack([np.concatenate([sim.step(a), sim.cube]) for a in actions]))
    np.testing.assert_array_equal(*futures)


def test_a_hand_behind_the_cube_pushes_it_along_its_turn(sim):
    for turn in (-1.2, 0.0, 0.9):
        cube = np.array([0.48, 0.0, turn])
        way = np.array([math.cos(turn), math.sin(turn)])
        sim.place(behind(cube), cube)
        for _ in range(3):
            sim.step([*(0.04 * way), 0, 0, 0, 0, 0])
        moved = sim.cube[:2] - cube[:2]
        assert moved @ way > 0.05
        assert abs(moved @ (-way[1], way[0])) < 0.02


def test_mistakes_are_named(sim):
    with pytest.raises(ValueError, match=r"action: .* shape \(3,\), expected 7 finite numbers"):
        sim.act([0, 0, 0])
    with pytest.raises(ValueError, match="expected 7 finite numbers"):
        sim.act([math.nan] * 7)
    with pytest.raises(ValueError, match=r"camera: got 'top'.*task: got 'stack'"):
        FrankaSim(camera="top", task="stack")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"got 0\.2, 0\.1, 0\.25, expected 0 < threshold < near < far"):
        FrankaSim(threshold=0.2)
    with pytest.raises(ValueError, match="cannot reach"):
        sim.place(middle(x=1.2), np.array([*TABLE[0][:2], 0]))


def test_a_missing_package_names_the_extra_and_the_system_packages(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(_arm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"mujoco is not installed; .*vjepa_lab\[sim\].*libegl1"):
        FrankaSim()


@pytest.mark.skipif(_arm.sys.platform != "linux", reason="OSMesa is a choice on Linux alone")
def test_osmesa_is_refused(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ValueError, match="MUJOCO_GL: got osmesa, expected egl"):
        FrankaSim()
