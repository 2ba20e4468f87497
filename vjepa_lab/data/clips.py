"""Clips: which frames of a video make a clip, and reading them within a time limit.

Frames are chosen by timestamps. A clip at ``fps`` shows the video at the times start, start + 1/fps, ...: for each the
frame whose time is nearest (the earlier of two equally near), whatever the rate of the video, constant or not. The
released loader rounds the rate of the video up and steps by whole frames (src/datasets/video_dataset.py), which is
wrong for slow, fast and variable rates.

Decisions:
- A clip begins at a frame; training draws it uniformly among all that leave room for the clip, so that the last frame
  of the video can be drawn; evaluation takes the middle one.
- Several clips per video divide it into equal parts, one clip in each; where they do not fit they overlap, evenly
  spread (as released).
- A video shorter than the clip holds its last frame (as released); a slower one repeats frames; fewer than
  ``min_frames`` frames is a bad sample.
- A picture is a clip with the frame repeated.
- One number is drawn from the caller's generator per clip, before the file is opened: whatever becomes of the file
  does not shift what follows.
- Opening and decoding happen in a daemon thread, because a decoder or a network file system can hang where no
  exception reaches. A read that takes too long is abandoned; ``MAX_ABANDONED`` of them are an error of the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vjepa_lab.data.containers import REASONS, Unreadable, head, kind
from vjepa_lab.data.decoders import DECODERS, Decoded, decode, read_image

MAX_ABANDONED = 8

T = TypeVar("T")
Segment = tuple[float, float]
"from and up to these seconds of a video"
WHOLE: Segment = (0.0, float("inf"))


class ClipSpec(NamedTuple):
    """What a clip is, the same for all sources of a run. At most one of ``fps`` and ``stride`` is set."""

    frames: int
    height: int
    width: int
    fps: float | None
    "target rate by timestamps"
    stride: int | None
    "every n-th frame; without fps and stride the frames spread evenly over the whole video"
    clips: int = 1
    "clips per video"
    random: bool = True
    "random start (training) or the middle (evaluation)"
    decoder: str = "auto"
    "auto, decord, pyav or torchcodec"
    threads: int = 1
    "decoder threads"
    timeout: float = 60.0
    "seconds per sample; 0 for no limit"
    min_frames: int = 2
    "a video with fewer is `too_short`"


class Clip(NamedTuple):
    """Decoded frames and where they come from."""

    frames: Tensor
    "uint8 (F, h, w, 3)"
    ids: NDArray[np.int64]
    "(F,) frame numbers in the video; zeros for a picture"
    start: float
    "time of the first frame in seconds from the first frame of the video"


class BadSample(Exception):
    """A sample that gives no clip. The loader counts it by ``reason`` and takes another; it pickles."""

    def __init__(self, reason: str, key: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, key, detail)
        self.reason = reason
        self.key = key
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}: {self.detail}"


def frame_ids(
    times: NDArray[np.float64],
    spec: ClipSpec,
    *,
    clip: int = 0,
    rng: np.random.Generator | None = None,
    segment: Segment = WHOLE,
) -> NDArray[np.int64]:
    """Which frames of a video make a clip; a function of its arguments alone.

    Args:
        times: (n,) seconds of every frame from the first one, ascending.
        spec: the policy.
        clip: which of the ``spec.clips`` clips of the video.
        rng: needed where ``spec.random``.
        segment: only frames in [from, to) seconds count.

    Returns:
        int64 (spec.frames,), ascending.

    Raises:
        Unreadable: fewer than ``spec.min_frames`` frames.
    """
    assert spec.fps is None or spec.stride is None, "fps and stride exclude each other"
    assert 0 <= clip < spec.clips
    first, stop = np.searchsorted(times, np.subtract(segment, 1e-6))
    if stop - first < spec.min_frames:
        where = "" if segment == WHOLE else f" between {segment[0]:g} s and {segment[1]:g} s"
        raise Unreadable("too_short", f"got {stop - first} frame(s){where}, expected at least {spec.min_frames}")
    if spec.fps is None and spec.stride is None:
        return first + _spread(int(stop - first), spec, clip, rng)
    if spec.fps is not None:
        clock, step = times[first:stop], 1.0 / spec.fps
    else:
        clock, step = np.arange(stop - first, dtype=np.float64), float(spec.stride or 1)
    at = clock[_start(clock, step * (spec.frames - 1), spec, clip, rng)] + step * np.arange(spec.frames)
    return first + _nearest(clock, at)


def _start(clock: NDArray[np.float64], span: float, spec: ClipSpec, clip: int, rng: np.random.Generator | None) -> int:
    """The frame at which a clip that lasts ``span`` begins."""
    length = clock[-1] - clock[0]
    room, part = max(0.0, length - span), length / spec.clips
    if spec.clips == 1:
        low, high = 0.0, room
    elif part >= span:
        low, high = clip * part, (clip + 1) * part - span
    else:  # the clips overlap
        low = high = room * clip / (spec.clips - 1)
    begin, end = np.searchsorted(clock - clock[0], (low - 1e-6, high + 1e-6))
    if spec.random and begin < end:
        assert rng is not None, "a random clip needs a generator"
        return int(rng.integers(begin, end))
    return int(_nearest(clock - clock[0], np.array([(low + high) / 2]))[0])


def _nearest(clock: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the entry of ``clock`` nearest to each time; the earlier of two equally near (to a microsecond)."""
    return np.searchsorted((clock[1:] + clock[:-1]) / 2, at - 1e-6)


