"""A probe in training and the verb on the checkpoint give one number, whatever the strategy; losses know of none."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from vjepa_lab.cli import main
from vjepa_lab.registry import PROBES
from vjepa_lab.train.folder import read_metrics

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/train/tiny.yaml"
SMALL = runpy.run_path(str(ROOT / "tests/probes/test_contract.py"))["SMALL"]
STRATEGIES = {
    "one": ["trainer.devices=1", "data.batch=4"],
    "ddp": ["trainer.devices=2", "data.batch=2", "trainer.strategy=ddp"],
    "fsdp2": ["trainer.devices=2", "data.batch=2", "trainer.strategy=fsdp2"],
}


def listed(names):
    """Entries of probes that take a second, for the command line; measured before the first step and after the last."""
    return json.dumps([{"name": name, **SMALL[name], "every": 1000} for name in names])


def trained(run, strategy, probes):
    command = [sys.executable, "-m", "vjepa_lab", "pretrain", str(TINY), f"run.dir={run}", f"probes={probes}"]
    done = subprocess.run(
        [*command, *STRATEGIES[strategy]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_metrics(run)


def measured(run, out, probes):
    """What the verb says of the checkpoint."""
    words = [f"{run}/last.ckpt", f"probes={probes}", f"out={out}", "controls=[]", "progress=false"]
    assert main(["probe", *words]) == 0
    records = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return {f"{r['probe']}/{r['metric']}": r["value"] for r in records}


def same(rows, verb):
    """Figures of the last row that the verb has too; NaN is no row of JSON."""
    last = {k: v for row in rows[-2:] for k, v in row.items()}
    # the verb alone has other encoders to compare with
    known = {k: v for k, v in verb.items() if v is not None and not k.startswith("pareto/all/")}
    assert known
    assert {k: last[k] for k in known} == pytest.approx(known, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_probe_gives_the_number_of_the_verb_and_leaves_the_losses_alone(strategy, tmp_path):
    names = PROBES.names()
    probes = listed(names)
    rows = trained(tmp_path / "on", strategy, probes)
    verb = measured(tmp_path / "on", tmp_path / "out", probes)
    assert {k.partition("/")[0] for k in verb} == set(names)
    same(rows, verb)
    without = trained(tmp_path / "off", strategy, "[]")
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (rows, without)]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
