"""What a file is, from its first bytes, and why it gives no clip."""

from __future__ import annotations

import io
import os

VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mpg", "mpeg", "wmv", "flv", "ogv", "3gp", "gif", "mjpeg")
"file name extensions of videos"
IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
"file name extensions of pictures"
REASONS = ("missing", "empty", "truncated", "no_video", "too_short", "undecodable", "timeout")
"why a sample is bad"


class Unreadable(Exception):
    """A video or image gives no clip: ``reason`` is one of ``REASONS``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def kind(start: bytes) -> str:
    """What the first 16 bytes of a file say it is: image, mp4, matroska, avi, other, or "" for no video we know."""
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or (start[:4] + start[8:12]) == b"RIFFWEBP":
        return "image"
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return "mp4"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if (start[:4] + start[8:12]) == b"RIFFAVI ":
        return "avi"
    streams = (b"GIF8", b"OggS", b"FLV", b"\x47", b"\x00\x00\x01", b"\x00\x00\x00\x01", b"0&\xb2u", b"DKIF")
    return "other" if start.startswith(streams) else ""


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
