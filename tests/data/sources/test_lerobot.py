"""LeRobot datasets v2.0, v2.1 and v3, as files that the tests write: the same samples from every layout."""

import json

import av
import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.data.skips import Skips
from vjepa_lab.data.sources.lerobot import Lerobot
from vjepa_lab.registry import SOURCES
from vjepa_lab.robots import DROID, Robot

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
SPEC = RobotSpec(frames=4, height=16, width=16, fps=5.0)
CAMERAS = ("observation.images.left", "observation.images.wrist")
LENGTHS = (20, 12, 25)
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def table(episode: int, states: np.ndarray, first: int = 0):
    """Rows of an episode; the pose and the gripper are columns of their own too, as in lerobot/droid."""
    steps = len(states)
    moves = np.concatenate([DROID.difference(torch.from_numpy(states)).numpy(), np.zeros((1, 7))])
    return arrow.table(
        {
            "observation.state": arrow.array(np.concatenate([np.full((steps, 1), 9.0), states], axis=1).tolist()),
            "observation.state.cartesian_position": arrow.array(
                states[:, :6].tolist(), type=arrow.list_(arrow.float64(), 6)
            ),
            "observation.state.gripper_position": states[:, 6],
            "action": arrow.array(moves.tolist()),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, episode),
            "index": first + np.arange(steps),
        }
    )


def write_info(root, version, data, video, dtype="video", **more):
    names = (
        "observation.state",
        "observation.state.cartesian_position",
        "observation.state.gripper_position",
        "action",
    )
    features = {name: {"dtype": "float64", "shape": [7]} for name in names}
    features |= {camera: {"dtype": dtype, "shape": [32, 64, 3]} for camera in CAMERAS}
    info = {"codebase_version": version, "fps": 15, "chunks_size": 2, "data_path": data, "video_path": video}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps(info | {"features": features} | more))


def placed(root, path):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    return root / path


@pytest.fixture
def v2(film, tmp_path, path_of_arm):
    """A v2 dataset: chunks of two episodes, a Parquet file and two films each."""
    root = tmp_path / "v2"
    write_info(root, "v2.1", V2_DATA, V2_VIDEO)
    rows = [json.dumps({"episode_index": e, "length": n, "tasks": ["x"]}) for e, n in enumerate(LENGTHS)]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(rows) + "\n")
    for e, n in enumerate(LENGTHS):
        where = {"episode_chunk": e // 2, "episode_index": e}
        parquet.write_table(table(e, path_of_arm(n, e)), placed(root, V2_DATA.format(**where)))
        for camera in CAMERAS:
            film(placed(root, V2_VIDEO.format(**where, video_key=camera)), frames=n, fps=15)
    return root


@pytest.fixture
def v3(film, tmp_path, path_of_arm):
    """A v3 dataset: two files of data (episodes 0 and 1 in the first), one film for all of each camera."""
    root = tmp_path / "v3"
    write_info(root, "v3.0", V3_DATA, V3_VIDEO)
    starts = np.cumsum([0, *LENGTHS])
    rows = {
        "episode_index": [0, 1, 2],
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
        "length": list(LENGTHS),
    }
    for camera in CAMERAS:
        rows |= {f"videos/{camera}/{what}_index": [0, 0, 0] for what in ("chunk", "file")}
        rows[f"videos/{camera}/from_timestamp"] = [float(s) / 15 for s in starts[:3]]
        film(placed(root, V3_VIDEO.format(video_key=camera, chunk_index=0, file_index=0)), frames=starts[3], fps=15)
    parquet.write_table(arrow.table(rows), placed(root, "meta/episodes/chunk-000/file-000.parquet"))
    tables = [table(e, path_of_arm(n, e), int(starts[e])) for e, n in enumerate(LENGTHS)]
    parquet.write_table(
        arrow.concat_tables(tables[:2]), placed(root, V3_DATA.format(chunk_index=0, file_index=0)), row_group_size=8
    )
    parquet.write_table(tables[2], placed(root, V3_DATA.format(chunk_index=0, file_index=1)))
    return root


def source(root, **fields) -> Lerobot:
    fields = {"cameras": [CAMERAS[0]], "state": ["observation.state[1:]"], **fields}
    return SOURCES.build({"name": "lerobot", "path": str(root), **fields})


def read(reader, index=0, seed=0):
    return reader.read(index, np.random.default_rng(seed))


@pytest.mark.parametrize("layout", ["v2", "v3"])
def test_a_sample_shows_the_steps_of_its_states(layout, request, film, path_of_arm):
    reader = source(request.getfixturevalue(layout), cameras=list(CAMERAS)).open(SPEC)
    first = {"v2": [0, 0, 0], "v3": [0, 20, 32]}[layout]
    assert len(reader) == 6
    for index in range(6):
        for seed in range(5):
            sample = read(reader, index, seed)
            episode = index // 2
            ids = np.array(film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())) - first[episode]
            assert np.diff(ids).tolist() == [3, 3, 3]
            states = torch.from_numpy(path_of_arm(LENGTHS[episode], episode)[ids])
            assert torch.equal(sample.states, states.float())
            assert torch.equal(sample.actions, DROID.difference(states).float())
            assert f"#{episode}:{CAMERAS[index % 2]} frames {ids[0]}-{ids[-1]}" in sample.key


def test_all_versions_give_the_same_states(v2, v3):
    for index in range(3):
        two, three = (read(source(root).open(SPEC), index) for root in (v2, v3))
        assert torch.equal(two.states, three.states)
    write_info(v2, "v2.0", V2_DATA, V2_VIDEO)
    assert torch.equal(read(source(v2).open(SPEC)).states, read(source(v3).open(SPEC)).states)


