"""Which frames make a clip, and what happens to files that give none."""

import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from vjepa_lab.data import clips
from vjepa_lab.data.clips import BadSample, ClipSpec, frame_ids, read_clip, within
from vjepa_lab.data.containers import Unreadable

SPEC = ClipSpec(frames=8, height=32, width=32, fps=4.0, stride=None)
CENTRE = SPEC._replace(random=False)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def even(count: int, fps: float) -> np.ndarray:
    return np.arange(count) / fps


@pytest.mark.parametrize("fps", [12.5, 15, 23.976, 25, 29.97, 30, 50, 59.94, 120])
def test_frames_are_a_quarter_second_apart_at_any_rate(fps):
    times = even(round(10 * fps), fps)
    for seed in range(20):
        ids = frame_ids(times, SPEC, rng=rng(seed))
        exact = times[ids[0]] + np.arange(8) / 4
        assert np.abs(times[ids] - exact).max() <= 0.5 / fps + 1e-6


def test_each_frame_is_the_nearest_at_any_spacing():
    for seed in range(50):
        times = np.cumsum(rng(seed).exponential(0.05, 200))
        times -= times[0]
        ids = frame_ids(times, SPEC, rng=rng(seed + 1))
        exact = times[ids[0]] + np.arange(8) / 4
        assert ids.tolist() == [int(np.abs(times - t).argmin()) for t in exact]


def test_times_rounded_to_milliseconds_lose_no_frame():
    """Matroska rounds so; a frame that is 'not yet there' by 0.3 ms must not be replaced by the one before."""
    times = np.round(even(90, 30.0), 3)
    ids = frame_ids(times, SPEC._replace(fps=30.0), rng=rng())
    assert np.diff(ids).tolist() == [1] * 7


def test_of_two_equally_near_frames_the_earlier_is_taken():
    ids = frame_ids(even(300, 30.0), CENTRE._replace(frames=5))
    assert (ids - ids[0]).tolist() == [0, 7, 15, 22, 30]


def test_every_start_that_leaves_room_is_drawn_equally_often_and_the_last_frame_is_reached():
    times = even(20, 4.0)
    starts = np.array([frame_ids(times, SPEC, rng=rng(seed))[0] for seed in range(1300)])
    counts = np.bincount(starts, minlength=13)
    assert len(counts) == 13, "frames 0 to 12, so that the last clip ends at frame 19"
    assert counts.min() > 60


def test_evaluation_takes_the_middle():
    assert frame_ids(even(20, 4.0), CENTRE).tolist() == list(range(6, 14))


def test_a_short_video_holds_its_last_frame():
    assert frame_ids(even(5, 4.0), SPEC, rng=rng()).tolist() == [0, 1, 2, 3, 4, 4, 4, 4]


def test_a_slow_video_repeats_frames():
    ids = frame_ids(even(10, 1.0), CENTRE)
    assert np.diff(ids).max() == 1
    assert ids[-1] - ids[0] == 2


def test_clips_of_a_video_lie_in_equal_parts_of_it():
    spec = SPEC._replace(clips=4)
    times = even(101, 10.0)
    for seed in range(30):
        for clip in range(4):
            ids = frame_ids(times, spec, clip=clip, rng=rng(seed))
            assert 25 * clip <= ids[0]
            assert ids[-1] <= 25 * (clip + 1)


def test_clips_that_do_not_fit_overlap_evenly():
    spec = CENTRE._replace(clips=3)
    starts = [frame_ids(even(101, 40.0), spec, clip=clip)[0] for clip in range(3)]
    assert starts == [0, 15, 30]


def test_a_stride_counts_frames_whatever_their_times():
    times = np.cumsum(rng().exponential(0.05, 100))
    spec = SPEC._replace(fps=None, stride=3)
    for seed in range(20):
        ids = frame_ids(times, spec, rng=rng(seed))
        assert np.diff(ids).tolist() == [3] * 7
    last = max(frame_ids(times, spec, rng=rng(seed))[-1] for seed in range(500))
    assert last == 99


