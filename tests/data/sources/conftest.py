"""Tiny robot episodes: frame n of every film is grey of level 4 n, and the states are a smooth path."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SERIALS = {"left": "11", "right": "22", "wrist": "33"}


def smooth(steps: int, seed: int = 0) -> NDArray[np.float64]:
    """States (T, 7) as DROID has them."""
    rng, t = np.random.default_rng(seed), np.arange(steps)[:, None] / 15
    wave = 0.1 * np.sin(t * rng.uniform(0.5, 2, 6) + rng.uniform(0, 6, 6))
    return np.concatenate([wave + np.array([0.5, 0, 0.3, 3, 0.2, 0.1]), (1 + np.sin(t)) / 2], axis=1)


@pytest.fixture
def path_of_arm() -> Callable[..., NDArray[np.float64]]:
    return smooth


@pytest.fixture
def droid(film: Any, tmp_path: Path) -> Callable[..., Path]:
    """``droid("lab/a", steps=40)`` writes a raw DROID episode below the test's folder."""
    h5py = pytest.importorskip("h5py")

    def write(
        name: str = "lab/success/a",
        *,
        steps: int = 40,
        frames: int | None = None,
        seed: int = 0,
        states: NDArray[np.float64] | None = None,
        header: int = 60,
        cameras: tuple[str, ...] = ("left", "right"),
        extrinsics: bool = True,
        starts: NDArray[np.float64] | None = None,
    ) -> Path:
        folder = tmp_path / name
        (folder / "recordings" / "MP4").mkdir(parents=True)
        states = smooth(steps, seed) if states is None else states
        facts: dict[str, Any] = {"uuid": folder.name, "trajectory_length": len(states)}
        with h5py.File(folder / "trajectory.h5", "w") as file:
            file["observation/robot_state/cartesian_position"] = states[:, :6]
            file["observation/robot_state/gripper_position"] = states[:, 6]
            if starts is not None:
                file["observation/timestamp/control/step_start"] = starts
            for number, camera in enumerate(cameras):
                facts[f"{camera}_mp4_path"] = f"success/2023/{folder.name}/recordings/MP4/{SERIALS[camera]}.mp4"
                film(folder / "recordings" / "MP4" / f"{SERIALS[camera]}.mp4", frames=frames or len(states), fps=header)
                if extrinsics:
                    place = np.array([0.4, -0.2, 0.6, 1.5, 0.3, -0.7]) + number
                    file[f"observation/camera_extrinsics/{SERIALS[camera]}_left"] = np.tile(place, (len(states), 1))
        (folder / f"metadata_{folder.name}.json").write_text(json.dumps(facts))
        return folder

    return write


@pytest.fixture
def toys() -> ModuleType:
    """``toys.make_toy_<format>(tmp_path)`` writes a data set in its layout and gives the fields of its source."""
    spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("toys.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toys"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def solver() -> ModuleType:
    """Answers questions about toy scenes of CLEVRER from their annotations."""
    spec = importlib.util.spec_from_file_location("clevrer_solver", Path(__file__).with_name("clevrer_solver.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
