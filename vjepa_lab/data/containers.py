"""What a file is, and where the frames of its video are: read from its first bytes and its packet headers, by PyAV.

Every decoder works from this one index, so that "frame 17" and "2.5 s" mean the same to all of them.

Decisions:
- The first frame has time 0. AVI has no timestamps worth the name (those of packed B-frames come unordered): its
  frames are counted and evenly spaced.
- Of several video streams the largest is read; a cover picture in a sound file is none.
- An MP4 that was cut short keeps the length that its header states, so that damage does not change what is drawn, and
  a clip that would reach past the end of the data is ``truncated``. Of other containers what is there is used.
- The headers of all packets are read (decord and torchcodec do the same), 1 to 5 ms for a clip of ten seconds; a long
  recording should be cut into short files first.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import av
import av.container
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mpg", "mpeg", "wmv", "flv", "ogv", "3gp", "gif", "mjpeg")
"file name extensions of videos"
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
"file name extensions of pictures"
REASONS = ("missing", "empty", "truncated", "no_video", "too_short", "undecodable", "timeout", "mismatched")
"why a sample is bad; mismatched: its pictures and its numbers do not belong together"
BROKEN = (FFmpegError, IndexError)
"what reading packets raises; IndexError is PyAV's where a stream appears in the middle of the file"


class Unreadable(Exception):
    """A video or image gives no clip: ``reason`` is one of ``REASONS``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Index(NamedTuple):
    """Where the n frames of a video are."""

    at: NDArray[np.int64]
    "(n,) presentation timestamps, ascending, or 0..n-1 where frames are counted"
    times: NDArray[np.float64]
    "(n,) seconds from the first frame"
    keys: NDArray[np.int64]
    "timestamps of the keyframes; empty where frames are counted"
    counted: bool
    "there are no timestamps to be trusted: frame i is the i-th that is decoded"
    present: int
    "how many of the frames have their data in the file"
    damage: str
    "what a failure to decode is due to: truncated where the file was seen to end early, else undecodable"
    container: str
    "FFmpeg's name of the format"
    stream: int
    "number of the stream in the file"
    alone: bool
    "the file has no other video stream"


def head(video: str | bytes) -> bytes:
    """The first 16 bytes.

    Raises:
        Unreadable: the file cannot be opened.
    """
    if isinstance(video, bytes):
        return video[:16]
    try:
        with open(video, "rb") as file:
            return file.read(16)
    except OSError as error:
        raise Unreadable("missing", error.strerror or str(error)) from None


def kind(start: bytes) -> str:
    """What the first 16 bytes of a file say it is: image, mp4, video, or "" for nothing we know."""
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or (start[:4] + start[8:12]) == b"RIFFWEBP":
        return "image"
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mp4"
    streams = (b"\x1a\x45\xdf\xa3", b"GIF8", b"OggS", b"FLV", b"\x47", b"\0\0\1", b"\0\0\0\1", b"0&\xb2u", b"DKIF")
    return "video" if start.startswith(streams) or (start[:4] + start[8:12]) == b"RIFFAVI " else ""


def cut_short(video: str | bytes) -> bool:
    """Whether the file is an MP4 whose last top-level box runs past its end."""
    if kind(head(video)) != "mp4":
        return False
    size = len(video) if isinstance(video, bytes) else os.path.getsize(video)
    with io.BytesIO(video) if isinstance(video, bytes) else open(video, "rb") as file:
        at = 0
        while at + 8 <= size:
            file.seek(at)
            box = file.read(16)
            length = int.from_bytes(box[:4], "big")
            if length == 1:
                length = int.from_bytes(box[8:16], "big")
            if length < 8:  # 0: to the end of the file; else no box
                return False
            at += length
    return at > size


@contextmanager
def opened(video: str | bytes) -> Iterator[tuple[av.container.InputContainer, list[VideoStream]]]:
    """The container and its video streams, the largest first.

    Raises:
        Unreadable: it does not open, or has no video stream.
    """
    try:
        file = io.BytesIO(video) if isinstance(video, bytes) else video
        container = av.open(file, mode="r", metadata_errors="ignore")
    except FFmpegError as error:
        known = kind(head(video))
        if known == "mp4" and cut_short(video):
            raise Unreadable("truncated", "the MP4 ends before its index (moov)") from None
        reason = "truncated" if known else "undecodable"
        raise Unreadable(reason, f"not a video that opens: {error.strerror or error}") from None
    with container:
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & Disposition.attached_pic and s.codec_context is not None  # None: unknown codec
        ]
        if not streams:
            kinds = sorted({s.type for s in container.streams})
            raise Unreadable("no_video", f"streams: {', '.join(kinds) or 'none'}")
        yield container, sorted(streams, key=lambda s: (s.width * s.height, s.bit_rate or 0), reverse=True)


def read_index(video: str | bytes) -> Index:
    """The index of a video (a path, or the bytes of a file).

    Raises:
        Unreadable: it does not open, has no video stream, or holds no frame.
    """
    stamps: list[int | None] = []
    keys: list[int] = []
    cut = cut_short(video)
    with opened(video) as (container, (stream, *others)):
        name, number, alone = container.format.name, stream.index, not others
        rate, base = stream.average_rate or stream.guessed_rate, float(stream.time_base or 0)
        try:
            for packet in container.demux(stream):
                if (packet.size == 0 and packet.dts is None) or packet.is_discard:  # end of stream; edited out
                    continue
                if packet.is_corrupt:  # cut by the end of the file
                    cut = True
                    continue
                stamps.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        except BROKEN:
            cut = True
        stated = stream.frames if cut and "mp4" in name else 0
    if not stamps:
        raise Unreadable("truncated", "the video stream holds no frame")
    damage = "truncated" if cut else "undecodable"
    if name == "avi" or None in stamps:
        if not rate:
            raise Unreadable("undecodable", "neither timestamps nor a frame rate")
        at = np.arange(max(stated, len(stamps)))
        return Index(at, at / float(rate), np.empty(0, np.int64), True, len(stamps), damage, name, number, alone)
    at = np.unique(np.array(stamps, dtype=np.int64))  # a timestamp that is there twice can be shown once
    present = len(at)
    if stated > len(stamps):
        step = max(1, round(1 / (float(rate) * base))) if rate and base else 1
        at = np.concatenate([at, at[-1] + step * np.arange(1, stated - len(stamps) + 1)])
    times = (at - at[0]) * base
    return Index(at, times, np.sort(np.array(keys, dtype=np.int64)), False, present, damage, name, number, alone)
