"""The motion probe knows a perfect encoder from a blind one, and splits never share a clip."""

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.clips import ClipSpec
from vjepa_lab.data.loader import evaluation
from vjepa_lab.probes.motion import Motion, pool_cells, state_per_tubelet
from vjepa_lab.registry import SOURCES

SPEC = ClipSpec(frames=8, height=32, width=32, fps=4.0, stride=None, random=False)
PROBE = Motion(fit_clips=200, select_clips=50, test_clips=60, batch=25)


class Oracle(nn.Module):
    """An "encoder" that reads the truth of the batch it is shown (through a side door), mixed linearly."""

    tubelet, patch = 2, 32

    def __init__(self, *, informed):
        super().__init__()
        self.informed = informed
        self.batch = None

    def forward(self, clip):
        y, _ = state_per_tubelet(self.batch, 4)
        mix = torch.randn(y.shape[2], 24, generator=torch.Generator().manual_seed(1))
        if not self.informed:
            y = torch.randn(y.shape, generator=torch.Generator().manual_seed(len(self.batch.key)))
        return y @ mix  # (B, 4 tubelets of one token, 24)


def streams(encoder):
    reader = SOURCES.build(PROBE.source).open(SPEC)
    for split, (_, first, count) in PROBE.demands().items():

        def stream(first=first, count=count):
            for batch in evaluation(reader, first=first, count=count, batch=PROBE.batch):
                encoder.batch = batch
                yield batch._replace(clip=batch.clip.float())

        yield split, stream()


@pytest.mark.parametrize(("informed", "low", "high"), [(True, 0.999, 1.0), (False, -0.3, 0.1)])
def test_an_informed_encoder_scores_one_and_a_blind_one_nothing(informed, low, high):
    encoder = Oracle(informed=informed)
    scores = dict(PROBE.run(encoder, dict(streams(encoder))))
    assert set(scores) == {"position", "velocity", "energy", "mean"}
    assert all(low <= value <= high for value in scores.values()), scores


def test_the_three_splits_are_disjoint():
    ranges = [set(range(first, first + count)) for _, first, count in PROBE.demands().values()]
    assert sum(map(len, ranges)) == len(set.union(*ranges)) == 310


def test_pooling_averages_tokens_of_one_tubelet_and_region():
    grid = Grid(2, 4, 4)
    tokens = torch.arange(32.0).view(1, 32, 1)
    pooled = pool_cells(tokens, grid, 2)
    assert pooled.shape == (1, 2, 4)
    assert pooled[0, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pooled[0, 1].tolist() == [18.5, 20.5, 26.5, 28.5]
    assert torch.equal(pool_cells(tokens, grid, 9), tokens.view(1, 2, 16))


def test_targets_are_the_mean_state_of_a_tubelets_frames():
    reader = SOURCES.build(PROBE.source).open(SPEC)
    batch = next(evaluation(reader, first=0, count=2, batch=2))
    y, columns = state_per_tubelet(batch, 4)
    assert y.shape == (2, 4, 3 * 2 + 3 * 2 + 3)
    expected = batch.truth["velocity"][1, 2:4, 1].mean(0)
    assert torch.allclose(y[1, 1, columns["velocity"]].view(3, 2)[1], expected)


def test_clips_without_exact_state_are_refused():
    reader = SOURCES.build(PROBE.source).open(SPEC)
    batch = next(evaluation(reader, first=0, count=2, batch=2))
    with pytest.raises(ValueError, match=r"probe motion: synthetic/.*source: \{name: synthetic\}"):
        state_per_tubelet(batch._replace(truth={}), 4)
