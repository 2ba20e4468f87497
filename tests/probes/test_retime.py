"""Rearranged clips hold the same frames, whoever is in the batch with them."""

import pytest
import torch

from vjepa_lab.probes._retime import retime

CLIP = torch.randint(256, (4, 3, 6, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEYS = list("abcd")


def test_reversed_twice_is_the_clip():
    once = retime(CLIP, "reverse", keys=KEYS)
    assert torch.equal(once, CLIP.flip(2))
    assert torch.equal(retime(once, "reverse", keys=KEYS), CLIP)


def test_a_shuffled_clip_has_the_same_frames_in_another_order():
    for frames in (2, 6):
        clip = CLIP[:, :, :frames]
        keys = [f"{k}" for k in range(40)]
        many = clip[:1].expand(40, -1, -1, -1, -1)
        for got in retime(many, "shuffle", keys=keys):
            order = [next(f for f in range(frames) if torch.equal(clip[0, :, f], frame)) for frame in got.unbind(1)]
            assert sorted(order) == list(range(frames))
            assert order != list(range(frames))


def test_a_static_clip_is_its_middle_frame():
    got = retime(CLIP, "static", keys=KEYS)
    assert all(torch.equal(got[:, :, f], CLIP[:, :, 3]) for f in range(6))


def test_noise_knows_nothing_of_the_clip():
    got = retime(CLIP, "noise", keys=KEYS)
    assert torch.equal(got, retime(CLIP.flip(0), "noise", keys=KEYS))
    assert got.double().mean().item() == pytest.approx(127.5, abs=5)
    assert not torch.equal(got[0], got[1])


@pytest.mark.parametrize("kind", ["shuffle", "noise"])
def test_a_clip_is_rearranged_alike_in_every_batch(kind):
    whole = retime(CLIP, kind, keys=KEYS)
    assert torch.equal(whole[2], retime(CLIP[2], kind, keys="c"))


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="retime: got 'slow', expected one of reverse, shuffle, static, noise"):
        retime(CLIP, "slow", keys=KEYS)
