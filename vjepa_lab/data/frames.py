"""Videos that are folders of numbered pictures (``00001.jpg``, ``scene_017.png``), as Jester and IntPhys have them.

The pictures are the frames in the order of the last number in their names, and lie 1 / ``rate`` seconds apart: a
folder does not say how fast it was filmed. Which of them make a clip is decided as for any other video.

Decision. A folder whose numbers have a hole is ``truncated``: frames after it would be shown at the wrong time.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.data.clips import WHOLE, BadSample, Clip, ClipSpec, Segment, frame_ids, within
from vjepa_lab.data.containers import IMAGES, Unreadable
from vjepa_lab.data.decoders import Decoded, read_image


def list_frames(folder: str) -> list[str]:
    """Paths of the pictures of a folder, in the order of their numbers; other files are left out.

    Raises:
        Unreadable: the folder cannot be read, holds no numbered picture, or numbers are missing or there twice.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise Unreadable("missing", error.strerror or str(error)) from None
    numbered = []
    for name in names:
        stem, _, extension = name.rpartition(".")
        number = re.search(r"\d+(?=\D*$)", stem)
        if number and extension.lower() in IMAGES and not name.startswith("."):
            numbered.append((int(number.group()), name))
    if not numbered:
        raise Unreadable("no_video", f"the folder holds no numbered picture ({', '.join(IMAGES)})")
    numbered.sort()
    steps = np.diff([number for number, _ in numbered])
    wrong = np.flatnonzero(steps != 1)
    if len(wrong):
        (first, name), (second, other) = numbered[wrong[0]], numbered[wrong[0] + 1]
        reason = "mismatched" if first == second else "truncated"
        raise Unreadable(reason, f"got {name} and then {other}, expected frame {first + 1}")
    return [os.path.join(folder, name) for _, name in numbered]


def read_frames(
    folder: str,
    spec: ClipSpec,
    rng: np.random.Generator,
    clip: int = 0,
    key: str = "",
    *,
    rate: float,
    segment: Segment = WHOLE,
) -> Clip:
    """Read one clip of a folder of pictures; arguments and draws as for ``clips.read_clip``.

    Args:
        rate: pictures per second.

    Raises:
        BadSample: the folder gives no clip.
    """
    seed = int(rng.integers(2**63))
    try:
        decoded = within(spec.timeout, partial(_read, folder, spec, seed, clip, rate, segment))
    except Unreadable as error:
        raise BadSample(error.reason, key or folder, error.detail) from None
    return Clip(torch.from_numpy(decoded.frames), decoded.ids, float(decoded.times[0]))


def _read(folder: str, spec: ClipSpec, seed: int, clip: int, rate: float, segment: Segment) -> Decoded:
    """Only numpy here: it runs in a thread (see ``clips.within``)."""
    paths = list_frames(folder)
    times = np.arange(len(paths)) / rate
    ids = frame_ids(times, spec, clip=clip, rng=np.random.default_rng(seed), segment=segment)
    wanted, place = np.unique(ids, return_inverse=True)
    pictures: list[NDArray[Any]] = [_picture(paths[i]) for i in wanted]
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise Unreadable("mismatched", f"pictures of different sizes: {' and '.join(map(str, sorted(shapes)[:2]))}")
    return Decoded(np.stack(pictures)[place], ids, times[ids])


def _picture(path: str) -> NDArray[np.uint8]:
    try:
        return read_image(path)
    except Unreadable as error:
        raise Unreadable(error.reason, f"{os.path.basename(path)}: {error.detail}") from None
