"""A robot of two numbers, seen from above, as a plugin: a white square that moves over a grey floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from vjepa_lab.batch import RobotSample
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.registry import SOURCES


@SOURCES.register
@dataclass
class Planar:
    """``size`` stretches; ``swapped`` records actions with x and y interchanged, ``camera`` a pose of the camera."""

    size: int = 64
    weight: float = 1.0
    swapped: bool = False
    camera: bool = False

    def open(self, spec: RobotSpec) -> PlanarReader:
        return PlanarReader(self, spec)


class PlanarReader:
    augment = False
    name = "planar"
    robot: ClassVar[None] = None

    def __init__(self, source: Planar, spec: RobotSpec) -> None:
        self.source, self.spec = source, spec

    def __len__(self) -> int:
        return self.source.size

    def read(self, index: int, rng: np.random.Generator) -> RobotSample:
        own = np.random.default_rng(index)
        states = own.uniform(0.3, 0.7, 2) + np.cumsum(own.uniform(-0.1, 0.1, (self.spec.frames, 2)), 0)
        actions = np.diff(states, axis=0)
        frames = np.full((self.spec.frames, self.spec.height, self.spec.width), 90, np.uint8)
        for frame, (x, y) in zip(frames, states, strict=True):
            row, column = int(y * (self.spec.height - 4)), int(x * (self.spec.width - 4))
            frame[max(row, 0) : row + 4, max(column, 0) : column + 4] = 255
        return RobotSample(
            frames=torch.from_numpy(np.repeat(frames[None], 3, 0)),
            states=torch.from_numpy(states).float(),
            actions=torch.from_numpy(actions[:, ::-1].copy() if self.source.swapped else actions).float(),
            extrinsics=torch.full((self.spec.frames, 6), 0.1 if self.source.camera else torch.nan),
            key=f"planar/{index}",
        )
