"""Every field of a world model's post-training and of planning with it; see ``config.py``, whose blocks these share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vjepa_lab.config import EncoderConfig, OptimConfig, RunConfig, TrainerConfig


@dataclass
class ACPredictorConfig:
    width: int = 1024
    depth: int = 24
    heads: int = 16
    rope: str = "released"
    "released (tiled frequencies, as the released weights) | exact (a true rotation)"
    extrinsics: bool = False
    "give the predictor the pose of the camera"


@dataclass
class WorldConfig:
    steps: int = 2
    "length of the rollout in the loss"
    rollout: str = "released"
    "steps of it that count: released (the mean of all) | final (the last alone, equation 3 of the paper)"
    power: float = 1.0
    "mean |prediction - target|^power / power"
    standardise: bool = False
    "give the predictor states and actions of mean 0 and deviation 1; released weights read them as they are"
    robot: dict[str, Any] = field(default_factory=lambda: {"name": "droid"})
    "state and action space: {name: droid}, or the fields of robots.Robot (position, rotation, turn, gripper, ...)"


@dataclass
class RobotDataConfig:
    sources: list[dict[str, Any]] = field(default_factory=list)
    "what to read: {name: droid | lerobot | libero | robot_shards, weight: share of the samples, ...}"
    batch: int = 8
    "stretches per device and micro-batch"
    global_batch: int | None = None
    "if given: must equal batch x devices x nodes x accumulate"
    frames: int = 8
    "frames per stretch (the paper: 16; the released configuration: 8)"
    fps: float | None = 4.0
    "frames per second of a stretch; null: every step of the recording"
    crop: str = "released"
    "released (central, width / height 1.35, squashed) | centre (central, undistorted) | random (resized crop)"
    scale: tuple[float, float] = (0.3, 1.0)
    "area of a random crop, as a share of the frame"
    aspect: tuple[float, float] = (0.75, 1.35)
    "width / height of a random crop"
    workers: int = 8
    "loader processes per device; 0 reads in the training process"
    decoder: str = "auto"
    "auto (decord, and PyAV for what it cannot read) | decord | pyav | torchcodec"
    threads: int = 1
    "decoder threads per loader process"
    timeout: float = 60.0
    "seconds after which the reading of one sample is given up"
    check: int = 64
    "stretches on which states and actions are checked against the robot's description before the first step; 0: none"


@dataclass
class CacheConfig:
    dir: str | None = None
    "folder that keeps the frozen encoder's features of data.sources, computed once; null: computed at every step"
    dtype: str = "float32"
    "numbers on disk: float32 (trains as without a cache) | bfloat16 (half the size, rounded)"


@dataclass
class ValidationConfig:
    sources: list[dict[str, Any]] = field(default_factory=list)
    "held-out episodes, as data.sources; empty: no validation"
    every: int = 1000
    "steps between two validations"
    stretches: int = 64
    "stretches of it that are used"
    steps: int = 3
    "length of the rollouts"
    candidates: int = 32
    "random actions among which the true one is ranked"


@dataclass
class InitWorldConfig:
    encoder: str | None = None
    "weights of the frozen encoder: a run, a released file or its name, an export, a Hugging Face folder"
    which: str = "auto"
    "auto (the moving average where there is one) | target | online | ema"
    heads: int | None = None
    "heads of the encoder, where neither the file nor the table of released sizes tells"
    predictor: str | None = None
    "weights to start the AC predictor from (a released 2-AC file, or a run)"


def _optim() -> OptimConfig:
    return OptimConfig(
        steps=94_500, start_lr=7.5e-5, lr=4.25e-4, min_lr=0.0, warmup=4_500, decay=4_500, weight_decay=0.04
    )


@dataclass
class PosttrainConfig:
    """Post-training of an action-conditioned world model (V-JEPA 2-AC, section 3 of the paper)."""

    run: RunConfig = field(default_factory=lambda: RunConfig(dir="runs/posttrain"))
    init: InitWorldConfig = field(default_factory=InitWorldConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    "the frozen encoder: written by the run from init.encoder, not read"
    crop: int = 256
    "pixels per side of a frame"
    predictor: ACPredictorConfig = field(default_factory=ACPredictorConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    data: RobotDataConfig = field(default_factory=RobotDataConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    optim: OptimConfig = field(default_factory=_optim)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with sources of your own"


@dataclass
class LandscapeConfig:
    sources: list[dict[str, Any]] = field(default_factory=list)
    "held-out episodes whose true actions are looked for in slices of the energy; empty: none"
    pairs: int = 50
    "pairs of frames; those whose true action lies outside the slice are left out"
    cells: int = 9
    "values along each axis of a slice"
    dims: list[int] = field(default_factory=lambda: [0, 1])
    "numbers of the action that vary"
    extent: float = 0.075
    "how far, to both sides of zero"
    pictures: int = 4
    "pairs that are drawn"


@dataclass
class PlanConfig:
    """Planning with a world model: image goals in closed loop, and slices of its energy."""

    checkpoint: str = ""
    "the world model: folder or checkpoint of a post-training, or a released 2-AC file or its name"
    out: str = "runs/plan"
    "folder for results.csv, plans.npz and pictures"
    task: str | None = "reach"
    "goals in the simulated arm: reach | push; null: no closed loop"
    goals: int = 20
    "unseen goals"
    seed: int = 1000
    "goal i is that of seed + i"
    steps: int = 10
    "most actions per goal; not read with subgoals"
    subgoals: list[int] = field(default_factory=list)
    "actions towards each of several pictures in turn, [4, 10, 4] in the paper; empty: one goal, and steps"
    size: int = 128
    "pixels per side of the simulator's pictures, before the model's own crop"
    camera: str = "left"
    "left | right | wrist"
    policies: list[str] = field(default_factory=lambda: ["model", "random", "none", "line"])
    "who plans: model | random | none | line (to the true goal) | simulator (the planner with the true simulator)"
    planner: dict[str, Any] = field(default_factory=lambda: {"preset": "paper"})
    "the search: {preset: paper | released | icem, and fields of planning.settings.CemConfig}"
    chunk: int = 64
    "action sequences at a time: less memory"
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    device: str = "auto"
    "auto | cpu | cuda | mps"
    progress: bool = True
    "show a progress bar"