def _spread(count: int, spec: ClipSpec, clip: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    """One frame from each of ``spec.frames`` equal parts of a share of the video: a random one, or the middle."""
    if spec.random:
        assert rng is not None, "a random clip needs a generator"
        inside = rng.random(spec.frames)
    else:
        inside = np.full(spec.frames, 0.5)
    ids = (clip + (np.arange(spec.frames) + inside) / spec.frames) * count / spec.clips
    return np.minimum(ids.astype(np.int64), count - 1)


def read_clip(
    video: str | Path | bytes,
    spec: ClipSpec,
    rng: np.random.Generator,
    clip: int = 0,
    key: str = "",
    *,
    segment: Segment = WHOLE,
) -> Clip:
    """Read one clip at the native resolution of the video.

    Args:
        video: path of a video or picture, or the bytes of one.
        spec: the policy.
        rng: one number is drawn from it, whatever happens after.
        clip: which of the ``spec.clips`` clips of the video.
        key: names the sample in the error; the path where it is empty.
        segment: only frames in [from, to) seconds of the video.

    Raises:
        BadSample: the file gives no clip.
        ValueError: the decoder is unknown or cannot be loaded.
        RuntimeError: too many reads of this process hang.
    """
    if spec.decoder not in DECODERS:
        raise ValueError(f"decoder: got '{spec.decoder}', expected one of: {', '.join(DECODERS)}")
    source = video if isinstance(video, bytes) else str(video)
    seed = int(rng.integers(2**63))
    key = key or (source if isinstance(source, str) else "bytes")
    try:
        decoded = within(spec.timeout, partial(_read, source, spec, seed, clip, segment))
    except Unreadable as error:
        raise BadSample(error.reason, key, error.detail) from None
    return Clip(torch.from_numpy(decoded.frames), decoded.ids, float(decoded.times[0]))


def _read(video: str | bytes, spec: ClipSpec, seed: int, clip: int, segment: Segment) -> Decoded:
    """Only numpy here: a new thread would start torch with as many threads as there are cores."""
    start = head(video)
    if not start:
        raise Unreadable("empty", "zero bytes")
    if kind(start) == "image":
        frames = np.repeat(read_image(video)[None], spec.frames, axis=0)
        return Decoded(frames, np.zeros(spec.frames, np.int64), np.zeros(spec.frames))

    def choose(times: NDArray[np.float64]) -> NDArray[np.int64]:
        return frame_ids(times, spec, clip=clip, rng=np.random.default_rng(seed), segment=segment)

    return decode(video, choose, decoder=spec.decoder, threads=spec.threads)


class _Result(Generic[T]):
    """Carries what a thread returns or raises to the one that waits for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.value: T | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.error = error
        self.done.set()
        return True


_abandoned: list[threading.Thread] = []


def within(seconds: float, work: Callable[[], T]) -> T:
    """Run ``work`` in a daemon thread and leave it behind after ``seconds``; 0 runs it here without a limit.

    Raises:
        Unreadable: reason ``timeout``. Whatever ``work`` raises is raised here.
        RuntimeError: ``MAX_ABANDONED`` threads of this process are already left behind and still hang.
    """
    if seconds <= 0:
        return work()
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    if len(_abandoned) >= MAX_ABANDONED:
        raise RuntimeError(f"{len(_abandoned)} reads of this process hang; is the storage still there?")
    result: _Result[T] = _Result()

    def run() -> None:
        with result:
            result.value = work()

    thread = threading.Thread(target=run, name="read-clip", daemon=True)
    thread.start()
    if not result.done.wait(seconds):
        _abandoned.append(thread)
        raise Unreadable("timeout", f"not read within {seconds:g} s")
    if result.error is not None:
        raise result.error
    return result.value  # type: ignore[return-value]  # set, as there is no error
