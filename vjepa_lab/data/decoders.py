"""The decoders: one function each, the same frames out.

A decoder opens a video (a path, or the bytes of a file), hands the times of its frames to ``choose``, decodes the
frames that ``choose`` names and no others, and returns them in that order. Which frames make a clip is therefore
decided in one place (``clips.frame_ids``), and what a decoder can read is decided here.

- decord: the fastest on the usual files; its wheels exist for Linux x86-64. It cannot read AV1, GIF, MPEG-TS, or webm
  without a duration.
- PyAV: reads all of those. It does not rotate, pick a stream, or seek to a frame by itself: that is done below.
- torchcodec: optional; it needs the shared libraries of an installed FFmpeg.
- auto: decord where it is installed, for MP4, Matroska and AVI; PyAV for the rest and for what decord gives up on.

Decisions:
- The first frame has time 0. AVI has no timestamps worth the name (those of packed B-frames come unordered): its
  frames are counted and evenly spaced.
- Rotation metadata is applied; the flag for non-square pixels is not (the random aspect ratio covers it).
- Damage: a video is used if the frames that are wanted decode without an error, and is bad otherwise. Nothing is
  drawn differently because of damage: an MP4 that was cut short keeps the length that its header states, so a clip
  that would reach past the end of its data is ``truncated``. decord hides frames that its decoder patched up; PyAV
  refuses them.
- decord and torchcodec mix up the frames of a video without timestamps (the AVIs of HMDB51), so PyAV reads those
  under every setting.
- Every frame's place is found by reading the packet headers of the whole file (decord does the same), so a long
  recording should be cut into short files first.
"""

from __future__ import annotations

import functools
import importlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import av
import av.container
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vjepa_lab.data.containers import Unreadable, cut_short, head, kind

log = logging.getLogger(__name__)

Choose = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"times of all frames (n,) in seconds, ascending -> ids of the wanted frames (F,)"


class Decoded(NamedTuple):
    """Frames as a decoder gives them."""

    frames: NDArray[np.uint8]
    "(F, h, w, 3)"
    ids: NDArray[np.int64]
    "(F,) which frames of the video these are"
    times: NDArray[np.float64]
    "(F,) seconds from the first frame of the video"


def read_auto(video: str | bytes, choose: Choose, *, threads: int = 1) -> Decoded:
    """decord where it is installed and knows the container, else PyAV; and PyAV again where decord fails.

    Raises:
        Unreadable: PyAV cannot read it either; the reason is what PyAV saw.
    """
    if not isinstance(_decord(), str):
        try:
            return read_decord(video, choose, threads=threads)
        except Unreadable as error:
            if error.reason == "too_short":  # said by `choose`, not by decord
                raise
            log.debug("decord cannot read %s (%s); trying PyAV", _name(video), error.detail)
    return read_pyav(video, choose, threads=threads)


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


# ---- decord ---------------------------------------------------------------------------------------------------------


@functools.cache
def _decord() -> ModuleType | str:
    """The decord module, or why it cannot be had."""
    try:
        module = importlib.import_module("decord")
    except (ImportError, OSError, RuntimeError) as error:
        return str(error)
    module.logging.set_level(module.logging.QUIET)
    return module


def read_decord(video: str | bytes, choose: Choose, *, threads: int = 1) -> Decoded:
    """Frames by decord.

    Raises:
        ValueError: decord cannot be loaded.
        Unreadable: decord cannot read the video. Why is not asked: ``read_pyav`` gives better reasons.
    """
    decord = _decord()
    if isinstance(decord, str):
        raise ValueError(f"decoder: decord cannot be loaded: {decord}; use pyav")
    if kind(head(video)) not in ("mp4", "matroska", "avi"):  # of MPEG-TS it returns other frames than were asked for
        raise Unreadable("undecodable", "decord does not read this kind of file; `decoder: auto` does")
    if cut_short(video):
        raise Unreadable("truncated", "the MP4 is shorter than it says")
    failures = (decord.DECORDError, RuntimeError, AssertionError, IndexError, StopIteration)
    try:
        reader = decord.VideoReader(io.BytesIO(video) if isinstance(video, bytes) else video, num_threads=threads)
        times = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)
    except failures as error:
        raise Unreadable("undecodable", f"decord: {_first_line(error)}") from None
    if not (np.abs(times) < 1e9).all() or (np.diff(times) < 0).any():
        return read_pyav(video, choose, threads=threads)
    times -= times[0]
    ids = choose(times)
    try:
        frames = reader.get_batch(ids).asnumpy()
    except failures as error:
        raise Unreadable("undecodable", f"decord: {_first_line(error)}") from None
    return Decoded(frames, ids, times[ids])


