"""A toy CLEVRER that needs no download: discs that enter, collide and leave, with questions about it.

The world is that of ``_clevrer_world.py``, its questions are those of ``_clevrer_questions.py``. Samples, truth and
questions are as the source ``clevrer`` gives them of the same scenes on disk (``tools/make_clevrer_toy.py`` writes
them), but for what a video codec loses and for ``spin``, which discs do not have.

Looks: the shape is the texture (cube: checks, cylinder: stripes, sphere: rings), the material its contrast (metal:
strong, rubber: weak). Clips are square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vjepa_lab.batch import Question, Sample
from vjepa_lab.data.clips import ClipSpec, frame_ids
from vjepa_lab.data.render import CHECKS, RINGS, STRIPES, draw_look, render
from vjepa_lab.data.sources._clevrer import Object, Scene
from vjepa_lab.data.sources._clevrer_questions import ask
from vjepa_lab.data.sources._clevrer_world import FPS, FRAMES, RADIUS, World, draw
from vjepa_lab.data.sources.clevrer import check_window, impact_ids, sample_of, truth_of
from vjepa_lab.dist import derive
from vjepa_lab.registry import SOURCES

_EPOCH = {"train": 10_000, "val": 5_000}
_RGB = {
    "blue": (42, 75, 215),
    "brown": (129, 74, 25),
    "cyan": (41, 208, 208),
    "gray": (128, 128, 128),
    "green": (29, 150, 20),
    "purple": (150, 38, 192),
    "red": (210, 35, 35),
    "yellow": (255, 238, 51),
}
_TEXTURE = {"cube": CHECKS, "cylinder": STRIPES, "sphere": RINGS}
_DARK = {"metal": 0.25, "rubber": 0.75}
"darkest colour of a material, as a share of its lightest"
_BACKGROUND = 0.4
_KEPT = 4096
"worlds that are remembered"


@SOURCES.register
@dataclass
class ClevrerToy:
    """Scenes of the toy world, simulated and painted on the fly."""

    weight: float = 1.0
    "share of this source in the mixture"
    split: Literal["train", "val"] = "train"
    "train and val draw from different random streams"
    size: int = 0
    "scenes of an epoch; 0 is 10,000 for train and 5,000 for val, as in CLEVRER"
    seed: int = 0
    "another seed is another set of scenes"
    least: int = 3
    "objects in a scene"
    most: int = 5
    "objects in a scene, up to 8"
    window: Literal["any", "impact"] = "any"
    "impact: frames around a collision in half of the videos, and without one in the others; label is then 1 or 0"

    def __post_init__(self) -> None:
        problems = []
        if self.split not in _EPOCH:
            problems.append(f"split: got '{self.split}', expected train or val")
        if self.size < 0:
            problems.append(f"size: got {self.size}, expected 0 or more")
        if not 3 <= self.least <= self.most <= 8:
            problems.append(f"least and most: got {self.least} and {self.most}, expected 3 to 8 objects")
        if problems:
            raise ValueError("source 'clevrer_toy': " + "; ".join(problems))

    def open(self, spec: ClipSpec) -> ClevrerToyReader:
        """Reader of clips of a square.

        Raises:
            ValueError: the clips are not square, or cannot be taken around collisions.
        """
        if spec.height != spec.width:
            raise ValueError(f"source 'clevrer_toy': got clips of {spec.height} x {spec.width}, expected a square")
        check_window(self.window, spec, "clevrer_toy")
        return ClevrerToyReader(self, spec)


class ClevrerToyReader:
    """Scenes by number; index // clips is the scene."""

    name = "clevrer_toy"
    augment = False
    "crops and flips would part the clip from its truth, so the loader applies none"

    def __init__(self, config: ClevrerToy, spec: ClipSpec) -> None:
        self.config = config
        self.classes = ["none", "collision"] if config.window == "impact" else None
        self._spec = spec

    def __len__(self) -> int:
        return (self.config.size or _EPOCH[self.config.split]) * self._spec.clips

    def key(self, index: int) -> str:
        """Names the clip in reports."""
        video, clip = divmod(index, self._spec.clips)
        name = f"clevrer_toy/{self.config.seed}/{self.config.split}/{video:05d}"
        return f"{name}#{clip}" if self._spec.clips > 1 else name

    def world(self, video: int) -> World:
        """Scene ``video`` and what becomes of it."""
        c = self.config
        return _drawn(c.seed, c.split, video, c.least, c.most)

    def scene(self, video: int) -> Scene:
        """What happens in scene ``video``."""
        return self.world(video).scene

    def questions(self, video: int) -> tuple[Question, ...]:
        """What is asked about scene ``video``."""
        key = derive("clevrer toy questions", self.config.seed, self.config.split, video)
        return tuple(ask(self.world(video), np.random.Generator(np.random.Philox(key=key))))

    def frames(self, video: int, ids: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        """Frames of scene ``video`` as pictures, uint8 (3, F, side, side)."""
        world = self.world(video)
        key = derive("clevrer toy look", self.config.seed, self.config.split, video)
        rng = np.random.Generator(np.random.Philox(key=key))
        looks = world.scene.objects
        look = draw_look(rng, len(looks), background=_BACKGROUND)._replace(
            colour=_colours(looks), family=tuple(_TEXTURE[one.shape] for one in looks)
        )
        return render(world.place[ids], np.full(len(looks), RADIUS), look, height=side, width=side)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """Clip, label, event and truth."""
        spec, (video, clip) = self._spec, divmod(index, self._spec.clips)
        times = np.arange(FRAMES) / FPS
        seeded = np.random.default_rng(int(rng.integers(2**63)))
        if self.config.window == "impact":
            ids = impact_ids(self.scene(video), spec, video)
        else:
            ids = frame_ids(times, spec, clip=clip, rng=seeded)
        truth = truth_of(self.scene(video), ids, RADIUS)
        del truth["spin"]
        shown = torch.from_numpy(self.frames(video, ids, spec.height))
        return sample_of(shown, truth, video, times[ids], self.key(index), ids, labelled=self.classes is not None)


@lru_cache(maxsize=_KEPT)
def _drawn(seed: int, split: str, video: int, least: int, most: int) -> World:
    return draw(seed, split, video, objects=(least, most))


def _colours(looks: Sequence[Object]) -> NDArray[np.float32]:
    """Darkest and lightest colour of each thing, (K, 2, 3)."""
    light = np.array([_RGB[look.color] for look in looks], dtype=np.float32)
    dark = light * np.array([_DARK[look.material] for look in looks], dtype=np.float32)[:, None]
    return np.stack([dark, light], 1)
