"""Recordings of the simulated arm: the layout of raw DROID, true to the simulator, repeatable, continued if cut off."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.sources.droid import find
from vjepa_lab.planning._explore import explore
from vjepa_lab.planning.sim import WORKSPACE
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID

TOOL = Path(__file__).parents[2] / "tools" / "record_sim.py"
OPTIONS = ["--size", "32", "--rate", "4", "--seconds", "3", "--cameras", "left", "wrist", "--push", "0.5"]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_sim", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool(needs_simulator) -> ModuleType:
    return load_tool()


@pytest.fixture(scope="module")
def recording(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes."""
    out = tmp_path_factory.mktemp("recording") / "out"
    assert tool.main([str(out), "--episodes", "3", "--processes", "1", *OPTIONS]) == 0
    return out


def rows(folder: str | Path) -> dict[str, np.ndarray]:
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(Path(folder) / "trajectory.h5") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def states(numbers: dict[str, np.ndarray]) -> np.ndarray:
    robot = "observation/robot_state"
    return np.concatenate(
        [numbers[f"{robot}/cartesian_position"], numbers[f"{robot}/gripper_position"][:, None]], axis=1
    )


def test_the_reader_of_droid_reads_both_cameras(recording: Path) -> None:
    source = SOURCES.build(
        {"name": "droid", "path": str(recording), "rate": "timestamps", "cameras": ["left", "wrist"]}
    )
    spec = RobotSpec(frames=13, height=32, width=32, fps=4.0, random=False, crop="centre")
    reader = source.open(spec)
    assert len(reader) == 6
    left, wrist = (reader.read(i, np.random.default_rng(0)) for i in range(2))
    written = states(rows(find(str(recording))[0]))
    np.testing.assert_allclose(left.states.numpy(), written, atol=1e-6)
    assert torch.equal(left.states, wrist.states)
    assert left.frames.shape == wrist.frames.shape == (3, 13, 32, 32)
    assert (left.frames.float() - wrist.frames.float()).abs().mean() > 5
    assert torch.isfinite(left.extrinsics).all()


def test_actions_of_the_recorded_states_lead_from_each_to_the_next(recording: Path) -> None:
    for folder in find(str(recording)):
        written = torch.from_numpy(states(rows(folder)))
        assert written.dtype == torch.float64
        state = written[0]
        for action, after in zip(DROID.difference(written), written[1:], strict=True):
            state = DROID.integrate(state, action)
            assert (state[[0, 1, 2, 6]] - after[[0, 1, 2, 6]]).abs().max() < 1e-6
            assert (DROID.matrices(state) - DROID.matrices(after)).abs().max() < 1e-6


