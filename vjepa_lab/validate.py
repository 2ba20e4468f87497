"""What a configuration must satisfy beyond its types. Every check adds a sentence; nothing stops at the first."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vjepa_lab.config import (
    SIZES,
    ConfigError,
    EmbedConfig,
    ExportConfig,
    InspectConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TrainerConfig,
)
from vjepa_lab.merge import entries
from vjepa_lab.registry import MASKS, PROBES, SOURCES
from vjepa_lab.validate_inverse import inverse_problems

_REFUSED = {
    "fsdp": "FSDP1 allows one forward per step, this model needs several: use trainer.strategy=fsdp2",
    "deepspeed": "DeepSpeed is not supported: use trainer.strategy=fsdp2",
    "fp16": "fp16 would need loss scaling: use trainer.precision=bf16-mixed",
    "16-mixed": "fp16 would need loss scaling: use trainer.precision=bf16-mixed",
}


WEIGHT_SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".safetensors", ".bin")
"endings that make a word a file of weights, not the name of a released model"


def validate(config: Any) -> None:
    """Check what single fields cannot, for the configuration of any verb: every problem of meaning, raised once.

    Raises:
        ConfigError: lists all problems.
    """
    # which use the checks of single blocks below
    from vjepa_lab import validate_ablate, validate_masks, validate_probe, validate_world

    checks = _CHECKS | validate_world.CHECKS | validate_probe.CHECKS | validate_ablate.CHECKS | validate_masks.CHECKS
    problems = checks[type(config)](config)
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  - ".join([f"the configuration has {count}:", *problems]))


def pretrain_problems(config: PretrainConfig) -> list[str]:
    """Problems of a pretraining configuration, as sentences; empty when it can be run."""
    problems: list[str] = []
    plugin_problems(config.plugins, problems)
    _model(config, problems)
    _data(config, problems)
    _family(config, problems)
    _optim(config, problems)
    trainer_problems(config.trainer, config.data.batch, config.data.global_batch, problems)
    _starts(config, problems)
    _watch(config, problems)
    inverse_problems(config, problems)
    return problems


def choice(name: str, got: str, allowed: Sequence[str], problems: list[str]) -> bool:
    """Whether ``got`` is one of ``allowed``; if not, that is added to ``problems``."""
    if got in allowed:
        return True
    refusal = _REFUSED.get(got)
    problems.append(f"{name}: {refusal}" if refusal else f"{name}: got '{got}', expected one of {', '.join(allowed)}")
    return False


def plugin_problems(plugins: list[str], problems: list[str]) -> None:
    """Import ``plugins``; what cannot be imported is added to ``problems``."""
    for name in plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(f"plugins: '{name}' cannot be imported: {error}")


def _model(config: PretrainConfig, problems: list[str]) -> None:
    encoder, predictor = config.encoder, config.predictor
    sizes = {f"encoder.{name}": getattr(encoder, name) for name in ("width", "depth", "heads")}
    sizes |= {f"predictor.{name}": getattr(predictor, name) for name in ("width", "depth", "heads", "mask_tokens")}
    sizes["encoder.mlp_width"] = encoder.mlp_width
    wrong = {name: value for name, value in sizes.items() if value is not None and value < 1}
    problems.extend(f"{name}: got {value}, expected at least 1" for name, value in wrong.items())
    if not 0 <= encoder.drop_path < 1:
        problems.append(f"encoder.drop_path: got {encoder.drop_path}, expected 0 or more and less than 1")
    if not wrong and choice("encoder.size", encoder.size, tuple(SIZES), problems):
        size = encoder.resolved()
        if size.width % size.heads:
            problems.append(f"encoder: width {size.width} is not divisible by {size.heads} heads")
    if not wrong and predictor.width % predictor.heads:
        problems.append(f"predictor: width {predictor.width} is not divisible by {predictor.heads} heads")
    choice("encoder.rope", encoder.rope, ("released", "exact"), problems)
    choice("encoder.mlp", encoder.mlp, ("gelu", "swiglu"), problems)
    choice("encoder.attention", encoder.attention, ("sdpa", "xformers"), problems)
    choice("keep", config.keep, ("random", "head"), problems)
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
        problems.append(
            "data.sources: the list is empty, expected at least one source: data.sources='[{name: listing, path: "
            "videos.csv}]' for your videos, data.sources='[{name: synthetic}]' for the simulated world"
        )
    for i, source in enumerate(entries(SOURCES, data.sources, "data.sources", problems)):
        if source.weight <= 0:
            problems.append(f"data.sources[{i}].weight: got {source.weight}, expected more than 0")
    if (data.fps is None) == (data.stride is None):
        problems.append(f"data: exactly one of fps and stride must be set, got fps={data.fps} stride={data.stride}")
    choice("data.decoder", data.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
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


def _family(config: PretrainConfig, problems: list[str]) -> None:
    """What belongs to V-JEPA 2.1 alone."""
    encoder, predictor, loss, images = config.encoder, config.predictor, config.loss, config.images
    if not choice("encoder.family", encoder.family, ("vjepa2", "vjepa2.1"), problems):
        return
    if predictor.out_width is not None:
        problems.append("predictor.out_width: belongs to distilled models, which need a teacher; set it to null")
    if encoder.family == "vjepa2":
        if predictor.levels != 1:
            problems.append(f"predictor.levels: got {predictor.levels}, which needs encoder.family=vjepa2.1")
        if images.sources:
            problems.append(
                "images.sources: needs encoder.family=vjepa2.1; family vjepa2 repeats a picture to a clip: "
                "list pictures under data.sources"
            )
        return
    if encoder.size in SIZES and encoder.resolved().depth < 4:
        problems.append(f"encoder: family vjepa2.1 has four levels, got depth {encoder.resolved().depth}")
    if predictor.levels not in (1, 4):
        problems.append(f"predictor.levels: got {predictor.levels}, expected 1 or 4")
    problems.extend(
        f"loss.{name}: got {getattr(loss, name)}, expected 0 or more"
        for name in ("context", "context_image", "context_start")
        if getattr(loss, name) < 0
    )
    if loss.context_end < loss.context_start:
        problems.append(f"loss.context_end: got {loss.context_end}, expected at least context_start")
    if images.sources:
        _images(config, problems)


def _images(config: PretrainConfig, problems: list[str]) -> None:
    images, patch = config.images, config.encoder.patch
    for i, source in enumerate(entries(SOURCES, images.sources, "images.sources", problems)):
        if source.weight <= 0:
            problems.append(f"images.sources[{i}].weight: got {source.weight}, expected more than 0")
    entries(MASKS, images.masks, "images.masks", problems)
    if not images.masks:
        problems.append("images.masks: the list is empty, expected at least one strategy")
    if images.batch < 1:
        problems.append(f"images.batch: got {images.batch}, expected at least 1")
    if not 0 < images.weight < 1:
        problems.append(f"images.weight: got {images.weight}, expected a share between 0 and 1")
    if images.crop is not None and (images.crop < patch or images.crop % patch):
        problems.append(f"images.crop: {images.crop} is not a multiple of encoder.patch {patch}")


def _optim(config: PretrainConfig, problems: list[str]) -> None:
    optim_problems(config.optim, problems)
    run_problems(config.run, problems)
    ema = config.ema
    for name in ("start", "end"):
        value = getattr(ema, name)
        if not 0 <= value <= 1:
            problems.append(f"ema.{name}: got {value}, expected a share between 0 and 1")
    if config.loss.power <= 0:
        problems.append(f"loss.power: got {config.loss.power}, expected more than 0")


def _watch(config: PretrainConfig, problems: list[str]) -> None:
    watch = config.watch
    choice("watch.on_collapse", watch.on_collapse, ("warn", "stop", "rollback"), problems)
    for name, least in (("every", 0), ("patience", 1), ("rollbacks", 0)):
        if getattr(watch, name) < least:
            problems.append(f"watch.{name}: got {getattr(watch, name)}, expected at least {least}")
    for name in ("spread", "entropy", "lr_factor"):
        if not 0 < getattr(watch, name) < 1:
            problems.append(f"watch.{name}: got {getattr(watch, name)}, expected a share between 0 and 1")


def optim_problems(optim: OptimConfig, problems: list[str]) -> None:
    """What is wrong with an ``optim`` block is added to ``problems``."""
    if optim.steps < 1:
        problems.append(f"optim.steps: got {optim.steps}, expected at least 1")
    if choice("optim.schedule", optim.schedule, ("wsd", "cosine", "linear"), problems):
        if optim.warmup + optim.decay > optim.steps:
            problems.append(
                f"optim: warmup {optim.warmup} + decay {optim.decay} steps are more than optim.steps {optim.steps}"
            )
        if optim.schedule != "wsd" and optim.decay:
            problems.append(f"optim.decay: belongs to schedule wsd, got schedule {optim.schedule}; set optim.decay=0")
    if optim.clip is not None and optim.clip <= 0:
        problems.append(f"optim.clip: got {optim.clip}, expected more than 0, or null for no clipping")


def run_problems(run: RunConfig, problems: list[str]) -> None:
    """What is wrong with a ``run`` block is added to ``problems``."""
    for name in ("log_every", "save_every"):
        if getattr(run, name) < 1:
            problems.append(f"run.{name}: got {getattr(run, name)}, expected at least 1")
    if run.resume not in ("auto", "never") and not Path(run.resume).is_file():
        problems.append(f"run.resume: got '{run.resume}', expected auto, never or the path of a checkpoint file")
    if run.resume == "never" and (Path(run.dir) / "last.ckpt").exists() and not requeued():
        problems.append(f"run.resume=never: {run.dir} already holds last.ckpt; give another run.dir, or resume")


def trainer_problems(trainer: TrainerConfig, batch: int, global_batch: int | None, problems: list[str]) -> None:
    """What is wrong with a ``trainer`` block, and with the global batch, is added to ``problems``."""
    choice("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu", "mps"), problems)
    choice("trainer.strategy", trainer.strategy, ("ddp", "fsdp2"), problems)
    choice("trainer.precision", trainer.precision, ("fp32", "bf16-mixed"), problems)
    if trainer.accumulate < 1:
        problems.append(f"trainer.accumulate: got {trainer.accumulate}, expected at least 1")
    if trainer.nodes < 1:
        problems.append(f"trainer.nodes: got {trainer.nodes}, expected at least 1")
    if trainer.devices < 0:
        problems.append(f"trainer.devices: got {trainer.devices}, expected 0 (all) or more")
    if trainer.devices == 0 and (trainer.nodes > 1 or global_batch is not None):
        problems.append("trainer.devices: give the number per node (with several nodes or data.global_batch)")
        return
    if trainer.devices > 0:
        launch = launch_problem(trainer.devices, trainer.nodes)
        problems.extend([launch] if launch else [])
    if global_batch is not None:
        total = batch * trainer.devices * trainer.nodes * trainer.accumulate
        if total != global_batch:
            problems.append(
                f"data.global_batch: got {global_batch}, but batch {batch} x devices {trainer.devices} x "
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


def goes_on_from(run: RunConfig) -> Path | None:
    """The checkpoint that a run goes on from: ``last.ckpt`` of its folder, or the path in ``run.resume``; None: it
    starts."""
    last = Path(run.dir) / "last.ckpt"
    if (run.resume == "auto" or requeued()) and last.is_file():
        return last
    return None if run.resume in ("auto", "never") else Path(run.resume)


def requeued() -> bool:
    """Is this a SLURM job that was started before? Then its own checkpoint comes before ``run.resume``."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _starts(config: PretrainConfig, problems: list[str]) -> None:
    init = config.init
    choice("init.load", init.load, ("weights", "weights+optimizer", "auto"), problems)
    weights_problem("init.checkpoint", init.checkpoint, problems)
    if init.checkpoint is None and init.load == "weights+optimizer":
        problems.append(f"init.load: '{init.load}' needs init.checkpoint")


