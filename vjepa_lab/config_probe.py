"""Fields of the verb ``probe``. The text below a field is its documentation: ``vjepa-lab probe --help`` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ProbeConfig:
    """Measure what a frozen encoder knows."""

    checkpoint: str = ""
    "a checkpoint, export, released file or its name, Hugging Face folder; timm:NAME or hf:NAME for a baseline"
    probes: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "motion"}])
    "what to measure: {name: ..., field: value, ...}"
    out: str = "runs/probe"
    "folder of results.jsonl, results.csv, bad_samples.jsonl and the features that are kept"
    controls: list[str] = field(default_factory=lambda: ["untrained", "pixels", "constant", "shuffled"])
    "the same probes on: untrained (the same network, fresh) | pixels | constant (features without content) | shuffled"
    baselines: dict[str, str] = field(default_factory=dict)
    "other encoders to measure alike, by name: {videomae: hf:FOLDER, other: runs/other/last.ckpt}"
    report: str | None = None
    "also write a page with tables, curves and features as colours: a path ending in .html"
    encoder: str = "auto"
    "which encoder of the file: auto | target | online | ema"
    load: dict[str, Any] = field(default_factory=dict)
    "what shapes of the file cannot tell: {heads: ..., predictor_heads: ..., rope: ..., interpolate: ...}"
    frames: int | None = None
    "frames per clip; null: those of the checkpoint"
    crop: int | None = None
    "pixels per side of a clip; null: that of the checkpoint"
    fps: float | None = 4.0
    "frames per second of a clip, by timestamps, where a probe does not say"
    stride: int | None = None
    "take every n-th frame instead (then fps must be null)"
    seed: int = 0
    "of held-out shares, controls and heads"
    keep_features: bool = True
    "keep features in the folder, so that other heads on them cost no pass of the encoder"
    workers: int = 0
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
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with sources or probes of your own"
    progress: bool = True
    "show a progress bar"