# ---- torchcodec -----------------------------------------------------------------------------------------------------


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


def read_torchcodec(video: str | bytes, choose: Choose, *, threads: int = 1) -> Decoded:
    """Frames by torchcodec, their times by PyAV (torchcodec gives only those of the frames it decodes).

    Raises:
        ValueError: torchcodec cannot be loaded.
        Unreadable: the video cannot be read.
    """
    torchcodec = _torchcodec()
    if isinstance(torchcodec, str):
        raise ValueError(f"decoder: torchcodec cannot be loaded: {torchcodec}; use decord or pyav")
    with _opened(video) as (container, stream):
        index = _index(container, stream, video)
        number = stream.index
    if index.counted:
        return read_pyav(video, choose, threads=threads)
    ids = choose(index.times)
    try:
        reader = torchcodec.VideoDecoder(video, stream_index=number, dimension_order="NHWC", num_ffmpeg_threads=threads)
        last = (reader.metadata.num_frames or len(index.times)) - 1
        frames = reader.get_frames_at(np.minimum(ids, last).tolist()).data.numpy()
    except (RuntimeError, IndexError, ValueError) as error:
        raise Unreadable(index.blame, f"torchcodec: {_first_line(error)}") from None
    return Decoded(frames, ids, index.times[ids])


# ---- PyAV -----------------------------------------------------------------------------------------------------------


class _Index(NamedTuple):
    """Where the frames of a stream are, from its packet headers."""

    at: NDArray[np.int64]
    "(n,) presentation timestamps, or 0..n-1 where the container has none"
    times: NDArray[np.float64]
    "(n,) seconds from the first frame"
    keys: NDArray[np.int64]
    "timestamps of the keyframes; empty where frames are counted"
    counted: bool
    "frames are found by counting instead of by timestamps"
    present: int
    "how many of the n frames have their data in the file"
    blame: str
    "the reason if decoding fails: truncated or undecodable"


def read_pyav(video: str | bytes, choose: Choose, *, threads: int = 1) -> Decoded:
    """Frames by PyAV.

    Raises:
        Unreadable: no such file, no video stream, cut short, or the wanted frames do not decode.
    """
    with _opened(video) as (container, stream):
        index = _index(container, stream, video)
    ids = choose(index.times)
    wanted, place = np.unique(ids, return_inverse=True)
    if wanted[-1] >= index.present:
        raise Unreadable("truncated", f"frame {wanted[-1]} of {len(index.at)} is past the end of the data")
    images = None
    before = index.keys[index.keys <= index.at[wanted[0]]]
    if len(before) and before[-1] > index.at[0]:
        images = _decode(video, index, index.at[wanted].tolist(), threads=threads, seek=int(before[-1]))
    if images is None:  # nothing to skip, or the seek landed too late
        images = _decode(video, index, index.at[wanted].tolist(), threads=threads, seek=None)
    assert images is not None
    return Decoded(np.stack([images[i] for i in place]), ids, index.times[ids])


@contextmanager
def _opened(video: str | bytes) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """The container and its largest video stream; a cover picture in a sound file is none."""
    try:
        file = io.BytesIO(video) if isinstance(video, bytes) else video
        container = av.open(file, mode="r", metadata_errors="ignore")
    except FFmpegError as error:
        raise _unopened(video, error) from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = sorted({s.type for s in container.streams})
            raise Unreadable("no_video", f"streams: {', '.join(kinds) or 'none'}")
        stream = max(streams, key=lambda s: (s.width * s.height, s.bit_rate or 0))
        yield container, stream


