"""Films of the possible and the impossible: pairs that share their beginning, and quadruples that give nothing away."""

import math

import numpy as np
import pytest
import torch

from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.sources.violation import FILMS, KINDS, Violation
from vjepa_lab.registry import SOURCES

FRAMES, SIDE = 12, 48


def reader(frames=FRAMES, side=SIDE, **fields):
    spec = ClipSpec(frames=frames, height=side, width=side, fps=4.0, stride=None, random=False)
    return SOURCES.build({"name": "violation", **fields}).open(spec)


def scene(number, **fields):
    opened = reader(**fields)
    return [opened.read(FILMS * number + i) for i in range(FILMS)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_impossible_film_begins_like_the_possible_one_of_its_pair_and_parts_from_it_at_the_event(kind):
    for number in range(6):
        films = scene(number, kinds=[kind])
        event = int(films[0].truth["frame"])
        assert FRAMES * 0.4 <= event < FRAMES * 0.7 + 1
        assert [int(f.truth["possible"]) for f in films] == [1, 0, 1, 0]
        for possible, impossible in (films[:2], films[2:]):
            assert int(possible.truth["pair"]) == int(impossible.truth["pair"])
            assert torch.equal(possible.clip[:, :event], impossible.clip[:, :event])
            later = event if kind in ("vanish", "teleport", "change") else event + 1
            assert not torch.equal(possible.clip[:, later], impossible.clip[:, later])
        assert int(films[2].truth["pair"]) == int(films[0].truth["pair"]) + 1


@pytest.mark.parametrize("kind", KINDS[:4])
def test_the_impossible_films_are_made_of_the_halves_of_the_possible_ones(kind):
    a, ab, b, ba = (f.clip for f in scene(1, kinds=[kind]))
    event = int(scene(1, kinds=[kind])[0].truth["frame"])
    assert torch.equal(ab[:, event:], b[:, event:])
    assert torch.equal(ba[:, event:], a[:, event:])


def test_a_vanished_disc_is_not_there():
    """On a plain floor with one disc, the half without it is the floor alone."""
    a, ab, b, _ = (f.clip for f in scene(0, kinds=["vanish"], discs=1, background=0))
    event = int(scene(0, kinds=["vanish"])[0].truth["frame"])
    floor = b[:, 0, 0, 0]
    assert (b == floor[:, None, None, None]).all()
    assert torch.equal(ab[:, event:], b[:, event:])
    assert ((a != floor[:, None, None, None]).any(0).flatten(1).sum(1) > 20).all()


def centroid(clip):
    """Of what is not floor, in pixels, (F, 2)."""
    off = (clip.int() - clip[:, :1, :1, :1].int()).abs().amax(0).double()
    at = torch.arange(clip.shape[-1], dtype=torch.float64)
    total = off.sum((1, 2))
    return torch.stack([(off.sum(1) * at).sum(1) / total, (off.sum(2) * at).sum(1) / total], 1)


def test_the_past_follows_the_same_laws_as_the_future():
    """The mean disc of a possible film moves on straight lines: second differences vanish but at walls."""
    straight = 0
    for number in range(10):
        film = scene(number, kinds=["turn"], discs=1, background=0, side=96)[0]
        event = int(film.truth["frame"])
        bend = centroid(film.clip).diff(dim=0).diff(dim=0)[event - 2 : event + 1].norm(dim=1)
        straight += int(bend.max() < 1)
        turned = scene(number, kinds=["turn"], discs=1, background=0, side=96)[1]
        assert centroid(turned.clip).diff(dim=0).diff(dim=0)[event - 1].norm() > 4
    assert straight >= 5


def test_a_disc_goes_through_the_obstacle_or_bounces_off_nothing():
    """Without the obstacle in the picture both films of the second pair show the disc alone, one straight, one bent."""
    for number in range(5):
        _, _, straight, bent = (f for f in scene(number, kinds=["solidity"], background=0, side=96))
        event = int(straight.truth["frame"])
        turn = [centroid(f.clip).diff(dim=0)[event - 1 : event + 1] for f in (straight, bent)]
        assert torch.allclose(turn[0][0], turn[1][0])
        assert (turn[1][1] - turn[1][0]).norm() > 2


def test_a_disc_that_goes_through_the_obstacle_is_not_hidden_by_it():
    """What cannot be seen cannot surprise: the disc shows as many pixels of its colour as without the obstacle."""
    opened = reader(kinds=["solidity"], background=0, side=64)
    for number in range(8):
        through, alone = opened.read(FILMS * number + 1).clip.int(), opened.read(FILMS * number + 2).clip.int()
        event = int(opened.read(FILMS * number).truth["frame"])
        disc = (alone - alone[:, :1, :1, :1]).abs().amax(0) > 30  # (F, H, W) where the disc is
        same = (through - alone).abs().amax(0) < 30
        assert all(same[f][disc[f]].double().mean() > 0.8 for f in range(event, FRAMES))  # its rim blends


def test_discs_keep_apart_at_the_event_and_a_teleport_is_far():
    opened = reader(kinds=["teleport"], discs=4)
    for number in range(20):
        draws = np.random.default_rng(number)
        state = opened._drawn(draws, clear=0.0)
        place = opened._elsewhere(draws, state)
        assert math.dist(place, state.position[0]) > 0.3
        assert all(
            math.dist(place, p) > r + state.radius[0] for p, r in zip(state.position[1:], state.radius[1:], strict=True)
        )


def test_a_film_is_a_function_of_its_index_and_seed():
    one, two = reader(), reader()
    assert torch.equal(one.read(7).clip, two.read(7, np.random.default_rng(3)).clip)
    assert not torch.equal(one.read(7).clip, reader(seed=1).read(7).clip)
    assert not torch.equal(one.read(7).clip, reader(split="train").read(7).clip)
    assert len({one.key(i) for i in range(40)}) == 40


def test_kinds_take_turns_and_are_the_classes():
    opened = reader(kinds=["turn", "vanish"])
    samples = [opened.read(i) for i in range(0, 16, 4)]
    assert [s.label for s in samples] == [int(s.truth["property"]) for s in samples] == [0, 1, 0, 1]
    assert opened.classes == ["turn", "vanish"]
    assert [int(s.truth["scene"]) for s in samples] == [0, 1, 2, 3]
    assert samples[0].event == int(samples[0].truth["frame"]) / 4
    assert all(value.dtype == torch.int64 for value in samples[0].truth.values())


def test_wide_frames_are_filled():
    spec = ClipSpec(frames=8, height=24, width=64, fps=None, stride=1, random=False)
    opened = Violation().open(spec)
    assert all(opened.read(i).clip.shape == (3, 8, 24, 64) for i in range(20))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ["melt"]}, r"kinds: expected some of vanish, .*, got \['melt'\]"),
        ({"kinds": []}, "got none"),
        ({"discs": 5}, "discs: expected 1 to 4, got 5"),
        ({"size": 6}, "size: expected a multiple of 4, got 6"),
        ({"speed": 0.0}, "speed: expected above 0"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SOURCES.build({"name": "violation", **fields})


def test_a_film_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="frames: expected at least 4, got 2"):
        reader(frames=2)