def weights_problem(name: str, given: str | None, problems: list[str]) -> None:
    """A path where there is nothing is added to ``problems``; a released name is not looked for."""
    if given is not None and not Path(given).expanduser().exists() and _is_path(given):
        problems.append(f"{name}: no file or folder {given}")


def _is_path(text: str) -> bool:
    """Is this a path, and not the name of a released model, which is looked up when the weights are read?"""
    return len(Path(text).parts) > 1 or Path(text).suffix in WEIGHT_SUFFIXES


def inspect_problems(config: InspectConfig) -> list[str]:
    """Problems of ``vjepa-lab inspect``."""
    return [] if config.file else ["file: give the file to look at, like vjepa-lab inspect last.ckpt"]


def export_problems(config: ExportConfig) -> list[str]:
    """Problems of ``vjepa-lab export``."""
    problems: list[str] = []
    if not config.run:
        problems.append("run: give the folder of a run or a file of weights, like vjepa-lab export runs/quickstart")
    choice("to", config.to, ("original", "huggingface", "safetensors"), problems)
    return problems


def encoder_problems(config: Any, problems: list[str]) -> None:
    """Check the fields with which a verb opens a frozen encoder and reads clips for it (embed, probe)."""
    choice("encoder", config.encoder, ("auto", "target", "online", "ema"), problems)
    known = ("heads", "predictor_heads", "rope", "interpolate")
    problems.extend(f"load.{k}: unknown; there are: {', '.join(known)}" for k in config.load if k not in known)
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        problems.append(f"device: got '{config.device}', expected auto, cpu, cuda, cuda:<number> or mps")
    choice("decoder", config.decoder, ("auto", "decord", "pyav", "torchcodec"), problems)
    choice("precision", config.precision, ("fp32", "bf16-mixed"), problems)
    if config.fps is not None and config.stride is not None:
        problems.append(f"at most one of fps and stride may be set, got fps={config.fps} stride={config.stride}")
    positive(config, ("frames", "crop", "fps", "stride", "threads", "timeout", "min_frames"), problems)
    if config.workers < 0:
        problems.append(f"workers: got {config.workers}, expected 0 or more")