def test_pictures_are_those_of_the_recorded_states(recording: Path, tool: ModuleType) -> None:
    # Put the arm at a recorded pose and look: it is the recorded frame, up to the video's loss.
    import av

    from vjepa_lab.planning.sim import FrankaSim

    folder = Path(find(str(recording))[0])
    numbers = rows(folder)
    with av.open(str(folder / "recordings" / "MP4" / "10000001.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert len(frames) == len(states(numbers)) == 13
    with FrankaSim(size=32) as sim:
        errors = []
        for t in (2, 7, 12):
            cube = [*numbers["simulation/cube_position"][t][:2], 0.0]
            sim.place(states(numbers)[t], np.array(cube))
            seen = sim.observe().image
            errors.append([np.abs(seen - frame).mean() for frame in (frames[t], frames[0])])
    same, first = np.mean(errors, axis=0)
    assert same < 4
    assert first > 1.5 * same


def test_metadata_name_the_videos_as_droid_does(recording: Path) -> None:
    folder = Path(find(str(recording))[1])
    facts = json.loads(next(folder.glob("metadata_*.json")).read_text())
    assert facts["trajectory_length"] == 13
    assert (recording / "SIM" / facts["left_mp4_path"]).is_file()
    assert (recording / "SIM" / facts["wrist_mp4_path"]).is_file()
    assert (recording / "SIM" / facts["hdf5_path"]) == folder / "trajectory.h5"
    assert len(facts["ext1_cam_extrinsics"]) == 6
    numbers = rows(folder)
    assert set(numbers["observation/camera_type/10000001"]) == {1}
    assert set(numbers["observation/camera_type/10000003"]) == {0}
    np.testing.assert_allclose(numbers["observation/camera_extrinsics/10000001_left"][0], facts["ext1_cam_extrinsics"])


def test_the_listing_holds_every_video(recording: Path) -> None:
    with open(recording / "videos.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {str(recording / row["path"]) for row in listed} == {str(path) for path in recording.rglob("*.mp4")}
    assert {row["label"] for row in listed} == {"left", "wrist"}


def test_a_recording_is_continued_and_repeatable(recording: Path, tool: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "again"
    tool.main([str(out), "--episodes", "1", "--processes", "1", *OPTIONS])
    first = next(out.rglob("trajectory.h5"))
    stamp = first.stat().st_mtime_ns
    (out / ".part-000001").mkdir()  # what a killed run leaves
    tool.main([str(out), "--episodes", "3", "--processes", "1", *OPTIONS])
    assert first.stat().st_mtime_ns == stamp
    assert not list(out.glob(".part*"))
    for one, two in zip(find(str(recording)), find(str(out)), strict=True):
        a, b = rows(one), rows(two)
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
        videos = [Path(folder, "recordings", "MP4", "10000001.mp4").read_bytes() for folder in (one, two)]
        assert videos[0] == videos[1]


def test_other_settings_and_foreign_folders_are_refused(recording: Path, tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="recorded with seed 0, not 1"):
        tool.main([str(recording), "--episodes", "3", "--seed", "1", *OPTIONS])
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="neither empty nor a recording"):
        tool.main([str(tmp_path), *OPTIONS])


@pytest.mark.slow
def test_two_processes_record_what_one_does(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    command = [sys.executable, TOOL, out, "--episodes", "3", "--processes", "2", *OPTIONS]
    subprocess.run(command, check=True, capture_output=True)
    for one, two in zip(find(str(recording)), find(str(out)), strict=True):
        np.testing.assert_array_equal(states(rows(one)), states(rows(two)))


def test_exploration_moves_like_droid_within_the_workspace() -> None:
    # Standard deviations of DROID at 4 Hz: .0143 .0164 .0181 m, .036 .040 .056 rad, gripper .086.
    motions = [explore(np.random.default_rng(seed), seconds=8, rate=4) for seed in range(60)]
    steps = torch.cat([DROID.difference(torch.from_numpy(motion.states)) for motion in motions])
    ratio = steps.std(0).numpy() / [0.0143, 0.0164, 0.0181, 0.036, 0.040, 0.056, 0.086]
    assert ((ratio > 0.6) & (ratio < 1.6)).all()
    places = np.concatenate([motion.states[:, :3] for motion in motions])
    assert (places >= WORKSPACE[0]).all()
    assert (places <= WORKSPACE[1]).all()
    assert (np.ptp(places, axis=0) > 0.9 * np.ptp(WORKSPACE, axis=0)).all()
    fine = [explore(np.random.default_rng(seed), seconds=8, rate=15, push=0) for seed in range(20)]
    turning = np.concatenate([np.diff(motion.velocities[1:-1, :3], axis=0) for motion in fine])
    assert np.median(np.abs(turning)) < 0.05  # m/s between frames: smooth


def test_a_hand_that_does_not_turn_points_down_throughout() -> None:
    motion = explore(np.random.default_rng(0), seconds=8, rate=4, turn=0, push=0)
    assert np.ptp(motion.states[:, 3:6], axis=0).max() == 0
    assert (motion.velocities[:, 3:] == 0).all()
