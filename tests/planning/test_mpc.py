"""The verb plan: its search from a configuration, its intervals, its files and its mistakes."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_world import PlanConfig
from vjepa_lab.merge import load
from vjepa_lab.planning import mpc
from vjepa_lab.planning.loop import Attempt
from vjepa_lab.validate import validate


def test_a_search_is_a_preset_and_changes():
    config = mpc.planner_of({"preset": "icem", "samples": 20, "gripper": 0.0})
    assert (config.samples, config.iterations, config.gripper) == (20, 16, 0.0)
    with pytest.raises(ValueError, match=r"planner: .*smaples"):
        mpc.planner_of({"smaples": 3})
    with pytest.raises(ValueError, match="preset 'quick'"):
        mpc.planner_of({"preset": "quick"})


def test_the_interval_is_wilsons():
    assert mpc.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert mpc.wilson(0, 20)[0] == 0.0
    assert mpc.wilson(20, 20)[1] == pytest.approx(1.0)


def attempts():
    act = [np.zeros(7)] * 2
    return {
        "model": [Attempt(1, [True], [0.2, 0.1, 0.04], act, [1.0, 0.5])],
        "none": [Attempt(1, [False], [0.2, 0.2, 0.2], act, [np.nan] * 2)],
    }


def test_what_was_tried_is_written_and_drawn(tmp_path):
    mpc._write(tmp_path, attempts())
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["policy"], r["solved"], r["final_m"]) for r in rows] == [
        ("model", "1", "0.04000"),
        ("none", "0", "0.20000"),
    ]
    with np.load(tmp_path / "plans.npz") as plans:
        assert plans["model/1/distances"].tolist() == [0.2, 0.1, 0.04]
    mpc._draw(tmp_path / "distance.png", attempts(), PlanConfig(goals=1, steps=3))
    assert (tmp_path / "distance.png").read_bytes().startswith(b"\x89PNG")
    assert "1/1 solved" in mpc.summary("model", attempts()["model"])


def test_goals_in_turn_are_counted_one_by_one(tmp_path):
    config = PlanConfig(goals=2, subgoals=[4, 10, 4])
    assert mpc.schedule_of(config) == [4, 10, 4]
    assert mpc.schedule_of(PlanConfig(steps=7)) == [7]
    act = [np.zeros(7)] * 18
    tries = [Attempt(s, [True, last, last], [0.2] * 19, act, [1.0] * 18) for s, last in ((1, True), (2, False))]
    assert "1/2 solved" in mpc.summary("model", tries)
    assert "goals in turn: 2, 1, 1" in mpc.summary("model", tries)
    mpc._write(tmp_path, {"model": tries})
    with (tmp_path / "results.csv").open() as file:
        assert [(r["solved"], r["reached"]) for r in csv.DictReader(file)] == [("1", "3"), ("0", "1")]
    mpc._draw(tmp_path / "distance.png", {"model": tries}, config)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ["checkpoint"]),
        (["checkpoint=runs/nowhere.ckpt"], ["no file or folder runs/nowhere.ckpt"]),
        (["task=fly"], ["task: got 'fly'", "reach, push"]),
        (["policies=[modle]"], ["policies: got 'modle'"]),
        (["task=null"], ["nothing to do"]),
        (["goals=0"], ["goals: got 0"]),
        (["subgoals=[4, 0, 4]"], ["subgoals: got [4, 0, 4]"]),
        (["subgoals=[4, 4]", "task=push"], ["subgoals: the task push has one goal"]),
        (["landscape.sources=[{name: synthetic}]"], ["gives clips without actions"]),
    ],
)
def test_a_mistake_is_told(overrides, words):
    with pytest.raises(ConfigError) as caught:
        validate(load(PlanConfig, [], overrides))
    assert all(word in str(caught.value) for word in words)
