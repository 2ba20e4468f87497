"""Folders of pictures are films: in the order of their numbers, at the stated rate, and whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.frames import list_frames, read_frames

SPEC = ClipSpec(frames=4, height=8, width=8, fps=5.0, stride=None, random=False)


def write(folder: Path, names: list[str], size: int = 8) -> str:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(np.full((size, size, 3), 3 * len(list(folder.iterdir())), np.uint8)).save(folder / name)
    return str(folder)


def read(folder: str, spec: ClipSpec = SPEC, seed: int = 0, **more):
    return read_frames(folder, spec, np.random.default_rng(seed), rate=10.0, **more)


def test_pictures_are_in_the_order_of_their_last_number_not_of_their_names(tmp_path):
    folder = write(tmp_path, ["v2_10.jpg", "v2_8.jpg", "v2_9.JPG"])
    (tmp_path / "status.json").write_text("{}")
    (tmp_path / ".v2_11.jpg").write_text("hidden")
    assert [Path(p).name for p in list_frames(folder)] == ["v2_8.jpg", "v2_9.JPG", "v2_10.jpg"]


def test_a_clip_is_chosen_by_the_stated_rate(tmp_path):
    folder = write(tmp_path, [f"{i:03d}.png" for i in range(1, 21)])
    clip = read(folder)
    assert np.diff(clip.ids).tolist() == [2, 2, 2], "5 of 10 frames per second"
    assert clip.frames[:, 0, 0, 0].tolist() == [3 * i for i in clip.ids]
    assert clip.start == pytest.approx(clip.ids[0] / 10)
    part = read(folder, segment=(1.0, 1.8))
    assert 10 <= part.ids[0] <= part.ids[-1] < 18
    every = read(folder, SPEC._replace(fps=None, stride=1, random=True), seed=3)
    assert np.diff(every.ids).tolist() == [1, 1, 1]


def test_one_number_is_drawn_whatever_becomes_of_the_folder(tmp_path):
    one, two = np.random.default_rng(0), np.random.default_rng(0)
    read_frames(write(tmp_path / "a", [f"{i}.png" for i in range(9)]), SPEC, one, rate=10.0)
    with pytest.raises(BadSample):
        read_frames(str(tmp_path / "none"), SPEC, two, rate=10.0)
    assert one.random() == two.random()


@pytest.mark.parametrize(
    ("names", "reason", "detail"),
    [
        ([], "no_video", "the folder holds no numbered picture"),
        (["a.jpg", "b.jpg"], "no_video", "the folder holds no numbered picture"),
        (["1.jpg", "2.jpg", "4.jpg"], "truncated", "got 2.jpg and then 4.jpg, expected frame 3"),
        (["1.jpg", "01.jpg"], "mismatched", "got 01.jpg and then 1.jpg, expected frame 2"),
    ],
)
def test_what_is_wrong_with_a_folder_is_a_reason(tmp_path, names, reason, detail):
    with pytest.raises(Unreadable) as error:
        list_frames(write(tmp_path, names))
    assert error.value.reason == reason
    assert detail in error.value.detail


def test_damaged_pictures_and_sizes_that_differ_are_bad_samples(tmp_path):
    folder = write(tmp_path, [f"{i}.png" for i in range(8)])
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:20])
    with pytest.raises(BadSample, match=r"undecodable|truncated") as error:
        read(folder, SPEC._replace(fps=None, stride=1, frames=8), key="film 7")
    assert error.value.key == "film 7"
    assert "3.png" in error.value.detail
    write(tmp_path, ["3.png"], size=6)
    with pytest.raises(BadSample, match=r"mismatched: pictures of different sizes: \(6, 6, 3\) and \(8, 8, 3\)"):
        read(folder, SPEC._replace(fps=None, stride=1, frames=8))
