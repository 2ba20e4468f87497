"""The calibration of the collapse watch finds limits, falls and alarms in series of which the answer is known."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from vjepa_lab.batch import MaskPair
from vjepa_lab.jepa import JEPA
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor
from vjepa_lab.train.collapse import Reading
from vjepa_lab.validate import validate


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools/bench"))
    return importlib.import_module("collapse")


def series(bench, spread, probe=(0.2, 0.2), *, weights=1.0):
    """One reading per step, from step 1; a probe every ten."""
    readings = [Reading(i, s, 0.8, 20.0, 0.3, weights if i > 1 else 1.0) for i, s in enumerate(spread, start=1)]
    return bench.Series(readings, [0.1] * len(readings), [(10 * i, p) for i, p in enumerate(probe)])


@pytest.mark.parametrize(
    ("probe", "step"),
    [
        ((0.2, 0.21, 0.14, 0.1, 0.05), 20),
        ((0.2, 0.1, 0.19, 0.1, 0.1), 30),  # once is a fluctuation
        ((0.2, 0.1, 0.1, 0.19, 0.2), None),  # it recovers
        ((0.2, 0.19, 0.2, 0.2, 0.1), None),  # one measurement does not tell
    ],
)
def test_a_probe_has_fallen_where_it_stays_low_to_the_end(bench, probe, step):
    assert bench.fall(series(bench, [1.0], probe), 0.75) == step


def test_the_sustained_low_is_where_the_alarm_begins(bench):
    found = series(bench, [0.5, 1.0, 0.4, 0.3, 0.6, 0.7, 0.2, 0.9])
    low = bench.sustained(found.readings, "spread", 2)
    assert low == 0.4
    limits = {"entropy": 0.1}
    assert bench.alarm(found, {"spread": low, **limits}, every=1, patience=2) is None
    step, figure, why = bench.alarm(found, {"spread": low + 1e-6, **limits}, every=1, patience=2)
    assert (step, figure) == (4, "spread")
    assert why.startswith("not clear")


def test_a_limit_lies_between_what_is_healthy_and_what_is_not(bench):
    assert bench.fit([0.6, 0.8], [0.1, 0.2]) == pytest.approx(0.4)
    assert bench.fit([0.6, 0.8], [0.1, 0.7]) == pytest.approx(0.57)


def test_scores_count_what_fell_what_was_caught_and_what_was_not(bench, capsys):
    runs = [bench.Run("test", kind, "tubes", i) for i, kind in enumerate(["healthy", "healthy", "lr x100", "lr x100"])]
    fell = dict(zip(runs, [None, None, 60, 80], strict=True))
    fired = dict(
        zip(runs, [None, (20, "spread", "not clear"), (40, "spread", "the learning rate (x)"), None], strict=True)
    )
    scores = bench._score(runs, fell, fired)["test"]
    assert scores == {"recall": (1, 2), "false": (1, 2), "lead": [20], "causes": (1, 1)}
    assert "1 of 2 collapses found, 1 false alarms in 2 runs" in capsys.readouterr().out


def test_every_run_is_a_valid_configuration_of_its_own(bench, tmp_path):
    runs = bench.runs()
    assert len({run.name for run in runs}) == len(runs)
    for half in ("calibrate", "test"):
        kinds = [run.kind == "healthy" for run in runs if run.half == half]
        assert kinds.count(True) >= 10
        assert kinds.count(False) >= 10
    seeds = [{run.seed for run in runs if run.half == half} for half in ("calibrate", "test")]
    assert not seeds[0] & seeds[1]
    for run in {run.kind + run.setting: run for run in runs}.values():
        validate(bench.configuration(run, tmp_path, 120))


def test_live_targets_have_a_gradient_and_those_of_the_method_have_none(bench):
    torch.manual_seed(0)
    context = Encoder(width=24, depth=1, heads=2, patch=8)
    model = JEPA(context=context, predictor=Predictor(encoder_width=24, width=12, depth=1, heads=2))
    model.init_weights()
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.add_(1.0)  # which the live loss does not look at
    clip = torch.randn(2, 3, 4, 16, 16)
    pairs = [MaskPair(torch.tensor([[0, 1, 4, 5]] * 2), torch.tensor([[2, 3]] * 2))]
    stopped = model(clip, pairs)
    model.__class__ = bench.LiveJEPA
    live = model(clip, pairs)
    assert live["target_context_gap"] < stopped["target_context_gap"]
    grads = []
    for out in (stopped, live):
        model.zero_grad()
        out["loss"].backward()
        grads.append(torch.cat([p.grad.flatten() for p in context.parameters()]))
        assert not any(x.requires_grad for name, x in out.items() if name != "loss")
    assert not torch.allclose(grads[0], grads[1])
    assert all(p.grad is None for p in model.target.parameters())
