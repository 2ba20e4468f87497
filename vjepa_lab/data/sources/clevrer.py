"""CLEVRER: films of things that collide, with what happens in them and questions about it.

    <path>/video_00000-01000/video_00007.mp4                    20,000 films of 128 frames, 5 s
    <annotations>/annotation_00000-01000/annotation_00007.json  the motion of every object, and collisions
    <questions>                                                 train.json, validation.json

The layout of the JSON files is in ``_clevrer.py``. ``tools/make_clevrer_toy.py`` writes the toy world in it.

Truth, tensors for F frames and ``MOST`` objects, of which those beyond a scene's own are 0:

    position, velocity, spin  float32 (F, MOST, 3)  as annotated; spin is the angular velocity
    radius                    float32 (MOST,)       the field ``radius``: annotations tell none
    visible                   float32 (F, MOST)     1 inside the view of the camera
    collision                 bool (F, MOST, MOST)  pairs that collided after the frame before and not after this one
    scene                     int64                 number of the video in the source: what ``questions`` takes

Decisions:
- ``fit: squeeze`` shows the whole frame, squeezed to the size of the clip: a central square would cut off what enters
  at the sides. ``crop`` leaves the frame to the loader's transform, as for other videos.
- ``window: impact`` takes frames that follow each other (at the run's stride, or 1), in videos of odd number around a
  collision, in others where there is none, as far as the video has such a place: half of the clips then have one.
  Frames are drawn by the number of the video alone.
- Without annotations there is no truth but ``scene``; where only some files are missing, their videos are bad samples.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vjepa_lab.batch import Question, Sample
from vjepa_lab.data.clips import BadSample, ClipSpec, frame_ids, within
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import decode
from vjepa_lab.data.sources._annotated import expect_file, expect_folder, field_of, load_json
from vjepa_lab.data.sources._clevrer import Scene, questions_of, scene_of
from vjepa_lab.data.transforms import crop
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

MOST = 10
"objects that truth has room for"


@SOURCES.register
@dataclass
class Clevrer:
    """CLEVRER videos with annotations and questions."""

    path: str = ""
    "folder of the videos of a split, or of its folders of a thousand"
    weight: float = 1.0
    "share of the mix"
    annotations: str = ""
    "folder of the annotations, likewise; empty: none"
    questions: str = ""
    "file of the questions; empty: none"
    fit: Literal["squeeze", "crop"] = "squeeze"
    "how frames become clips: the whole frame squeezed, or cut by the loader's transform"
    window: Literal["any", "impact"] = "any"
    "impact: frames around a collision in half of the videos, and without one in the others; label is then 1 or 0"
    radius: float = 0.2
    "of all objects, for the energy of rotation"

    def open(self, spec: ClipSpec) -> ClevrerReader:
        """List the videos.

        Raises:
            ValueError: there are none, or a folder or file is not there.
        """
        check_window(self.window, spec, "clevrer", annotated=bool(self.annotations))
        videos = _numbered("path", expect_folder("clevrer", self.path, "the folder of the videos", "path"), "mp4")
        notes = {}
        if self.annotations:
            folder = expect_folder("clevrer", self.annotations, "the folder of the annotations", "annotations")
            notes = _numbered("annotations", folder, "json")
        if self.questions:
            expect_file("clevrer", self.questions, "a JSON list of {scene_index, questions}", "questions")
        return ClevrerReader(self, spec, videos, notes)


class ClevrerReader:
    """The films by number; index // clips is the film."""

    def __init__(self, config: Clevrer, spec: ClipSpec, videos: dict[int, str], notes: dict[int, str]) -> None:
        self.name = f"clevrer:{Path(config.path).name}"
        self.augment = config.fit == "crop"
        self.classes = ["none", "collision"] if config.window == "impact" else None
        self._config, self._spec = config, spec
        self._numbers, self._videos, self._notes = list(videos), videos, notes
        self._asked: dict[int, tuple[Question, ...]] | None = None

    def __len__(self) -> int:
        return len(self._numbers) * self._spec.clips

    def key(self, index: int) -> str:
        """Names the clip in reports."""
        row, clip = divmod(index, self._spec.clips)
        path = self._videos[self._numbers[row]]
        return f"{path}#{clip}" if self._spec.clips > 1 else path

    def scene(self, video: int) -> Scene:
        """What happens in a video, by its place in the source.

        Raises:
            BadSample: it has no annotation.
            ValueError: the annotation cannot be understood.
        """
        number = self._numbers[video]
        file = self._notes.get(number, "")
        if not Path(file).is_file():
            raise BadSample("missing", self._videos[number], f"there is no annotation of scene {number}")
        scene = scene_of(file, load_json("clevrer", file, dict, "the annotation of a scene"))
        if scene.number != number:
            raise ValueError(f"clevrer: {file}: scene_index: got {scene.number}, expected {number}")
        return scene

    def questions(self, video: int) -> tuple[Question, ...]:
        """What is asked about a video, by its place in the source; nothing where the file asks nothing.

        Raises:
            ValueError: the source has no questions, or they cannot be understood.
        """
        if not self._config.questions:
            raise ValueError(f"source {self.name}: has no questions; expected questions: a file such as train.json")
        if self._asked is None:
            file = self._config.questions
            self._asked = {
                field_of("clevrer", f"{file}: record {n}", record, "scene_index", int): questions_of(
                    f"{file}: scene {record['scene_index']}", record
                )
                for n, record in enumerate(load_json("clevrer", file, list, "a list of {scene_index, questions}"))
            }
        return self._asked.get(self._numbers[video], ())

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Clip, label, event and truth.

        Raises:
            BadSample: the video or its annotation gives nothing.
        """
        row, clip = divmod(index, self._spec.clips)
        path, key, spec = self._videos[self._numbers[row]], self.key(index), self._spec
        seed = int(rng.integers(2**63))
        scene = self.scene(row) if self._notes else None

        def choose(times: NDArray[np.float64]) -> NDArray[np.int64]:
            if scene is not None and self._config.window == "impact":
                return impact_ids(scene, spec, row)
            return frame_ids(times, spec, clip=clip, rng=np.random.default_rng(seed))

        try:
            work = partial(decode, path, choose, decoder=spec.decoder, threads=spec.threads)
            found = within(spec.timeout, work)
        except Unreadable as error:
            raise BadSample(error.reason, key, error.detail) from None
        shown = torch.from_numpy(found.frames).permute(3, 0, 1, 2)
        if not self.augment:
            whole = (0, 0, shown.shape[2], shown.shape[3])
            shown = crop(shown, whole, (spec.height, spec.width), antialias=True).contiguous()
        truth: dict[str, Tensor] = {}
        if scene is not None:
            if found.ids[-1] >= len(scene.visible):
                detail = f"got an annotation of {len(scene.visible)} frames, expected more than {found.ids[-1]}"
                raise BadSample("mismatched", key, detail)
            truth = truth_of(scene, found.ids, self._config.radius)
        return sample_of(shown, truth, row, found.times, key, found.ids, labelled=self.classes is not None)


def sample_of(
    clip: Tensor,
    truth: dict[str, Tensor],
    video: int,
    times: NDArray[np.float64],
    key: str,
    ids: NDArray[np.int64],
    *,
    labelled: bool,
) -> Sample:
    """A sample of frames ``ids`` at ``times`` (seconds) of a video."""
    event, label = math.nan, -1
    if truth:
        met = torch.nonzero(truth["collision"].any(2).any(1)).flatten().tolist()
        event = float(times[met[0]] - times[0]) if met else math.nan
        label = int(bool(met)) if labelled else -1
    truth = truth | {"scene": torch.tensor(video)}
    return Sample(clip, label=label, event=event, key=f"{key} frames {ids[0]}-{ids[-1]}", truth=truth)


def truth_of(scene: Scene, ids: NDArray[np.int64], radius: float) -> dict[str, Tensor]:
    """What is true of frames ``ids`` of a scene: see the module's text."""
    count = len(scene.objects)
    if count > MOST:
        raise ValueError(f"clevrer: scene {scene.number}: got {count} objects, expected at most {MOST}")
    truth = {}
    columns = {"position": scene.position, "velocity": scene.velocity, "spin": scene.spin, "visible": scene.visible}
    for name, values in columns.items():
        held = np.zeros((len(ids), MOST, *values.shape[2:]), dtype=np.float32)
        held[:, :count] = values[ids]
        truth[name] = torch.from_numpy(held)
    truth["radius"] = torch.full((MOST,), radius)
    collision = np.zeros((len(ids), MOST, MOST), dtype=bool)
    for frame, i, j in scene.collisions:
        at = int(np.searchsorted(ids, frame))  # the first frame of the clip that is not before it
        if 0 < at < len(ids):
            collision[at, i, j] = collision[at, j, i] = True
    return truth | {"collision": torch.from_numpy(collision)}


