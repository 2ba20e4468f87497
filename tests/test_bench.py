"""The plain step that the benchmark compares with is the same step: equal losses while both train."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from vjepa_lab.config import PretrainConfig
from vjepa_lab.merge import load

TOOLS = Path(__file__).parents[1] / "tools" / "bench"
TINY = [
    "encoder={size: tiny, width: 48, depth: 2, heads: 2, patch: 8, frames: 4, crop: 32, rope: released}",
    "predictor={width: 24, depth: 2, heads: 2}",
    "data.batch=2",
]


CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("step")


@pytest.fixture
def config():
    return load(PretrainConfig, [], TINY)


@pytest.fixture
def distinct_tokens(bench, monkeypatch):
    """Large weights in the networks that both steps start from: at initialisation hardly anything sees positions."""
    build = bench.build_jepa

    def build_large(config):
        jepa = build(config)
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in (*jepa.context.parameters(), *jepa.predictor.parameters()):
                p.add_(0.2 * torch.randn(p.shape, generator=g))
            jepa.target.load_state_dict(jepa.context.state_dict())
        return jepa

    monkeypatch.setattr(bench, "build_jepa", build_large)


@pytest.mark.usefixtures("distinct_tokens")
def test_losses_are_equal_over_three_steps_and_training_moves_them(bench, config):
    steps = bench.build(config, ["plain", "recomputing", "ours"], CPU)
    clip, pairs = bench.Inputs(config, CPU)(0)
    timings = bench.interleave(steps, lambda step: (clip, pairs), CPU, warmup=0, rounds=3)
    plain = timings["plain"].losses
    assert timings["ours"].losses == pytest.approx(plain, abs=1e-5)
    assert timings["recomputing"].losses == pytest.approx(plain, abs=1e-5)
    assert plain[2] < plain[0] - 1e-3


@pytest.mark.usefixtures("distinct_tokens")
def test_the_comparison_would_notice_another_rotary_layout(bench, config):
    exact = load(PretrainConfig, [], [*TINY, "encoder.rope=exact"])
    plain = bench.build(config, ["plain"], CPU)["plain"]
    ours = bench.build(exact, ["ours"], CPU)["ours"]
    inputs = bench.Inputs(config, CPU)(0)
    assert abs((plain(*inputs) - ours(*inputs)).item()) > 1e-3


@pytest.mark.parametrize("name", ["cpu-small", "quickstart", "vitl-256", "vitg-256"])
def test_every_preset_is_a_configuration(bench, name):
    preset = bench.configuration(bench.PRESETS[name])
    assert preset.encoder.rope == "released"
    assert bench.Inputs(preset, CPU).grid.n >= 128
