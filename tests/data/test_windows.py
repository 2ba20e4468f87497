"""Windows of whole videos: one clock for all, every frame the nearest in time, the last frame held."""

from __future__ import annotations

import numpy as np
import pytest

from vjepa_lab.data.clips import BadSample, ClipSpec
from vjepa_lab.data.windows import count_frames, read_window, window_ids


def spec(*, fps: float | None = 4.0, stride: int | None = None, frames: int = 4, min_frames: int = 1) -> ClipSpec:
    rate = {"fps": fps if stride is None else None, "stride": stride}
    return ClipSpec(frames=frames, height=8, width=8, random=False, timeout=0, min_frames=min_frames, **rate)


@pytest.mark.parametrize("first", [0, 3, 10])
def test_every_frame_is_the_nearest_to_its_time(first):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.2, 60))
    times -= times[0]
    ids = window_ids(times, spec(), first)
    wanted = [(first + i) / 4 for i in range(4)]
    assert list(ids) == [min(range(60), key=lambda j: abs(times[j] - at)) for at in wanted]


def test_a_frame_in_two_windows_is_the_same_frame():
    times = np.arange(100) / 29.97
    assert list(window_ids(times, spec(), 2)[:2]) == list(window_ids(times, spec(), 0)[2:])


def test_a_stride_counts_frames_and_a_segment_begins_where_it_does():
    times = np.arange(40) / 10
    assert list(window_ids(times, spec(stride=3), 2)) == [6, 9, 12, 15]
    assert list(window_ids(times, spec(stride=3), 2, segment=(1.0, 3.0))) == [16, 19, 22, 25]
    assert list(window_ids(times, spec(stride=3), 5, segment=(1.0, 3.0))) == [25, 28, 29, 29]  # held


def test_frames_are_counted_as_they_will_be_read(film):
    video = film(frames=24, fps=8)  # 0 to 2.875 s
    assert count_frames(video, spec()) == 12
    assert count_frames(video, spec(fps=8)) == 24
    assert count_frames(video, spec(fps=3)) == 9
    assert count_frames(video, spec(stride=5)) == 5
    assert count_frames(video, spec(), segment=(1.0, 2.0)) == 4
    for first in (0, 8, 10):
        clip = read_window(video, spec(), first)
        assert film.numbers(clip.frames) == [min(2 * (first + i), 23) for i in range(4)]
        assert clip.start == pytest.approx(min(first / 4, 2.875))


def test_a_picture_is_one_frame(tmp_path):
    from PIL import Image

    Image.new("RGB", (16, 16), (8, 8, 8)).save(tmp_path / "grey.png")
    assert count_frames(tmp_path / "grey.png", spec()) == 1
    clip = read_window(tmp_path / "grey.png", spec(), 0)
    assert clip.frames.shape == (4, 16, 16, 3)
    assert clip.frames.unique().tolist() == [8]


def test_bad_files_have_the_reasons_of_single_clips(film, tmp_path):
    (tmp_path / "nothing.mp4").touch()
    cases = [
        (tmp_path / "absent.mp4", "missing"),
        (tmp_path / "nothing.mp4", "empty"),
        (film.sound(), "no_video"),
        (film("short.mp4", frames=2), "too_short"),
    ]
    for path, reason in cases:
        with pytest.raises(BadSample) as counted:
            count_frames(path, spec(min_frames=3))
        with pytest.raises(BadSample) as read:
            read_window(path, spec(min_frames=3), 0, key="k")
        assert (counted.value.reason, read.value.reason, read.value.key) == (reason, reason, "k")
