"""Schedules equal the values recorded from the released code, and refuse numbers that do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vjepa_lab.train.schedules import Schedule, momentum, ramp

RECORDED = torch.load(Path(__file__).parent / "data" / "schedules.pt", weights_only=True)


def released(name: str) -> Schedule:
    """The schedule with the arguments that a recorded case was made with."""
    args = RECORDED[name]["args"]
    total = args["T_max"]
    if name == "wsd":
        # Released T_max counts the whole run, warm-up and anneal included.
        return Schedule(
            kind="wsd",
            start=args["start_lr"],
            ref=args["ref_lr"],
            final=args["final_lr"],
            warmup=args["warmup_steps"],
            decay=args["anneal_steps"],
            total=total,
        )
    if name == "cosine":
        return Schedule(
            kind="cosine",
            start=args["start_lr"],
            ref=args["ref_lr"],
            final=args["final_lr"],
            warmup=args["warmup_steps"],
            total=total,
        )
    if name == "weight_decay_cosine":
        return Schedule(kind="cosine", ref=args["ref_wd"], final=args["final_wd"], total=total)
    return Schedule(kind="linear", ref=args["ref_lr"], final=args["final_lr"], total=total)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_values_equal_those_recorded_from_the_released_code(name: str) -> None:
    values = RECORDED[name]["values"]
    schedule = released(name)
    assert [schedule(step) for step in range(1, len(values) + 1)] == pytest.approx(values, rel=1e-12)


def test_cosine_has_the_stated_golden_values() -> None:
    rate = Schedule(kind="cosine", start=0.0, ref=1.0, final=0.1, warmup=10, total=100)
    assert [rate(s) for s in (1, 9, 10, 11, 55, 100)] == pytest.approx([0.1, 0.9, 1, 0.999725872, 0.55, 0.1])
    decay = Schedule(kind="cosine", ref=0.04, final=0.4, total=100)
    assert [decay(s) for s in (1, 50, 100)] == pytest.approx([0.040088819, 0.22, 0.4], rel=1e-6)


def test_released_pretraining_rate_is_warmup_then_constant() -> None:
    rate = Schedule(kind="cosine", start=1e-4, ref=5.25e-4, final=5.25e-4, warmup=12_000, total=300_000)
    assert rate(1) == pytest.approx(1.00035e-4, rel=1e-5)
    assert {rate(step) for step in (12_000, 12_001, 100_000, 240_000)} == {5.25e-4}


def test_released_cooldown_stops_at_a_fifth_of_the_rate() -> None:
    """12,000 steps of a fall planned for 15,000."""
    rate = Schedule(kind="linear", ref=5.25e-4, final=1e-6, total=15_000)
    assert rate(1) == pytest.approx(5.24965e-4, rel=1e-6)
    assert rate(12_000) == pytest.approx(1.058e-4, rel=1e-4)


def test_wsd_warms_up_holds_and_falls() -> None:
    rate = Schedule(kind="wsd", start=0.0, ref=1.0, final=0.2, warmup=4, decay=4, total=12)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert [rate(s) for s in range(1, 13)] == pytest.approx(expected)


def test_constant_is_warmup_and_nothing_else() -> None:
    rate = Schedule(kind="constant", ref=2.0, warmup=2, total=5)
    assert [rate(s) for s in range(1, 7)] == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_value_stays_at_the_final_one_after_the_end(kind: str) -> None:
    rate = Schedule(kind=kind, ref=1.0, final=0.3, warmup=2, decay=3 if kind == "wsd" else 0, total=10)
    assert [rate(s) for s in (10, 11, 15, 1000)] == pytest.approx([0.3] * 4)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear", "constant"])
def test_a_run_that_is_all_warmup_is_defined(kind: str) -> None:
    rate = Schedule(kind=kind, ref=1.0, final=0.5, warmup=4, total=4)
    assert [rate(s) for s in (1, 4)] == [0.25, 1.0]
    assert all(math.isfinite(rate(s)) for s in range(10))


def test_momentum_begins_with_start_and_moves_linearly() -> None:
    values = [momentum(s, start=0.9, end=1.0, total=10) for s in range(1, 14)]
    assert values[:3] == pytest.approx([0.9, 0.91, 0.92])
    assert values[9:] == pytest.approx([0.99, 1.0, 1.0, 1.0])
    assert momentum(7, start=0.99925, end=0.99925, total=10) == 0.99925


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "step"}, "kind is 'step'"),
        ({"kind": "cosine", "total": 0}, "total is 0"),
        ({"kind": "cosine", "warmup": -1}, "warmup is -1"),
        ({"kind": "wsd", "decay": -1}, "decay is -1"),
        ({"kind": "wsd", "warmup": 6, "decay": 5}, r"warmup \+ decay is 6 \+ 5"),
        ({"kind": "cosine", "warmup": 11}, r"at most total \(10\)"),
        ({"kind": "linear", "decay": 3}, "'linear' has no use for it"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**{"ref": 1.0, "total": 10, **fields})


def test_the_ramp_is_zero_then_linear_then_one() -> None:
    assert [ramp(s, start=2, end=4) for s in range(1, 7)] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
    assert [ramp(s, start=1, end=1) for s in range(1, 4)] == [0.0, 1.0, 1.0]
    assert ramp(1, start=0, end=0) == 1.0
