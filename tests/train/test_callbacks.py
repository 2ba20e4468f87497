"""Beside the steps: what is recorded is what happened, probes come with their baseline, SLURM is asked to requeue."""

import os
import signal
import subprocess

import pytest
from PIL import Image

from vjepa_lab.train import callbacks, checkpoints
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import pretrain

MOTION = "probes=[{name: motion, every: 4, fit_clips: 24, select_clips: 8, test_clips: 10, batch: 8, cells: 2}]"


def test_rows_come_every_n_steps_and_at_the_end(run_tiny):
    rows = read_metrics(run_tiny("run.log_every=4"))
    assert [r["step"] for r in rows] == [4, 6]
    assert [r["samples"] for r in rows] == [16, 24]
    assert all(r["tokens/s"] == pytest.approx(8 * r["clips/s"]) for r in rows)
    assert all(0 <= r["data_stall"] <= 1 for r in rows)


def test_rankme_appears_once_enough_clips_were_seen(run_tiny, monkeypatch):
    monkeypatch.setattr("vjepa_lab.train.modules.RECENT", 16)
    rows = read_metrics(run_tiny())
    assert ["rankme" in r for r in rows] == [False, False, False, True, True, True]
    assert all(1 <= r["rankme"] <= 16 for r in rows[3:])


def test_a_resumed_run_keeps_the_untrained_measurement(run_tiny, tmp_path):
    run = run_tiny(MOTION, "optim.steps=4")
    run_tiny(MOTION, "optim.steps=8")
    rows = [r for r in read_metrics(run) if "motion/mean" in r]
    assert [r["step"] for r in rows] == [0, 4, 8]
    assert {r["motion/mean_untrained"] for r in rows} == {rows[0]["motion/mean"]}


def test_a_run_from_weights_is_compared_with_a_fresh_encoder(run_tiny, tmp_path):
    first = run_tiny(f"run.dir={tmp_path / 'a'}", MOTION, "optim.lr=0.02", "optim.steps=8", "ema.end=0.5")
    second = run_tiny(f"run.dir={tmp_path / 'b'}", MOTION, f"init.checkpoint={first / 'last.ckpt'}", "optim.steps=4")
    untrained, start = (next(r for r in read_metrics(run) if r["step"] == 0) for run in (first, second))
    last = [r for r in read_metrics(first) if "motion/mean" in r][-1]
    assert start["motion/mean"] == pytest.approx(last["motion/mean"], abs=1e-6)
    assert start["motion/mean_untrained"] == pytest.approx(untrained["motion/mean"], abs=1e-9)
    assert start["motion/mean_untrained"] != start["motion/mean"]


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, []),
        ({"SLURM_JOB_ID": "12"}, [["scontrol", "requeue", "12"]]),
        (
            {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"},
            [["scontrol", "requeue", "10_3"]],
        ),
    ],
)
def test_a_stopped_job_requeues_itself_under_slurm(monkeypatch, variables, asked):
    calls = []
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: calls.append(command) or subprocess.CompletedProcess(command, 0)
    )
    callbacks.requeue()
    assert calls == asked


def test_bad_samples_are_in_the_metrics(run_tiny, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.png")
    (tmp_path / "clips.csv").write_text("path\nnowhere.mp4\ngood.png\n")
    rows = read_metrics(run_tiny(f"data.sources=[{{name: listing, path: {tmp_path / 'clips.csv'}}}]"))
    assert rows[-1]["bad/missing"] == 12  # half of 24 draws
    assert "bad/empty" not in rows[-1]


def test_a_source_that_is_bad_throughout_ends_the_run(run_tiny, tmp_path):
    (tmp_path / "clips.csv").write_text("path,label\nnowhere.mp4,0\n")
    sources = f"data.sources=[{{name: synthetic, weight: 0.9}}, {{name: listing, path: {tmp_path / 'clips.csv'}}}]"
    with pytest.raises(ValueError, match=r"clips.csv.*\n.*\n.*missing"):
        run_tiny(sources)


def test_a_probe_that_is_added_later_is_compared_with_a_fresh_encoder(run_tiny, tmp_path):
    whole = run_tiny(f"run.dir={tmp_path / 'a'}", MOTION, "optim.steps=4")
    run_tiny(f"run.dir={tmp_path / 'b'}", "optim.steps=3")
    later = run_tiny(f"run.dir={tmp_path / 'b'}", MOTION, "optim.steps=4")
    expected, got = ([r for r in read_metrics(run) if "motion/mean" in r][-1] for run in (whole, later))
    assert got["motion/mean_untrained"] == pytest.approx(expected["motion/mean_untrained"], abs=1e-9)
    assert got["motion/mean_untrained"] != got["motion/mean"]


def test_the_bar_counts_steps_and_its_time_left_begins_where_the_run_goes_on(run_tiny, monkeypatch):
    bars = []
    plain = callbacks.StepBar.on_train_end
    monkeypatch.setattr(callbacks.StepBar, "on_train_end", lambda bar, *a: bars.append(bar) or plain(bar, *a))
    options = ["run.progress=true", "trainer.accumulate=2", "data.batch=2"]
    run_tiny(*options, "optim.steps=4")
    run_tiny(*options, "optim.steps=6")
    seen = [(b.train_progress_bar.initial, b.train_progress_bar.n, b.train_progress_bar.total) for b in bars]
    assert seen == [(0, 4, 4), (4, 6, 6)]


def test_kept_checkpoints_need_no_links(run_tiny, monkeypatch):
    def refuse(*_):
        raise OSError("operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    run = run_tiny("run.keep_every=3")
    assert checkpoints.read(run / "step-0000003.ckpt")["global_step"] == 3


def test_a_run_stopped_by_hand_does_not_requeue_its_job(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(callbacks, "requeue", lambda: calls.append(1))
    plain = PretrainModule.training_step
    for number, asked in ((signal.SIGINT, 0), (signal.SIGTERM, 1)):

        def training_step(module, batch, batch_idx, number=number):
            signal.raise_signal(number)
            return plain(module, batch, batch_idx)

        monkeypatch.setattr(PretrainModule, "training_step", training_step)
        assert pretrain(tiny()) == callbacks.STOPPED_BY_SIGNAL
        assert len(calls) == asked