def test_without_rate_and_stride_the_frames_cover_the_video():
    spec = CENTRE._replace(fps=None)
    assert frame_ids(even(80, 30.0), spec).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    for seed in range(50):
        ids = frame_ids(even(80, 30.0), spec._replace(random=True), rng=rng(seed))
        assert (ids // 10).tolist() == list(range(8))
    assert frame_ids(even(3, 30.0), spec).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("policy", [{"fps": 4.0}, {"fps": None, "stride": 2}, {"fps": None}])
def test_a_segment_bounds_the_clip(policy):
    spec = SPEC._replace(**policy)
    for seed in range(20):
        ids = frame_ids(even(100, 10.0), spec, rng=rng(seed), segment=(3.0, 6.0))
        assert ids.min() >= 30
        assert ids.max() <= 59
    with pytest.raises(Unreadable, match="got 0 frame"):
        frame_ids(even(100, 10.0), spec, rng=rng(), segment=(20.0, 30.0))


def test_too_few_frames_are_too_short():
    with pytest.raises(Unreadable) as error:
        frame_ids(even(1, 30.0), SPEC, rng=rng())
    assert error.value.reason == "too_short"
    assert frame_ids(even(1, 30.0), SPEC._replace(min_frames=1), rng=rng()).tolist() == [0] * 8


def test_a_clip_holds_the_frames_that_its_ids_name(film):
    path = film(frames=48, fps=8)
    for seed in range(5):
        clip = read_clip(path, SPEC, rng(seed))
        assert clip.frames.shape == (8, 32, 64, 3)
        assert film.numbers(clip.frames.numpy()) == clip.ids.tolist()
        assert np.diff(clip.ids).tolist() == [2] * 7
        assert clip.start == pytest.approx(clip.ids[0] / 8)


def test_a_picture_is_a_clip_of_one_repeated_frame(tmp_path):
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png", SPEC, rng())
    assert clip.frames.shape == (8, 4, 6, 3)
    assert (clip.frames.reshape(-1, 3) == clip.frames[0, 0, 0]).all()
    assert clip.start == 0.0


def test_one_number_is_drawn_per_clip_whatever_becomes_of_it(film, tmp_path):
    after = []
    for video in (film(), film.sound(), tmp_path / "missing.mp4", b"", b"<html>"):
        generator = rng()
        with suppress(BadSample):
            read_clip(video, SPEC, generator)
        after.append(generator.random())
    assert len(set(after)) == 1


def test_a_second_decoder_reads_the_same_clip(film):
    """decord gives up on narrow films; PyAV must not draw another start."""
    path = film("narrow.mp4", frames=48, size=(32, 48))
    for seed in range(5):
        first = read_clip(path, SPEC, rng(seed))
        assert first.ids.tolist() == read_clip(path, SPEC._replace(decoder="pyav"), rng(seed)).ids.tolist()


def test_each_bad_file_has_its_reason(film, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html></html>")
    files = {
        tmp_path / "none.mp4": "missing",
        tmp_path: "missing",
        tmp_path / "empty.mp4": "empty",
        tmp_path / "page.mp4": "undecodable",
        film.sound(): "no_video",
        film("one.mp4", frames=1): "too_short",
        film.cut("no_index.mp4", keep=0.6, index_first=False): "truncated",
    }
    for path, reason in files.items():
        with pytest.raises(BadSample) as error:
            read_clip(path, SPEC, rng())
        assert error.value.reason == reason
        assert error.value.key == str(path)
        assert error.value.detail


def test_an_unknown_decoder_is_the_users_mistake(film):
    with pytest.raises(ValueError, match="decoder: got 'opencv', expected one of: auto, decord, pyav, torchcodec"):
        read_clip(film(), SPEC._replace(decoder="opencv"), rng())


def test_a_bad_sample_pickles():
    error = pickle.loads(pickle.dumps(BadSample("empty", "a.mp4", "zero bytes")))
    assert (error.reason, error.key, error.detail) == ("empty", "a.mp4", "zero bytes")
    assert str(error) == "a.mp4: empty: zero bytes"


class Paths:
    """A dataset that catches as the loader does."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        try:
            return read_clip(self.paths[index], SPEC, rng(index)).ids
        except BadSample as error:
            return error


def test_worker_processes_read_and_report(film, tmp_path):
    data = Paths([film(), tmp_path / "none.mp4"])
    good, bad = list(DataLoader(data, batch_size=None, num_workers=1))
    assert good.tolist() == read_clip(film(), SPEC, rng(0)).ids.tolist()
    assert bad.reason == "missing"


def test_a_read_that_hangs_is_abandoned(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(BadSample) as error:
        read_clip(tmp_path / "pipe.mp4", SPEC._replace(timeout=0.05), rng())
    assert error.value.reason == "timeout"
    (tmp_path / "pipe.mp4").open("wb").close()  # lets the thread go


def test_too_many_hanging_reads_are_an_error_of_the_machine(monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(clips, "_abandoned", [])
    for _ in range(clips.MAX_ABANDONED):
        with pytest.raises(Unreadable):
            within(0.01, go.wait)
    with pytest.raises(RuntimeError, match="8 reads of this process hang"):
        within(0.01, go.wait)
    go.set()
    for thread in clips._abandoned:
        thread.join()
    assert within(1.0, lambda: 5) == 5


def test_what_a_read_raises_is_raised_by_the_caller():
    with pytest.raises(ZeroDivisionError):
        within(1.0, lambda: 1 // 0)


def test_a_hanging_read_does_not_keep_the_process_alive(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    code = f"""
import numpy as np
from vjepa_lab.data.clips import BadSample, ClipSpec, read_clip
try:
    read_clip({str(tmp_path / "pipe.mp4")!r}, ClipSpec(8, 8, 8, 4.0, None, timeout=0.05), np.random.default_rng(0))
except BadSample as error:
    assert error.reason == "timeout"
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0
