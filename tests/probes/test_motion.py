"""The motion probe knows a perfect encoder from a blind one, and splits never share a clip."""

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes.motion import Motion, state_per_tubelet
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=8, crop=32)
PROBE = Motion(fit_clips=200, select_clips=50, test_clips=60, batch=25)


class Oracle(nn.Module):
    """A backbone that knows the truth of the clip it is shown (by its pixels), mixed linearly."""

    tubelet, depth, width, statistics = 2, 1, 24, IMAGENET

    def __init__(self, streams, *, informed):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known = {}
        mix = torch.randn(15, 24, generator=torch.Generator().manual_seed(1))
        for stream in streams.values():
            for batch in stream:
                y, _ = state_per_tubelet(batch.truth, 4, "clip")
                if not informed:
                    y = torch.randn(y.shape, generator=torch.Generator().manual_seed(len(self.known)))
                for clip, row in zip(batch.clip, y @ mix, strict=True):
                    self.known[clip.sum().item()] = row

    def forward(self, clip, taps):
        sums = IMAGENET.restore(clip).round().long().flatten(1).sum(1).tolist()
        return Features(torch.stack([self.known[s] for s in sums]) * self.scale, Grid(4, 1, 1)), {}


@pytest.mark.parametrize(("informed", "low", "high"), [(True, 0.999, 1.0), (False, -0.3, 0.1)])
def test_an_informed_encoder_scores_one_and_a_blind_one_nothing(informed, low, high):
    streams = {split: Stream(demand, LOOK, batch=PROBE.batch) for split, demand in PROBE.demands().items()}
    encoder = FrozenEncoder(encoder=Oracle(streams, informed=informed), frames=8, crop=32)
    scores = dict(PROBE.run(encoder, streams))
    assert set(scores) == {"position", "velocity", "energy", "mean"}
    assert all(low <= e.value <= high for e in scores.values()), scores
    assert all(e.units == 60 for e in scores.values())


def test_the_three_splits_are_disjoint():
    ranges = [set(range(d.first, d.first + d.count)) for d in PROBE.demands().values()]
    assert sum(map(len, ranges)) == len(set.union(*ranges)) == 310


def one_batch():
    return next(iter(Stream(Demand(PROBE.source, 0, 2), LOOK, batch=2)))


def test_targets_are_the_mean_state_of_a_tubelets_frames():
    batch = one_batch()
    y, columns = state_per_tubelet(batch.truth, 4, "clip")
    assert y.shape == (2, 4, 3 * 2 + 3 * 2 + 3)
    expected = batch.truth["velocity"][1, 2:4, 1].mean(0)
    assert torch.allclose(y[1, 1, columns["velocity"]].view(3, 2)[1], expected)


def test_clips_without_exact_state_are_refused():
    with pytest.raises(ValueError, match=r"probe motion: a.mp4 has no known.*source: \{name: synthetic\}"):
        state_per_tubelet({}, 4, "a.mp4")
