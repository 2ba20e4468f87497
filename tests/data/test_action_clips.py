"""Stretches of episodes read as clips: the same frames, the actions beside them, the reader's own order."""

import numpy as np
import pytest
import torch

from vjepa_lab.batch import RobotSample
from vjepa_lab.data.action_clips import ActionClips
from vjepa_lab.data.clips import BadSample
from vjepa_lab.data.loader import Loader
from vjepa_lab.data.skips import Skips


class Episodes:
    augment = False
    name = "episodes"

    def __len__(self) -> int:
        return 6

    def read(self, index: int, rng: np.random.Generator) -> RobotSample:
        if index == 3:
            raise BadSample("missing", "episodes/3", "cut")
        actions = torch.full((3, 2), float(index))
        frames = torch.full((3, 4, 8, 8), index, dtype=torch.uint8)
        return RobotSample(frames, torch.zeros(4, 2), actions, torch.zeros(4, 6))


class Ordered(Episodes):
    def order(self, key: int, position: int) -> int:
        return 5 - position


def test_a_stretch_is_a_clip_with_its_actions():
    sample = ActionClips(Episodes()).read(2, np.random.default_rng(0))
    assert sample.clip.shape == (3, 4, 8, 8)
    assert sample.truth["action"].tolist() == [[2.0, 2.0]] * 3
    assert sample.label == -1
    with pytest.raises(BadSample):
        ActionClips(Episodes()).read(3, np.random.default_rng(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_them_keeps_actions_beside_frames_and_the_order_of_the_reader(workers):
    loader = Loader(
        [ActionClips(Ordered())], [1.0], batch=2, batches=3, seed=0, skips=Skips(None), workers=workers, truth=True
    )
    batches = list(loader)
    assert all(torch.equal(b.clip[:, 0, 0, 0, 0].float(), b.truth["action"][:, 0, 0]) for b in batches)
    seen = [int(c) for b in batches for c in b.clip[:, 0, 0, 0, 0]]
    assert seen[:2] == [5, 4]
    assert 3 not in seen
    assert not hasattr(ActionClips(Episodes()), "order")
