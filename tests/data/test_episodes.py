"""Episodes to samples: pictures, states and actions belong together, whatever robot is asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vjepa_lab.batch import RobotBatch
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Decoded
from vjepa_lab.data.episodes import Episode, EpisodeReader
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID, Robot

SPEC = RobotSpec(frames=5, height=8, width=8, fps=5.0)


def trajectory(steps: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth path of the 7-D Franka; its roll passes pi."""
    rng, t = np.random.default_rng(seed), np.arange(steps)[:, None] / 15
    wave = 0.1 * np.sin(t * rng.uniform(0.5, 2, 6) + rng.uniform(0, 6, 6))
    states = np.concatenate([wave + np.array([0.5, 0, 0.3, 0, 0.2, 0.1]), (1 + np.sin(t)) / 2], axis=1)
    states[:, 3] = (np.pi + 3 * wave[:, 3] + np.pi) % (2 * np.pi) - np.pi
    return states


class Made:
    """A layout of episodes whose picture of step n is grey of level n."""

    def __init__(self, episodes=3, *, robot=DROID, steps=60, extra=0, name="made", bad=(), **fields):
        self.name, self.robot, self.rate, self.fields = name, robot, 15.0, fields
        self.episodes, self.steps, self.extra, self.bad = episodes, steps, extra, set(bad)

    def __len__(self):
        return self.episodes

    def key(self, index):
        return f"{self.name}/{index}"

    def load(self, index):
        if index in self.bad:
            raise Unreadable("missing", "on purpose")

        def pictures(choose):
            times = np.arange(self.steps + self.extra) / 60
            ids = choose(times)
            frames = np.ones((len(ids), 8, 8, 3), np.uint8) * ids[:, None, None, None].astype(np.uint8)
            return Decoded(frames, ids, times[ids])

        whole = Episode(trajectory(self.steps, index), np.arange(self.steps) / 15, pictures)
        return whole._replace(**self.fields)


def read(layout, spec=SPEC, index=0, seed=0):
    return EpisodeReader(layout, spec).read(index, np.random.default_rng(seed))


def steps_of(sample) -> list[int]:
    return sample.frames[0, :, 0, 0].tolist()


def test_frames_states_and_actions_are_of_the_same_steps():
    sample = read(Made())
    ids = steps_of(sample)
    assert np.diff(ids).tolist() == [3] * 4
    states = torch.from_numpy(trajectory()[ids])
    assert sample.frames.shape == (3, 5, 8, 8)
    assert torch.equal(sample.states, states.float())
    assert torch.equal(sample.actions, DROID.difference(states).float())
    assert sample.extrinsics.shape == (5, 6)
    assert sample.extrinsics.isnan().all()
    assert [x.dtype for x in sample[:4]] == [torch.uint8, torch.float32, torch.float32, torch.float32]
    assert sample.key == f"made/0 frames {ids[0]}-{ids[-1]}"


def test_actions_integrate_back_to_the_recorded_states():
    sample = read(Made(), SPEC._replace(frames=15))
    state = sample.states[0].double()
    for action, then in zip(sample.actions, sample.states[1:], strict=True):
        state = DROID.integrate(state, action.double())
        apart = (state - then).abs()
        apart[3] = torch.minimum(apart[3], 2 * torch.pi - apart[3])  # the roll passes pi
        assert apart.max() < 1e-6


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_one_frame_more_or_less_is_cut_to_the_shorter(extra):
    seen = {step for seed in range(200) for step in steps_of(read(Made(steps=20, extra=extra), seed=seed))}
    assert max(seen) == 19 + min(extra, 0)


