"""The collision probe finds what velocities tell, finds nothing in features without content, and uses clips fairly."""

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes.collision import Collision, windows
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=8, crop=24)
PROBE = Collision(fit_clips=240, test_clips=120, batch=40, steps=120, seeds=2)
T = 4


def turns(truth):
    """Does a speed along an axis change from frame to frame? Walls change none, collisions do."""
    speed = truth["velocity"].abs()
    change = speed.diff(dim=1, prepend=speed[:, :1]).abs().amax((2, 3))  # (B, F)
    return (change.unflatten(1, (T, -1)).amax(2)[..., None] > 1e-6).float()


class Informed(nn.Module):
    """Tokens that are a function of the truth of the clip that is shown (found by its pixels)."""

    tubelet, depth, width, statistics = 2, 1, 1, IMAGENET

    def __init__(self, streams, of):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known = {}
        for stream in streams.values():
            for batch in stream:
                self.known |= {clip.sum().item(): row for clip, row in zip(batch.clip, of(batch.truth), strict=True)}

    def forward(self, clip, taps):
        sums = IMAGENET.restore(clip).round().long().flatten(1).sum(1).tolist()
        return Features(torch.stack([self.known[s] for s in sums]) * self.scale, Grid(T, 1, 1)), {}


@pytest.fixture(scope="module")
def streams():
    """Of clips that are made once."""
    made = {name: Stream(demand, LOOK, batch=40) for name, demand in PROBE.demands().items()}
    for stream in made.values():
        batches = list(stream)
        stream.__class__ = type("Made", (Stream,), {"__iter__": lambda self: iter(self.batches)})
        stream.batches = batches
    return made


def measured(streams, of):
    return dict(PROBE.run(FrozenEncoder(encoder=Informed(streams, of), frames=8, crop=24), streams))


@pytest.fixture(scope="module")
def informed(streams):
    return measured(streams, turns)


def test_changes_of_velocity_tell_collisions_and_when_they_are(informed):
    assert informed["accuracy"].value >= 0.99
    assert informed["auroc"].value >= 0.999
    assert informed["time"].value >= 0.99
    assert informed["accuracy"].units == 120
    assert informed["time"].units == 60


def test_features_without_content_stay_at_chance_and_places_are_told_apart_from_them(streams, informed):
    found = measured(streams, lambda truth: torch.zeros(len(truth["velocity"]), T, 1))
    assert found["accuracy"].value == pytest.approx(0.5)
    assert found["auroc"].value == 0.5
    assert found["time"].value == pytest.approx(1 / T)
    # the prior: it needs no features at all, and is the same whatever they are
    assert 0.4 < found["place/accuracy"].value < 0.8
    assert found["place/auroc"] == informed["place/auroc"]


def told(*collided, n=1, frames=8):
    """Clips with collisions of the first two of three things after the frames before those that are listed."""
    truth = torch.zeros(n, frames, 3, 3, dtype=torch.bool)
    for clip, frame in collided:
        truth[clip, frame, 0, 1] = truth[clip, frame, 1, 0] = True
    return truth


def test_clips_whose_collision_nothing_shows_are_left_out_and_kinds_are_even():
    # 0: at the first frames; 1: at the last; 2, 4: inside; 3, 5, 6: none
    truth = told((0, 1), (1, 7), (2, 2), (4, 6), (4, 3), n=7)
    rows, label, tubelet = windows(truth, 4)
    assert rows.tolist() == [2, 3, 4, 5]
    assert label.tolist() == [True, False, True, False]
    assert tubelet.tolist() == [1, -1, -1, -1], "frame 2 is of tubelet 1; of two collisions there is no one time"


def test_two_pairs_that_collide_at_once_are_no_one_collision():
    truth = told((0, 4), n=2)
    truth[0, 4, 1, 2] = truth[0, 4, 2, 1] = True
    assert windows(truth, 4).tubelet.tolist() == [-1, -1]


def test_clips_of_one_kind_alone_are_refused():
    probe = Collision(source={"name": "synthetic", "split": "val", "speed": 1e-4}, fit_clips=4, test_clips=4, batch=4)
    streams = {name: Stream(demand, LOOK, batch=4) for name, demand in probe.demands().items()}
    encoder = FrozenEncoder(encoder=Informed(streams, turns), frames=8, crop=24)
    with pytest.raises(ValueError, match="probe collision: source synthetic: got 4 clips, expected some"):
        list(probe.run(encoder, streams))


def test_what_is_fitted_and_what_is_measured_share_no_clip():
    demands = PROBE.demands()
    assert set(demands) == {"fit", "test"}
    assert demands["test"] == Demand(PROBE.source, first=240, count=120)
    with pytest.raises(ValueError, match=r"probe collision: fit_clips.*steps: got 0, expected at least 1"):
        Collision(fit_clips=0, steps=0)
