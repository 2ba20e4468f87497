"""Fields of the verb ``masks``. The text below a field is its documentation: ``vjepa-lab masks --help`` prints it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vjepa_lab.config import OptimConfig

WORLD = "synthetic"
"the clip of this name is simulated"
PICTURES = (".png", ".gif", ".html")


@dataclass
class MasksConfig:
    """Draw masks over a clip."""

    clip: str = ""
    "a video or picture file, or synthetic: a clip of the simulated world"
    strategy: str = ""
    "what to draw: the name of a strategy, or several with commas between them, to be compared"
    options: dict[str, Any] = field(default_factory=dict)
    "fields of the strategy, where it is one: options.budget=0.3"
    masks: list[dict[str, Any]] = field(default_factory=list)
    "strategies with their fields, as a training lists them: [{name: ..., field: value}]; after those of strategy"
    out: str = "masks.html"
    "what to write: .png (a picture of every few frames) | .gif (a film) | .html (films, maps and all figures)"
    step: int | None = None
    "optimizer step at which masks are drawn, for what changes in a training (mix, warm-up); null: the last one"
    steps: int = OptimConfig.steps
    "optimizer steps of that training"
    keep: str = "random"
    "which tokens of ragged masks are kept: random (unbiased) | head (the first ones, as released)"
    draws: int = 16
    "a batch of so many times the same clip is masked: figures are means over it, pictures show the first"
    seed: int = 0
    "of the masks, as run.seed of a training"
    frames: int | None = None
    "frames of the clip; null: those of the checkpoint, or 16"
    crop: int | None = None
    "pixels per side of the clip; null: that of the checkpoint, or 256"
    patch: int = 16
    "pixels per side of a token"
    tubelet: int = 2
    "frames per token"
    fps: float | None = 4.0
    "frames per second of the clip, by timestamps"
    stride: int | None = None
    "take every n-th frame instead (then fps must be null); both null: frames spread over the whole video"
    start: float = 0.0
    "the clip is the middle of what follows this second of the video"
    end: float | None = None
    "and of what comes before this one; null: all"
    index: int = 0
    "which clip of the simulated world"
    world: dict[str, Any] = field(default_factory=dict)
    "fields of the simulated world: world.pan=0.1"
    events: list[float] = field(default_factory=list)
    "annotated events in seconds from the clip's start, for strategies that use them; the simulated world has its own"
    checkpoint: str | None = None
    "encoder for strategies that look at features: a checkpoint, export, released file or its name"
    decoder: str = "auto"
    "auto (decord, and PyAV for what it cannot read) | decord | pyav | torchcodec"
    timeout: float = 60.0
    "seconds after which the reading of the video is given up"
    plugins: list[str] = field(default_factory=list)
    "modules to import first, with masks of your own"

    @property
    def at(self) -> int:
        """The step that is drawn."""
        return self.steps if self.step is None else self.step

    def entries(self) -> list[dict[str, Any]]:
        """All strategies as entries of the registry."""
        names = [name.strip() for name in self.strategy.split(",") if name.strip()]
        return [*({"name": name} | self.options for name in names), *self.masks]
