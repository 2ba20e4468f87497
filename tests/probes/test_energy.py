"""The energy probe returns the closed forms for known features, and tells energy from motion that anyone can see."""

import pytest
import torch
from torch import nn

from vjepa_lab.batch import Grid
from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.probes.energy import Energy, Rows, explained, gained, kinetic
from vjepa_lab.tokens import IMAGENET, Features

LOOK = Look(frames=8, crop=32)
SMALL = Energy(fit_clips=160, test_clips=80, batch=20)


def clouds(features, sizes=(40_000, 5_000, 20_000)):
    """Splits of v ~ N(0, 1) of 4 objects on 2 axes, whose features are a function of v."""
    rows = {}
    for number, (split, n) in enumerate(zip(("fit", "select", "test"), sizes, strict=True)):
        v = torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(number))
        rows[split] = Rows(features(v).flatten(1), 0.5 * v.square().sum((1, 2)), torch.arange(n) // 10)
    return rows


# Of a coordinate |v|: corr(|v|, v^2)^2 = (2 / pi) / (2 (1 - 2 / pi)). Of a speed s on two axes: corr(s, s^2)^2 with
# E s = sqrt(pi / 2), E s^2 = 2, E s^3 = 3 sqrt(pi / 2), E s^4 = 8.
PI = torch.pi
KNOWN = {
    "linear": (lambda v: v, 0.0),
    "square": (lambda v: v.square(), 1.0),
    "linear and square": (lambda v: torch.cat([v, v.square()], 2), 1.0),
    "size of each component": (lambda v: v.abs(), (2 / PI) / (2 * (1 - 2 / PI))),
    "speed of each object": (lambda v: v.norm(dim=2), (PI / 2) / (4 * (2 - PI / 2))),
}


@pytest.mark.parametrize(("features", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_functions_of_velocity_score_their_closed_form(features, expected):
    found = explained(clouds(features))
    assert found.value == pytest.approx(expected, abs=0.01)
    assert found.units == 2000
    assert found.low <= found.value <= found.high


def test_the_closed_forms_are_the_published_figures():
    assert KNOWN["size of each component"][1] == pytest.approx(0.876, abs=5e-4)
    assert KNOWN["speed of each object"][1] == pytest.approx(0.915, abs=5e-4)


def test_gain_is_what_features_add_to_what_was_known():
    less = clouds(lambda v: v[:, :1].square())
    more = clouds(lambda v: v[:, :3].square())
    found = gained(less, more)
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert found.value == pytest.approx(explained(more).value - explained(less).value, abs=1e-9)
    assert abs(gained(less, less).value) < 1e-12


def test_energy_is_of_objects_in_sight_and_per_mass():
    v = torch.tensor([[[[3.0, 4.0], [1.0, 0.0]]]])
    truth = {"velocity": v, "visible": torch.tensor([[[0.2, 0.0]]])}
    assert kinetic(truth).tolist() == [[12.5]]
    spun = truth | {"spin": torch.tensor([[[[0.0, 0.0, 2.0], [9.0, 9.0, 9.0]]]]), "radius": torch.tensor([[0.5, 0.5]])}
    assert kinetic(spun, spin=True).item() == pytest.approx(12.5 + 0.5 * 0.4 * 0.25 * 4)


class Informed(nn.Module):
    """Tokens that are a function of the velocities in the clip that is shown (found by its pixels)."""

    tubelet, depth, width, statistics = 2, 1, 6, IMAGENET

    def __init__(self, streams, of):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.known = {}
        for stream in streams.values():
            for batch in stream:
                x = of(batch.truth["velocity"].flatten(2)).unflatten(1, (-1, 2)).mean(2)
                self.known |= {clip.sum().item(): row for clip, row in zip(batch.clip, x, strict=True)}

    def forward(self, clip, taps):
        sums = IMAGENET.restore(clip).round().long().flatten(1).sum(1).tolist()
        return Features(torch.stack([self.known[s] for s in sums]) * self.scale, Grid(4, 1, 1)), {}


def measured(of):
    streams = {name: Stream(demand, LOOK, batch=20) for name, demand in SMALL.demands().items()}
    return dict(SMALL.run(FrozenEncoder(encoder=Informed(streams, of), frames=8, crop=32), streams))


def test_squares_of_velocities_tell_energy_and_velocities_do_not():
    squares, linear = measured(lambda v: v.square()), measured(lambda v: v)
    assert squares["r2"].value > 0.999
    assert squares["tubelet"].value > 0.999
    assert squares["gain"].value > 0.05
    assert linear["r2"].value < 0.05
    assert set(squares) == {"r2", "peak", "log", "tubelet", "mass", "change", "objects", "both", "gain"}
    # all discs of the default world are always in sight: their number tells nothing
    assert abs(squares["objects"].value) < 0.02
    assert squares["change"].value == linear["change"].value
    assert squares["r2"].units == 80


def test_fields_out_of_range_are_refused():
    with pytest.raises(ValueError, match="probe energy: fit_clips and test_clips: got 0 and 5"):
        Energy(fit_clips=0, test_clips=5)
