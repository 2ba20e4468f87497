"""A trained world model, opened for planning: its networks, and how pictures and states must be put to it.

Opened are the runs of ``posttrain``, what ``export`` makes of them, and released V-JEPA 2-AC files. A model must see
pictures cropped as in training, so that the crop is kept with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vjepa_lab import robots, weights
from vjepa_lab.config_world import PosttrainConfig
from vjepa_lab.data.robot import RobotSpec, crop
from vjepa_lab.data.transforms import normalize
from vjepa_lab.merge import from_plain
from vjepa_lab.planning.cem import Energy, chunked
from vjepa_lab.weights import files, parts
from vjepa_lab.world import World, build_world, energy


@dataclass(kw_only=True)
class Model:
    """A world model in evaluation mode.

    ``spec`` is how stretches were cut in training: its size and crop are those of every picture here.
    """

    world: World
    spec: RobotSpec
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a frame."""
        patch = self.world.encoder.patch
        return self.spec.height // patch, self.spec.width // patch

    @torch.no_grad()
    def features(self, image: NDArray[np.uint8]) -> Tensor:
        """Layer-normed features (h*w, D) of one picture (H, W, 3)."""
        frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(1)
        frame = crop(frame, self.spec, np.random.default_rng(0)).to(self.device)
        return self.world.encode(normalize(frame.unsqueeze(0)))[0, 0]

    def energy(self, image: NDArray[np.uint8], state: NDArray[np.float64], goal: Tensor, *, chunk: int) -> Energy:
        """Energies (S,) of action sequences (S, H, A) from here: the distance of the last predicted features to
        those of ``goal`` (h*w, D), at most ``chunk`` sequences at a time."""
        start = torch.as_tensor(state, dtype=torch.float32, device=self.device)[None, None]
        none = torch.zeros(1, 0, self.world.robot.action_dim, device=self.device)
        seen = self.world.see(self.features(image)[None, None], start, none, self.grid)
        return chunked(lambda a: energy(self.world.rollout(seen, a, self.grid).features[:, -1], goal), chunk)


def open_model(checkpoint: str, *, device: torch.device | str = "cpu") -> Model:
    """Open the folder or a checkpoint of a post-training, or a released 2-AC file or its name.

    Raises:
        ValueError: the file cannot be read, or holds no world model.
    """
    path = Path(checkpoint).expanduser()
    path = path / "last.ckpt" if path.is_dir() else path
    if path.is_file() and path.suffix == ".ckpt":
        return _of_run(path, torch.device(device))
    loaded = weights.load(checkpoint)
    if loaded.encoder is None or loaded.ac_predictor is None:
        raise ValueError(f"checkpoint: {checkpoint} holds no encoder with an action-conditioned predictor")
    own, size = parts.read(checkpoint).world_config(), loaded.config.encoder.crop
    spec = RobotSpec(frames=2, height=size, width=size, random=False) if own is None else _spec(own)
    world = World(encoder=loaded.encoder, predictor=loaded.ac_predictor, robot=spec.robot)
    return _model(world, spec, torch.device(device))


def _of_run(path: Path, device: torch.device) -> Model:
    checkpoint: dict[str, Any] = files.open_pickle(path)
    state = {k.removeprefix("world."): v for k, v in checkpoint.get("state_dict", {}).items() if k.startswith("world.")}
    if not state:
        raise ValueError(f"checkpoint: {path} holds no world model; give a run of vjepa-lab posttrain")
    config = from_plain(PosttrainConfig, checkpoint["config"])
    with torch.device("meta"):
        world = build_world(config)
    world.load_state_dict(state, assign=True)
    return _model(world, _spec(config), device)


def _spec(config: PosttrainConfig) -> RobotSpec:
    data = config.data
    return RobotSpec(
        frames=data.frames,
        height=config.crop,
        width=config.crop,
        fps=data.fps,
        robot=robots.of(config.world.robot),
        random=False,
        crop="centre" if data.crop == "random" else data.crop,
        antialias=False,
        decoder=data.decoder,
    )


def _model(world: World, spec: RobotSpec, device: torch.device) -> Model:
    if world.predictor.use_extrinsics:
        raise ValueError("checkpoint: its predictor reads the pose of the camera, which planning does not give it")
    world.requires_grad_(False)
    return Model(world=world.eval().to(device), spec=spec, device=device)
