"""Stretches of robot episodes: which steps make one, and what of the picture is shown.

An episode is a row of T steps, each with a state and a picture. A stretch at ``fps`` shows it at the times start,
start + 1/fps, ...: for each the step whose time is nearest, as ``clips.frame_ids`` does. The times are those of the
control loop, by a rate that is known (15 Hz for DROID) or by recorded timestamps, and never those of the video: DROID's
MP4s state 60 frames per second and hold one frame per step of 15 Hz. The released loader trusts the header and so
shows about one frame per second where four are meant (src app/vjepa_droid/droid.py); ``released_ids`` reproduces that.

Decisions:
- A stretch never reaches past the end of an episode: held frames would teach that actions do nothing.
- ``crop: released`` is what the released configuration comes to: its random crop can never succeed (scale 1.777), so
  that every frame is cropped centrally to width / height 1.35 and squashed to a square. A model must be given the same
  crop at inference as in training; ``centre`` is the square crop of the released notebooks.
- Nothing is ever flipped: the actions would be wrong.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vjepa_lab.data import transforms
from vjepa_lab.data.clips import ClipSpec, frame_ids
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.robots import DROID, Robot

CROPS = ("released", "centre", "random")
RELEASED_ASPECT = (0.75, 1.35)


class RobotSpec(NamedTuple):
    """What a stretch is, the same for all sources of a run."""

    frames: int
    height: int
    width: int
    fps: float | None = 4.0
    "target rate; None: every step"
    robot: Robot = DROID
    "how states and actions are described; sources convert rotations and frames where they differ"
    clips: int = 1
    "stretches per episode and camera"
    random: bool = True
    "random start (training) or the middle (evaluation)"
    crop: str = "released"
    "released (central, width / height 1.35, squashed) | centre (central, undistorted) | random (resized crop)"
    scale: tuple[float, float] = (0.3, 1.0)
    "area of a random crop, as a share of the frame"
    aspect: tuple[float, float] = RELEASED_ASPECT
    "width / height of a random crop"
    antialias: bool = False
    decoder: str = "auto"
    "auto, decord, pyav or torchcodec"
    threads: int = 1
    "decoder threads"
    timeout: float = 60.0
    "seconds per sample; 0 for no limit"
    extrinsics: bool = False
    "whether the pose of the camera is read: an episode without one is then a bad sample"


def expect(spec: object, source: str) -> None:
    """Raises ValueError where a source of robot episodes is opened for clips."""
    if not isinstance(spec, RobotSpec):
        raise ValueError(
            f"source {source}: gives robot episodes, for posttrain; to pretrain on its videos, list them in a CSV file "
            "and use a listing"
        )


def step_ids(
    clock: NDArray[np.float64], spec: RobotSpec, *, clip: int = 0, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Which steps of an episode make a stretch; a function of its arguments alone.

    Args:
        clock: (n,) seconds of every step, ascending.
        spec: the policy.
        clip: which of the ``spec.clips`` stretches of the episode.
        rng: needed where ``spec.random``.

    Returns:
        int64 (spec.frames,), ascending.

    Raises:
        Unreadable: the episode is shorter than the stretch.
    """
    if spec.fps is None:
        short = len(clock) < spec.frames
        got, wanted = f"{len(clock)} steps", f"{spec.frames}"
    else:
        span = (spec.frames - 1) / spec.fps
        length = float(clock[-1] - clock[0]) if len(clock) else 0.0
        short = length < span - 1e-6
        got, wanted = f"{length:.2f} s", f"{span:.2f} s ({spec.frames} frames at {spec.fps:g} per second)"
    if short:
        raise Unreadable("too_short", f"got {got}, expected at least {wanted}")
    policy = ClipSpec(
        frames=spec.frames,
        height=spec.height,
        width=spec.width,
        fps=spec.fps,
        stride=None if spec.fps is not None else 1,
        clips=spec.clips,
        random=spec.random,
        min_frames=1,
    )
    return frame_ids(clock, policy, clip=clip, rng=rng)


def released_ids(
    video: NDArray[np.float64],
    steps: int,
    spec: RobotSpec,
    *,
    clip: int = 0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """The frames that the released loader takes: every ceil(rate / fps)-th, by the rate that the video states.

    Its last window can never be drawn, which is kept; an episode of exactly one window, on which it fails, is used.

    Args:
        video: (m,) seconds of every frame by the video's own timestamps.
        steps: how many of the frames have a state.
        spec, clip, rng: as for ``step_ids``.

    Raises:
        Unreadable: the video is shorter than ``spec.frames`` such steps.
    """
    if len(video) < 2:
        raise Unreadable("too_short", f"got {len(video)} frame(s), expected at least 2")
    rate = round((len(video) - 1) / float(video[-1] - video[0]), 3)  # a header of 60 is not to become 60.0000001
    stride = math.ceil(rate / (spec.fps or rate))
    window = spec.frames * stride
    if steps < window:
        raise Unreadable("too_short", f"got {steps} frames, expected at least {window} ({spec.frames} x {stride})")
    last = max(steps - window, 1)  # exclusive
    if spec.random:
        assert rng is not None, "a random stretch needs a generator"
        start = int(rng.integers(last))
    else:
        start = int(last * (clip + 0.5) / spec.clips)
    return start + stride * np.arange(spec.frames)


def crop(frames: Tensor, spec: RobotSpec, rng: np.random.Generator) -> Tensor:
    """The part of the picture that is shown: uint8 (3, F, h, w) -> (3, F, spec.height, spec.width), contiguous.

    One box for all frames; only ``spec.crop == "random"`` draws from ``rng``.
    """
    shape = frames.shape[-2:]
    if spec.crop == "random":
        box = transforms.random_box(rng, shape, scale=spec.scale, aspect=spec.aspect)
    elif spec.crop == "centre":
        ratio = spec.width / spec.height
        box = transforms.central_box(shape, aspect=(ratio, ratio))
    else:
        assert spec.crop == "released", spec.crop
        box = transforms.central_box(shape, aspect=RELEASED_ASPECT)
    return transforms.crop(frames, box, (spec.height, spec.width), antialias=spec.antialias).contiguous()
