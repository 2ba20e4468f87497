"""Every field of a run. The text below a field is its documentation: ``vjepa-lab pretrain --help`` prints it.

Defaults are those of the paper where it says something. What single fields cannot say is checked in ``validate.py``;
``merge.py`` makes one of these objects from files and arguments. None of the three imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ConfigError(ValueError):
    """One or several problems of a configuration; the message lists them all."""


class Size(NamedTuple):
    """One row of the table of encoder sizes."""

    width: int
    depth: int
    heads: int
    mlp: int


# V-JEPA 2 paper table 12 and released file src/models/vision_transformer.py; g and G with heads of 64.
SIZES = {
    "tiny": Size(192, 12, 3, 768),
    "small": Size(384, 12, 6, 1536),
    "base": Size(768, 12, 12, 3072),
    "large": Size(1024, 24, 16, 4096),
    "huge": Size(1280, 32, 16, 5120),
    "giant": Size(1408, 40, 22, 6144),
    "gigantic": Size(1664, 48, 26, 8192),
}


@dataclass
class RunConfig:
    dir: str = "runs/pretrain"
    "folder of the run: config, metrics, checkpoints, pictures"
    seed: int = 0
    "everything random is a function of (seed, step, rank)"
    resume: str = "auto"
    "auto (last.ckpt of the folder if there is one; so too in a job that SLURM requeued) | never | a checkpoint's path"
    log_every: int = 10
    "steps between two rows of metrics.csv"
    save_every: int = 500
    "steps between two writes of last.ckpt"
    keep_every: int = 0
    "steps between two checkpoints that are kept for good; 0: none"
    wandb: str | None = None
    "W&B project; without an account the run is written offline"
    tensorboard: bool = False
    "write TensorBoard events into the run folder (needs the package tensorboard)"
    progress: bool = True
    "show a progress bar"


@dataclass
class EncoderConfig:
    size: str = "large"
    "tiny | small | base | large | huge | giant | gigantic"
    width: int | None = None
    "overrides the width of the size"
    depth: int | None = None
    "overrides the depth of the size"
    heads: int | None = None
    "overrides the number of heads of the size"
    patch: int = 16
    "pixels per side of a token"
    tubelet: int = 2
    "frames per token"
    frames: int = 16
    "frames per clip"
    crop: int = 256
    "pixels per side of a clip"
    rope: str = "exact"
    "released (tiled frequencies: needed for V-JEPA 2 weights) | exact (a true rotation)"
    mlp: str = "gelu"
    "gelu | swiglu"
    drop_path: float = 0.0
    "stochastic depth, rising linearly to this rate"
    attention: str = "sdpa"
    "sdpa | xformers"

    def resolved(self) -> Size:
        """Width, depth, heads and MLP width after the overrides."""
        row = SIZES[self.size]
        width = self.width or row.width
        mlp = row.mlp if width == row.width else 4 * width
        return Size(width, self.depth or row.depth, self.heads or row.heads, mlp)


@dataclass
class PredictorConfig:
    width: int = 384
    depth: int = 12
    heads: int = 12
    mask_tokens: int = 1
    "learnt mask tokens; released V-JEPA 2 files hold 10, of which the first alone was trained"


@dataclass
class DataConfig:
    sources: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "synthetic"}])
    "what to read: {name: synthetic | listing | shards, weight: share of the samples, ...}"
    batch: int = 24
    "clips per device and micro-batch"
    global_batch: int | None = None
    "if given: must equal batch x devices x nodes x accumulate"
    fps: float | None = 4.0
    "frames per second of a clip, by timestamps"
    stride: int | None = None
    "take every n-th frame instead (then fps must be null)"
    workers: int = 8
    "loader processes per device; 0 reads in the training process"
    decoder: str = "auto"
    "auto (decord, and PyAV for what it cannot read) | decord | pyav | torchcodec"
    threads: int = 1
    "decoder threads per loader process"
    timeout: float = 60.0
    "seconds after which the reading of one sample is given up"
    min_frames: int = 2
    "videos with fewer frames are skipped as too short; others hold their last frame to fill a clip"


@dataclass
class TransformConfig:
    scale: tuple[float, float] = (0.3, 1.0)
    "area of the random crop, as a share of the frame"
    aspect: tuple[float, float] = (0.75, 1.35)
    "width / height of the random crop"
    flip: bool = True
    "flip half of the clips left to right"
    antialias: bool = False
    "filter before shrinking; the released code does not"


@dataclass
class LossConfig:
    power: float = 1.0
    "mean |prediction - target|^power / power"


@dataclass
class EmaConfig:
    start: float = 0.99925
    "share of the target encoder that one step keeps, at the first step"
    end: float = 0.99925
    "the same at the last step; linear in between"


@dataclass
class OptimConfig:
    steps: int = 90_000
    "optimizer steps"
    schedule: str = "wsd"
    "after the warmup: wsd (constant, then linear decay) | cosine | linear"
    start_lr: float = 1e-4
    "learning rate at the start of the warmup"
    lr: float = 5.25e-4
    "learning rate after the warmup"
    min_lr: float = 1e-6
    "learning rate at the end of the decay"
    warmup: int = 12_000
    "steps of warmup"
    decay: int = 0
    "steps of linear decay at the end (wsd only)"
    weight_decay: float = 0.04
    final_weight_decay: float | None = None
    "weight decay at the last step, reached on a cosine; null: constant"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    "largest norm of the gradient; null: no clipping, as released"
    max_skips: int = 3
    "steps in a row with a loss or gradient that is not finite: these are skipped, one more ends the run"


@dataclass
class InitConfig:
    checkpoint: str | None = None
    "checkpoint of an earlier run to start from (cooldown, higher resolution)"
    load: str = "weights"
    "weights | weights+optimizer (the step starts at 0 in both cases)"


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    "auto | cpu | gpu | mps"
    devices: int = 0
    "processes per node; 0: every GPU of the node, or one process on a CPU"
    nodes: int = 1
    strategy: str = "ddp"
    "ddp | fsdp2; one process uses neither, except fsdp2 on a GPU"
    precision: str = "fp32"
    "fp32 | bf16-mixed"
    accumulate: int = 1
    "micro-batches per optimizer step"
    checkpoint_activations: bool = False
    "recompute the blocks in the backward pass: less memory, about a third more compute"
    compile: bool = False
    "torch.compile each block"


@dataclass
class PretrainConfig:
    """Masked latent video pretraining (V-JEPA 2, section 2 of the paper)."""

    run: RunConfig = field(default_factory=RunConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    masks: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"name": "multiblock", "blocks": 8, "scale": 0.15},
            {"name": "multiblock", "blocks": 2, "scale": 0.7},
        ]
    )
    "mask strategies; each clip is predicted once under each: {name: multiblock | random | tube, ...}"
    keep: str = "random"
    "which tokens of ragged masks are kept: random (unbiased) | head (the first ones, as released)"
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    init: InitConfig = field(default_factory=InitConfig)
    probes: list[dict[str, Any]] = field(default_factory=list)
    "measurements of the target encoder during training: {name: motion, every: steps, ...}"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with masks, sources or probes of your own"
