"""Tars of robot episodes: what the tool writes is what the folders hold, thinner; read back in full and in order."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.sources.robot_shards import RobotShards
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID, Robot

SPEC = RobotSpec(frames=5, height=16, width=16, fps=5.0)
TOOL = Path(__file__).parents[3] / "tools" / "droid_to_shards.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("droid_to_shards", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "droid_to_shards", module)  # its processes look it up
    spec.loader.exec_module(module)
    return module


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for extension, content in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


def episode(film, name: str, states: np.ndarray, *, rate=5.0, robot=DROID, **arrays) -> dict[str, bytes]:
    packed = io.BytesIO()
    np.savez(packed, states=states, **arrays)
    facts = json.dumps({"rate": rate, "robot": robot.to_plain()}).encode()
    return {"mp4": film(name, frames=len(states)).read_bytes(), "npz": packed.getvalue(), "json": facts}


def read(reader, index=0, seed=0):
    return reader.read(index, np.random.default_rng(seed))


def test_a_sample_is_read_back(film, tmp_path, path_of_arm):
    states, places = path_of_arm(20), np.tile(np.arange(6.0), (20, 1))
    url = write_tar(tmp_path / "a.tar", {"0": episode(film, "a.mp4", states, extrinsics=places)})
    reader = SOURCES.build({"name": "robot_shards", "urls": url}).open(SPEC)
    sample = read(reader)
    ids = film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())
    assert np.diff(ids).tolist() == [1] * 4
    assert torch.equal(sample.states, torch.from_numpy(states[ids]).float())
    assert torch.equal(sample.actions, DROID.difference(torch.from_numpy(states[ids])).float())
    assert sample.extrinsics[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert sample.key == f"{url}#0 frames {ids[0]}-{ids[-1]}"


def test_an_epoch_draws_every_stretch_once_from_a_few_tars_at_a_time(film, tmp_path, path_of_arm):
    files = episode(film, "a.mp4", path_of_arm(20))
    for tar in range(4):
        write_tar(tmp_path / f"{tar}.tar", {str(n): files for n in range(3)})
    reader = RobotShards(urls=f"{tmp_path}/*.tar", shuffle_shards=2).open(SPEC._replace(clips=2))
    assert len(reader) == 24
    order = [reader.order(5, p) for p in range(24)]
    assert sorted(order) == list(range(24))
    assert order != [reader.order(6, p) for p in range(24)]
    assert len({index // 6 for index in order[:6]}) == 2


def test_a_sample_that_is_broken_or_of_another_robot_is_a_bad_one(film, tmp_path, path_of_arm):
    good = episode(film, "a.mp4", path_of_arm(20))
    other = episode(film, "b.mp4", path_of_arm(20), robot=Robot(name="other"))
    slow = episode(film, "c.mp4", path_of_arm(20), rate=4.0)
    bare = {"mp4": good["mp4"]}
    torn = {**good, "npz": good["npz"][:100]}
    longer = episode(film, "d.mp4", path_of_arm(20)) | {"mp4": film("e.mp4", frames=25).read_bytes()}
    samples = dict(zip("012345", (good, other, slow, bare, torn, longer), strict=True))
    reader = RobotShards(urls=write_tar(tmp_path / "a.tar", samples)).open(SPEC)
    assert read(reader).states.shape == (5, 7)
    reasons = []
    for index in range(1, 6):
        with pytest.raises(BadSample) as error:
            read(reader, index)
        reasons.append(error.value.reason)
    assert reasons == ["mismatched", "mismatched", "missing", "undecodable", "mismatched"]


def test_a_broken_first_sample_and_states_that_are_no_rows_are_bad_samples_alone(film, tmp_path, path_of_arm):
    good = episode(film, "a.mp4", path_of_arm(20))
    flat = episode(film, "b.mp4", path_of_arm(20)[:, 0])
    still = episode(film, "c.mp4", path_of_arm(20), rate=0.0)
    short = episode(film, "d.mp4", path_of_arm(20), extrinsics=np.zeros((19, 6)))
    torn = {**good, "npz": good["npz"][:100]}
    reader = RobotShards(
        urls=write_tar(tmp_path / "a.tar", dict(zip("01234", (torn, good, flat, still, short), strict=True)))
    )
    reader = reader.open(SPEC)
    assert read(reader, 1).states.shape == (5, 7)
    reasons = []
    for index in (0, 2, 3, 4):
        with pytest.raises(BadSample) as error:
            read(reader, index)
        reasons.append(error.value.reason)
    assert reasons == ["undecodable", "undecodable", "undecodable", "mismatched"]


def test_tars_of_other_things_are_the_users_mistake(film, tmp_path):
    url = write_tar(tmp_path / "a.tar", {"0": {"mp4": film(frames=8).read_bytes(), "cls": b"1"}})
    with pytest.raises(ValueError, match=r"a.tar#0: missing: no member npz, json; expected mp4, npz and json"):
        RobotShards(urls=url).open(SPEC)


# ---- the tool -------------------------------------------------------------------------------------------------------


def test_what_the_tool_writes_is_read_back_as_the_folders_are(tool, droid, film, tmp_path, capsys, path_of_arm):
    droid("raw/a", steps=60, seed=1)
    droid("raw/b", steps=45, seed=2)
    droid("raw/short", steps=20)
    droid("raw/torn", steps=60, frames=50)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "raw"), str(out), "--cameras", "left", "right", "--still", "0", "0", "0"]
    assert tool.main([*arguments, "--shortest", "8"]) == 0
    said = capsys.readouterr().out
    assert "4 of 8 videos in 1 tars" in said
    assert "MB of video before" in said
    assert "70 of 70 steps at 5 per second kept; 0.0% were idle" in said
    assert "skipped 2: mismatched" in said
    assert "skipped 2: too_short" in said
    reader = RobotShards(urls=f"{out}/*.tar").open(SPEC._replace(random=False))
    assert len(reader) == 4
    raw = [path_of_arm(60, 1), path_of_arm(45, 2)]
    for index in range(4):
        sample = read(reader, index)
        first, last = (int(n) for n in sample.key.rpartition(" ")[2].split("-"))
        steps = 3 * np.arange(first, last + 1)  # 15 steps per second, of which 5 were kept
        assert any(np.allclose(sample.states.numpy(), states[steps], atol=1e-6) for states in raw)
        shown = film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())
        assert np.abs(shown - steps).max() <= 1  # the grey is encoded twice
        assert sample.extrinsics.isfinite().all()
    with pytest.raises(SystemExit):
        tool.main(arguments)  # does not write over what is there


def test_the_tool_leaves_out_what_stands_still_and_keeps_slow_motion(tool):
    states = np.zeros((40, 7))
    states[10:20, 0] = np.arange(10) * 0.01  # moves
    states[20:, 0] = states[19, 0]
    states[30:, 0] += np.arange(10) * 0.0011  # creeps: two steps together are more than 2 mm
    assert tool.moving(states, (0.002, 0.02, 0.02)).tolist() == [0, *range(11, 20), 32, 34, 36, 38]
    turned = np.zeros((5, 7))
    turned[:, 3] = [3.13, -3.14, -3.13, -3.0, -3.0]  # passes pi: 0.013, 0.023, 0.153 from the first
    assert tool.moving(turned, (0.002, 0.02, 0.02)).tolist() == [0, 2, 3]
    gripper = np.zeros((3, 7))
    gripper[2, 6] = 0.1
    assert tool.moving(gripper, (0.002, 0.02, 0.02)).tolist() == [0, 2]


def test_the_tool_shrinks_to_the_shorter_side_and_never_enlarges(tool):
    assert tool.shrink(np.zeros((2, 180, 320, 3), np.uint8), 90).shape == (2, 90, 160, 3)
    assert tool.shrink(np.zeros((2, 50, 88, 3), np.uint8), 256).shape == (2, 50, 88, 3)
    assert tool.shrink(np.zeros((2, 51, 87, 3), np.uint8), 256).shape[1:3] in ((50, 86), (52, 88), (50, 88), (52, 86))


def test_the_tool_gives_the_same_with_several_processes(tool, droid, tmp_path):
    droid("raw/a", steps=60)
    droid("raw/b", steps=60, seed=3)
    for name, workers in (("one", "0"), ("two", "2")):
        assert tool.main([str(tmp_path / "raw"), str(tmp_path / name), "--shortest", "5", "--workers", workers]) == 0
    read_ = [RobotShards(urls=f"{tmp_path / name}/*.tar").open(SPEC._replace(random=False)) for name in ("one", "two")]
    assert all(torch.equal(read(read_[0], i).states, read(read_[1], i).states) for i in range(2))