def check_window(window: str, spec: ClipSpec, kind: str, *, annotated: bool = True) -> None:
    """Raises:
    ValueError: clips cannot be taken around collisions.
    """
    if window not in ("any", "impact"):
        raise ValueError(f"{kind}: window: got '{window}', expected any or impact")
    if window == "impact" and (not annotated or spec.clips > 1 or spec.frames < 4):
        raise ValueError(
            f"{kind}: window: got impact with {spec.clips} clips of {spec.frames} frames and "
            f"{'' if annotated else 'no '}annotations, expected one clip of at least 4 frames, and annotations"
        )


def impact_ids(scene: Scene, spec: ClipSpec, video: int) -> NDArray[np.int64]:
    """Frames of a clip with a collision between inner frames (odd videos) or without any, if there is such a clip."""
    frames, stride = len(scene.visible), spec.stride or 1
    offsets = stride * np.arange(spec.frames)
    starts = np.arange(frames - offsets[-1])
    if not len(starts):
        raise Unreadable("too_short", f"got {frames} frames, expected at least {offsets[-1] + 1}")
    times = np.array([frame for frame, _, _ in scene.collisions])
    after = times[None] - starts[:, None]  # (starts, collisions)
    within_clip = (after > 0) & (after <= offsets[-1])
    hidden = within_clip & ((after <= stride) | (after > offsets[-2]))
    kinds = {1: within_clip.any(1) & ~hidden.any(1), 0: ~within_clip.any(1)}
    wanted = kinds[video % 2] if kinds[video % 2].any() else kinds[1 - video % 2]
    places = np.flatnonzero(wanted) if wanted.any() else starts
    rng = np.random.Generator(np.random.Philox(key=derive("clevrer window", video)))
    return places[int(rng.integers(len(places)))] + offsets


def _numbered(field: str, folder: str, ending: str) -> dict[int, str]:
    """Files ``*_<number>.<ending>`` of a folder and of the folders in it, by number."""
    found: dict[int, str] = {}
    for path in _files(folder):
        match = re.fullmatch(rf".*_(\d+)\.{ending}", os.path.basename(path))
        if match:
            found[int(match[1])] = path
    if not found:
        raise ValueError(f"clevrer: {field}: got '{folder}', expected files such as *_00000.{ending} there; none is")
    return dict(sorted(found.items()))


def _files(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from (inner.path for inner in os.scandir(entry.path) if inner.is_file())
        elif entry.is_file():
            yield entry.path
