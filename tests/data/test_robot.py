"""Stretches of episodes: the true rate and the released one, ends, windows, and what of the picture is shown."""

import numpy as np
import pytest
import torch

from vjepa_lab.data import transforms
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.robot import RobotSpec, crop, expect, released_ids, step_ids

SPEC = RobotSpec(frames=8, height=32, width=32, fps=4.0)
RATE = 15.0


def clock(steps: int) -> np.ndarray:
    return np.arange(steps) / RATE


def drawn(spec: RobotSpec, times: np.ndarray, count: int = 200) -> np.ndarray:
    return np.stack([step_ids(times, spec, rng=np.random.default_rng(seed)) for seed in range(count)])


def test_a_rate_that_divides_that_of_the_robot_takes_every_nth_step():
    assert (np.diff(drawn(SPEC._replace(fps=5.0), clock(100))) == 3).all()


def test_another_rate_takes_the_steps_nearest_to_its_times():
    ids = drawn(SPEC, clock(100))
    late = (ids - ids[:, :1]) / RATE - np.arange(8) / 4.0
    assert np.abs(late).max() <= 0.5 / RATE + 1e-9
    assert set(np.diff(ids).ravel()) == {3, 4}


def test_recorded_times_count_and_not_the_number_of_the_step():
    times = np.concatenate([np.arange(10) / 15, 10 / 15 + np.arange(30) / 5])  # the loop slows down to 5 Hz
    ids = step_ids(times, SPEC._replace(frames=4, fps=5.0, random=False, clips=2), clip=1)
    assert (np.diff(ids) == 1).all()
    ids = step_ids(times, SPEC._replace(frames=3, fps=5.0, random=False, clips=10), clip=0)
    assert np.diff(ids).tolist() == [3, 3]


def test_a_random_stretch_uses_the_whole_episode_and_never_more():
    ids = drawn(SPEC._replace(fps=5.0), clock(40), 500)
    assert ids.min() == 0
    assert ids.max() == 39
    assert set(ids[:, 0]) == set(range(40 - 21))


def test_an_episode_of_exactly_one_stretch_is_used_and_a_shorter_one_is_too_short():
    spec = SPEC._replace(fps=5.0)
    assert drawn(spec, clock(22), 3).tolist() == [list(range(0, 22, 3))] * 3
    with pytest.raises(Unreadable, match=r"got 1.33 s, expected at least 1.40 s \(8 frames at 5 per second\)") as error:
        step_ids(clock(21), spec, rng=np.random.default_rng(0))
    assert error.value.reason == "too_short"


def test_without_a_rate_every_step_is_shown():
    spec = SPEC._replace(fps=None)
    assert (np.diff(drawn(spec, clock(20), 20)) == 1).all()
    with pytest.raises(Unreadable, match="got 7 steps, expected at least 8"):
        step_ids(clock(7), spec, rng=np.random.default_rng(0))


def test_evaluation_takes_the_middle_or_several_parts_without_random_numbers():
    middle = step_ids(clock(101), SPEC._replace(random=False, fps=5.0))
    assert middle[0] + middle[-1] == pytest.approx(100, abs=1)
    parts = [step_ids(clock(100), SPEC._replace(random=False, clips=4), clip=c) for c in range(4)]
    assert [p[0] for p in parts] == sorted({p[0] for p in parts})


@pytest.mark.parametrize(("header", "stride"), [(60.0, 15), (15.0, 4), (29.97, 8), (4.0, 1)])
def test_the_released_steps_follow_the_header(header, stride):
    video = np.arange(300) / header
    ids = released_ids(video, 300, SPEC, rng=np.random.default_rng(0))
    assert (np.diff(ids) == stride).all()


