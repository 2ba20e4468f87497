"""Raw DROID folders: found by walking or listing, at the true rate, good and broken ones side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.sources.droid import Droid, find
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID

pytest.importorskip("h5py")
SPEC = RobotSpec(frames=5, height=16, width=16, fps=5.0)
RECORDED = Path(__file__).parent / "recorded" / "droid"


def samples(reader, count=1, seed=0):
    return [reader.read(i % len(reader), np.random.default_rng(seed + i)) for i in range(count)]


def test_a_sample_shows_the_steps_of_its_states(droid, film, path_of_arm):
    folder = droid(steps=40)
    for sample in samples(Droid(path=str(folder.parent)).open(SPEC), 20):
        ids = film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())
        assert np.diff(ids).tolist() == [3] * 4
        states = torch.from_numpy(path_of_arm(40)[ids])
        assert torch.equal(sample.states, states.float())
        assert torch.equal(sample.actions, DROID.difference(states).float())
        assert sample.extrinsics[0].tolist() == pytest.approx([0.4, -0.2, 0.6, 1.5, 0.3, -0.7])
        assert sample.key == f"{folder}:left frames {ids[0]}-{ids[-1]}"


@pytest.mark.parametrize(("rate", "stride"), [(None, 3), (15, 3), (10.0, 2), ("header", 12)])
def test_the_rate_is_that_of_the_robot_and_the_header_counts_only_where_it_is_asked_for(droid, film, rate, stride):
    folder = droid(steps=63, header=60)
    sample = samples(Droid(path=str(folder), rate=rate).open(SPEC))[0]
    assert np.diff(film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())).tolist() == [stride] * 4


def test_recorded_times_can_be_the_clock(droid, film):
    starts = 1.6e12 + np.cumsum([0] + [100] * 39)  # milliseconds: this arm ran at 10 Hz
    source = Droid(path=str(droid(starts=starts)), rate="timestamps")
    sample = samples(source.open(SPEC))[0]
    assert np.diff(film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())).tolist() == [2] * 4
    source = Droid(path=str(droid("b", starts=starts[::-1])), rate="timestamps")
    with pytest.raises(BadSample, match="expected ascending times"):
        samples(source.open(SPEC))
    with pytest.raises(BadSample, match="no dataset 'observation/timestamp/control/step_start'"):
        samples(Droid(path=str(droid("c")), rate="timestamps").open(SPEC))


def test_every_camera_is_a_sample_of_its_own_with_the_same_states(droid):
    reader = Droid(path=str(droid()), cameras=["left", "right"]).open(SPEC._replace(random=False))
    assert len(reader) == 2
    left, right = samples(reader, 2)
    assert torch.equal(left.states, right.states)
    assert torch.equal(left.actions, right.actions)
    assert not torch.equal(left.extrinsics, right.extrinsics)


def test_extrinsics_that_are_not_there_are_nan(droid):
    sample = samples(Droid(path=str(droid(extrinsics=False))).open(SPEC))[0]
    assert sample.extrinsics.isnan().all()
    assert sample.states.isfinite().all()


def test_a_root_is_walked_in_order_and_a_listing_keeps_its_own(droid, tmp_path):
    folders = [droid(f"lab{n}/success/day:{n}/at:1{n}", steps=10) for n in (2, 0, 1)]
    (tmp_path / "lab0" / "notes").mkdir()
    assert find(str(tmp_path)) == sorted(map(str, folders))
    lines = [f"{folders[0]} 0", f"{folders[1].relative_to(tmp_path)} 1", "", f"{folders[2]}/trajectory.h5"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert find(str(tmp_path / "list.csv")) == list(map(str, folders))


def test_mixed_good_and_broken_episodes(droid, tmp_path):
    droid("root/good", steps=40)
    droid("root/one_frame_less", steps=40, frames=39)
    droid("root/three_frames_less", steps=40, frames=37)
    droid("root/short", steps=8)
    droid("root/cut", steps=40)
    droid("root/no_metadata")
    droid("root/bad_metadata")
    droid("root/other_metadata", cameras=("wrist",))
    droid("root/no_video")
    droid("root/no_states", states=np.full((40, 7), np.nan))
    root = tmp_path / "root"
    data = (root / "cut" / "trajectory.h5").read_bytes()
    (root / "cut" / "trajectory.h5").write_bytes(data[: len(data) // 2])
    (root / "no_metadata" / "metadata_no_metadata.json").unlink()
    (root / "bad_metadata" / "metadata_bad_metadata.json").write_text("{")
    (root / "no_video" / "recordings" / "MP4" / "11.mp4").unlink()

    entry = {"name": "droid", "path": str(root), "cameras": ["left"]}
    reader = SOURCES.build(entry).open(SPEC)
    stream = Loader([reader], [1.0], batch=4, batches=10, seed=0, skips=Skips(tmp_path))
    keys = {Path(key.split(":left")[0]).name for batch in stream for key in batch.key}
    assert keys == {"good", "one_frame_less"}
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert {Path(r["key"].removesuffix(":left")).name: r["reason"] for r in rows} == {
        "three_frames_less": "mismatched",
        "short": "too_short",
        "cut": "truncated",
        "no_metadata": "missing",
        "bad_metadata": "undecodable",
        "other_metadata": "missing",
        "no_video": "missing",
        "no_states": "undecodable",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "nowhere"}, "path: got 'nowhere', expected a folder or a listing"),
        ({"path": ""}, "path: got ''"),
        ({"path": "{tmp}"}, "with no episode, expected folders with trajectory.h5"),
        ({"path": "{tmp}", "cameras": ["front"]}, "cameras: got front, expected some of left, right"),
        ({"path": "{tmp}", "cameras": []}, "cameras: got none"),
        ({"path": "{tmp}", "rate": "fast"}, "rate: got 'fast', expected steps per second, timestamps or header"),
        ({"path": "{tmp}", "rate": 0}, "rate: got 0"),
    ],
)
def test_bad_fields_are_the_users_mistakes(tmp_path, fields, message):
    fields["path"] = fields["path"].format(tmp=tmp_path)
    with pytest.raises(ValueError, match=message):
        Droid(**fields).open(SPEC)


def test_clips_are_not_to_be_had(droid):
    with pytest.raises(ValueError, match="source droid: gives robot episodes"):
        Droid(path=str(droid())).open(ClipSpec(frames=4, height=8, width=8, fps=4.0, stride=None))


def test_a_real_episode_gives_the_same_states_from_all_cameras_and_its_actions_lead_back_to_its_poses():
    spec = SPEC._replace(frames=16, fps=4.0, random=False, height=48, width=48)
    reader = Droid(path=str(RECORDED), cameras=["left", "right", "wrist"]).open(spec)
    left, right, wrist = samples(reader, 3)
    assert torch.equal(left.states, right.states)
    assert torch.equal(left.states, wrist.states)
    assert (left.frames.float() - right.frames.float()).abs().mean() > 5
    assert left.actions[:, :3].norm(dim=-1).max() > 0.02
    state = left.states[0].double()
    for action, then in zip(left.actions, left.states[1:], strict=True):
        state = DROID.integrate(state, action.double())
        assert (state - then).abs().max() < 1e-6


def test_all_cameras_of_an_episode_are_one_unit_and_on_one_side_of_a_held_out_share(droid, tmp_path):
    """Two pictures of one motion are not independent: an interval that counts both is too narrow."""
    from vjepa_lab.data.streams import Demand, Look, Stream

    for name in "abcdef":
        droid(name, steps=12)
    source = {"name": "droid", "path": str(tmp_path), "rate": 15, "cameras": ["left", "right"]}
    demand = Demand(source, frames=4, fps=15.0, robot={"name": "droid"}, share=0.5)
    whole = Stream(demand, Look(frames=4, crop=16), batch=4)
    assert whole.units.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert whole.units_of == "episode"
    parts = {p: Stream(demand._replace(part=p), Look(frames=4, crop=16), batch=4) for p in ("train", "select")}
    shown = {p: [s.key(row).rpartition(":")[0] for row in range(len(s))] for p, s in parts.items()}
    assert [len(keys) for keys in shown.values()] == [6, 6]
    assert not set(shown["train"]) & set(shown["select"])
    assert parts["train"].units.tolist() == [0, 0, 1, 1, 2, 2]
