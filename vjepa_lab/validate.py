"""What a configuration must satisfy beyond its types. Every check adds a sentence; nothing stops at the first."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vjepa_lab.config import SIZES, ConfigError, PretrainConfig
from vjepa_lab.merge import entries
from vjepa_lab.registry import MASKS, PROBES, SOURCES

_REFUSED = {
    "fsdp": "FSDP1 allows one forward per step, this model needs several: use trainer.strategy=fsdp2",
    "deepspeed": "DeepSpeed is not supported: use trainer.strategy=fsdp2",
    "fp16": "fp16 would need loss scaling: use trainer.precision=bf16-mixed",
    "16-mixed": "fp16 would need loss scaling: use trainer.precision=bf16-mixed",
}


def validate(config: PretrainConfig) -> None:
    """Check what single fields cannot: every problem of meaning, raised once.

    Raises:
        ConfigError: lists all problems.
    """
    problems = pretrain_problems(config)
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  - ".join([f"the configuration has {count}:", *problems]))


def pretrain_problems(config: PretrainConfig) -> list[str]:
    """Problems of a pretraining configuration, as sentences; empty when it can be run."""
    problems: list[str] = []
    _plugins(config, problems)
    _model(config, problems)
    _data(config, problems)
    _optim(config, problems)
    _trainer(config, problems)
    _starts(config, problems)
    return problems


def _choice(name: str, got: str, allowed: Sequence[str], problems: list[str]) -> bool:
    if got in allowed:
        return True
    refusal = _REFUSED.get(got)
    problems.append(f"{name}: {refusal}" if refusal else f"{name}: got '{got}', expected one of {', '.join(allowed)}")
    return False


def _plugins(config: PretrainConfig, problems: list[str]) -> None:
    for name in config.plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(f"plugins: '{name}' cannot be imported: {error}")


def _model(config: PretrainConfig, problems: list[str]) -> None:
    encoder, predictor = config.encoder, config.predictor
    sizes = {f"encoder.{name}": getattr(encoder, name) for name in ("width", "depth", "heads")}
    sizes |= {f"predictor.{name}": getattr(predictor, name) for name in ("width", "depth", "heads", "mask_tokens")}
    wrong = {name: value for name, value in sizes.items() if value is not None and value < 1}
    problems.extend(f"{name}: got {value}, expected at least 1" for name, value in wrong.items())
    if not 0 <= encoder.drop_path < 1:
        problems.append(f"encoder.drop_path: got {encoder.drop_path}, expected 0 or more and less than 1")
    if not wrong and _choice("encoder.size", encoder.size, tuple(SIZES), problems):
        size = encoder.resolved()
        if size.width % size.heads:
            problems.append(f"encoder: width {size.width} is not divisible by {size.heads} heads")
    if not wrong and predictor.width % predictor.heads:
        problems.append(f"predictor: width {predictor.width} is not divisible by {predictor.heads} heads")
    _choice("encoder.rope", encoder.rope, ("released", "exact"), problems)
    _choice("encoder.mlp", encoder.mlp, ("gelu", "swiglu"), problems)
    _choice("encoder.attention", encoder.attention, ("sdpa", "xformers"), problems)
    _choice("keep", config.keep, ("random", "head"), problems)
    for name, value, unit, unit_name in (
        ("encoder.crop", encoder.crop, encoder.patch, "encoder.patch"),
        ("encoder.frames", encoder.frames, encoder.tubelet, "encoder.tubelet"),
    ):
        if unit < 1:
            problems.append(f"{unit_name}: got {unit}, expected at least 1")
        elif value < unit or value % unit:
            lower = max(value // unit, 1) * unit
            nearest = f"{lower}" if value < unit else f"{lower} or {lower + unit}"
            problems.append(f"{name}: {value} is not a multiple of {unit_name} {unit}; the nearest is {nearest}")
    if not config.masks:
        problems.append("masks: the list is empty, expected at least one strategy")
    entries(MASKS, config.masks, "masks", problems)
    entries(PROBES, config.probes, "probes", problems)
    names = [str(entry.get("name")) for entry in config.probes]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems.extend(f"probes: '{name}' is listed twice, its metrics would have the same names" for name in twice)


def _data(config: PretrainConfig, problems: list[str]) -> None:
    data, transform = config.data, config.transform
    if not data.sources:
        problems.append("data.sources: the list is empty, expected at least one source")
    for i, source in enumerate(entries(SOURCES, data.sources, "data.sources", problems)):
        if source.weight <= 0:
            problems.append(f"data.sources[{i}].weight: got {source.weight}, expected more than 0")
    if (data.fps is None) == (data.stride is None):
        problems.append(f"data: exactly one of fps and stride must be set, got fps={data.fps} stride={data.stride}")
    _choice("data.decoder", data.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
    positive = ("batch", "threads", "min_frames", "timeout")
    problems.extend(
        f"data.{n}: got {getattr(data, n)}, expected more than 0" for n in positive if getattr(data, n) <= 0
    )
    if data.workers < 0:
        problems.append(f"data.workers: got {data.workers}, expected 0 or more")
    if not 0 < transform.scale[0] <= transform.scale[1] <= 1:
        problems.append(f"transform.scale: got {transform.scale}, expected 0 < low <= high <= 1")
    if not 0 < transform.aspect[0] <= transform.aspect[1]:
        problems.append(f"transform.aspect: got {transform.aspect}, expected 0 < low <= high")


def _optim(config: PretrainConfig, problems: list[str]) -> None:
    optim, ema = config.optim, config.ema
    if optim.steps < 1:
        problems.append(f"optim.steps: got {optim.steps}, expected at least 1")
    if _choice("optim.schedule", optim.schedule, ("wsd", "cosine", "linear"), problems):
        if optim.warmup + optim.decay > optim.steps:
            problems.append(
                f"optim: warmup {optim.warmup} + decay {optim.decay} steps are more than optim.steps {optim.steps}"
            )
        if optim.schedule != "wsd" and optim.decay:
            problems.append(f"optim.decay: belongs to schedule wsd, got schedule {optim.schedule}; set optim.decay=0")
    for name in ("start", "end"):
        value = getattr(ema, name)
        if not 0 <= value <= 1:
            problems.append(f"ema.{name}: got {value}, expected a share between 0 and 1")
    if config.loss.power <= 0:
        problems.append(f"loss.power: got {config.loss.power}, expected more than 0")
    if optim.clip is not None and optim.clip <= 0:
        problems.append(f"optim.clip: got {optim.clip}, expected more than 0, or null for no clipping")
    for name in ("log_every", "save_every"):
        if getattr(config.run, name) < 1:
            problems.append(f"run.{name}: got {getattr(config.run, name)}, expected at least 1")


def _trainer(config: PretrainConfig, problems: list[str]) -> None:
    trainer, data = config.trainer, config.data
    _choice("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu", "mps"), problems)
    _choice("trainer.strategy", trainer.strategy, ("ddp", "fsdp2"), problems)
    _choice("trainer.precision", trainer.precision, ("fp32", "bf16-mixed"), problems)
    if trainer.accumulate < 1:
        problems.append(f"trainer.accumulate: got {trainer.accumulate}, expected at least 1")
    if trainer.nodes < 1:
        problems.append(f"trainer.nodes: got {trainer.nodes}, expected at least 1")
    if trainer.devices < 0:
        problems.append(f"trainer.devices: got {trainer.devices}, expected 0 (all) or more")
    if trainer.devices == 0 and (trainer.nodes > 1 or data.global_batch is not None):
        problems.append("trainer.devices: give the number per node (with several nodes or data.global_batch)")
        return
    if trainer.devices > 0:
        launch = launch_problem(trainer.devices, trainer.nodes)
        problems.extend([launch] if launch else [])
    if data.global_batch is not None:
        total = data.batch * trainer.devices * trainer.nodes * trainer.accumulate
        if total != data.global_batch:
            problems.append(
                f"data.global_batch: got {data.global_batch}, but batch {data.batch} x devices {trainer.devices} x "
                f"nodes {trainer.nodes} x accumulate {trainer.accumulate} = {total}"
            )


def launch_problem(devices: int, nodes: int) -> str | None:
    """What is wrong where a launcher has started another number of processes than ``devices`` x ``nodes``; or None."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env and "WORLD_SIZE" in env:  # before SLURM: torchrun may be started by it
        started, who = int(env["WORLD_SIZE"]), "torchrun"
    # an interactive shell has a job id and no tasks of its own to agree with
    elif "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        started, who = int(env["SLURM_NTASKS"]), "SLURM"
    else:
        return None
    if started == devices * nodes:
        return None
    return (
        f"trainer: {who} started {started} processes, but trainer.devices x trainer.nodes = "
        f"{devices} x {nodes} = {devices * nodes}"
    )


def requeued() -> bool:
    """Is this a SLURM job that was started before? Then its own checkpoint comes before ``run.resume``."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _starts(config: PretrainConfig, problems: list[str]) -> None:
    run, init = config.run, config.init
    _choice("init.load", init.load, ("weights", "weights+optimizer"), problems)
    exists: Callable[[str], bool] = lambda p: Path(p).is_file()  # noqa: E731
    if init.checkpoint is not None and not exists(init.checkpoint):
        problems.append(f"init.checkpoint: no file {init.checkpoint}")
    if init.checkpoint is None and init.load != "weights":
        problems.append(f"init.load: '{init.load}' needs init.checkpoint")
    if run.resume not in ("auto", "never") and not exists(run.resume):
        problems.append(f"run.resume: got '{run.resume}', expected auto, never or the path of a checkpoint file")
    if run.resume == "never" and (Path(run.dir) / "last.ckpt").exists() and not requeued():
        problems.append(f"run.resume=never: {run.dir} already holds last.ckpt; give another run.dir, or resume")