@pytest.mark.parametrize(
    ("layout", "reason", "detail"),
    [
        (Made(extra=2), "mismatched", "got 62 frames and 60 states, expected as many"),
        (Made(extra=-2), "mismatched", "got 58 frames and 60 states"),
        (Made(steps=10), "too_short", r"got 0.60 s, expected at least 0.80 s"),
        (Made(states=np.full((60, 7), np.nan)), "undecodable", "the state of step 0 is not finite"),
        (Made(actions=np.zeros((2, 7))), "mismatched", "got 2 actions and 60 states"),
        (Made(bad={0}), "missing", "on purpose"),
    ],
)
def test_an_episode_that_gives_no_stretch_is_a_bad_sample_with_its_reason(layout, reason, detail):
    with pytest.raises(BadSample, match=detail) as error:
        read(layout)
    assert error.value.reason == reason
    assert error.value.key == "made/0"


def test_recorded_actions_are_composed_over_the_steps_between_two_frames():
    steps = DROID.difference(torch.from_numpy(trajectory())).numpy()
    sample, made = read(Made(actions=steps)), read(Made())
    assert torch.allclose(sample.actions, made.actions, atol=1e-6)
    late = steps * [2, 1, 1, 1, 1, 1, 1]  # the commands of x are twice what the arm did
    sample = read(Made(actions=late))
    assert torch.allclose(sample.actions[:, 0], 2 * made.actions[:, 0], atol=1e-6)
    assert torch.allclose(sample.actions[:, 1:], made.actions[:, 1:], atol=1e-6)


def test_another_description_is_converted_to():
    other = Robot(name="other", rotation="sixd", turn="axis_angle", opened=1.0, closed=-1.0)
    sample, made = read(Made(), SPEC._replace(robot=other)), read(Made())
    assert sample.states.shape == (5, 10)
    assert sample.actions.shape == (4, 7)
    assert torch.allclose(other.matrices(sample.states), DROID.matrices(made.states), atol=1e-6)
    assert torch.allclose(sample.states[:, -1], 1 - 2 * made.states[:, -1], atol=1e-6)
    assert torch.allclose(sample.actions, other.difference(sample.states.double()).float(), atol=1e-6)


def test_a_joint_space_robot_needs_no_code():
    joints = Robot(name="arm", position=("a", "b"), rotation="none", gripper=False)
    states = np.random.default_rng(0).normal(size=(60, 2))
    sample = read(Made(robot=joints, states=states), SPEC._replace(robot=joints))
    ids = steps_of(sample)
    assert torch.equal(sample.actions, torch.from_numpy(np.diff(states[ids], axis=0)).float())


def test_the_frame_of_the_camera_needs_its_extrinsics():
    camera = Robot(name="seen", frame="camera")
    with pytest.raises(BadSample, match="no extrinsics of the camera") as error:
        read(Made(), SPEC._replace(robot=camera))
    assert error.value.reason == "missing"
    places = np.tile([0.4, -0.2, 0.6, 1.5, 0.3, -0.7], (60, 1))
    sample = read(Made(extrinsics=places), SPEC._replace(robot=camera))
    ids = steps_of(sample)
    states = camera.to_camera(torch.from_numpy(trajectory()[ids]), torch.from_numpy(places[ids]))
    assert torch.allclose(sample.states, states.float())
    assert torch.allclose(sample.actions, camera.difference(states).float(), atol=1e-6)
    assert torch.allclose(sample.extrinsics, torch.from_numpy(places[ids]).float())


def test_several_stretches_of_an_episode_have_indices_of_their_own():
    reader = EpisodeReader(Made(2), SPEC._replace(random=False, clips=3))
    assert len(reader) == 6
    samples = [reader.read(i, np.random.default_rng(0)) for i in range(6)]
    assert reader.key(4) == "made/1#1"
    starts = [steps_of(s)[0] for s in samples]
    assert starts[:3] == starts[3:] == sorted(set(starts))


