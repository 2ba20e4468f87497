"""One head reads all versions of a split: scores are its own, and features the mean tokens of what was shown."""

import pytest
import torch

from vjepa_lab.data.streams import Demand, Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._clean_head import CleanHead, Shape

LOOK = Look(frames=4, crop=16)
SHAPE = Shape(depth=1, heads=2, lrs=(1e-2,), wds=(0.0,), epochs=2)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return FrozenEncoder(encoder=Encoder(width=24, depth=1, heads=2, patch=8), frames=4, crop=16)


def streams():
    parts = {"fit": (0, 40), "select": (40, 16), "test": (56, 20)}
    return {s: Stream(Demand({"name": "synthetic", "split": "val"}, *p), LOOK, batch=20) for s, p in parts.items()}


@pytest.mark.parametrize("kind", ["linear", "knn", "attentive"])
def test_versions_are_read_by_the_same_head(encoder, kind):
    own = streams()
    head = CleanHead(encoder, own, kind, SHAPE)
    reads = head.read(own["test"], {"": None, "same": lambda clip, _: clip.clone(), "dark": lambda clip, _: clip // 4})
    clip = next(iter(own["test"])).clip
    assert torch.allclose(reads[""].x, encoder.pooled(clip), atol=1e-5)
    assert torch.allclose(reads["dark"].x, encoder.pooled(clip // 4), atol=1e-5)
    assert torch.equal(reads[""].scores, reads["same"].scores)
    assert not torch.equal(reads[""].scores, reads["dark"].scores)
    assert reads[""].scores.shape == (20, 8)
    assert torch.equal(reads[""].right, (reads[""].scores.argmax(1) == reads[""].label).double())
    if head.bank is not None:
        assert torch.allclose(
            reads[""].scores.float(), head.bank.scores(encoder.tokens(clip).tokens)["label"][0], atol=1e-5
        )


def test_a_split_without_labels_is_refused(encoder):
    own = streams()
    unlabelled = {"name": "synthetic", "split": "val", "label": "direction"}
    for name in own:
        own[name] = Stream(Demand(unlabelled, 0, 8, frames=1), LOOK._replace(frames=2), batch=8)
    with pytest.raises(ValueError, match="source synthetic: none of its videos has a label"):
        CleanHead(encoder, own, "linear", SHAPE)
