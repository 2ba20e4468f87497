"""A run is trained once, goes on where it was killed, and a foreign folder is never touched."""

import json
from pathlib import Path

import pytest

from vjepa_lab.ablate import runs
from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import runs_of
from vjepa_lab.train.folder import read_metrics

MOTION = {"name": "motion", "fit_clips": 16, "select_clips": 8, "test_clips": 8, "batch": 8, "cells": 1}


def losses(run):
    return [row["loss"] for row in read_metrics(runs.folder(run)) if "loss" in row]


def test_a_run_is_trained_and_then_recognised_and_what_it_says_is_in_its_folder(tiny, capsys):
    run = runs_of(tiny())[0]
    assert runs.steps_done(run) == 0
    assert not runs.is_finished(run)
    assert runs.train(run) == 0
    assert runs.is_finished(run)
    assert "finished step 2" in (runs.folder(run) / "log.txt").read_text()
    assert "finished step 2" not in capsys.readouterr().out


def test_a_shorter_run_is_none_that_can_be_gone_on_with(tiny):
    """A run that was killed is, but one of other steps had another schedule."""
    short = runs_of(tiny())[0]
    assert runs.train(short) == 0
    long = runs_of(tiny(changes={"optim": {"steps": 4, "warmup": 0}, "run": {"save_every": 1}}))[0]
    with pytest.raises(ConfigError, match=r"another configuration \(optim\.steps: expected 4, got 2\)"):
        runs.is_finished(long)


@pytest.mark.slow
def test_a_run_in_a_child_process_is_the_same_run(tiny):
    here, there = runs_of(tiny())[0], runs_of(tiny(out=tiny().out + "-child"))[0]
    assert runs.train(here) == 0
    assert runs._elsewhere(runs.write_config(there), runs.folder(there) / "log.txt") == 0
    assert runs.is_finished(there)
    assert losses(here) == losses(there) != []


def test_a_child_that_fails_is_an_error_that_says_where_it_told_why(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"ended with code 2; what it said: .*log\.txt"):
        runs._elsewhere(tmp_path / "nowhere.yaml", tmp_path / "log.txt")
    assert "no such config file" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"accelerator": "gpu"}, "trainer.accelerator=gpu: torch sees no CUDA device"),
        ({"nodes": 2, "devices": 1}, "trainer.nodes is 2: use slurm=true"),
    ],
)
def test_devices_that_are_not_here_are_an_error(tiny, trainer, told):
    run = runs_of(tiny(changes={"trainer": trainer}))[0]
    with pytest.raises(ValueError, match=told):
        runs.train(run)


def test_a_probe_is_measured_once_and_again_when_it_is_asked_otherwise(tiny, monkeypatch):
    config = tiny(probes=[MOTION])
    run, other = runs_of(config)[:2]
    for one in (run, other):
        assert runs.train(one) == 0
        runs.probe(config, one)
    records = [json.loads(line) for line in (runs.measured(run, MOTION) / "results.jsonl").read_text().splitlines()]
    assert {r["metric"] for r in records} == {"position", "velocity", "energy", "mean"}
    assert all(set(r["controls"]) == {"untrained"} for r in records)
    others = (runs.measured(other, MOTION) / "results.jsonl").read_text()
    assert '"controls": {}' in others  # once per seed is enough
    asked = []
    monkeypatch.setattr(runs._verb, "main", lambda probe: asked.append(probe) or 0)
    runs.probe(config, run)
    Path(config.out).rename(moved := config.out + "-moved")
    runs.probe(tiny(probes=[MOTION], out=moved), runs_of(tiny(out=moved))[0])
    assert not asked
    mark = Path(moved) / "random/0/probe/motion/asked.json"
    mark.write_text(json.dumps({k: v for k, v in json.loads(mark.read_text()).items() if k != "min_frames"}))
    runs.probe(tiny(probes=[MOTION], out=moved), runs_of(tiny(out=moved))[0])
    assert not asked
    Path(moved).rename(config.out)
    runs.probe(tiny(probes=[{**MOTION, "test_clips": 10}]), run)
    assert [Path(a.out) for a in asked] == [runs.measured(run, MOTION)]
    assert asked[0].seed == run.seed


def test_a_measurement_that_was_broken_off_does_not_count(tiny, monkeypatch):
    config = tiny(probes=[MOTION])
    run = runs_of(config)[0]
    assert runs.train(run) == 0

    def broken(probe):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs._verb, "main", broken)
        with pytest.raises(KeyboardInterrupt):
            runs.probe(config, run)
    assert not (runs.measured(run, MOTION) / "asked.json").exists()
    runs.probe(config, run)
    assert (runs.measured(run, MOTION) / "results.jsonl").is_file()