def test_the_same_random_numbers_give_the_same_sample_and_others_another():
    one, two, other = (read(Made(), SPEC._replace(crop="random"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.states, two.states)
    assert not torch.equal(one.states, other.states)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"fps": 30.0}, "fps: got 30, but made has 15 steps per second"),
        ({"crop": "center"}, "crop: got 'center', expected one of: released, centre, random"),
        ({"decoder": "vlc"}, "decoder: got 'vlc'"),
    ],
)
def test_a_policy_that_cannot_be_met_is_the_users_mistake(spec, message):
    with pytest.raises(ValueError, match=message):
        EpisodeReader(Made(), SPEC._replace(**spec))


def test_states_that_are_not_what_the_description_says_end_the_run_with_both():
    with pytest.raises(ValueError, match=r"got states of 7 numbers, expected 8 \(x, y, z, qx, .*\) of robot 'q'"):
        read(Made(robot=Robot(name="q", rotation="quaternion")))


# ---- through the loader ---------------------------------------------------------------------------------------------


def loader(*, workers=0, bad=(), folder=None, batches=8):
    readers = [EpisodeReader(Made(5, name="a", bad=bad), SPEC), EpisodeReader(Made(4, name="b"), SPEC)]
    return Loader(readers, [3, 1], batch=4, batches=batches, seed=0, skips=Skips(folder), workers=workers)


def content(batches):
    return [(b.key, b.frames.sum().item(), b.states.sum().item()) for b in batches]


def test_robot_sources_mix_like_clips_with_any_number_of_workers():
    whole = list(loader())
    assert all(isinstance(b, RobotBatch) for b in whole)
    shapes = [tuple(x.shape) for x in whole[0][:5]]
    assert shapes == [(4, 3, 5, 8, 8), (4, 5, 7), (4, 4, 7), (4, 5, 6), (4,)]
    assert whole[0].valid.all()
    assert content(whole) == content(loader(workers=2))
    sources = [key[0] for b in whole for key in b.key]
    assert set(sources) == {"a", "b"}


def test_robot_sources_resume_like_clips():
    whole, first, second = content(loader()), loader(workers=1), loader()
    stream = iter(first)
    for _ in range(3):
        next(stream)
    second.load_state_dict(first.state_dict())
    assert content(second) == whole[3:]


def test_bad_episodes_are_replaced_by_others_of_the_source_and_counted(tmp_path):
    stream = loader(bad={1, 2}, folder=tmp_path)
    keys = {key.split(" ")[0] for b in stream for key in b.key}
    assert keys == {"a/0", "a/3", "a/4", "b/0", "b/1", "b/2", "b/3"}
    assert stream.skips.by_reason()["missing"] >= 2
    assert "a: missing" in stream.skips.report()


def test_an_evaluation_of_episodes_pads_its_last_batch(monkeypatch):
    reader = EpisodeReader(Made(5), SPEC._replace(random=False))
    monkeypatch.setattr(SOURCES, "build", lambda entry: SimpleNamespace(open=lambda spec: reader))
    batches = list(Stream(Demand({}, count=5), Look(frames=5, crop=8), batch=2))
    assert [b.valid.tolist() for b in batches] == [[True, True], [True, True], [True, False]]
    assert isinstance(batches[0], RobotBatch)


def test_an_episode_without_a_pose_of_the_camera_is_bad_where_it_is_read():
    asked = SPEC._replace(extrinsics=True)
    with pytest.raises(BadSample, match="missing: no extrinsics of the camera, which the predictor reads"):
        read(Made(), asked)
    pose = np.tile(np.arange(6.0), (60, 1))
    assert torch.equal(read(Made(extrinsics=pose), asked).extrinsics[0], torch.arange(6.0))
    with pytest.raises(BadSample, match="mismatched: extrinsics: got 59 x 6, expected 60 x 6"):
        read(Made(extrinsics=pose[1:]), asked)


def test_states_in_the_frame_of_a_camera_are_not_taken_for_those_of_the_base():
    seen = Robot(name="seen", frame="camera")
    with pytest.raises(ValueError, match="its states are in the frame of a camera, those of robot 'droid' in that of"):
        EpisodeReader(Made(robot=seen), SPEC)
