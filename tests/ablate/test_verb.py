"""One command plans, trains, probes and compares; the same command goes on after a stop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vjepa_lab import ablate, cli
from vjepa_lab.ablate import runs
from vjepa_lab.merge import to_plain
from vjepa_lab.train.callbacks import STOPPED_BY_SIGNAL

MOTION = {"name": "motion", "fit_clips": 16, "select_clips": 8, "test_clips": 8, "batch": 8, "cells": 1}


@pytest.fixture
def written(tiny, tmp_path):
    """``written(field=value, ...)`` -> the path of an ablation's YAML file."""

    def write(**fields):
        path = tmp_path / "ablate.yaml"
        path.write_text(yaml.safe_dump(to_plain(tiny(**fields)), sort_keys=False))
        return str(path)

    return write


def test_show_prints_the_plan_and_trains_nothing(written, tiny, capsys):
    assert cli.main(["ablate", written(), "--show"]) == 0
    out = capsys.readouterr().out
    assert "4 runs: 2 arms x seeds 0, 1" in out
    assert "random (baseline)" in out
    assert not (Path(tiny().out) / "random").exists()


def test_a_refused_plan_is_one_clear_error(written, capsys):
    arms = {"a": {"masks": [{"name": "random", "ratio": 0.5}]}, "b": {"masks": [{"name": "random", "ratio": 0.7}]}}
    assert cli.main(["ablate", written(arms=arms)]) == 2
    err = capsys.readouterr().err
    assert "arms.b: target_ids" in err
    assert "Traceback" not in err


def test_the_command_leaves_runs_tables_and_a_page_and_done_again_trains_nothing(written, tiny, capsys, monkeypatch):
    path = written(probes=[MOTION], batches=[2])
    assert cli.main(["ablate", path]) == 0
    out = Path(tiny().out)
    for run in ("random/0", "random/1", "tube/0", "tube/1"):
        assert {"config.yaml", "metrics.csv", "last.ckpt", "probe"} <= {p.name for p in (out / run).iterdir()}
    table = (out / "table.md").read_text()
    page = (out / "report.html").read_text()
    assert "untrained (control)" in table
    assert "motion/velocity" in page
    assert "Of 5 comparisons" in page
    monkeypatch.setattr(runs, "train", None)  # to call it is an error
    monkeypatch.setattr(runs._verb, "main", None)
    capsys.readouterr()
    assert cli.main(["ablate", path]) == 0
    assert (out / "table.md").read_text() == table


def test_a_signal_in_a_training_stops_all_and_the_command_goes_on_to_the_same_losses(tiny, monkeypatch):
    changes = {"optim": {"steps": 6, "warmup": 0}, "run": {"save_every": 1}}
    whole = tiny(changes=changes, seeds=[1])
    stopped = tiny(changes=changes, seeds=[1], out=whole.out + "-stopped")
    assert ablate.main(whole) == 0

    from vjepa_lab.train.modules import PretrainModule

    plain = PretrainModule.training_step
    asked = []

    def step(self, batch, index):
        if index == 3 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return plain(self, batch, index)

    monkeypatch.setattr(PretrainModule, "training_step", step)
    assert ablate.main(stopped) == STOPPED_BY_SIGNAL
    assert (Path(stopped.out) / "random/1/last.ckpt").exists()
    assert not (Path(stopped.out) / "tube").exists()
    assert ablate.main(stopped) == 0
    for name in ("runs.csv", "results.csv"):
        assert (Path(whole.out) / name).read_text() == (Path(stopped.out) / name).read_text()


def test_a_signal_between_trainings_is_exit_code_75(tiny, monkeypatch):
    config = tiny(probes=[MOTION])
    plain = runs.probe

    def probe(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        plain(*args)

    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with monkeypatch.context() as patched:
        patched.setattr(runs, "probe", probe)
        assert ablate.main(config) == STOPPED_BY_SIGNAL
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert ablate.main(config) == 0


def test_a_run_that_fails_is_named_and_does_not_end_the_others(tiny, monkeypatch):
    config = tiny(seeds=[0])
    plain = runs.pretrain
    with monkeypatch.context() as patched:

        def pretrain(run):
            if "random" in run.run.dir:
                raise ValueError("the loss is not finite")
            return plain(run)

        patched.setattr(runs, "pretrain", pretrain)
        with pytest.raises(ValueError, match=r"(?s)1 of 2 runs failed.*random, seed 0: the loss is not finite"):
            ablate.main(config)
    assert (Path(config.out) / "tube/0/last.ckpt").is_file()
    assert not (Path(config.out) / "table.md").exists()
    assert ablate.main(config) == 0


def test_slurm_writes_a_script_and_trains_nothing(tiny):
    config = tiny(slurm=True)
    assert ablate.main(config) == 0
    assert (Path(config.out) / "ablate.sbatch").is_file()
    assert not list(Path(config.out).rglob("last.ckpt"))


def test_without_training_missing_runs_are_named(tiny):
    with pytest.raises(ValueError, match="2 runs are not finished: random, seed 0; tube, seed 0"):
        ablate.main(tiny(train=False, seeds=[0]))


def test_the_help_needs_no_torch():
    code = "import sys; from vjepa_lab.cli import main; main(['ablate', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "compares (['masks'])" in done.stdout
