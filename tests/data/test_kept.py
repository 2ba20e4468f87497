"""Kept features belong to the same steps, states and actions as the pictures would, and damage is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vjepa_lab.data import kept
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.containers import Unreadable
from vjepa_lab.data.decoders import Decoded
from vjepa_lab.data.episodes import Episode, EpisodeReader
from vjepa_lab.data.kept import KeptReader, whole
from vjepa_lab.data.robot import RobotSpec
from vjepa_lab.robots import DROID

SPEC = RobotSpec(frames=4, height=8, width=8, fps=5.0, crop="centre")


class Grey:
    """Episodes whose picture of step n is grey of level n + 40 * episode; the video has ``extra`` frames more."""

    name, robot, rate = "grey", DROID, 15.0

    def __init__(self, *, episodes=3, steps=30, extra=0, bad=(), **fields):
        self.episodes, self.steps, self.extra, self.bad, self.fields = episodes, steps, extra, set(bad), fields
        self.loaded = 0

    def __len__(self):
        return self.episodes

    def key(self, index):
        return f"grey/{index}"

    def load(self, index):
        self.loaded += 1
        if index in self.bad:
            raise Unreadable("truncated", "on purpose")

        def pictures(choose):
            times = np.arange(self.steps + self.extra) / 60
            ids = choose(times)
            frames = np.ones((len(ids), 10, 12, 3), np.uint8) * (ids + 40 * index)[:, None, None, None].astype(np.uint8)
            return Decoded(frames, ids, times[ids])

        states = np.random.default_rng(index).uniform(0.1, 0.4, (self.steps, 7))
        return Episode(states, np.arange(self.steps) / 15, pictures)._replace(**self.fields)


def features_of(frames: torch.Tensor) -> torch.Tensor:
    """(F, 4, 2): a nonlinear function of each frame alone."""
    level = frames.float().mean((0, 2, 3))
    return torch.stack([torch.sin(level * k) for k in range(1, 9)], 1).unflatten(1, (4, 2))


def fill(layout, spec, folder, dtype=torch.float32) -> KeptReader:
    reader = KeptReader(EpisodeReader(layout, spec), folder)
    for number in reader.lacking():
        try:
            found = whole(reader.reader, number)
            reader.write(number, found, features_of(found.frames).to(dtype))
        except BadSample as error:
            reader.write_bad(number, error)
    return reader


@pytest.mark.parametrize(
    ("layout", "spec"),
    [
        ({}, SPEC),
        ({}, SPEC._replace(random=False, clips=2)),
        ({}, SPEC._replace(fps=None, crop="released")),
        ({"clock": None, "steps": 100}, SPEC),
        ({"extra": 1}, SPEC),
        ({"extra": -1}, SPEC),
        ({"extrinsics": np.random.default_rng(0).uniform(0, 1, (30, 6))}, SPEC._replace(extrinsics=True)),
        ({"actions": np.random.default_rng(0).uniform(-0.02, 0.02, (29, 7))}, SPEC),
    ],
    ids=["fps", "middle", "every step", "header", "a picture more", "a picture less", "extrinsics", "actions"],
)
def test_a_stretch_has_the_features_of_the_pictures_that_would_have_been_read(tmp_path, layout, spec):
    layout = Grey(**layout)
    plain, reader = EpisodeReader(layout, spec), fill(layout, spec, tmp_path)
    layout.loaded = 0
    assert len(reader) == len(plain)
    starts = set()
    for index in range(len(plain)):
        for seed in range(8):
            ours = reader.read(index, np.random.default_rng(seed))
            assert layout.loaded == 0, "nothing of the source is opened"
            theirs = plain.read(index, np.random.default_rng(seed))
            layout.loaded = 0
            assert torch.equal(ours.features, features_of(theirs.frames))
            for name in ("states", "actions", "key"):
                assert str(getattr(ours, name)) == str(getattr(theirs, name))
            assert torch.equal(ours.extrinsics.nan_to_num(9), theirs.extrinsics.nan_to_num(9))
            assert ours.frames.shape == (3, 4, 0, 0)
            starts.add(ours.key)
    assert len(starts) > len(plain) or not spec.random


def test_long_episodes_are_decoded_piece_by_piece(tmp_path, monkeypatch):
    at_once = whole(EpisodeReader(Grey(), SPEC), 1)
    monkeypatch.setattr(kept, "AT_ONCE", 7)
    pieces = whole(EpisodeReader(Grey(), SPEC), 1)
    assert torch.equal(pieces.frames, at_once.frames)
    assert at_once.frames.shape == (3, 30, 8, 8)
    assert at_once.frames[0, :, 0, 0].tolist() == list(range(40, 70))


def test_what_is_there_is_not_lacking_and_what_is_cut_off_is(tmp_path):
    reader = fill(Grey(bad=[1]), SPEC, tmp_path)
    assert list(reader.lacking()) == [1], "what could not be read is tried again"
    path = reader.path(2)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(reader.lacking()) == [1, 2]
    assert list(fill(Grey(), SPEC, tmp_path).lacking()) == []


def test_an_episode_that_cannot_be_read_is_a_bad_sample_for_the_same_reason(tmp_path):
    reader = fill(Grey(bad=[1]), SPEC, tmp_path)
    with pytest.raises(BadSample, match=r"grey/1: truncated: on purpose"):
        reader.read(1, np.random.default_rng(0))
    short = fill(Grey(steps=6), SPEC, tmp_path / "short")
    with pytest.raises(BadSample, match="grey/0: too_short"):
        short.read(0, np.random.default_rng(0))


def test_a_file_that_is_gone_is_missing(tmp_path):
    reader = KeptReader(EpisodeReader(Grey(), SPEC), tmp_path)
    with pytest.raises(BadSample, match="missing: its features are not kept: no file"):
        reader.read(0, np.random.default_rng(0))


def test_every_flipped_byte_is_found_when_it_is_read(tmp_path):
    """Of features those of the frames that are read, of numbers any."""
    spec = SPEC._replace(random=False)
    reader = fill(Grey(episodes=1), spec, tmp_path)
    path, good = reader.path(0), reader.path(0).read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    told, unread = set(), 0
    whole_sample = reader.read(0, np.random.default_rng(0))
    for at in range(header, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :])
        try:
            sample = reader.read(0, np.random.default_rng(0))
        except ValueError as error:
            told.add(str(error))
        else:
            assert torch.equal(sample.features, whole_sample.features)
            assert torch.equal(sample.states, whole_sample.states)
            unread += 1
    assert told
    assert all(text.startswith(f"{path}: damaged (the checksum of ") for text in told)
    assert 7 * unread < 4 * 32 * 26, "of 30 steps those that are not read"
    assert unread > 100


def test_a_damaged_header_is_told(tmp_path):
    reader = fill(Grey(episodes=1), SPEC, tmp_path)
    path = reader.path(0)
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"00000000\.safetensors: damaged .* remove it"):
        reader.read(0, np.random.default_rng(0))


def test_bfloat16_takes_half_the_size_and_is_near(tmp_path):
    full, half = (fill(Grey(), SPEC, tmp_path / str(d), d) for d in (torch.float32, torch.bfloat16))
    samples = [reader.read(0, np.random.default_rng(0)).features for reader in (full, half)]
    assert samples[1].dtype == torch.bfloat16
    assert 0 < (samples[0] - samples[1].float()).abs().max() < 1 / 128
    assert half.path(0).stat().st_size < full.path(0).stat().st_size - 30 * 8 * 2 + 100


def test_readers_with_an_order_of_their_own_keep_it(tmp_path):
    class Ordered(EpisodeReader):
        def order(self, key: int, position: int) -> int:
            return (position + key) % len(self)

    assert KeptReader(Ordered(Grey(), SPEC), tmp_path).order(1, 0) == 1  # type: ignore[attr-defined]
    assert not hasattr(KeptReader(EpisodeReader(Grey(), SPEC), tmp_path), "order")
