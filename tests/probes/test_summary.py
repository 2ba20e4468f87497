"""Clips and tubelets are averaged as the encoder says, beside what changes in the pixels and what is true of them."""

import pytest
import torch

from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._controls import Pixels
from vjepa_lab.probes._summary import summarise, told

LOOK = Look(frames=4, crop=16)


def stream():
    return Stream(Demand({"name": "synthetic", "split": "val"}, 3, 5), LOOK, batch=2)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=1, heads=2, patch=8), frames=4, crop=16)


def test_features_are_those_of_the_encoder(encoder):
    found = summarise(encoder, stream())
    clips = torch.cat([batch.clip[batch.valid] for batch in stream()])
    assert found.clip.shape == (5, 24)
    assert found.tubelet.shape == (5, 2, 24)
    torch.testing.assert_close(found.clip, encoder.pooled(clips, "mean"))
    torch.testing.assert_close(found.tubelet, encoder.pooled(clips, "tubelet"))
    torch.testing.assert_close(found.tubelet.mean(1), found.clip)


def test_change_is_the_mean_difference_of_neighbouring_frames(encoder):
    found = summarise(encoder, stream())
    clips = torch.cat([batch.clip[batch.valid] for batch in stream()]).double()
    plain = [[(c[:, f + 1] - c[:, f]).abs().mean().item() / 255 for f in range(3)] for c in clips]
    torch.testing.assert_close(found.change.double(), torch.tensor(plain, dtype=torch.float64))


def test_encoders_that_lay_places_side_by_side_are_read_too():
    encoder = FrozenEncoder(encoder=Pixels(tubelet=2, depth=1), frames=4, crop=16)
    found = summarise(encoder, stream())
    clips = torch.cat([batch.clip[batch.valid] for batch in stream()])
    torch.testing.assert_close(found.clip, encoder.pooled(clips, "mean"))
    torch.testing.assert_close(found.tubelet, encoder.pooled(clips, "tubelet"))


def test_what_is_true_of_a_clip_stands_beside_it(encoder):
    found = summarise(encoder, stream())
    truth = torch.cat([batch.truth["velocity"][batch.valid] for batch in stream()])
    assert torch.equal(found.truth["velocity"], truth)
    told(found, ("velocity", "visible"), "energy")
    with pytest.raises(ValueError, match=r"probe energy: .* tells no spin; expected a source whose truth does"):
        told(found, ("velocity", "spin"), "energy")
