"""The probe of contact knows a reader of the push, a fine eye from a coarse one, and nothing where nothing is shown."""

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes.contact import Contact
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=8, crop=64)
SIZES = {"fit_clips": 100, "select_clips": 40, "test_clips": 100, "batch": 20}


class Eye(nn.Module):
    """A few numbers of the last frame, as one token. What is not floor is told by its colour from the corner's."""

    tubelet, depth, width, statistics = 8, 1, 64, IMAGENET

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip, taps):
        x = self.look((IMAGENET.restore(clip) / 255).double()).float()
        x = torch.cat((x, x.new_zeros(len(x), 64 - x.shape[1])), 1)[:, None] * self.scale
        return Features(x, Grid(1, 1, 1)), {}


def shown(clip):
    """What is not floor in the first and the last frame: extents by row (B, 2, H), and how much of them is filled."""
    ends = clip[:, :, [0, -1]]
    off = (ends - ends[..., :1, :1]).abs().amax(1) > 0.04  # (B, 2, H, W)
    at = torch.arange(off.shape[-1])
    first, last = torch.where(off, at, 999).amin(-1), torch.where(off, at, -1).amax(-1)
    return first, last, off.sum(-1)


def fine(clip):
    """How much floor there is between the ends of the widest row of the last frame."""
    first, last, filled = (x[:, 1] for x in shown(clip))
    inside = torch.where(last >= 0, last - first + 1 - filled, 0)
    return inside.gather(1, (last - first).argmax(1, keepdim=True)).double()


def coarse(clip):
    """The last frame at a sixteenth of its size."""
    return nn.functional.avg_pool2d(clip[:, :, -1], 16).flatten(1)


def pushed(clip):
    """How far the outer edge of the box has moved: the disc's own is always further."""
    first, last, _ = shown(clip)
    moves = [(edge[:, 0] - edge[:, 1]).abs() for edge in (first.amin(-1), last.amax(-1))]
    return torch.minimum(*moves)[:, None].double()


def measured(look, shuffled=False, **fields):
    probe = Contact(**SIZES, **fields)
    streams = {s: Stream(d, LOOK, batch=20, shuffled=shuffled) for s, d in probe.demands().items()}
    return dict(probe.run(FrozenEncoder(encoder=Eye(look), frames=8, crop=64), streams))


def test_a_fine_eye_sees_the_gap_and_a_coarse_one_does_not():
    sharp, blurred = (measured(look, gaps=[4.0], push=0.0) for look in (fine, coarse))
    assert sharp["gap/4"].value > 0.95
    assert sharp["gap/4/paired"].value > 0.9
    below = measured(coarse, gaps=[0.5], push=0.0)
    assert below["gap/0.5"].value == pytest.approx(0.5, abs=0.1)
    assert blurred["gap/4"].value < sharp["gap/4"].value
    assert set(sharp) == {"gap/4", "gap/4/paired"}
    assert sharp["gap/4"].units == 50


def test_a_reader_of_the_push_is_always_right_and_sees_none_without_it():
    got = measured(pushed, gaps=[4.0], push=2.0)
    assert got["push"].value == got["push/paired"].value == 1
    assert got["gap/4"].value == pytest.approx(0.5, abs=0.05)


def test_labels_of_other_clips_are_chance():
    got = measured(fine, shuffled=True, gaps=[4.0], push=0.0)
    assert got["gap/4"].value == pytest.approx(0.5, abs=0.15)


def test_pairs_are_whole_and_in_one_split_each():
    probe = Contact(**SIZES)
    streams = {s: Stream(d, LOOK, batch=20) for s, d in probe.demands().items()}
    assert set(streams) == {f"{w}/{s}" for w in ("gap/1", "gap/2", "gap/4", "push") for s in ("fit", "select", "test")}
    rows = [set((streams[f"gap/1/{s}"].rows // 2).tolist()) for s in ("fit", "select", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 120
    assert all(len(streams[f"gap/1/{s}"].rows) % 2 == 0 for s in ("fit", "select", "test"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fit_clips": 5}, "fit_clips: got 5, expected an even number"),
        ({"gaps": []}, "gaps: got"),
        ({"gaps": [1.0, 1.0]}, "expected different widths"),
        ({"source": {"name": "contact", "gap": 1.0}}, "source: got gap, expected none"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Contact(**fields)


def test_a_source_without_pairs_is_refused():
    probe = Contact(**SIZES)
    stream = Stream(probe.demands()["gap/1/fit"]._replace(source={"name": "synthetic", "split": "val"}), LOOK, batch=20)
    with pytest.raises(ValueError, match="source synthetic has no pairs"):
        probe._table(FrozenEncoder(encoder=Eye(coarse), frames=8, crop=64), stream)
