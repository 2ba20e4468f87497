"""The disc world keeps the laws it states, and agrees with a plain small-step integration."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_lab.data.physics import Motion, scatter, simulate

SEEDS = range(12)


def world(
    seed: int, *, discs: int = 4, frames: int = 40, step: float = 0.25, height: float = 0.8, **laws: float
) -> Motion:
    rng = np.random.default_rng(seed)
    radius = rng.uniform(0.05, 0.12, discs)
    mass = rng.uniform(0.5, 4, discs)
    velocity = rng.normal(0, 0.3, (discs, 2))
    position = scatter(rng, radius, height=height)
    return simulate(position, velocity, mass, radius, frames=frames, step=step, height=height, **laws)


def small_steps(motion: Motion, *, frames: int, step: float, height: float, substeps: int) -> np.ndarray:
    """The same world, moved in small steps; an overlap that closes is answered by the same elastic impulse."""
    x, v = motion.position[0].copy(), motion.velocity[0].copy()
    mass, radius, size = motion.mass, motion.radius, (1.0, height)
    out = [x.copy()]
    for _ in range(frames - 1):
        for _ in range(substeps):
            x += v * step / substeps
            for k in range(len(x)):
                for axis in range(2):
                    if (x[k, axis] < radius[k] and v[k, axis] < 0) or (
                        x[k, axis] > size[axis] - radius[k] and v[k, axis] > 0
                    ):
                        v[k, axis] = -v[k, axis]
                for j in range(k):
                    gap = x[j] - x[k]
                    closing = (v[k] - v[j]) @ gap
                    if gap @ gap < (radius[k] + radius[j]) ** 2 and closing > 0:
                        impulse = 2 * closing / (gap @ gap) / (1 / mass[k] + 1 / mass[j]) * gap
                        v[k] -= impulse / mass[k]
                        v[j] += impulse / mass[j]
        out.append(x.copy())
    return np.array(out)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_events_agree_with_small_steps(seed: int) -> None:
    motion = world(seed, discs=3, frames=7)
    assert len(motion.impacts), "no collision in this world, so it tests nothing"
    slow = small_steps(motion, frames=7, step=0.25, height=0.8, substeps=4000)
    np.testing.assert_allclose(motion.position, slow, atol=5e-3)


def test_equal_discs_that_meet_head_on_exchange_their_velocities() -> None:
    start = np.array([[0.2, 0.5], [0.8, 0.5]])
    speed = np.array([[0.1, 0.0], [-0.3, 0.0]])
    motion = simulate(start, speed, np.ones(2), np.full(2, 0.1), frames=2, step=1.5)
    # A gap of 0.4 closes at 0.4 per second: they touch at 0.3 and 0.5 after one second.
    np.testing.assert_allclose(motion.velocity[1], speed[::-1], atol=1e-12)
    np.testing.assert_allclose(motion.position[1, :, 0], [0.3 - 0.3 * 0.5, 0.5 + 0.1 * 0.5], atol=1e-12)
    np.testing.assert_allclose(motion.impacts, [1.0])
    assert motion.collision[1].tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("seed", SEEDS)
def test_energy_is_conserved(seed: int) -> None:
    energy = world(seed).energy.sum(-1)
    np.testing.assert_allclose(energy, energy[0], rtol=1e-10)


def test_momentum_changes_at_walls_only() -> None:
    met = 0
    for seed in SEEDS:
        motion = world(seed)
        momentum = (motion.mass[:, None] * motion.velocity).sum(1)
        free = ~motion.wall.any(1)[1:]
        np.testing.assert_allclose(momentum[1:][free], momentum[:-1][free], atol=1e-12)
        met += (motion.collision.any((1, 2))[1:] & free).sum()
    assert met > 20


@pytest.mark.parametrize("laws", [{}, {"gravity": 0.3}, {"damping": 0.2}])
def test_discs_never_overlap_nor_leave_the_room(laws: dict[str, float]) -> None:
    for seed in SEEDS:
        motion = world(seed, discs=6, frames=200, step=0.05, **laws)
        r, x = motion.radius, motion.position
        assert (x >= r[:, None] - 1e-9).all()
        assert (x <= np.array([1.0, 0.8]) - r[:, None] + 1e-9).all()
        distance = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) + 10 * np.eye(6)
        assert (distance >= r[:, None] + r - 1e-9).all()


def test_velocity_changes_exactly_where_a_collision_is_recorded() -> None:
    for seed in SEEDS:
        motion = world(seed)
        changed = np.abs(np.diff(motion.velocity, axis=0)).max(-1) > 0
        recorded = (motion.collision.any(-1) | motion.wall)[1:]
        assert (changed == recorded).all()
        assert not motion.collision[0].any()
        assert not motion.wall[0].any()
        assert (motion.collision == motion.collision.transpose(0, 2, 1)).all()
        assert len(motion.impacts) >= motion.collision.sum() // 2
        frames_of_impact = np.ceil(motion.impacts / 0.25).astype(int)
        assert set(frames_of_impact) == set(np.flatnonzero(motion.collision.any((1, 2))))


def test_no_collision_is_missed_between_coarse_frames() -> None:
    fine, coarse = world(3, frames=401, step=0.025), world(3, frames=41, step=0.25)
    np.testing.assert_allclose(fine.position[::10], coarse.position, atol=1e-6)
    np.testing.assert_allclose(fine.impacts, coarse.impacts, atol=1e-6)
    assert (fine.wall[1:].reshape(40, 10, -1).any(1) == coarse.wall[1:]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_gravity_trades_height_for_speed(seed: int) -> None:
    motion = world(seed, gravity=0.3)
    total = motion.energy.sum(-1) - 0.3 * (motion.mass * motion.position[..., 1]).sum(-1)
    np.testing.assert_allclose(total, total[0], rtol=1e-9)
    alone = world(seed, discs=1, frames=2, step=1e-3, gravity=0.3)
    np.testing.assert_allclose(np.diff(alone.velocity[:, 0], axis=0)[0], [0, 0.3e-3], atol=1e-9)


def test_damping_takes_energy_at_its_rate_and_keeps_the_paths() -> None:
    free, damped = world(0, frames=2, step=1.2), world(0, frames=101, step=0.1, damping=0.3)
    time = 0.1 * np.arange(101)
    energy = damped.energy.sum(-1)
    np.testing.assert_allclose(energy, energy[0] * np.exp(-2 * 0.3 * time), rtol=1e-9)
    # After t with 1 - exp(-0.3 t) = 0.3 * 1.2 the damped discs are where the free ones are after 1.2 seconds.
    late = world(0, frames=2, step=-np.log(1 - 0.3 * 1.2) / 0.3, damping=0.3)
    np.testing.assert_allclose(late.position[1], free.position[1], atol=1e-9)
    np.testing.assert_allclose((1 - np.exp(-0.3 * late.impacts)) / 0.3, free.impacts, atol=1e-9)
    assert len(free.impacts)


@pytest.mark.parametrize("laws", [{"gravity": 0.1, "damping": 0.1}, {"gravity": -0.1}, {"damping": -0.1}])
def test_laws_without_an_exact_solution_are_refused(laws: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gravity"):
        world(0, **laws)


@pytest.mark.parametrize("laws", [{}, {"gravity": 0.2}, {"damping": 0.3}])
def test_a_driven_disc_alone_takes_the_velocity_it_is_given(laws: dict[str, float]) -> None:
    start, radius = np.array([[0.5, 0.5]]), np.array([0.05])
    driven = np.random.default_rng(0).uniform(-0.1, 0.1, (7, 2))
    motion = simulate(start, np.ones((1, 2)), np.ones(1), radius, frames=8, step=0.25, driven=driven, **laws)
    drag = laws.get("damping", 0.0)
    seconds = -np.expm1(-drag * 0.25) / drag if drag else 0.25
    fall = np.array([0, 0.5 * laws.get("gravity", 0.0) * 0.25**2])
    moved = np.diff(motion.position[:, 0], axis=0)
    free = ~motion.wall[1:, 0]
    assert free.sum() >= 5
    np.testing.assert_allclose(moved[free], (driven * seconds + fall)[free], atol=1e-12)


def test_driven_discs_stay_apart_and_inside() -> None:
    rng = np.random.default_rng(1)
    radius = rng.uniform(0.05, 0.12, 4)
    driven = rng.normal(0, 0.5, (79, 2))
    motion = simulate(scatter(rng, radius), np.zeros((4, 2)), np.ones(4), radius, frames=80, step=0.25, driven=driven)
    gap = np.linalg.norm(motion.position[:, :, None] - motion.position[:, None], axis=-1) - radius - radius[:, None]
    assert gap[:, ~np.eye(4, dtype=bool)].min() > -1e-9
    assert (motion.position >= radius[:, None] - 1e-9).all()
    assert (motion.position <= 1 - radius[:, None] + 1e-9).all()
    assert motion.collision.any(), "the discs at rest are struck"


def test_a_disc_that_is_driven_as_it_moves_already_moves_as_without() -> None:
    start, speed = np.array([[0.2, 0.5], [0.8, 0.5]]), np.array([[0.01, 0.02], [0.0, 0.0]])
    fields = {"mass": np.ones(2), "radius": np.full(2, 0.05), "frames": 6, "step": 0.25}
    free = simulate(start, speed, **fields)
    driven = simulate(start, speed, driven=np.tile(speed[:1], (5, 1)), **fields)
    np.testing.assert_allclose(driven.position, free.position, atol=1e-12)
