"""PHYRE-like tasks: balls obey the laws of the room, tasks are solved by some actions, and pictures show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources._phyre_world import (
    _BOUNCE,
    _DT,
    _EASY,
    _GRAVITY,
    _HARD,
    _ROOMS,
    TEMPLATES,
    Room,
    _actions,
    _in,
    _mirrored,
    goals,
    roll,
    task,
)
from vjepa_lab.data.sources.phyre_lite import PhyreLite

SPEC = ClipSpec(frames=8, height=48, width=48, fps=None, stride=None)
SMALL = {"tasks": 2, "actions": 40, "goals": 3, "step": 0.4}
FRAMES = {"frames": 8, "step": 0.4}


def room(*balls: tuple[float, ...], boxes: tuple[tuple[float, ...], ...] = ()) -> Room:
    """Of balls (x, y, radius, vx, vy)."""
    b = np.array(balls)
    return Room(b[:, :2], b[:, 3:5], b[:, 2], np.array(boxes).reshape(-1, 4), np.array([0.0, 0.0, 1.0, 1.0]))


def test_a_ball_falls_as_it_should_until_it_lands() -> None:
    path = roll(room((0.5, 0.1, 0.05, 0.2, 0.0)), None, frames=8, step=0.1)[0, :, 0]
    t = 0.1 * np.arange(8)
    np.testing.assert_allclose(path[:, 0], 0.5 + 0.2 * t, atol=1e-12)
    # one step behind or ahead of the closed form at most
    np.testing.assert_allclose(path[:, 1], 0.1 + _GRAVITY / 2 * t**2, atol=_GRAVITY * _DT * 0.7)


def test_a_ball_bounces_back_with_its_share_of_speed_and_comes_to_rest() -> None:
    height = 0.5
    path = roll(room((0.5, 1 - 0.05 - height, 0.05, 0.0, 0.0)), None, frames=400, step=_DT)[0, :, 0]
    landed = int(np.argmax(path[:, 1] >= 0.95 - 1e-3))
    top = 0.95 - path[landed + 3 : landed + 80, 1].min()
    assert top == pytest.approx(height * _BOUNCE**2, rel=0.2)
    assert np.ptp(path[-50:, 1]) < 1e-3
    assert path[-1, 1] == pytest.approx(0.95, abs=1e-3)


def test_two_balls_that_meet_share_their_momentum() -> None:
    path = roll(room((0.2, 0.3, 0.05, 0.5, 0.0), (0.6, 0.3, 0.05, 0.0, 0.0)), None, frames=75, step=_DT)[0]
    v = np.diff(path[..., 0], axis=0) / _DT
    assert v[-1, 0] == pytest.approx(0.5 * (1 - _BOUNCE) / 2, abs=1e-6)
    np.testing.assert_allclose(v.sum(1), 0.5, atol=1e-6)


def test_balls_stay_in_the_room_out_of_boxes_and_apart() -> None:
    rng = np.random.default_rng(0)
    for template in TEMPLATES:
        one = _ROOMS[template](rng)
        action = _actions(rng, one, 50)
        path = roll(one, action, **FRAMES)
        radius = np.concatenate([np.repeat(one.radius[None], 50, 0), action[:, 2:]], 1)[:, None]
        assert (path >= radius[..., None] - 0.02).all()
        assert (path <= 1 - radius[..., None] + 0.02).all()
        for box in one.boxes:
            gap = np.sqrt(((path - np.clip(path, box[:2], box[2:])) ** 2).sum(-1)) - radius
            assert gap.min() > -0.03
        for i in range(path.shape[2]):
            for j in range(i):
                gap = np.sqrt(((path[:, :, i] - path[:, :, j]) ** 2).sum(-1)) - radius[..., i] - radius[..., j]
                assert gap.min() > -0.03


def test_many_actions_at_once_are_each_by_itself() -> None:
    one = _ROOMS["ledge"](np.random.default_rng(1))
    action = _actions(np.random.default_rng(2), one, 12)
    together = roll(one, action, **FRAMES)
    for a in range(12):
        np.testing.assert_array_equal(roll(one, action[a : a + 1], **FRAMES)[0], together[a])


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_mirrored_room_has_mirrored_paths(template: str) -> None:
    one = _ROOMS[template](np.random.default_rng(3))
    action = _actions(np.random.default_rng(4), one, 10)
    other = action * (-1, 1, 1) + (1, 0, 0)
    path, mirrored = roll(one, action, frames=4, step=0.2), roll(_mirrored(one), other, frames=4, step=0.2)
    np.testing.assert_allclose(path * (-1, 1) + (1, 0), mirrored, atol=1e-6)


@pytest.mark.parametrize("template", TEMPLATES)
def test_tasks_are_solved_by_some_actions_and_not_by_none(template: str) -> None:
    found = task(template, 0, 0, actions=100, **FRAMES)
    assert _HARD <= found.solved.mean() <= _EASY
    np.testing.assert_array_equal(found.solved, _in(found.path[:, -1, 0], found.room.goal))
    alone = roll(found.room, None, **FRAMES)
    assert not _in(alone[:, -1, 0], found.room.goal)[0]
    again = task(template, 0, 0, actions=100, **FRAMES)
    np.testing.assert_array_equal(found.path, again.path)
    path, radius = goals(found, 4, 0, **FRAMES)
    assert path.shape[0] == len(radius) == 4
    assert _in(path[:, -1, 0], found.room.goal).all()


def test_a_second_ball_moves_the_target_of_a_chain() -> None:
    """The action does not do it alone: in solved chains the second ball has rolled into the tunnel."""
    for number in range(3):
        found = task("chain", number, 0, actions=100, **FRAMES)
        moved = np.abs(found.path[found.solved, :, 1, 0] - found.path[found.solved, :1, 1, 0]).max(1)
        assert (moved > 0.03).all()


def test_clips_are_those_of_the_task_and_their_truth() -> None:
    source = PhyreLite(**SMALL, templates=["hit", "ledge"]).open(SPEC)
    assert len(source) == 2 * 2 * 40
    samples = [source.read(i) for i in range(40, 80)]
    truth = {name: torch.stack([s.truth[name] for s in samples]) for name in samples[0].truth}
    assert truth["task"].unique().tolist() == [1]
    assert truth["template"].unique().tolist() == [TEMPLATES.index("ledge")]
    assert [s.label for s in samples] == truth["solved"].int().tolist()
    assert 0 < truth["solved"].sum() <= _EASY * 40
    assert truth["action"].dtype == torch.float32
    assert source.read(40).key == "phyre_lite/0/train/ledge/000/actions/0000"
    assert torch.equal(samples[3].clip, PhyreLite(**SMALL, templates=["hit", "ledge"]).open(SPEC).read(43).clip)
    solving = PhyreLite(**SMALL, role="goals").open(SPEC)
    assert len(solving) == 5 * 2 * 3
    assert all(solving.read(i).label == 1 for i in range(6))
    other = PhyreLite(**SMALL, split="val", templates=["hit", "ledge"]).open(SPEC)
    assert not torch.equal(other.read(40).clip, samples[0].clip)


def test_pictures_show_the_balls_the_boxes_and_the_goal() -> None:
    source = PhyreLite(**SMALL, templates=["ledge"]).open(SPEC)
    sample = source.read(0)
    x, y, r = sample.truth["action"].tolist()
    first = sample.clip[:, 0].float()
    red = first[:, int(y * 48), int(x * 48)]
    assert red[0] > 1.5 * red[1]
    assert (sample.clip == 20).all(0).any(), "boxes"
    yellow = (first[0] > first[2] + 30) & (first[1] > first[2] + 30)
    assert yellow.float().mean() > 0.1, "the goal"
    assert r > 0


def test_fields_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"phyre_lite.*tasks: got 0.*templates: got \['juggle'\].*step: got 0"):
        PhyreLite(tasks=0, templates=["juggle"], step=0)
    with pytest.raises(ValueError, match=r"phyre_lite.*got 8 frames of 48 x 32, expected at least 2 of a square"):
        PhyreLite().open(SPEC._replace(width=32))
    with pytest.raises(ValueError, match="phyre_lite: chain 0: got no task that some of 20 actions solve in 2 frames"):
        task("chain", 0, 0, actions=20, frames=2, step=0.02)
