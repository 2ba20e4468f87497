"""LIBERO and robomimic files: states in the robot's terms, pictures upright, commands paired with what they did."""

import numpy as np
import pytest
import torch

from vjepa_lab import poses
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.sources.libero import Libero, pairing
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID, Robot

h5py = pytest.importorskip("h5py")
SPEC = RobotSpec(frames=4, height=8, width=8, fps=5.0, crop="centre")


def demonstration(steps: int, seed: int):
    """Commands (T, 7), and places (T + 1, 3) and rotation matrices (T + 1, 3, 3) before and after each."""
    rng = np.random.default_rng(seed)
    commands = np.concatenate([rng.uniform(-1, 1, (steps, 6)), np.sign(rng.normal(size=(steps, 1)))], axis=1)
    places = np.concatenate([np.zeros((1, 3)), np.cumsum(commands[:, :3] * 0.05, axis=0)])
    turns = poses.axis_angle_to_matrix(torch.from_numpy(commands[:, 3:6] * 0.5))
    matrices = [torch.eye(3, dtype=torch.float64)]
    for turn in turns:
        matrices.append(turn @ matrices[-1])
    return commands, places, torch.stack(matrices)


def write(path, *, demos=3, steps=40, layout="libero", seed=0):
    """``libero`` stores what is seen after a command, ``robomimic`` what is seen before."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if layout == "libero":
            data.attrs["macros_image_convention"] = "opengl"
        for demo in range(demos):
            commands, places, matrices = demonstration(steps, seed + demo)
            seen = slice(1, None) if layout == "libero" else slice(0, -1)
            places, matrices = places[seen], matrices[seen]
            fingers = np.tile([[0.02, -0.02]], (steps, 1)) * np.linspace(0, 2, steps)[:, None]
            pictures = np.zeros((steps, 8, 8, 3), np.uint8)
            pictures[..., 0] = np.arange(steps)[:, None, None]
            pictures[:, 0, :, 1] = 200  # a green line at the top as it is stored
            group = data.create_group(f"demo_{demo}")
            group["actions"] = commands
            obs = group.create_group("obs")
            if layout == "libero":
                turn = poses.matrix_to_axis_angle(matrices).numpy()
                obs["ee_states"], obs["gripper_states"] = np.concatenate([places, turn], axis=1), fingers
                obs["agentview_rgb"] = pictures
            else:
                obs["robot0_eef_pos"], obs["robot0_gripper_qpos"] = places, fingers
                obs["robot0_eef_quat"] = poses.matrix_to_quaternion(matrices).numpy()
                obs["agentview_image"] = pictures
    return path


def source(path, layout="libero", **fields) -> Libero:
    camera = {"libero": "agentview_rgb", "robomimic": "agentview_image"}[layout]
    return SOURCES.build({"name": "libero", "path": str(path), "cameras": [camera], **fields})


def read(reader, index=0, seed=0):
    return reader.read(index, np.random.default_rng(seed))


def steps_of(sample) -> list[int]:
    return sample.frames[0, :, 4, 4].tolist()


@pytest.mark.parametrize("layout", ["libero", "robomimic"])
def test_states_become_those_of_the_robot(tmp_path, layout):
    sample = read(source(write(tmp_path / "a.hdf5", layout=layout), layout).open(SPEC), 1)
    ids = steps_of(sample)
    assert np.diff(ids).tolist() == [4, 4, 4], "20 steps per second"
    _, places, matrices = demonstration(40, 1)
    at = np.array(ids) + (layout == "libero")
    assert torch.allclose(sample.states[:, :3], torch.from_numpy(places[at]).float(), atol=1e-6)
    assert torch.allclose(DROID.matrices(sample.states), matrices[at].float(), atol=1e-5)
    closed = 1 - np.clip(0.04 * np.linspace(0, 2, 40)[ids] / 0.08, 0, 1)
    assert torch.allclose(sample.states[:, 6], torch.from_numpy(closed).float(), atol=1e-6)
    assert torch.allclose(sample.actions, DROID.difference(sample.states.double()).float(), atol=1e-5)


@pytest.mark.parametrize("layout", ["libero", "robomimic"])
def test_recorded_commands_are_what_happened_between_the_shown_pictures(tmp_path, layout):
    """In the toy the arm does exactly what it is told, so that the right pairing gives the differences."""
    path = write(tmp_path / "a.hdf5", layout=layout)
    for index in range(3):
        made, recorded = (
            read(source(path, layout, actions=actions).open(SPEC), index) for actions in ("difference", "recorded")
        )
        assert torch.allclose(made.actions, recorded.actions, atol=1e-5)
        assert made.actions[:, :6].abs().max() > 0.02


@pytest.mark.parametrize("layout", ["libero", "robomimic"])
def test_commands_are_the_numbers_of_the_file_that_led_from_picture_to_picture(tmp_path, layout):
    path = write(tmp_path / "a.hdf5", layout=layout)
    sample = read(source(path, layout, actions="commands").open(SPEC._replace(fps=None)), 1)
    first = steps_of(sample)[0] + (layout == "libero")
    commands, _, _ = demonstration(40, 1)
    assert torch.allclose(sample.actions, torch.from_numpy(commands[first : first + 3]).float(), atol=1e-6)
    with pytest.raises(ValueError, match="commands cannot be added up over the steps between frames"):
        read(source(path, layout, actions="commands").open(SPEC), 1)
    joints = Robot(name="xyz", rotation="none")
    with pytest.raises(ValueError, match="got commands of 7 numbers, expected 4"):
        read(source(path, layout, actions="commands").open(SPEC._replace(fps=None, robot=joints)), 1)


@pytest.mark.parametrize("layout", ["libero", "robomimic"])
def test_a_pairing_that_the_data_contradict_is_refused(tmp_path, layout):
    path = write(tmp_path / "a.hdf5", layout=layout)
    right, wrong = ("after", "before") if layout == "libero" else ("before", "after")
    source(path, layout, actions="recorded", pairing=right).open(SPEC)
    with pytest.raises(ValueError, match=rf"pairing: got '{wrong}', but the motion .* R2 by offset: -2: .*\+1: "):
        source(path, layout, actions="recorded", pairing=wrong).open(SPEC)
    source(path, layout, pairing=wrong).open(SPEC)  # differences do not depend on it
    with h5py.File(path, "r+") as file:
        for demo in file["data"]:
            file[f"data/{demo}/actions"][...] = np.roll(file[f"data/{demo}/actions"], 3, axis=0)
    with pytest.raises(ValueError, match=r"expected \+1 \(after\) or \+0 \(before\)"):
        source(path, layout, actions="recorded").open(SPEC)


@pytest.mark.parametrize("smoothness", [0.0, 0.9])
def test_the_offset_is_found_by_regression_also_where_commands_are_smooth(smoothness):
    rng, episodes = np.random.default_rng(0), []
    for _ in range(3):
        commands = np.zeros((200, 3))
        for t in range(1, 200):
            commands[t] = smoothness * commands[t - 1] + rng.normal(size=3)
        episodes.append((np.cumsum(commands, axis=0), commands))  # places are seen after the command
    found = pairing(episodes)
    assert max(found, key=lambda offset: found[offset]) == 1
    assert found[1] > 0.999
    expected = 0.0 if smoothness == 0 else smoothness**2
    assert found[0] == pytest.approx(expected, abs=0.08)


def test_pictures_of_libero_are_turned_and_others_not(tmp_path):
    def green_row(path, layout, **fields):
        frames = read(source(path, layout, **fields).open(SPEC)).frames
        return int(frames[1, 0, :, 0].argmax())

    libero, robomimic = (write(tmp_path / f"{x}.hdf5", layout=x) for x in ("libero", "robomimic"))
    assert green_row(libero, "libero") == 7
    assert green_row(robomimic, "robomimic") == 0
    assert green_row(libero, "libero", flip="no") == 0
    assert green_row(robomimic, "robomimic", flip="yes") == 7


def test_files_are_given_by_name_folder_pattern_or_list(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}_demo.hdf5", demos=2)
    for path in (str(tmp_path), f"{tmp_path}/*_demo.hdf5", [str(tmp_path / f"{n}_demo.hdf5") for n in "abc"]):
        reader = Libero(path=path).open(SPEC)
        assert len(reader) == 6
        assert reader.key(3) == f"{tmp_path}/b_demo.hdf5#demo_1:agentview_rgb"
    write(tmp_path / "many.hdf5", demos=11)
    keys = [Libero(path=str(tmp_path / "many.hdf5")).open(SPEC).key(i) for i in range(11)]
    assert [k.split("#demo_")[1].split(":")[0] for k in keys] == [str(i) for i in range(11)]


def test_broken_demonstrations_are_bad_samples(tmp_path):
    path = write(tmp_path / "a.hdf5", demos=4)
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/obs/agentview_rgb"]
        del file["data/demo_1/obs/gripper_states"]
        del file["data/demo_2/obs/ee_states"]
        file["data/demo_2/obs/ee_states"] = np.zeros((17, 6))
        short = np.array(file["data/demo_3/obs/agentview_rgb"])[:10]
        del file["data/demo_3/obs/agentview_rgb"]
        file["data/demo_3/obs/agentview_rgb"] = short
    reader = source(path).open(SPEC)
    told = []
    for index in range(4):
        with pytest.raises(BadSample) as error:
            read(reader, index)
        told.append(error.value.reason)
    assert told == ["missing", "missing", "mismatched", "mismatched"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "expected an HDF5 file, a folder of them or a pattern"), (b"", "empty"), (b"x" * 999, "undecodable")],
)
def test_files_that_are_none_are_the_users_mistakes(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        source(tmp_path / "a.hdf5").open(SPEC)


def test_a_file_without_demonstrations_is_the_users_mistake(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/other"] = 1
    with pytest.raises(ValueError, match="got no demonstration with obs"):
        source(tmp_path / "a.hdf5").open(SPEC)
