"""Stretches of robot episodes as clips that tell their actions, for trainings that read clips.

What a stretch is stays the source's business; states and poses of the camera are left out. ``truth["action"]``
(F - 1, A) leads from each frame to the next, as in the simulated world of driven discs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vjepa_lab.batch import RobotSample, Sample
from vjepa_lab.data.loader import Reader


class ActionClips:
    """A reader of clips over a reader of stretches, in the same order and with the same keys."""

    augment = False
    "the reader crops its frames itself, and flips none: the actions would be wrong"

    def __init__(self, reader: Reader[RobotSample]) -> None:
        self.reader = reader
        self.name = reader.name
        own: Any = reader
        if hasattr(own, "order"):  # see loader.py
            self.order = own.order

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int, rng: np.random.Generator) -> Sample:
        """
        Raises:
            BadSample: as the reader.
        """
        sample = self.reader.read(index, rng)
        return Sample(sample.frames, key=sample.key, truth={"action": sample.actions})
