"""Tiny films whose frame n is a flat grey of level ``4 * n``, so that a decoded frame says which one it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

STEP = 4


def level(number: int) -> int:
    """Grey level of a frame."""
    return STEP * number


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Which frames these are, by their grey."""
    return [round(float(f.mean()) / STEP) for f in np.asarray(frames)]


def write_film(
    path: Path,
    *,
    frames: int = 24,
    fps: Fraction | int = 8,
    times: Sequence[float] | None = None,
    size: tuple[int, int] = (32, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    container: str | None = None,
    gop: int = 6,
    b_frames: int = 0,
    sizes: Sequence[tuple[int, int]] = (),
    options: dict[str, str] | None = None,
    picture: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Path:
    """Write a film; ``times`` in seconds gives it a variable rate, ``sizes`` adds smaller streams before it."""
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        streams = []
        for h, w in [*sizes, size]:
            stream = out.add_stream(codec, rate=fps)
            stream.height, stream.width, stream.pix_fmt = h, w, pixels
            stream.codec_context.gop_size = gop
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if codec == "libx264":
                stream.options = {"crf": "10", "preset": "ultrafast", "bf": "2"}
            if codec == "mpeg4":
                stream.options = {"qmin": "1", "qmax": "1", "bf": str(b_frames)}
            streams.append(stream)
        for n in range(frames):
            for stream in streams:
                grey = np.full((stream.height, stream.width, 3), level(n), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture(n) if picture else grey, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = round(times[n] * 1000), Fraction(1, 1000)
                out.mux(stream.encode(frame.reformat(stream.width, stream.height, format=pixels)))
        for stream in streams:
            out.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write an MP4 that holds sound and no picture."""
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 16000, 0
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    return path


def rotate(film: Path) -> Path:
    """Mark an MP4 as taken with the camera on its side: a quarter turn clockwise on display."""
    data = bytearray(film.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for i, value in enumerate([0, 0x10000, 0, -0x10000, 0, 0]):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    film.write_bytes(bytes(data))
    return film


class Films:
    """Writes films into the folder of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = numbers
        self.rotate = rotate
        self.noise = noise

    def __call__(self, name: str = "film.mp4", **options: Any) -> Path:
        return write_film(self.folder / name, **options)

    def sound(self, name: str = "sound.mp4") -> Path:
        return write_sound(self.folder / name)

    def cut(self, name: str, *, keep: float, index_first: bool) -> Path:
        """An MP4 of which only the first share was copied, with its index before or after the frames."""
        film = self(name, frames=48, options={"movflags": "faststart"} if index_first else {}, picture=noise)
        film.write_bytes(film.read_bytes()[: int(film.stat().st_size * keep)])
        return film

    def spoilt(self, name: str, *, share: float) -> Path:
        """An MP4 with a stretch of random bytes in its frames, from a share of the file on."""
        film = self(name, frames=48, picture=noise, options={"movflags": "faststart"})
        data = bytearray(film.read_bytes())
        at = int(len(data) * share)
        data[at : at + 2000] = np.random.default_rng(0).bytes(2000)
        film.write_bytes(bytes(data))
        return film


def noise(number: int) -> NDArray[np.uint8]:
    """A frame that takes many bytes."""
    return np.random.default_rng(number).integers(0, 256, (32, 64, 3), dtype=np.uint8)


@pytest.fixture
def film(tmp_path: Path) -> Films:
    """``film("a.mp4", frames=24, ...)`` writes a film into the test's folder."""
    return Films(tmp_path)
