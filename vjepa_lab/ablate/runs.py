"""One run of the grid after the other: trained where it is not finished, then probed where it is not measured.

The run folder is the state. A run is finished when its ``last.ckpt`` has the steps of its configuration; one that was
killed resumes from it. A folder that holds a run of another configuration is refused. Measurements of a probe lie in
``probe/<name>`` of the run, with what was asked beside them; a new probe is measured on old runs without training.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vjepa_lab.config import ConfigError, PretrainConfig
from vjepa_lab.config_ablate import AblateConfig, Run, differences
from vjepa_lab.config_probe import ProbeConfig
from vjepa_lab.merge import from_plain, load, to_plain, to_yaml
from vjepa_lab.probes import _verb
from vjepa_lab.train import checkpoints
from vjepa_lab.train.callbacks import STOPPED_BY_SIGNAL
from vjepa_lab.train.run import pretrain
from vjepa_lab.train.strategy import device_count, device_kind
from vjepa_lab.validate_ablate import probe_config

log = logging.getLogger("vjepa_lab")


def folder(run: Run) -> Path:
    """The folder of a run."""
    return Path(run.config.run.dir)


def steps_done(run: Run) -> int:
    """Optimizer steps in the checkpoint of a run, 0 without one.

    Raises:
        ValueError: the folder holds a run of another configuration, or a damaged checkpoint.
    """
    here = folder(run)
    written = here / "config.yaml"
    if written.is_file():
        changed = differences(run.config, load(PretrainConfig, [written]))
        if changed:
            listed = "; ".join(f"{name}: expected {new}, got {old}" for name, (new, old) in changed.items())
            raise ConfigError(f"{here} holds a run of another configuration ({listed}); give another out, or delete it")
    last = here / "last.ckpt"
    return int(checkpoints.read(last)["global_step"]) if last.is_file() else 0


def is_finished(run: Run) -> bool:
    """Whether nothing is left to train. Raises as ``steps_done``."""
    return steps_done(run) >= run.config.optim.steps


def write_config(run: Run) -> Path:
    """Put ``config.yaml`` into the folder of a run, for another process; its path."""
    path = folder(run) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(run.config), encoding="utf-8")
    return path


def train(run: Run) -> int:
    """Train a run to its end, or go on with it; returns the exit code of the verb ``pretrain``.

    A run of one process trains in this one. A run of several is the command itself, which starts them.

    Raises:
        ValueError, OSError: the run cannot be trained.
    """
    trainer = run.config.trainer
    told = folder(run) / "log.txt"
    told.parent.mkdir(parents=True, exist_ok=True)
    if trainer.nodes > 1:
        raise ConfigError(f"trainer.nodes is {trainer.nodes}: use slurm=true, or nodes=1")
    if device_count(trainer, device_kind(trainer)) > 1:
        return _elsewhere(write_config(run), told)
    with _told_to(told), _handlers_kept():
        return pretrain(run.config)


def _elsewhere(config: Path, told: Path) -> int:
    command = [sys.executable, "-m", "vjepa_lab", "pretrain", str(config)]
    with told.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # or a signal that this verb turns into one: the run writes its checkpoint
            process.terminate()
            code = process.wait()
    if code not in (0, STOPPED_BY_SIGNAL):
        raise ValueError(f"{' '.join(command[1:])} ended with code {code}; what it said: {told}")
    return code


def probe(config: AblateConfig, run: Run) -> None:
    """Measure what is not measured yet on the last checkpoint of a finished run.

    Raises:
        ValueError, OSError: a probe cannot be measured.
    """
    for entry in config.probes:
        out = measured(run, entry)
        asked = probe_config(config)
        asked.checkpoint, asked.probes = str(folder(run) / "last.ckpt"), [entry]
        asked.out, asked.seed, asked.progress = str(out), run.seed, False
        asked.controls = list(config.controls) if run.arm == config.against else []
        mark = out / "asked.json"
        if _is_measured(mark, asked):
            continue
        mark.unlink(missing_ok=True)
        with _told_to(folder(run) / "log.txt"):
            _verb.main(asked)
        # last: without it the measurement does not count
        mark.write_text(json.dumps(to_plain(asked), sort_keys=True), encoding="utf-8")


def _is_measured(mark: Path, asked: ProbeConfig) -> bool:
    """Whether this was measured before, also where the whole folder has been moved, or by an earlier version of the
    package that lacked a field which now has its default."""
    if not mark.is_file():
        return False
    try:
        found = from_plain(ProbeConfig, json.loads(mark.read_text(encoding="utf-8")))
    except ConfigError:
        return False
    return replace(found, checkpoint=asked.checkpoint, out=asked.out) == asked


def measured(run: Run, entry: dict[str, Any]) -> Path:
    """The folder with the measurements of a probe."""
    return folder(run) / "probe" / str(entry["name"])


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Handlers of signals are afterwards what they were: a Trainer leaves its own behind, and with them itself."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_to(path: Path) -> Iterator[None]:
    """What is said goes to a file, and not to the screen."""
    handler = logging.FileHandler(path, encoding="utf-8")
    before = log.propagate, log.level
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[0]
        log.setLevel(before[1])
        handler.close()