def test_the_released_steps_of_a_15_hz_episode_with_a_header_of_60_last_four_times_as_long():
    video = np.arange(300) / 60
    released = released_ids(video, 300, SPEC, rng=np.random.default_rng(0))
    true = step_ids(clock(300), SPEC, rng=np.random.default_rng(0))
    assert (released[-1] - released[0]) / RATE == pytest.approx(7.0)
    assert (true[-1] - true[0]) / RATE == pytest.approx(1.75, abs=1 / RATE)


def test_the_released_window_starts_anywhere_but_at_the_last_place():
    video, window = np.arange(50) / 15, 8 * 4
    starts = {int(released_ids(video, 50, SPEC, rng=np.random.default_rng(s))[0]) for s in range(400)}
    assert starts == set(range(50 - window))
    assert released_ids(video[:32], 32, SPEC, rng=np.random.default_rng(0))[0] == 0  # where the released code fails
    with pytest.raises(Unreadable, match=r"got 31 frames, expected at least 32 \(8 x 4\)"):
        released_ids(video[:31], 31, SPEC, rng=np.random.default_rng(0))
    with pytest.raises(Unreadable, match=r"got 1 frame"):
        released_ids(video[:1], 1, SPEC, rng=np.random.default_rng(0))


def test_the_released_windows_of_an_evaluation_are_spread():
    video, spec = np.arange(80) / 15, SPEC._replace(random=False, clips=3)
    starts = [int(released_ids(video, 80, spec, clip=c)[0]) for c in range(3)]
    assert starts == [8, 24, 40]


def picture(height: int, width: int, frames: int = 2) -> torch.Tensor:
    """Red says the column and green the row, as a share of 255."""
    columns = torch.linspace(0, 255, width).expand(height, width)
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    return torch.stack([columns, rows, rows * 0]).round().to(torch.uint8)[:, None].repeat(1, frames, 1, 1)


def test_the_released_crop_is_that_of_the_released_configuration():
    assert transforms.central_box((720, 1280), aspect=(0.75, 1.35)) == (0, 154, 720, 972)  # as measured there
    shown = crop(picture(720, 1280), SPEC, np.random.default_rng(0))
    assert shown.shape == (3, 2, 32, 32)
    box = (0, 154, 720, 972)
    assert torch.equal(shown, transforms.crop(picture(720, 1280), box, (32, 32)))
    assert shown[0, 0, :, 0].float().mean() / 255 * 1280 == pytest.approx(154 + 15, abs=4)


def test_the_central_crop_does_not_distort():
    shown = crop(picture(90, 160), SPEC._replace(crop="centre"), np.random.default_rng(0))
    assert torch.equal(shown, transforms.crop(picture(90, 160), (0, 35, 90, 90), (32, 32)))
    wide = crop(picture(90, 160), SPEC._replace(crop="centre", height=18, width=32), np.random.default_rng(0))
    assert torch.equal(wide, transforms.crop(picture(90, 160), (0, 0, 90, 160), (18, 32)))


def test_only_the_random_crop_draws_and_it_draws_one_box_for_all_frames():
    for name in ("released", "centre"):
        rng = np.random.default_rng(0)
        crop(picture(50, 88), SPEC._replace(crop=name), rng)
        assert rng.random() == np.random.default_rng(0).random()
    shown = [crop(picture(50, 88), SPEC._replace(crop="random"), np.random.default_rng(s)) for s in range(5)]
    assert all(torch.equal(x[:, 0], x[:, 1]) for x in shown)
    assert len({x[0].sum().item() for x in shown}) == 5


def test_nothing_is_ever_mirrored():
    for seed in range(50):
        shown = crop(picture(50, 88), SPEC._replace(crop="random"), np.random.default_rng(seed))
        assert shown[0, 0, 0, -1] > shown[0, 0, 0, 0]


def test_a_source_of_episodes_says_so_where_clips_are_asked_for():
    with pytest.raises(ValueError, match="source droid: gives robot episodes, for posttrain"):
        expect(ClipSpec(frames=8, height=32, width=32, fps=4.0, stride=None), "droid")
    expect(SPEC, "droid")
