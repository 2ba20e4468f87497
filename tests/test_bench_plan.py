"""The plain planner that the benchmark compares with finds the same plans, and calls of the model are counted right."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from vjepa_lab import poses
from vjepa_lab.planning.cem import History, PlanningResult
from vjepa_lab.robots import DROID, Robot

TOOLS = Path(__file__).parents[1] / "tools" / "bench"
CPU = torch.device("cpu")
POINT = Robot(name="point", position=("x", "y"), rotation="none", gripper=False, limits=(0.1, 0.0, 0.0))


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("plan")


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("plan_search")


@pytest.fixture
def tiny(bench):
    changes = [
        "crop=32",
        "encoder={size: tiny, width: 24, depth: 1, heads: 2, patch: 8}",
        "predictor={width: 48, depth: 2, heads: 2}",
    ]
    return bench.Preset(changes, samples=20, horizon=3, iterations=3, chunk=7)


def test_both_planners_find_the_same_energies_and_plans(bench, tiny):
    both = bench.contest(bench.build_model(tiny, CPU), tiny)
    judged = {name: job() for name, job in both.judge.items()}
    assert judged["plain"].std() > 1e-3, "actions must matter, or equal energies say nothing"
    torch.testing.assert_close(judged["ours"], judged["plain"], atol=1e-5, rtol=0)
    for seed in (0, 1):
        plain, ours = both.act["plain"](seed), both.act["ours"](seed)
        torch.testing.assert_close(ours.lowest, plain.lowest, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.actions, plain.actions, atol=1e-5, rtol=0)
    assert (both.act["ours"](0).actions - ours.actions).abs().max() > 1e-3, "another seed is another plan"


def test_the_comparison_would_notice_another_rotary_layout(bench, tiny):
    exact = tiny._replace(changes=[*tiny.changes, "predictor.rope=exact"])
    both = bench.contest(bench.build_model(exact, CPU), exact)
    assert (both.judge["ours"]() - both.judge["plain"]()).abs().max() > 1e-4


def test_bf16_is_the_same_to_its_precision(bench, tiny):
    both = bench.contest(bench.build_model(tiny, CPU), tiny, ["ours", "bf16"])
    gap = (both.judge["bf16"]() - both.judge["ours"]()).abs().max()
    assert 0 < gap < 0.05
    assert both.act["bf16"](0).actions.shape == (3, 7)


def test_the_plain_loop_over_poses_is_the_robots_own_rule(bench):
    plain = importlib.import_module("plain_plan")
    g = torch.Generator().manual_seed(0)
    states, actions = torch.rand(16, 7, generator=g), torch.randn(16, 7, generator=g)
    torch.testing.assert_close(plain.composed(states, actions), DROID.integrate(states, actions), atol=1e-6, rtol=0)
    euler = torch.rand(3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(plain.to_matrix(euler.numpy())), poses.euler_to_matrix(euler))


def test_main_reports_figures_of_a_preset_and_skips_what_needs_a_gpu(bench, tiny, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "PRESETS", {"tiny": tiny, "large": tiny._replace(needs_gpu=True)})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = ["tiny", "large", "--pairs", "2", "--warmup", "0", "--threads", str(torch.get_num_threads())]
    results = bench.main([*args, "--json", str(tmp_path / "out.json")])
    (only,) = results["speed"]
    assert only["implementations"]["ours"]["gap_lowest"] < 1e-5
    assert only["implementations"]["plain"]["times_action"] == (1.0, 1.0, 1.0)
    assert "large: skipped" in capsys.readouterr().out
    assert (tmp_path / "out.json").is_file()


@pytest.mark.parametrize("name", ["cpu-128", "cpu-384", "vitg-256"])
def test_every_preset_is_a_configuration_of_64_tokens_or_more(bench, name):
    preset = bench.PRESETS[name]
    config = bench.load(bench.PosttrainConfig, [], preset.changes)
    assert (config.crop // config.encoder.patch) ** 2 >= 64
    assert config.predictor.rope == "released"


def result(energies: list[float], final: float) -> PlanningResult:
    """A search of 10 sequences per iteration and one look at its answer."""
    count = len(energies)
    best = torch.tensor(energies)
    asked = 10 * torch.arange(1, count + 1)
    history = History(torch.zeros(count, 1, 2), torch.zeros(count, 1, 2), best, best, asked)
    plan = torch.zeros(1, 2)
    return PlanningResult(plan, final, best.cummin(0).values, plan[None], history, 10 * count + 1)


def test_calls_are_counted_to_the_end_of_the_iteration_that_reaches_an_energy(calls):
    found = result([0.5, 0.3, 0.4], final=0.2)
    assert calls.calls_until(found, 0.5) == 10
    assert calls.calls_until(found, 0.35) == 20
    assert calls.calls_until(found, 0.2) == 31, "the answer itself is the last to be looked at"
    assert calls.calls_until(found, 0.1) == math.inf


class Seen(NamedTuple):
    image: np.ndarray
    state: np.ndarray


class Point:
    """A point in the plane that moves as it is told."""

    robot = POINT
    distance, solved = 1.0, False

    def reset(self, seed: int) -> Seen:
        rng = np.random.default_rng(seed)
        self.state, self.target = rng.uniform(-1, 0, 2), rng.uniform(0.5, 1, 2)
        return self.act(np.zeros(2))

    @property
    def goal(self) -> Seen:
        return Seen(self.target, self.target)

    def act(self, action: np.ndarray) -> Seen:
        self.state = self.state + action
        return Seen(self.state, self.state)


class Known:
    """A model that knows the point's world."""

    device = CPU

    def features(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).float()

    def energy(self, image, state, goal, *, chunk):
        start = torch.from_numpy(state).float()
        return lambda actions: (start + actions.sum(1) - goal).square().sum(1)


