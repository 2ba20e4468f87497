"""Every field of a run. The text below a field is its documentation: ``vjepa-lab pretrain --help`` prints it.

Defaults are those of the paper where it says something. What single fields cannot say is checked in ``validate.py``;
``merge.py`` makes one of these objects from files and arguments. None of the three imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vjepa_lab.config_inverse import InverseConfig


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


def levels_of(depth: int) -> list[int]:
    """Blocks (from 0) whose output V-JEPA 2.1 predicts: the ends of four equal parts, but 37 in a depth of 48."""
    return [11, 23, 37, 47] if depth == 48 else [depth * k // 4 - 1 for k in (1, 2, 3, 4)]


@dataclass
class EncoderConfig:
    family: str = "vjepa2"
    "vjepa2 | vjepa2.1 (image branch, a norm for each of four levels, and its objective: see loss and images)"
    size: str = "large"
    "tiny | small | base | large | huge | giant | gigantic"
    width: int | None = None
    "overrides the width of the size"
    depth: int | None = None
    "overrides the depth of the size"
    heads: int | None = None
    "overrides the number of heads of the size"
    mlp_width: int | None = None
    "overrides the inner width of the size's MLP"
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
    interpolate: bool = False
    "scale rotary rows and columns to those of a 256 px clip (V-JEPA 2.1)"
    mlp: str = "gelu"
    "gelu | swiglu"
    drop_path: float = 0.0
    "stochastic depth, rising linearly to this rate"
    attention: str = "sdpa"
    "sdpa | xformers"

    @property
    def rope_reference(self) -> int | None:
        """Rows and columns of tokens that positions are scaled to, None for no scaling."""
        return 256 // self.patch if self.interpolate else None

    def resolved(self) -> Size:
        """Width, depth, heads and MLP width after the overrides."""
        row = SIZES[self.size]
        width = self.width or row.width
        mlp = self.mlp_width or (row.mlp if width == row.width else 4 * width)
        return Size(width, self.depth or row.depth, self.heads or row.heads, mlp)


@dataclass
class PredictorConfig:
    width: int = 384
    depth: int = 12
    heads: int = 12
    mask_tokens: int = 1
    "learnt mask tokens; released V-JEPA 2 files hold 10, of which the first alone was trained"
    levels: int = 1
    "levels of the encoder that are read and predicted: 1 (the last) | 4 (V-JEPA 2.1, deep supervision)"
    out_width: int | None = None
    "width of what is predicted, where it is not levels x encoder width (released distilled V-JEPA 2.1 files)"


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
class ImagesConfig:
    """Pictures beside the clips: with them, every micro-batch of every rank holds both (family vjepa2.1)."""

    sources: list[dict[str, Any]] = field(default_factory=list)
    "what to read, as data.sources; of a video, one frame. Empty: clips alone"
    batch: int = 72
    "images per device and micro-batch"
    crop: int | None = None
    "pixels per side of an image; null: encoder.crop"
    weight: float = 0.5
    "share of the images in the loss; that of the clips is the rest"
    masks: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "multiblock", "blocks": 10, "scale": 0.15}])
    "mask strategies for images"


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
    context: float = 0.5
    "weight of the same loss at the context tokens of clips (family vjepa2.1)"
    context_image: float = 0.5
    "the same for images; the paper has 0.7, the released configurations 0.5"
    context_start: int = 15_000
    "steps before which these weights are 0"
    context_end: int = 30_000
    "step from which they are whole; linear in between"
    context_distance: bool = True
    "divide the loss of a context token by the root of its distance to the nearest target, in tokens"


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
    "weights to start from: a checkpoint of a run, a released file or its name, an export, a Hugging Face folder"
    load: str = "weights"
    "weights | weights+optimizer | auto (with the optimizer where the file holds one). The step starts at 0"


@dataclass
class WatchConfig:
    """Are the features of the context encoder collapsing?

    With these limits all of 19 collapses of short runs were told, and 1 of 22 healthy runs: tools/bench/RESULTS.md.
    """

    on_collapse: str = "warn"
    "warn (say it once, and log it) | stop (checkpoint, exit code 3) | rollback (to a healthy checkpoint, lower rate)"
    every: int = 10
    "steps between two readings; 0: no watch"
    patience: int = 3
    "readings in a row below a limit that make an alarm"
    spread: float = 0.5
    "limit of the deviation of features over tokens, as a share of its highest reading"
    entropy: float = 0.5
    "the same for the entropy of their spectrum, the logarithm of how many directions they use"
    rollbacks: int = 3
    "how many times a run goes back before it stops"
    lr_factor: float = 0.5
    "with every rollback the learning rate is multiplied by this, for the rest of the run"


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
    images: ImagesConfig = field(default_factory=ImagesConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    inverse: InverseConfig = field(default_factory=InverseConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    init: InitConfig = field(default_factory=InitConfig)
    probes: list[dict[str, Any]] = field(default_factory=list)
    "measurements of the target encoder during training: {name: motion, every: steps, ...}"
    watch: WatchConfig = field(default_factory=WatchConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with masks, sources or probes of your own"


@dataclass
class InspectConfig:
    """Say what a file of weights holds."""

    file: str = ""
    "checkpoint, export, released file or its name, or Hugging Face folder"


@dataclass
class ExportConfig:
    """Write the weights of a run for other software."""

    run: str = ""
    "folder of a run (its last.ckpt), or any file of weights"
    to: str = "safetensors"
    "original (the released V-JEPA code) | huggingface (transformers) | safetensors (one file, all networks)"
    out: str | None = None
    "where to write; null: export-<to> beside the weights"


@dataclass
class EmbedConfig:
    """Write the features of a list of videos."""

    videos: str = ""
    "listing of videos and pictures: CSV or JSONL with path, and label, start, end where there are any"
    checkpoint: str = ""
    "a checkpoint, export, released file or its name, Hugging Face folder; timm:NAME or hf:NAME for a baseline"
    out: str = "features"
    "folder of the shards, index.csv and bad_samples.jsonl; what is there already is not computed again"
    encoder: str = "auto"
    "which encoder of the file: auto | target | online | ema"
    load: dict[str, Any] = field(default_factory=dict)
    "what shapes of the file cannot tell: {heads: ..., predictor_heads: ..., rope: ..., interpolate: ...}"
    layers: list[int] = field(default_factory=list)
    "blocks (from 0) whose features are written; empty: the output of the encoder"
    pool: str = "mean"
    "mean (one vector per clip) | tubelet (one per tubelet) | none (every token)"
    dtype: str = "float32"
    "of what is written: float32 | float16 | bfloat16"
    format: str = "safetensors"
    "safetensors | parquet (needs the package pyarrow)"
    frames: int | None = None
    "frames per clip; null: those of the checkpoint"
    crop: int | None = None
    "pixels per side of a clip; null: that of the checkpoint"
    fps: float | None = 4.0
    "frames per second of a clip, by timestamps"
    stride: int | None = None
    "take every n-th frame instead (then fps must be null); both null: frames spread over the whole video"
    clips: int = 1
    "clips per video, each in the middle of an equal part of it"
    windows: bool = False
    "clips over the whole video, one after the other, in place of a number of clips"
    hop: int | None = None
    "frames from one window to the next; null: the frames of a clip, so that windows do not overlap"
    last: str = "shift"
    "the last window: shift (ends with the video) | hold (repeats the last frame) | drop (whole windows alone)"
    views: int = 1
    "1: the centre of the frame; more: so many crops along its longer side"
    shard: int = 1024
    "rows of the listing per file"
    batch: int = 16
    "clips at once"
    workers: int = 8
    "processes that read videos; 0 reads in the main process"
    decoder: str = "auto"
    "auto (decord, and PyAV for what it cannot read) | decord | pyav | torchcodec"
    threads: int = 1
    "decoder threads per loader process"
    timeout: float = 60.0
    "seconds after which the reading of one clip is given up"
    min_frames: int = 1
    "videos with fewer frames are skipped as too short; others hold their last frame to fill a clip"
    device: str = "auto"
    "auto (the first GPU if there is one) | cpu | cuda | cuda:1 | mps"
    precision: str = "fp32"
    "fp32 | bf16-mixed"
    part: int = 0
    "which part of the shards this process writes, from 0; several processes share one folder"
    parts: int = 1
    "into how many parts the shards are dealt"
    progress: bool = True
    "show a progress bar"