def test_states_are_joined_of_columns_and_parts_of_them(v2):
    whole = read(source(v2).open(SPEC)).states
    joined = ["observation.state.cartesian_position", "observation.state.gripper_position"]
    assert torch.equal(read(source(v2, state=joined).open(SPEC)).states, whole)
    cut = ["observation.state[1:4]", "observation.state.cartesian_position[3:]", "observation.state[7:8]"]
    assert torch.equal(read(source(v2, state=cut).open(SPEC)).states, whole)
    with pytest.raises(ValueError, match="got states of 8 numbers, expected 7"):
        read(source(v2, state=["observation.state"]).open(SPEC))


def test_recorded_actions_lead_from_one_shown_step_to_the_next(v2):
    made, recorded = (read(source(v2, actions=actions).open(SPEC)).actions for actions in ([], ["action"]))
    assert torch.allclose(made, recorded, atol=1e-6)


def test_a_description_of_its_own_is_converted_to_that_of_the_run(v2):
    plain = Robot(name="turned", opened=1.0, closed=0.0).to_plain()
    own = read(source(v2, robot=plain).open(SPEC))
    assert torch.allclose(own.states[:, -1], 1 - read(source(v2).open(SPEC)).states[:, -1])


def test_a_v3_set_with_the_places_of_v2_is_read(v2, v3):
    """Such sets are in the wild."""
    write_info(v2, "v3.0", V2_DATA, V2_VIDEO)
    (v2 / "meta" / "episodes.jsonl").unlink()
    parquet.write_table(
        arrow.table({"episode_index": [0, 1, 2]}), placed(v2, "meta/episodes/chunk-000/file-000.parquet")
    )
    for index in range(3):
        assert torch.equal(read(source(v2).open(SPEC), index).states, read(source(v3).open(SPEC), index).states)


def test_pictures_in_the_parquet_file_are_read(v2, film, tmp_path):
    write_info(v2, "v2.1", V2_DATA, None, dtype="image")
    for e, n in enumerate(LENGTHS):
        path = v2 / V2_DATA.format(episode_chunk=e // 2, episode_index=e)
        cells = []
        for number in range(n):
            av.VideoFrame.from_ndarray(np.full((32, 64, 3), 4 * number, np.uint8), format="rgb24").to_image().save(
                tmp_path / "p.png"
            )
            cells.append({"bytes": (tmp_path / "p.png").read_bytes() if e != 1 else None, "path": "p.png"})
        parquet.write_table(parquet.read_table(path).append_column(CAMERAS[0], arrow.array(cells)), path)
    reader = source(v2).open(SPEC)
    sample = read(reader, 2)
    first = film.numbers(sample.frames.permute(1, 2, 3, 0).numpy())[0]
    assert sample.key.endswith(f"frames {first}-{first + 9}")
    with pytest.raises(BadSample, match="the Parquet file does not hold the pictures"):
        read(reader, 1)


def test_bad_episodes_are_told_and_passed_over(v2, film, tmp_path):
    (v2 / V2_DATA.format(episode_chunk=0, episode_index=0)).unlink()
    film(v2 / V2_VIDEO.format(episode_chunk=0, episode_index=1, video_key=CAMERAS[0]), frames=30, fps=15)
    stream = Loader([source(v2).open(SPEC)], [1.0], batch=2, batches=4, seed=0, skips=Skips(None), workers=1)
    assert {key.split("#")[1][0] for batch in stream for key in batch.key} == {"2"}
    assert set(stream.skips.by_reason()) == {"missing", "mismatched"}
    path = v2 / V2_DATA.format(episode_chunk=1, episode_index=2)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadSample, match=r"episode_000002\.parquet") as error:
        read(source(v2).open(SPEC), 2)
    assert error.value.reason == "undecodable"


def test_an_episode_past_the_end_of_a_shared_video_is_truncated(v3, film):
    film(v3 / V3_VIDEO.format(video_key=CAMERAS[0], chunk_index=0, file_index=0), frames=25, fps=15)
    reader = source(v3).open(SPEC)
    assert read(reader, 0).states.shape == (4, 7)
    with pytest.raises(BadSample, match="the recording ends before") as error:
        read(reader, 2)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "nowhere"}, "there is no meta/info.json"),
        ({"cameras": []}, "cameras: got none, expected some of observation.images.left, observation.images.wrist"),
        ({"cameras": ["front"]}, "cameras: got front"),
        ({"state": ["observation.pose"]}, "got the column 'observation.pose', expected some of observation.state"),
        ({"state": []}, "state: got nothing"),
        ({"robot": {"rotation": "euler", "turn": "euler"}}, "robot: expected 'name'"),
        ({"rate": 2.0}, "fps: got 5, but lerobot:v2 has 2 steps per second"),
    ],
)
def test_bad_fields_are_the_users_mistakes(v2, change, message):
    with pytest.raises(ValueError, match=message):
        source(**{"root": change.pop("path", v2), **change}).open(SPEC)


@pytest.mark.parametrize(
    ("version", "data", "message"),
    [
        ("v1.6", V2_DATA, "codebase_version: got v1.6, expected v2.0, v2.1 or v3"),
        ("v2.1", "data/{part}.parquet", r"data_path: got 'data/\{part\}.parquet', which needs 'part'"),
    ],
)
def test_meta_data_that_cannot_be_followed_are_told_at_once(v2, version, data, message):
    write_info(v2, version, data, V2_VIDEO)
    with pytest.raises(ValueError, match=message):
        source(v2).open(SPEC)