def _unopened(video: str | bytes, error: FFmpegError) -> Unreadable:
    known = kind(head(video))
    if known == "mp4":
        return Unreadable("truncated", "the MP4 has no index (moov), as when its writing or copying was cut off")
    return Unreadable("truncated" if known else "undecodable", f"not a video that opens: {error.strerror or error}")


def _index(container: av.container.InputContainer, stream: VideoStream, video: str | bytes) -> _Index:
    """Read all packet headers of the stream."""
    stamps: list[int | None] = []
    keys: list[int] = []
    blame = "undecodable"
    try:
        for packet in container.demux(stream):
            if (packet.size == 0 and packet.dts is None) or packet.is_discard:  # end of stream; edited out
                continue
            if packet.is_corrupt:  # cut by the end of the file
                blame = "truncated"
                continue
            stamps.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
    except FFmpegError:
        blame = "truncated"
    present = total = len(stamps)
    if cut_short(video):
        blame, total = "truncated", max(stream.frames, total)
    if total == 0:
        raise Unreadable(blame, "the video stream holds no frame")
    rate = stream.average_rate or stream.guessed_rate
    counted = container.format.name == "avi" or None in stamps
    if counted:
        if not rate:
            raise Unreadable("undecodable", "neither timestamps nor a frame rate")
        at = np.arange(total)
        return _Index(at, at / float(rate), np.empty(0, np.int64), True, present, blame)
    at = np.unique(np.array(stamps, dtype=np.int64))  # a timestamp that is written twice can be shown once
    present, base = len(at), float(stream.time_base or 0)
    missing = total - len(stamps)
    if missing:
        step = max(1, round(1 / (float(rate) * base))) if rate and base else 1
        at = np.concatenate([at, at[-1:] + step * np.arange(1, missing + 1)]) if present else step * np.arange(missing)
    return _Index(at, (at - at[0]) * base, np.sort(np.array(keys, dtype=np.int64)), False, present, blame)


def _decode(
    video: str | bytes, index: _Index, wanted: list[int], *, threads: int, seek: int | None
) -> list[NDArray[np.uint8]] | None:
    """Pictures on display at the ``wanted`` (ascending) timestamps; None if a seek landed after the first."""
    reformatter = VideoReformatter()
    shape: dict[str, int] = {}

    def picture(frame: av.VideoFrame) -> NDArray[np.uint8]:
        if frame.is_corrupt:
            raise Unreadable(index.blame, f"the frame at {frame.time} s is damaged")
        rgb = reformatter.reformat(frame, format="rgb24", **shape)
        shape.update(width=rgb.width, height=rgb.height)  # a stream may change its size: the first one counts
        return np.rot90(np.asarray(rgb.to_ndarray(), dtype=np.uint8), k=round(frame.rotation / 90))

    found: list[NDArray[np.uint8]] = []
    shown: av.VideoFrame | None = None
    with _opened(video) as (container, stream):
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
        except FFmpegError as error:
            raise Unreadable(
                index.blame, f"decoding stops at frame {len(found)} of the clip: {error.strerror or error}"
            ) from None
        if shown is None:
            raise Unreadable(index.blame, "no frame decodes")
        return found + [picture(shown)] * (len(wanted) - len(found))  # packed B-frames: fewer frames than packets


def _first_line(error: BaseException) -> str:
    """What an error says, without the times and source paths that decord puts before it."""
    line = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"(\[[\d:]+\] )?/\S+:\d+: ", "", line) or type(error).__name__


def _name(video: str | bytes) -> str:
    return f"{len(video)} bytes" if isinstance(video, bytes) else video


DECODERS: dict[str, Callable[..., Decoded]] = {
    "auto": read_auto,
    "decord": read_decord,
    "pyav": read_pyav,
    "torchcodec": read_torchcodec,
}