def positive(config: Any, names: Sequence[str], problems: list[str]) -> None:
    """Fields that are set and not above 0 are added to ``problems``."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value <= 0:
            problems.append(f"{name}: got {value}, expected more than 0")


def embed_problems(config: EmbedConfig) -> list[str]:
    """Problems of ``vjepa-lab embed``."""
    problems: list[str] = []
    example = "like vjepa-lab embed videos.csv --checkpoint runs/quickstart/last.ckpt"
    if not config.videos:
        problems.append(f"videos: give a CSV or JSONL file of videos, {example}")
    elif not Path(config.videos).is_file():
        problems.append(f"videos: no file {config.videos}")
    if not config.checkpoint:
        problems.append(f"checkpoint: give the weights of an encoder, {example}")
    encoder_problems(config, problems)
    choice("pool", config.pool, ("mean", "tubelet", "none"), problems)
    choice("dtype", config.dtype, ("float32", "float16", "bfloat16"), problems)
    if choice("format", config.format, ("safetensors", "parquet"), problems) and config.format == "parquet":
        if importlib.util.find_spec("pyarrow") is None:
            problems.append("format=parquet: pyarrow is not installed: pip install pyarrow (or use format=safetensors)")
        if config.dtype == "bfloat16":
            problems.append("dtype: parquet has no bfloat16; use float16 or float32")
    choice("last", config.last, ("shift", "hold", "drop"), problems)
    if config.windows and config.fps is None and config.stride is None:
        problems.append("windows: needs fps or stride")
    if config.windows and config.clips != 1:
        problems.append(f"clips: got {config.clips}, but windows cover the whole video; set clips=1 or windows=false")
    if config.hop is not None and not config.windows:
        problems.append("hop: belongs to windows; set windows=true")
    positive(config, ("hop", "clips", "views", "shard", "batch", "parts"), problems)
    if not 0 <= config.part < max(config.parts, 1):
        problems.append(f"part: got {config.part}, expected 0..{config.parts - 1}")
    return problems


_CHECKS: dict[type, Callable[..., list[str]]] = {
    PretrainConfig: pretrain_problems,
    InspectConfig: inspect_problems,
    ExportConfig: export_problems,
    EmbedConfig: embed_problems,
}
