"""A run that is killed and started again is, batch for batch and bit for bit, the run that was not killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vjepa_lab.train.folder import read_metrics

HERE = Path(__file__).parent
STEPS = 60


def start(out, run, *overrides):
    command = [sys.executable, str(HERE / "record_run.py"), str(out), str(HERE / "tiny.yaml"), f"run.dir={run}"]
    command += [f"optim.steps={STEPS}", "run.save_every=7", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process, code=0):
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


def wait_for_step(run, step, process):
    """Until the run has logged ``step``; the step it is at."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        at = max((int(row["step"]) for row in read_metrics(run)), default=0)
        if at >= step:
            return at
        time.sleep(0.005)
    pytest.fail(f"step {step} was not reached: {process.communicate()[0]}")


def recorded(out, rank):
    """Last record of each batch, in order: batches after the last checkpoint are run twice."""
    rows = [json.loads(line) for line in Path(f"{out}.{rank}").read_text().splitlines()]
    return rows, [row for _, row in sorted({row["batch"]: row for row in rows}.items())]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Records of the whole run, by number of processes; made once."""
    made = {}

    def get(devices):
        if devices not in made:
            folder = tmp_path_factory.mktemp(f"whole{devices}")
            finish(start(folder / "out", folder / "run", f"trainer.devices={devices}"))
            made[devices] = folder
        return made[devices]

    return get


@pytest.mark.parametrize(
    ("workers", "devices"),
    [
        (0, 1),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(0, 2, marks=pytest.mark.slow),
        (2, 2),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, uninterrupted, workers, devices):
    run, out = tmp_path / "run", tmp_path / "out"
    options = [f"data.workers={workers}", f"trainer.devices={devices}"]
    process = start(out, run, *options)
    killed_at = wait_for_step(run, random.randint(8, STEPS - 15), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finish(start(out, run, *options))
    whole = uninterrupted(devices)
    for rank in range(devices):
        rows, last = recorded(out, rank)
        _, expected = recorded(whole / "out", rank)
        assert last == expected
        assert len(rows) > STEPS, f"killed at step {killed_at}, nothing was run twice"
        for row in rows:  # what was run twice was the same both times
            assert row == expected[row["batch"]]
    assert [r["loss"] for r in read_metrics(run)] == [r["loss"] for r in read_metrics(whole / "run")]
    assert [r["step"] for r in read_metrics(run)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGUSR1, 0), (signal.SIGINT, 0)], ids=lambda v: str(v)
)
def test_a_signal_stops_at_a_step_boundary_with_a_checkpoint(tmp_path, uninterrupted, number, workers):
    """Sent to the whole process group, as terminals and some clusters do: loader processes must not die of it."""
    run, out = tmp_path / "run", tmp_path / "out"
    process = start(out, run, f"data.workers={workers}")
    wait_for_step(run, 10, process)
    os.killpg(process.pid, number)
    text = finish(process, code=75)
    assert "stopped by a signal" in text
    stopped_at = int(read_metrics(run)[-1]["step"])
    finish(start(out, run))
    rows, _ = recorded(out, 0)
    assert [row["batch"] for row in rows] == list(range(STEPS)), f"nothing lost, nothing twice, stop at {stopped_at}"
    _, expected = recorded(uninterrupted(1) / "out", 0)
    assert rows == expected
