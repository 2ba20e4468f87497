"""The values that travel between layers: grids, samples, batches, mask pairs and random numbers.

Letters: B clips, F frames, H W pixels; t h w tokens along each axis, N = t*h*w; K context ids, M target ids.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Odd constants of the splitmix64 finaliser (Steele et al. 2014), as signed 64-bit integers.
_GOLDEN = -7046029254386353131
_MIX1 = -4658895280553007687
_MIX2 = -7723592293110705685


class Grid(NamedTuple):
    """Token grid of a clip: ``t`` tubelets by ``h`` rows by ``w`` columns, ids in that (raster) order."""

    t: int
    h: int
    w: int

    @property
    def n(self) -> int:
        """Number of tokens."""
        return self.t * self.h * self.w

    @classmethod
    def of(cls, frames: int, height: int, width: int, *, tubelet: int, patch: int) -> Grid:
        """Grid of a clip of ``frames`` x ``height`` x ``width``; what does not fill a token is cut off."""
        return cls(frames // tubelet, height // patch, width // patch)


class Sample(NamedTuple):
    """One clip as a source gives it, before batching."""

    clip: Tensor
    "uint8 (3, F, H, W)"
    label: int = -1
    "class index, -1 if there is none"
    event: float = math.nan
    "time of the annotated event in seconds from the clip's start, NaN if there is none"
    key: str = ""
    "names the file (or index) and the frames drawn from it"
    truth: dict[str, Tensor] = {}
    "exact state of a simulated world (see data/sources/synthetic.py); empty for recorded video"


class Question(NamedTuple):
    """What is asked about a video, in words."""

    kind: str
    "descriptive, explanatory, predictive or counterfactual"
    text: str
    answer: str = ""
    "one word, of a descriptive question; nothing where the answer is withheld"
    choices: tuple[str, ...] = ()
    "of the other kinds: what may be true"
    correct: tuple[bool, ...] = ()
    "which of them are; nothing where the answers are withheld"
    subkind: str = ""
    "of a descriptive question: exist, count, query_color, ..."
    program: tuple[str, ...] = ()
    "the question as steps of a program, in the order in which they run"
    programs: tuple[tuple[str, ...], ...] = ()
    "of the choices"


class ClipBatch(NamedTuple):
    """A batch of clips. ``truth`` holds stacked tensors, and is empty unless every sample has it."""

    clip: Tensor
    "uint8 (B, 3, F, H, W) until it is on the device, then normalised float"
    label: Tensor
    "int64 (B,)"
    event: Tensor
    "float32 (B,)"
    valid: Tensor
    "bool (B,): False for the padding of a complete evaluation"
    key: list[str]
    truth: dict[str, Tensor]


class Both(NamedTuple):
    """A micro-batch of clips and one of images (clips of one frame, (B', 3, 1, H', W'))."""

    clips: ClipBatch
    images: ClipBatch


class RobotSample(NamedTuple):
    """A stretch of a robot's episode: what a camera saw, where the robot was, and how it moved between frames."""

    frames: Tensor
    "uint8 (3, F, H, W)"
    states: Tensor
    "float32 (F, S), see robots.py"
    actions: Tensor
    "float32 (F - 1, A): from each frame to the next"
    extrinsics: Tensor
    "float32 (F, 6): pose of the camera in the robot's base frame, position and extrinsic xyz Euler; NaN where unknown"
    key: str = ""
    "names the episode, the camera and the frames"
    features: Tensor | None = None
    "(F, h*w, D) of the frames, where they were kept (see data/kept.py); the frames then are of no pixels"


class RobotBatch(NamedTuple):
    """A batch of such stretches."""

    frames: Tensor
    "uint8 (B, 3, F, H, W) until it is on the device, then normalised float"
    states: Tensor
    "float32 (B, F, S)"
    actions: Tensor
    "float32 (B, F - 1, A)"
    extrinsics: Tensor
    "float32 (B, F, 6), NaN where unknown"
    valid: Tensor
    "bool (B,): False for the padding of a complete evaluation"
    key: list[str]
    features: Tensor | None = None
    "(B, F, h*w, D) where they were kept"


class MaskPair(NamedTuple):
    """Token ids that the context encoder sees and that the predictor predicts: sorted and disjoint."""

    context: Tensor
    "int64 (B, K)"
    target: Tensor
    "int64 (B, M)"


class Rows:
    """Uniform numbers for the rows of a batch, each a function of (key, global row, draw) alone.

    A counter-based generator (the splitmix64 finaliser over a counter): row ``first + i`` draws the same numbers
    on every device and however the global batch is split over ranks, so that one process with a batch of 8 and
    two with 4 see equal masks.
    """

    def __init__(self, key: int, first: int, count: int, device: torch.device | str = "cpu") -> None:
        self.key = key
        self.count = count
        self.device = torch.device(device)
        rows = torch.arange(first, first + count, dtype=torch.int64, device=self.device)
        self._base = _mix(_mix(rows * _GOLDEN + key) + key)
        self._drawn = 0

    def uniform(self, *shape: int) -> Tensor:
        """float32 (count, *shape) in [0, 1); every call gives new numbers."""
        size = math.prod(shape)
        counter = torch.arange(self._drawn + 1, self._drawn + size + 1, dtype=torch.int64, device=self.device)
        self._drawn += size
        bits = _mix(self._base[:, None] + counter * _GOLDEN)
        top = (bits >> 40) & 0xFFFFFF
        return (top.to(torch.float32) / 2**24).view(self.count, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 (count, *shape) in [0, high)."""
        return (self.uniform(*shape) * 2**24).long() * high >> 24  # exact, and without float64, which MPS lacks


class Rng(NamedTuple):
    """Random numbers of one micro-batch."""

    shared: torch.Generator
    "CPU generator keyed by (seed, step): equal on all ranks. For sizes, so that ranks do like amounts of work"
    local: Rows
    "numbers per sample, keyed by (seed, step, global row). For positions and subsets"


def _mix(x: Tensor) -> Tensor:
    """splitmix64 finaliser on int64 tensors (multiplication wraps; the shifts are made logical by masks)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
