"""The decoders: one function each, the same frames out.

All work from one index of the video (``containers.read_index``). ``decode`` hands the times of its frames to
``choose``, which names the frames it wants (as ``clips.frame_ids`` does), and a decoder decodes those and no others.

- pyav: reads everything that FFmpeg reads. It does not seek or rotate by itself: that is done here.
- decord: MP4 and Matroska; its wheels exist for Linux x86-64. What it gets wrong goes to PyAV instead: it returns other
  frames of MPEG-TS than were asked for, mixes up those of a video without timestamps (the AVIs of HMDB51), cannot be
  told which of several streams to read, and ends the process with a segmentation fault on every AVI that was cut short
  and on some damaged MP4s.
- torchcodec: optional; it needs the shared libraries of an installed FFmpeg.
- auto: decord where it is installed, and PyAV where decord fails (AV1, narrow pictures).

Decisions:
- Rotation metadata is applied; the flag for non-square pixels is not (the random aspect ratio covers it).
- Damage: a video is used if the frames that are wanted decode without an error, and is bad otherwise. decord hides
  frames that its decoder patched up; PyAV refuses them.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import re
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vjepa_lab.data.containers import BROKEN, Index, Unreadable, cut_short, opened, read_index

log = logging.getLogger(__name__)

Video = str | bytes
"path of a video, or the bytes of the file"
Ids = NDArray[np.int64]
Frames = NDArray[np.uint8]
"(F, h, w, 3)"
Choose = Callable[[NDArray[np.float64]], Ids]
"times of all frames (n,) in seconds, ascending -> ids of the wanted frames (F,)"


class Decoded(NamedTuple):
    """Frames as a decoder gives them."""

    frames: Frames
    "(F, h, w, 3)"
    ids: Ids
    "(F,) which frames of the video these are"
    times: NDArray[np.float64]
    "(F,) seconds from the first frame of the video"


def decode(video: Video, choose: Choose, *, decoder: str = "auto", threads: int = 1) -> Decoded:
    """The frames of a video that ``choose`` asks for.

    Raises:
        Unreadable: the video is damaged where frames are wanted, or is none.
        ValueError: the decoder cannot be loaded.
    """
    index = read_index(video)
    ids = choose(index.times)
    frames = DECODERS[decoder](video, index, ids, threads)
    return Decoded(frames, ids, index.times[ids])


def decode_part(video: Video, start: float, times: NDArray[np.float64], choose: Choose, *, threads: int = 1) -> Decoded:
    """The same of a part of a long recording, found by its time; always by PyAV.

    No index is made: that of a recording of hours takes far longer to read than a clip.

    Args:
        video: the recording.
        start: where the part begins, in seconds from the first frame of the recording.
        times: (n,) seconds of the frames of the part from its own first one, evenly spaced.
        choose: as for ``decode``.
        threads: decoder threads.

    Raises:
        Unreadable: the recording ends before the part does, or is damaged where frames are wanted.
    """
    ids = choose(times)
    wanted, place = np.unique(ids, return_inverse=True)
    step = float(times[-1] / (len(times) - 1)) if len(times) > 1 else 0.0
    with opened(video) as (_, (stream, *others)):
        base, first = float(stream.time_base or 0), stream.start_time or 0
        # what is on display in the middle of a frame's time is that frame, however the times were rounded
        at = first + np.round((start + times[wanted] + step / 2) / base).astype(np.int64)
        end = None if stream.duration is None else first + stream.duration
        index = Index(at, times, at[:1], False, len(at), "undecodable", "", stream.index, not others)
    if (end is not None and at[-1] > end) or cut_short(video):
        raise Unreadable("truncated", f"the recording ends before {start + times[wanted[-1]]:.2f} s, or is cut short")
    images = _walk(video, index, at.tolist(), threads, seek=int(at[0]))
    if images is None:  # the seek landed too late
        images = _walk(video, index, at.tolist(), threads, seek=None)
    assert images is not None
    return Decoded(np.stack([images[i] for i in place]), ids, times[ids])


def by_auto(video: Video, index: Index, ids: Ids, threads: int) -> Frames:
    """decord where it is installed and to be trusted, and PyAV where it is not or fails."""
    if not isinstance(_decord(), str) and _suits_decord(index):
        try:
            return by_decord(video, index, ids, threads)
        except Unreadable as error:
            log.debug("%s; trying PyAV", error.detail)
    return by_pyav(video, index, ids, threads)


def _suits_decord(index: Index) -> bool:
    """See the top of the file for what becomes of the rest."""
    known = "mp4" in index.container or "matroska" in index.container
    return known and index.alone and not index.counted and index.damage != "truncated"


@functools.cache
def _decord() -> ModuleType | str:
    """The decord module, or why it cannot be had."""
    try:
        module = importlib.import_module("decord")
    except (ImportError, OSError, RuntimeError) as error:
        return str(error)
    module.logging.set_level(module.logging.QUIET)
    return module


def by_decord(video: Video, index: Index, ids: Ids, threads: int) -> Frames:
    """Frames by decord, or by PyAV where decord would be wrong or crash."""
    decord = _decord()
    if isinstance(decord, str):
        raise ValueError(f"decoder: decord cannot be loaded: {decord}; use pyav")
    if not _suits_decord(index):
        return by_pyav(video, index, ids, threads)
    try:
        reader = decord.VideoReader(io.BytesIO(video) if isinstance(video, bytes) else video, num_threads=threads)
        if len(reader) != len(index.at):
            raise Unreadable("undecodable", f"decord: got {len(reader)} frames, expected {len(index.at)}")
        return reader.get_batch(ids).asnumpy()
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError, StopIteration) as error:
        raise Unreadable("undecodable", f"decord: {_first_line(error)}") from None


@functools.cache
def _torchcodec() -> ModuleType | str:
    """The torchcodec module, or why it cannot be had."""
    try:
        module = importlib.import_module("torchcodec.decoders")
        module.VideoDecoder(b"its libraries are loaded at first use")
    except (ImportError, OSError) as error:
        return str(error)
    except (RuntimeError, ValueError) as error:
        if "libtorchcodec" in str(error):
            return "no shared libraries of FFmpeg that fit it were found"
    return module


def by_torchcodec(video: Video, index: Index, ids: Ids, threads: int) -> Frames:
    """Frames by torchcodec, or by PyAV where there are no timestamps."""
    torchcodec = _torchcodec()
    if isinstance(torchcodec, str):
        raise ValueError(f"decoder: torchcodec cannot be loaded: {torchcodec}; use decord or pyav")
    if index.counted:
        return by_pyav(video, index, ids, threads)
    try:
        reader = torchcodec.VideoDecoder(
            video, stream_index=index.stream, dimension_order="NHWC", num_ffmpeg_threads=threads
        )
        return reader.get_frames_at(ids.tolist()).data.numpy()
    except (RuntimeError, IndexError, ValueError) as error:
        raise Unreadable(index.damage, f"torchcodec: {_first_line(error)}") from None


def by_pyav(video: Video, index: Index, ids: Ids, threads: int) -> Frames:
    """Frames by PyAV, from the keyframe before the first that is wanted."""
    wanted, place = np.unique(ids, return_inverse=True)
    if wanted[-1] >= index.present:
        raise Unreadable("truncated", f"frame {wanted[-1]} of {len(index.at)} is past the end of the data")
    at = index.at[wanted]
    images = None
    before = index.keys[index.keys <= at[0]]
    if len(before) and before[-1] > index.at[0]:
        images = _walk(video, index, at.tolist(), threads, seek=int(before[-1]))
    if images is None:  # nothing to skip, or the seek landed too late
        images = _walk(video, index, at.tolist(), threads, seek=None)
    assert images is not None
    return np.stack([images[i] for i in place])


def _walk(video: Video, index: Index, wanted: list[int], threads: int, *, seek: int | None) -> list[Frames] | None:
    """Pictures on display at the ``wanted`` (ascending) timestamps; None if a seek landed after the first."""
    reformatter = VideoReformatter()
    shape: dict[str, int] = {}

    def picture(frame: av.VideoFrame) -> Frames:
        if frame.is_corrupt:
            raise Unreadable(index.damage, f"the frame at {frame.time} s is damaged")
        rgb = reformatter.reformat(frame, format="rgb24", **shape)
        shape.update(width=rgb.width, height=rgb.height)  # a stream may change its size: the first one counts
        return np.rot90(np.asarray(rgb.to_ndarray(), dtype=np.uint8), k=round(frame.rotation / 90))

    found: list[Frames] = []
    shown: av.VideoFrame | None = None
    with opened(video) as (container, (stream, *_)):
        stream.codec_context.thread_count = threads
        try:
            if seek is not None:
                container.seek(seek, stream=stream)
            for number, frame in enumerate(container.decode(stream)):
                at = number if index.counted else frame.pts
                if at is None:
                    continue
                if seek is not None and shown is None and (at > wanted[0] or frame.is_corrupt):
                    return None
                while len(found) < len(wanted) and wanted[len(found)] < at:  # a packet that shows no frame of its own
                    found.append(picture(shown or frame))
                if len(found) < len(wanted) and wanted[len(found)] == at:
                    found.append(picture(frame))
                if len(found) == len(wanted):
                    return found
                shown = frame
        except BROKEN as error:
            detail = f"decoding stops at frame {len(found)} of the clip: {getattr(error, 'strerror', None) or error}"
            raise Unreadable(index.damage, detail) from None
        if shown is None:
            raise Unreadable(index.damage, "no frame decodes")
        return found + [picture(shown)] * (len(wanted) - len(found))  # packed B-frames: fewer frames than packets


def read_image(image: str | bytes) -> NDArray[np.uint8]:
    """A still picture as (h, w, 3) RGB: CMYK, grey, palette and 16 bit converted, alpha dropped, EXIF-rotated.

    Raises:
        Unreadable: the picture ends early or does not decode.
    """
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16-bit grey, which convert() would clip instead of scaling
                grey = (np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            if "transparency" in picture.info:
                picture = picture.convert("RGBA")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "truncated" if "truncated" in str(error) else "undecodable"
        raise Unreadable(reason, f"image: {error}") from None


def _first_line(error: BaseException) -> str:
    """What an error says, without the times and source paths that decord puts before it."""
    line = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"(\[[\d:]+\] )?/\S+:\d+: ", "", line) or type(error).__name__


DECODERS: dict[str, Callable[[Video, Index, Ids, int], Frames]] = {
    "auto": by_auto,
    "decord": by_decord,
    "pyav": by_pyav,
    "torchcodec": by_torchcodec,
}
