"""Occlusions hide the share of the pixels that they claim, and nothing else."""

import pytest
import torch

from vjepa_lab.probes._occlusions import LEVELS, dropped_frames, moving_block, occlude, patch_dropout
from vjepa_lab.probes._perturb import Draws

KINDS = list(LEVELS)


def clip(frames=16, side=80, width=None):
    """Random values without any that equal the mean colour."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, frames, side, width or side, generator=g)
    return torch.where((x - 0.5).abs() < 0.01, 0.9, x)


def hidden(x, out):
    """Pixels that show the clip's mean colour, (F, H, W)."""
    return ((out - x.mean((1, 2, 3), keepdim=True)).abs() < 1e-6).all(0)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_nought_is_the_very_tensor(kind):
    x = clip()
    assert occlude(x, kind, 0, keys="v") is x


@pytest.mark.parametrize(("severity", "share"), [(1, 0.0625), (2, 0.16), (3, 0.3025)])
@pytest.mark.parametrize("width", [80, 120])
def test_the_block_hides_its_share_of_every_frame(severity, share, width):
    x = clip(width=width)
    for key in "abcd":
        out = occlude(x, "moving_block", severity, keys=key)
        mask = hidden(x, out)
        assert torch.allclose(mask.double().mean((1, 2)), torch.full((16,), share, dtype=torch.float64))
        assert torch.equal(out[:, ~mask], x[:, ~mask])


def test_the_block_crosses_the_frame_once_on_a_straight_line():
    x, ways = clip(16, 100), []
    for i in range(40):
        mask = moving_block(x, 0.25, Draws("way", i))
        rows, columns = mask.any(2).int().argmax(1), mask.any(1).int().argmax(1)  # of the top left corner
        corner = torch.stack((rows, columns), 1).double()
        steps = corner[1:] - corner[:-1]
        assert (steps - steps.mean(0)).abs().max() <= 1  # even, to a pixel
        ends = corner[[0, -1]]
        assert ((ends == 0) | (ends == 75)).any(1).all()  # from an edge to an edge
        assert torch.allclose(ends.sum(0), torch.full((2,), 75.0, dtype=torch.float64), atol=1)  # through the middle
        ways.append(torch.atan2(steps.mean(0)[0], steps.mean(0)[1]).item())
    assert len({round(w, 1) for w in ways}) > 15
    assert min(ways) < -2
    assert max(ways) > 2


@pytest.mark.parametrize(("severity", "count"), [(1, 4), (2, 8), (3, 12)])
def test_that_many_frames_are_dropped(severity, count):
    x = clip()
    out = occlude(x, "temporal_dropout", severity, keys="v")
    gone = hidden(x, out).all(-1).all(-1)
    assert gone.sum() == count
    assert torch.equal(out[:, ~gone], x[:, ~gone])


@pytest.mark.parametrize(("frames", "left"), [(4, 2), (3, 2), (2, 2), (1, 1)])
def test_two_frames_are_left_at_least(frames, left):
    assert (~dropped_frames(frames, 0.75, Draws("d"))).sum() == left


def test_every_frame_is_dropped_equally_often():
    share = torch.stack([dropped_frames(8, 0.5, Draws("even", i)) for i in range(2000)]).double().mean(0)
    assert (share - 0.5).abs().max() < 5 * 0.5 / 2000**0.5


def test_hidden_frames_may_hold_the_previous_one():
    x = clip(8, 16)
    for key in "abcdefgh":
        out = occlude(x, "temporal_dropout", 2, keys=key, fill="previous")
        gone = hidden(x, occlude(x, "temporal_dropout", 2, keys=key)).all(-1).all(-1).tolist()
        shown = gone.index(False)
        for f in range(8):
            shown = shown if gone[f] else f
            assert torch.equal(out[:, f], x[:, shown]), (key, f)


@pytest.mark.parametrize(("severity", "rate"), [(1, 0.3), (2, 0.6), (3, 0.9)])
def test_boxes_are_dropped_whole_at_their_rate(severity, rate):
    x = clip(16, 160)
    masks = torch.stack([hidden(x, occlude(x, "patch_dropout", severity, keys=str(i))) for i in range(4)])
    boxes = masks.view(4, 8, 2, 10, 16, 10, 16).double().mean((2, 4, 6))
    assert ((boxes == 0) | (boxes == 1)).all()
    n = boxes.numel()
    assert boxes.mean().item() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)


def test_boxes_at_the_far_edge_are_cut_off():
    mask = patch_dropout(torch.zeros(3, 3, 20, 40), 1.0, Draws("b"))
    assert mask.shape == (3, 20, 40)
    assert mask.all()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_hidden_alike_in_every_batch(kind):
    x = (clip(4, 32) * 255).to(torch.uint8)
    batch = occlude(torch.stack((x, x)), kind, 2, keys=["v", "w"])
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[0], occlude(x, kind, 2, keys="v"))
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize(
    ("kind", "severity", "fill", "message"),
    [
        ("block", 1, "mean", "expected one of moving_block"),
        ("moving_block", 4, "mean", "got 4, expected 0 to 3"),
        ("temporal_dropout", 1, "black", "expected mean or previous"),
        ("patch_dropout", 1, "previous", "only temporal_dropout"),
    ],
)
def test_what_is_not_offered_is_refused(kind, severity, fill, message):
    with pytest.raises(ValueError, match=message):
        occlude(clip(), kind, severity, keys="v", fill=fill)
