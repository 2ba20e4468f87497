"""Windows of a whole video: equal clips, from its beginning to its end.

A video is counted in frames of the clip (``fps`` or ``stride`` of the ``ClipSpec``): frame k is what is shown at
k / fps seconds, or frame k * stride of the video. A window is ``spec.frames`` of them in a row. The caller decides
where windows begin, from the count alone; each is then decoded by itself, so that memory does not grow with the video.

Decision. A window begins at a time, not at a frame of the video: windows of one video share one clock, and a frame in
two overlapping windows is the same frame. Past the end the last frame is held, as everywhere.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.data.clips import WHOLE, BadSample, Clip, ClipSpec, Segment, within
from vjepa_lab.data.containers import Unreadable, head, kind, read_index
from vjepa_lab.data.decoders import Decoded, decode, read_image


def count_frames(video: str | Path, spec: ClipSpec, *, segment: Segment = WHOLE) -> int:
    """How many frames of the clip a video or a segment of it gives; reads no pixels. A picture gives one.

    Raises:
        BadSample: the file is none, or has fewer than ``spec.min_frames`` frames.
    """

    def count() -> int:
        if _is_image(str(video)):
            return 1
        clock = _clock(read_index(str(video)).times, spec, segment)[1]
        return int((clock[-1] - clock[0]) / _step(spec) + 1e-6) + 1

    try:
        return within(spec.timeout, count)
    except Unreadable as error:
        raise BadSample(error.reason, str(video), error.detail) from None


def read_window(video: str | Path, spec: ClipSpec, first: int, *, key: str = "", segment: Segment = WHOLE) -> Clip:
    """The window that begins at frame ``first`` of the clip, at the native resolution of the video.

    Raises:
        BadSample: the file gives no clip.
        ValueError: the decoder cannot be loaded.
    """
    try:
        decoded = within(spec.timeout, partial(_read, str(video), spec, first, segment))
    except Unreadable as error:
        raise BadSample(error.reason, key or str(video), error.detail) from None
    return Clip(torch.from_numpy(decoded.frames), decoded.ids, float(decoded.times[0]))


def window_ids(
    times: NDArray[np.float64], spec: ClipSpec, first: int, *, segment: Segment = WHOLE
) -> NDArray[np.int64]:
    """Which frames of a video make the window: int64 (spec.frames,), ascending. ``times`` (n,) as for ``frame_ids``."""
    begin, clock = _clock(times, spec, segment)
    at = clock[0] + _step(spec) * (first + np.arange(spec.frames))
    return begin + np.searchsorted((clock[1:] + clock[:-1]) / 2, at - 1e-6)  # the nearest frame


def _clock(times: NDArray[np.float64], spec: ClipSpec, segment: Segment) -> tuple[int, NDArray[np.float64]]:
    """Number of the first frame of the segment, and when its frames are shown: seconds, or numbers."""
    assert (spec.fps is None) != (spec.stride is None), "windows need a rate"
    first, stop = np.searchsorted(times, np.subtract(segment, 1e-6))
    if stop - first < spec.min_frames:
        raise Unreadable("too_short", f"got {stop - first} frame(s), expected at least {spec.min_frames}")
    return int(first), times[first:stop] if spec.fps is not None else np.arange(stop - first, dtype=np.float64)


def _step(spec: ClipSpec) -> float:
    return 1 / spec.fps if spec.fps is not None else float(spec.stride or 1)


def _is_image(video: str) -> bool:
    start = head(video)
    if not start:
        raise Unreadable("empty", "zero bytes")
    return kind(start) == "image"


def _read(video: str, spec: ClipSpec, first: int, segment: Segment) -> Decoded:
    if _is_image(video):
        frames = np.repeat(read_image(video)[None], spec.frames, axis=0)
        return Decoded(frames, np.zeros(spec.frames, np.int64), np.zeros(spec.frames))
    choose = partial(window_ids, spec=spec, first=first, segment=segment)
    return decode(video, choose, decoder=spec.decoder, threads=spec.threads)