@pytest.mark.parametrize("samples", [200, 800])
@pytest.mark.parametrize("horizon", [2, 4])
def test_icem_may_ask_for_a_quarter_of_the_calls_at_most(calls, samples, horizon):
    ways = calls.methods(samples=samples, horizon=horizon, iterations=10)
    (first, later) = calls.compare(Known(), Point(), ways, [0], steps=2, chunk=8)
    assert first.calls["CEM"] == first.calls["CEM, another seed"] == 10 * samples + 1
    assert max(first.calls["iCEM"], later.calls["iCEM"], later.calls["iCEM, warm"]) <= first.calls["CEM"] / 4


def test_searches_start_from_the_same_places_and_the_plain_one_reaches_its_own_answer(calls, capsys):
    ways = calls.methods(samples=200, horizon=2, iterations=8)
    places = calls.compare(Known(), Point(), ways, range(3), steps=2, chunk=8)
    assert [p.first for p in places] == [True, False] * 3
    assert all(p.calls["CEM"] == 200 * 8 + 1 for p in places)
    for place in places:
        assert place.answer["CEM"] <= place.calls["CEM"]
        assert place.near["CEM"] <= place.answer["CEM"], "what is near enough comes first"
    rows = {(row["where"], row["method"]): row for row in calls.report(places, 2, {"iCEM, warm"})}
    assert len(rows) == 3 + 4, "a warm start has no first place"
    assert {row["places"] for row in rows.values()} == {3}
    # The goal is out of reach, so that the best plan is a corner: the warm search starts in it.
    assert rows["later", "iCEM, warm"]["answer"][1] < 0.2
    assert rows["later", "CEM"]["gap"] == 0
    assert "iCEM, warm" in capsys.readouterr().out


def test_plain_searches_of_two_seeds_are_two_searches(calls):
    class Waves(Known):
        def energy(self, image, state, goal, *, chunk):
            return lambda actions: torch.sin(300 * actions).sum((1, 2))

    ways = calls.methods(samples=50, horizon=2, iterations=3)
    (place,) = calls.compare(Waves(), Point(), ways, [0], steps=1, chunk=8)
    assert place.energies["CEM"] != place.energies["CEM, another seed"]
