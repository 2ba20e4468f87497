"""The planner finds known optima within its limits, by the same steps as a plain one."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from vjepa_lab.planning.cem import PlanningResult, chunked, plan
from vjepa_lab.planning.settings import CemConfig
from vjepa_lab.robots import DROID

QUICK = CemConfig(samples=200, iterations=12, elites=10, gripper_threshold=0.0)
GOAL = torch.tensor([0.03, -0.02, 0.01, 0, 0, 0, 0.4])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def search(energy, config: CemConfig = QUICK, seed: int = 0, **more) -> PlanningResult:
    return plan(energy, config, seeded(seed), limits=DROID.action_limits, groups=DROID.groups, **more)


def to_goal(actions: Tensor) -> Tensor:
    """A bowl around GOAL for the sum of all actions."""
    return (actions.sum(1) - GOAL).square().sum(-1)


class Arm:
    """A world that is known: the pose follows the actions, and a fixed nonlinear map of it is what is seen."""

    def __init__(self, seed: int = 0) -> None:
        self.state = torch.tensor([0.4, 0.0, 0.3, 3.0, 0.1, 0.2, 0.5])
        self.map = torch.randn(7, 32, generator=seeded(seed)) * torch.tensor([5.0, 5, 5, 1, 1, 1, 1])[:, None]

    def see(self, state: Tensor) -> Tensor:
        return torch.tanh((state - self.state) @ self.map)

    def energy(self, goal: Tensor):
        def of(actions: Tensor) -> Tensor:
            state = self.state
            for step in range(actions.shape[1]):
                state = DROID.integrate(state, actions[:, step])
            return (self.see(state) - self.see(goal)).abs().mean(-1)

        return of


@pytest.mark.parametrize("ball", ["box", "l1"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_the_optimum_of_a_bowl_is_found(horizon, ball):
    found = search(to_goal, replace(QUICK, horizon=horizon, ball=ball, iterations=25))
    assert found.actions.shape == (horizon, 7)
    torch.testing.assert_close(found.actions.sum(0), GOAL, rtol=0, atol=1e-4 if horizon == 1 else 5e-3)
    assert found.energy == pytest.approx(to_goal(found.actions[None]).item())


def test_an_optimum_out_of_reach_is_met_at_the_limits():
    """The corner of the box, 13 cm away; the face of the L1 ball, whose sum is 7.5 cm."""
    corner = torch.tensor([0.1, 0.1, 0.1, 0, 0, 0, 0])
    box, ball = (search(lambda a: (a[:, 0] - corner).square().sum(-1), replace(QUICK, ball=b)) for b in ("box", "l1"))
    torch.testing.assert_close(box.actions[0, :3], torch.full((3,), 0.075), rtol=0, atol=1e-4)
    torch.testing.assert_close(ball.actions[0, :3], torch.full((3,), 0.025), rtol=0, atol=3e-3)
    assert ball.actions[0, :3].sum().item() == pytest.approx(0.075, abs=1e-4)


@pytest.mark.parametrize("ball", ["box", "l1"])
@pytest.mark.parametrize("preset", ["paper", "released", "icem"])
def test_every_sample_keeps_to_the_limits(preset, ball):
    seen = []

    def energy(actions):
        seen.append(actions)
        return actions.sum((1, 2))

    config = replace(CemConfig.preset(preset), samples=100, horizon=3, ball=ball, rotation=0.1)
    search(energy, config, start=search(to_goal, replace(QUICK, horizon=3)))
    actions = torch.cat(seen)
    sizes = actions.abs().amax((0, 1))
    assert (sizes[:3] <= config.translation + 1e-7).all()
    assert sizes[:3].max() > 0.9 * config.translation  # and they are reached
    assert (sizes[3:6] <= 0.1).all()
    assert sizes[6] <= 0.75
    if ball == "l1":
        assert actions[..., :3].abs().sum(-1).max() <= config.translation * (1 + 1e-5)


def test_numbers_that_are_not_to_be_chosen_are_held():
    seen = []

    def energy(actions):
        seen.append(actions)
        return to_goal(actions)

    config = replace(QUICK, horizon=3, iterations=3, fixed={1: -0.01}, close_gripper=1, rotation=0.0)
    found = search(energy, config, closing=2.0)
    actions = torch.cat([*seen, found.actions[None]])
    assert (actions[..., 1] == -0.01).all()
    assert (actions[..., 3:6] == 0).all()
    assert (actions[:, 1:, 6] == 2).all()
    assert actions[:, 0, 6].std() > 0
    assert (found.history.std[:, :, 1] == 0).all()
    still = search(to_goal, replace(QUICK, gripper=0.0))
    assert still.actions[0, 6] == 0


def test_limits_are_the_robots_where_settings_have_none():
    config = replace(QUICK, rotation=None, translation=None)
    found = search(lambda a: -a.sum((1, 2)), config)
    torch.testing.assert_close(found.actions[0], torch.tensor(DROID.action_limits), rtol=0, atol=1e-3)


def test_small_motions_of_the_gripper_are_left_out():
    config = replace(QUICK, gripper_threshold=0.25)
    far, near = (search(lambda a, g=g: (a[:, 0, 6] - g).square(), config).actions[0, 6] for g in (0.4, 0.2))
    assert far.item() == pytest.approx(0.4, abs=1e-2)
    assert near == 0


def plain_cem(energy_of_last, step_state, config: CemConfig, rng: torch.Generator) -> Tensor:
    """The algorithm of the paper in its order: one step of the horizon after the other, momentum, the mean (H, 7)."""
    free = [0, 1, 2, 6]
    mean = torch.zeros(config.horizon, 4)
    std = torch.tensor([config.translation] * 3 + [1.0]).repeat(config.horizon, 1)
    bound = torch.tensor([config.translation] * 3 + [0.75])
    for _ in range(config.iterations):
        noise = torch.randn(config.horizon, config.samples, 4, generator=rng)
        states, steps = None, []
        for h in range(config.horizon):
            action = torch.zeros(config.samples, 7)
            action[:, free] = (noise[h] * std[h] + mean[h]).clamp(-bound, bound)
            if config.close_gripper is not None and h >= config.close_gripper:
                action[:, 6] = 1
            states = step_state(states, action)
            steps.append(action)
        order = energy_of_last(states).argsort()[: config.elites]
        elites = torch.stack(steps, dim=1)[order][..., free]
        m, s = config.momentum_mean, config.momentum_std
        mean = elites.mean(0) * (1 - m) + mean * m
        std = elites.std(0) * (1 - s) + std * s
    mean[:, 3] = torch.where(mean[:, 3].abs() < 0.25, 0, mean[:, 3])
    actions = torch.zeros(config.horizon, 7)
    actions[:, free] = mean
    return actions


@pytest.mark.parametrize(("horizon", "close"), [(1, None), (2, None), (4, 2)])
def test_all_steps_at_once_are_the_released_steps_one_by_one(horizon, close):
    arm = Arm()
    goal = DROID.integrate(arm.state, torch.tensor([0.04, -0.03, 0.05, 0, 0, 0, 0.4]))
    config = replace(CemConfig.preset("released"), horizon=horizon, samples=160, iterations=6, close_gripper=close)

    def step(states, action):
        return DROID.integrate(arm.state if states is None else states, action)

    plain = plain_cem(lambda states: (arm.see(states) - arm.see(goal)).abs().mean(-1), step, config, seeded(3))
    found = search(arm.energy(goal), config, seed=3)
    if close is not None:
        torch.testing.assert_close(found.actions[close:, 6], torch.ones(horizon - close))
        plain[close:, 6] = 1  # the released mean only tends to it
    torch.testing.assert_close(found.actions, plain, rtol=0, atol=1e-6)


def test_moments_are_what_a_hand_computes():
    """Of one iteration in which every sample is an elite."""
    config = CemConfig(
        samples=8, elites=8, iterations=1, horizon=2, momentum_mean=0.25, momentum_std=0.5,
        momentum_mean_gripper=0.75, momentum_std_gripper=1.0,
    )  # fmt: skip
    found = search(to_goal, config, seed=7)
    noise = torch.randn(2, 8, 4, generator=seeded(7))
    first = torch.tensor([0.075, 0.075, 0.075, 1.0])
    bound = torch.tensor([0.075, 0.075, 0.075, 0.75])
    samples = (noise * first).clamp(-bound, bound)
    keep_mean, keep_std = torch.tensor([0.25, 0.25, 0.25, 0.75]), torch.tensor([0.5, 0.5, 0.5, 1.0])
    free = [0, 1, 2, 6]
    torch.testing.assert_close(found.history.mean[0][:, free], samples.mean(1) * (1 - keep_mean))
    torch.testing.assert_close(found.history.std[0][:, free], samples.std(1) * (1 - keep_std) + first * keep_std)
    assert found.history.mean[0][:, 3:6].abs().max() == 0


def test_the_goal_being_the_start_gives_no_motion():
    arm = Arm()
    found = search(arm.energy(arm.state), replace(QUICK, iterations=25, gripper_threshold=0.25))
    assert found.actions.abs().max() < 1e-4
    assert found.actions[0, 6] == 0


def test_closed_loop_goes_straight_to_the_goal_at_the_limit_of_each_axis():
    arm = Arm()
    goal = arm.state.clone()
    goal[:3] += torch.tensor([0.2, -0.1, 0.04])
    left, last = (goal - arm.state)[:3].abs(), None
    for step in range(1, 4):
        now = arm.state

        def gap(actions, now=now):
            return (DROID.integrate(now, actions[:, 0]) - goal)[:, :3].square().sum(-1)

        last = search(gap, replace(QUICK, iterations=20), seed=step, start=None if last is None else last.shifted())
        arm.state = DROID.integrate(arm.state, last.actions[0])
        expected = (left - 0.075 * step).clamp_min(0)
        torch.testing.assert_close((goal - arm.state)[:3].abs(), expected, rtol=0, atol=2e-3)


def bumpy(actions: Tensor, centre: tuple[float, float] = (0.02, -0.03)) -> Tensor:
    """A bowl with ripples in x and y of every step: many local minima, the lowest at ``centre``."""
    off = (actions[..., :2] - torch.tensor(centre)) / 0.075
    return (off.square() + 0.3 * (1 - torch.cos(9 * off))).sum((1, 2)) + actions[..., 2:].square().sum((1, 2))


def test_a_search_is_not_worse_than_trying_a_grid():
    values = torch.linspace(-0.075, 0.075, 30)
    grid = torch.zeros(len(values) ** 2, 1, 7)
    grid[:, 0, :2] = torch.tensor(list(product(values.tolist(), repeat=2)))
    assert search(bumpy).energy <= bumpy(grid).min().item()


@pytest.mark.parametrize("name", ["bowl", "many minima", "arm"])
def test_icem_with_warm_start_needs_a_quarter_of_the_evaluations(name):
    """Started from a plan for a goal that is 5 mm off, against the settings of the paper with the best sample kept."""
    arm, off = Arm(), torch.tensor([0.005, -0.005, 0, 0, 0, 0, 0])
    goals = [DROID.integrate(arm.state, action) for action in (GOAL, GOAL + off)]
    now, before = {
        "bowl": (to_goal, lambda a: to_goal(a - off / 2)),
        "many minima": (bumpy, lambda a: bumpy(a, (0.025, -0.025))),
        "arm": tuple(arm.energy(goal) for goal in goals),
    }[name]
    plain = CemConfig(horizon=2, gripper_threshold=0.0)
    icem = replace(CemConfig.preset("icem"), horizon=2, gripper_threshold=0.0)
    plains, quarters = [], []
    for seed in range(3):
        last = search(before, icem, seed=100 + seed)
        plains.append(search(now, plain, seed=seed))
        quarters.append(search(now, icem, seed=200 + seed, start=last))
    assert sum(found.energy for found in quarters) <= sum(found.energy for found in plains)
    assert max(found.evaluations for found in quarters) <= plains[0].evaluations / 4


def test_a_warm_start_helps_when_the_goal_has_moved_a_little():
    config = replace(QUICK, horizon=3, samples=60, iterations=3)
    moved = GOAL + torch.tensor([0.004, 0.004, -0.004, 0, 0, 0, 0])
    cold, warm = [], []
    for seed in range(10):
        last = search(to_goal, replace(QUICK, horizon=3, samples=400), seed=seed)
        energy = lambda actions: (actions.sum(1) - moved).square().sum(-1)  # noqa: E731
        cold.append(search(energy, config, seed=50 + seed).energy)
        warm.append(search(energy, config, seed=50 + seed, start=last).energy)
    assert sum(warm) < sum(cold) / 2


def test_a_plan_never_gets_worse_than_the_one_it_started_from():
    best = search(to_goal, replace(QUICK, horizon=2, samples=400, iterations=20))
    again = search(to_goal, replace(QUICK, horizon=2, samples=10, iterations=1), start=best)
    assert again.energy <= best.energy


def test_kept_elites_are_not_lost_and_not_asked_for_again():
    asked = []

    def energy(actions):
        asked.append(len(actions))
        return bumpy(actions)

    config = replace(QUICK, keep=0.5, samples=40, iterations=6, shrink=1.25)
    found = search(energy, config)
    assert asked[:-1] == [40, 32, 25, 20, 20, 20]  # never fewer than twice the elites
    assert found.evaluations == sum(asked)
    assert (found.history.best.diff() <= 0).all()


def test_gradients_finish_what_samples_began_within_the_limits():
    rough = replace(QUICK, horizon=2, samples=40, iterations=2)
    plain = search(to_goal, rough)
    finished = search(to_goal, replace(rough, gradient_steps=60))
    assert finished.energy < plain.energy / 100
    corner = torch.tensor([0.2, 0.2, 0.2, 0, 0, 0, 0])
    limited = search(lambda a: (a.sum(1) - corner).square().sum(-1), replace(rough, gradient_steps=30, ball="l1"))
    assert limited.actions[:, :3].abs().sum(1).tolist() == pytest.approx([0.075, 0.075], rel=1e-3)
    with pytest.raises(ValueError, match="gradient_steps need one that is differentiable"):
        search(lambda a: to_goal(a.detach()), replace(rough, gradient_steps=1))


def test_the_best_sample_is_kept_even_if_the_mean_goes_astray():
    """Two equal hollows: the mean of elites from both lies on the hill between."""

    def hollows(actions):
        return (actions[:, 0, 0].abs() - 0.05).abs()

    config = replace(QUICK, iterations=1, samples=500, elites=200)
    mean, best = (search(hollows, replace(config, answer=a)) for a in ("mean", "best"))
    assert best.energy < 0.002 < 0.02 < mean.energy


def test_a_plan_is_a_function_of_the_generator():
    config = replace(CemConfig.preset("icem"), horizon=3)
    first, again, other = search(bumpy, config, seed=1), search(bumpy, config, seed=1), search(bumpy, config, seed=2)
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


def test_chunks_change_nothing_but_the_size_of_calls():
    sizes = []

    def energy(actions):
        sizes.append(len(actions))
        return bumpy(actions)

    whole, parts = search(bumpy), search(chunked(energy, 64))
    assert torch.equal(whole.actions, parts.actions)
    assert max(sizes) == 64
    assert parts.energies.tolist() == whole.energies.tolist()
    with pytest.raises(ValueError, match="chunked: got size 0"):
        chunked(energy, 0)


def test_history_says_how_it_went():
    found = search(to_goal, replace(QUICK, horizon=2))
    assert found.history.mean.shape == found.history.std.shape == (12, 2, 7)
    assert found.history.evaluations.tolist() == list(range(200, 2401, 200))
    assert (found.energies.diff() <= 0).all()
    assert (found.history.elite >= found.history.best).all()
    assert found.elites.shape == (10, 2, 7)
    torch.testing.assert_close(to_goal(found.elites[:1]), found.history.best[-1:])


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_shifted_plan_is_what_is_left_of_it_and_rests_at_its_end(steps):
    found = search(to_goal, replace(QUICK, horizon=3))
    shifted = found.shifted(steps)
    left = max(3 - steps, 0)
    for before, after in ((found.actions, shifted.actions), (found.elites, shifted.elites)):
        assert after.shape == before.shape
        assert torch.equal(after[..., :left, :], before[..., 3 - left :, :])
        assert not after[..., left:, :].any()


def test_what_is_left_of_a_plan_is_as_good_as_the_plan_where_the_world_is_as_planned():
    last = search(to_goal, replace(QUICK, horizon=3, samples=400, iterations=20))
    done = last.actions[0]
    few = replace(QUICK, horizon=3, samples=10, iterations=1)
    again = search(lambda a: to_goal(torch.cat((done.expand(len(a), 1, 7), a), 1)), few, start=last.shifted())
    assert again.energy <= last.energy + 1e-9


@pytest.mark.parametrize("exponent", [0.5, 2.0])
@pytest.mark.parametrize("horizon", [2, 5, 8])
def test_coloured_noise_is_as_strong_as_white_and_smoother(horizon, exponent):
    """Against a slow filter: every wave by itself, weighted by its frequency."""
    samples = []

    def energy(actions):
        samples.append(actions)
        return to_goal(actions)

    config = CemConfig(samples=4000, iterations=1, horizon=horizon, colour=exponent, translation=1e3, spread=1e-3)
    search(energy, config)
    got = samples[0][..., 0]
    white = torch.randn(horizon, 4000, 4, generator=seeded())[..., 0].double().numpy()
    waves = [min(k, horizon - k) for k in range(horizon)]
    weights = torch.tensor([max(k, 1) ** (-exponent / 2) for k in waves], dtype=torch.float64)
    weights = weights / weights.square().mean().sqrt()
    spectrum = torch.fft.fft(torch.from_numpy(white), dim=0) * weights[:, None]
    slow = torch.fft.ifft(spectrum, dim=0).real.T
    torch.testing.assert_close(got.double(), slow, rtol=0, atol=1e-5)
    assert got.std(0).tolist() == pytest.approx([1.0] * horizon, rel=0.05)
    if horizon > 2:
        assert (got[:, 1:] - got[:, :-1]).std() < 0.97 * 2**0.5


def test_energies_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match=r"energy: expected shape \(200,\), got \(200, 7\)"):
        search(lambda a: a[:, 0])
    with pytest.raises(ValueError, match="expected finite numbers"):
        search(lambda a: a.sum((1, 2)) * torch.nan)
    some = search(lambda a: torch.where(a[:, 0, 0] > 0, to_goal(a), torch.nan), replace(QUICK, answer="best"))
    assert some.actions[0, 0] > 0
    with pytest.raises(ValueError, match="exceed 7 limits"):
        search(to_goal, replace(QUICK, fixed={9: 0.0}))
    with pytest.raises(ValueError, match=r"start: expected actions \(2, 7\), got \(1, 7\)"):
        search(to_goal, replace(QUICK, horizon=2), start=search(to_goal))
