"""CALVIN: parts stay inside a recording, actions lead to the next step, and a gripper of +1 closes."""

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.sources.calvin import cut
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID

SPEC = RobotSpec(frames=4, height=8, width=8, fps=10.0, crop="centre", random=False)


def opened(fields, spec=SPEC, **more):
    return SOURCES.build({**fields, **more}).open(spec)


def read(reader, index=0, seed=0):
    return reader.read(index, np.random.default_rng(seed))


def test_recordings_are_cut_without_leaving_them():
    parts = cut(np.array([[0, 9], [10, 25], [30, 31]]), 7, 3)
    assert parts.tolist() == [[0, 6], [3, 9], [10, 16], [17, 23], [19, 25]]
    assert cut(np.array([[5, 8]]), 64, 4).tolist() == [[5, 8]], "a short recording is one part"
    assert cut(np.array([[5, 8]]), 64, 5).tolist() == []
    assert cut(np.array([[0, 13]]), 7, 3).tolist() == [[0, 6], [7, 13]]


def test_every_step_is_in_some_part_and_no_part_spans_two_recordings():
    ends = np.array([[0, 99], [100, 163], [200, 264]])
    parts = cut(ends, 64, 10)
    covered = np.concatenate([np.arange(a, b + 1) for a, b in parts])
    assert set(covered) == {*range(164), *range(200, 265)}
    assert all(any(a >= first and b <= last for first, last in ends) for a, b in parts)


def test_states_and_pictures_are_of_the_same_steps(toys, tmp_path):
    reader = opened(toys.make_toy_calvin(tmp_path), part=20)
    assert len(reader) == 4, "steps 3 to 42 in two parts, 43 to 70 in two"
    sample = read(reader, 1)
    steps = sample.frames[0, :, 4, 4].tolist()
    assert np.diff(steps).tolist() == [3, 3, 3], "10 of 30 steps per second"
    assert sample.key.startswith(f"{tmp_path / 'training'}#23-42:rgb_static frames ")
    for step, state in zip(steps, sample.states, strict=True):
        seen = np.load(tmp_path / "training" / f"episode_{step:07d}.npz")["robot_obs"]
        closed = 1 - seen[6] / 0.08
        np.testing.assert_allclose(state.numpy(), [*seen[:6], closed], atol=1e-6)
    assert torch.allclose(sample.actions, DROID.difference(sample.states.double()).float(), atol=1e-6)


def test_recorded_actions_are_what_happened_between_the_shown_pictures(toys, tmp_path):
    """The arm of the toy does exactly what it is told, turning about one axis."""
    fields = toys.make_toy_calvin(tmp_path)
    made, recorded = (read(opened(fields, actions=actions), 1) for actions in ("difference", "recorded"))
    assert torch.equal(made.frames, recorded.frames)
    assert torch.allclose(made.actions[:, :3], recorded.actions[:, :3], atol=1e-6)
    assert made.actions[:, :3].abs().max() > 0.01
    assert torch.allclose(made.actions[:, 6], recorded.actions[:, 6], atol=1e-6)


def test_commands_are_the_numbers_of_the_file_with_the_gripper_turned_round(toys, tmp_path):
    fields = toys.make_toy_calvin(tmp_path)
    sample = read(opened(fields, SPEC._replace(fps=None), actions="commands"))
    steps = sample.frames[0, :, 4, 4].tolist()
    for step, action in zip(steps, sample.actions, strict=False):
        sent = np.load(tmp_path / "training" / f"episode_{step:07d}.npz")["rel_actions"]
        np.testing.assert_allclose(action.numpy(), [*sent[:6], -sent[6]], atol=1e-6)
    assert set(sample.actions[:, 6].tolist()) <= {-1.0, 1.0}
    with pytest.raises(ValueError, match=r"actions: commands cannot be added up .* expected every step \(fps: .* 30\)"):
        read(opened(fields, actions="commands"))


def test_both_cameras_are_stretches_of_their_own(toys, tmp_path):
    reader = opened(toys.make_toy_calvin(tmp_path), cameras=["rgb_static", "rgb_gripper"])
    assert len(reader) == 4
    assert reader.key(1).endswith("rgb_gripper")
    assert torch.equal(read(reader, 0).states, read(reader, 1).states)


def test_a_random_stretch_moves_inside_its_part(toys, tmp_path):
    reader = opened(toys.make_toy_calvin(tmp_path), SPEC._replace(random=True))
    firsts = {int(read(reader, 1, seed).frames[0, 0, 4, 4]) for seed in range(30)}
    assert min(firsts) >= 43
    assert max(firsts) <= 61
    assert len(firsts) > 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "/none"}, r"calvin: path: got '/none', expected the folder of a split; it has no ep_start_end_ids"),
        ({"cameras": ["rgb_tactile"]}, r"calvin: cameras: got rgb_tactile, expected some of rgb_static, rgb_gripper"),
        ({"part": 9}, r"calvin: part: got 9 steps, expected at least 10"),
        ({"rate": 300.0}, r"where no recording has the 91 steps of a stretch"),
        ({"rate": 0.0}, r"calvin: rate: got 0.0"),
    ],
)
def test_what_is_wrong_with_the_fields_is_named(toys, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        opened(toys.make_toy_calvin(tmp_path), **change)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, 2]), r"got int64 \(2,\), expected \(n, 2\) integers"),
        (np.array([[5, 4]]), r"row 0: got 5 to 4, expected ascending steps"),
        (np.array([[{}, {}]], dtype=object), r"got a file that is no array .*expected \(n, 2\) integers"),
    ],
)
def test_a_list_of_recordings_that_is_none_is_named(toys, tmp_path, array, message):
    fields = toys.make_toy_calvin(tmp_path)
    np.save(tmp_path / "training" / "ep_start_end_ids.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=r"calvin: .*ep_start_end_ids.npy: " + message):
        opened(fields)


def test_what_is_wrong_with_a_step_is_a_bad_sample_that_names_file_and_field(toys, tmp_path):
    reader = opened(toys.make_toy_calvin(tmp_path))
    file = tmp_path / "training" / "episode_0000010.npz"
    good = dict(np.load(file))

    def complains(reason, match):
        with pytest.raises(BadSample, match=match) as error:
            read(reader, 0)
        assert error.value.reason == reason

    np.savez(file, **{k: v for k, v in good.items() if k != "robot_obs"})
    complains("missing", r"episode_0000010.npz has no 'robot_obs'; it has: rgb_static")
    np.savez(file, **{**good, "robot_obs": np.zeros(14)})
    complains("mismatched", r"episode_0000010.npz: robot_obs: got the shape \(14,\), expected \(15,\)")
    np.savez(file, **{**good, "robot_obs": np.array([{}], dtype=object)})
    complains("undecodable", "allow_pickle")
    file.write_bytes(b"PK\x03\x04 cut")
    complains("undecodable", "episode_0000010")
    file.unlink()
    complains("missing", "no episode_0000010.npz")


def test_pickled_steps_are_never_executed(toys, tmp_path):
    """A step that would run code when unpickled does nothing."""

    class Boom:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    reader = opened(toys.make_toy_calvin(tmp_path))
    file = tmp_path / "training" / "episode_0000010.npz"
    good = dict(np.load(file))
    np.savez(file, **{**good, "robot_obs": np.array([Boom()] * 15, dtype=object)})
    with pytest.raises(BadSample, match="undecodable"):
        read(reader, 0)
    assert not (tmp_path / "executed").exists()
