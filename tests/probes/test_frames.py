"""Frames one by one: whose tokens, whose pixels, in which order."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid, RobotBatch
from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._frames import _film, moments, read

LOOK = Look(frames=4, crop=16)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=2, heads=2, patch=8), frames=4, crop=16)


def stream(frames: int = 4, count: int = 5, **fields) -> Stream:
    return Stream(Demand({"name": "synthetic", "split": "val"}, count=count, frames=frames), LOOK, batch=2, **fields)


def clips(**fields):
    return torch.cat([batch.clip[batch.valid] for batch in stream(**fields)])


def test_a_frame_by_itself_has_the_tokens_of_the_repeated_image(encoder):
    frames = read(encoder, stream(frames=3))
    images = clips(frames=3).transpose(1, 2).flatten(0, 1)
    assert torch.equal(frames.pixels, images)
    assert frames.per == 1
    assert frames.grid == Grid(1, 2, 2)
    assert torch.allclose(frames.tokens, encoder.image(images, frames=2).tokens, atol=1e-5)
    assert frames.unit.tolist() == [u for u in range(5) for _ in range(3)]
    assert frames.first.tolist() == [True, False, False] * 5


def test_of_a_clip_at_once_a_tubelet_stands_for_its_frames(encoder):
    frames = read(encoder, stream(), feed="clip4")
    whole = encoder.tokens(clips()).tokens  # (5, 2 * 4, 24)
    assert frames.per == 2
    assert frames.grid == Grid(1, 2, 2)
    assert torch.allclose(frames.tokens, whole.reshape(10, 4, 24), atol=1e-5)
    assert len(frames.pixels) == len(frames.unit) == len(frames.first) == 20


def test_an_inner_layer_is_read_where_it_is_asked_for(encoder):
    frames = read(encoder, stream(), layer=0)
    images = clips().transpose(1, 2).flatten(0, 1)
    alone = encoder.taps(images.unsqueeze(2).expand(-1, -1, 2, -1, -1), [0])[0].tokens
    assert torch.allclose(frames.tokens, alone, atol=1e-5)


def test_the_control_pairs_tokens_with_the_pixels_of_another_clip(encoder):
    plain, control = (read(encoder, stream(count=20, shuffled=s)) for s in (False, True))
    assert torch.equal(plain.tokens, control.tokens)
    whole = {tuple(clip.flatten().tolist()): i for i, clip in enumerate(plain.pixels.unflatten(0, (20, 4)))}
    order = [whole[tuple(clip.flatten().tolist())] for clip in control.pixels.unflatten(0, (20, 4))]
    assert sorted(order) == list(range(20)), "clips stay whole"
    assert order != list(range(20))


def test_clips_that_end_within_a_tubelet_are_refused(encoder):
    with pytest.raises(ValueError, match=r"frames: got 3, expected a multiple of the encoder's 2 frames per tubelet"):
        read(encoder, stream(frames=3), feed="clip4")


def test_the_frames_of_an_episode_are_its_pixels():
    frames = torch.randint(256, (1, 3, 2, 4, 4), dtype=torch.uint8)
    nothing = torch.zeros(1)
    batch = RobotBatch(
        frames=frames, states=nothing, actions=nothing, extrinsics=nothing, valid=nothing.bool(), key=["episode"]
    )
    assert torch.equal(_film(batch)["pixels"], frames)


def test_moments_are_those_of_all_tokens_at_once():
    tokens = 5 + 3 * torch.randn(1500, 4, 6, generator=torch.Generator().manual_seed(0))
    mean, std = moments(tokens)
    assert torch.allclose(mean, tokens.flatten(0, 1).mean(0), atol=1e-4)
    assert torch.allclose(std, tokens.flatten(0, 1).std(0, correction=0), atol=1e-4)
