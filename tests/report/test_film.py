"""Feature films: planted components are found, their colours lie where the tokens are, twice is the same."""

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.report.film import components, pca_film
from vjepa_lab.tokens import Features

CLIPS = torch.randint(0, 256, (3, 3, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Planted:
    """Tokens of 2 x 2 x 2 that hold three numbers, mixed into 16 channels about an offset."""

    def __init__(self, gains=(9.0, 3.0, 1.0)):
        rng = torch.Generator().manual_seed(1)
        self.truth = torch.randn(3, 8, 3, generator=rng) * torch.tensor(gains)
        self.basis = torch.linalg.qr(torch.randn(16, 16, generator=rng))[0][:3]
        self.shown = 0

    def tokens(self, clip):
        self.shown += 1
        return Features((self.truth[[(self.shown - 1) % 3]]) @ self.basis + 100, Grid(2, 2, 2))


def test_planted_components_are_found_in_order_with_their_shares():
    truth = torch.randn(500, 3, generator=torch.Generator().manual_seed(2)).double()
    truth = torch.linalg.qr(truth - truth.mean(0))[0] * torch.tensor([9.0, 3.0, 1.0])
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(3)).double())[0][:3]
    found, share = components(truth @ basis + 50)
    assert torch.allclose(found.abs(), truth.abs(), atol=1e-9)
    assert share == pytest.approx((81 / 91, 9 / 91, 1 / 91), abs=1e-9)
    signs = (found * truth).sum(0).sign()
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True)).flatten()
    assert torch.equal(signs, largest.sign())  # the largest entry of every axis is positive


def test_a_colour_lies_where_and_when_its_token_is():
    shown = pca_film(Planted(), CLIPS)
    assert shown.frames.shape == shown.colours.shape == (3, 4, 8, 8, 3)
    assert torch.equal(shown.frames, CLIPS.permute(0, 2, 3, 4, 1))
    for part in (shown.colours[:, :2], shown.colours[:, 2:]):
        assert torch.equal(part[:, 0], part[:, 1])  # one tubelet
    cells = shown.colours[:, ::2, ::4, ::4]
    assert torch.equal(cells.repeat_interleave(4, 2).repeat_interleave(4, 3), shown.colours[:, ::2])
    assert len(cells.reshape(-1, 3).unique(dim=0)) > 20
    assert shown.strips.shape == (3, 4, 8, 16, 3)


def test_colours_are_shared_by_all_clips():
    encoder = Planted()
    encoder.truth[1] = encoder.truth[0]
    shown = pca_film(encoder, CLIPS)
    assert torch.equal(shown.colours[0], shown.colours[1])
    assert not torch.equal(shown.colours[0], shown.colours[2])


def test_twice_is_the_same_and_normalised_clips_are_shown_as_they_were():
    torch.manual_seed(0)
    encoder = FrozenEncoder(encoder=Encoder(width=24, depth=1, heads=2, patch=4), frames=4, crop=8)
    first, again = pca_film(encoder, CLIPS), pca_film(encoder, encoder.statistics.normalise(CLIPS))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.colours, again.colours)
    assert 0 < sum(first.share) <= 1


@pytest.mark.parametrize("gains", [(0.0, 0.0, 0.0), (5.0, 0.0, 0.0)], ids=["nothing", "one axis"])
def test_directions_in_which_nothing_varies_are_grey(gains):
    shown = pca_film(Planted(gains), CLIPS)
    varies = [len(shown.colours[..., i].unique()) > 1 for i in range(3)]
    assert varies == [gain > 0 for gain in gains]
    assert shown.share == pytest.approx([float(g > 0) for g in gains], abs=1e-5)


def test_two_channels_make_two_components():
    found, share = components(torch.randn(50, 2, generator=torch.Generator().manual_seed(4)).double())
    assert found.shape == (50, 3)
    assert not found[:, 2].any()
    assert share[2] == 0


def test_one_clip_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"clips: expected \(C, 3, F, H, W\)"):
        pca_film(Planted(), CLIPS[0])
