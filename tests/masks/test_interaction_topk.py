"""The faithful mask: the most salient tokens, exactly as many as the budget says."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks._saliency import KINDS, rgb, saliency
from vjepa_lab.masks.interaction_topk import InteractionTopk

GRID = Grid(8, 6, 6)


def clip(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("accel_feature", "accel_official")])
def test_what_is_hidden_is_more_salient_than_what_is_not(kind: str) -> None:
    strategy = InteractionTopk(saliency=kind)
    hidden = strategy.paint(GRID, rng(0, 0, batch=3), Sight(clip()))[0].hidden
    seen = saliency(kind, rgb(clip()), GRID)
    for mask, values in zip(hidden, seen, strict=True):
        assert values[mask].min() >= values[~mask].max()


def test_the_official_grid_hides_115_of_288() -> None:
    painted = InteractionTopk().paint(GRID, rng(0, 0, batch=3), Sight(clip()))[0]
    assert (painted.context, painted.target) == (173, 115)
    assert painted.hidden.flatten(1).sum(1).tolist() == [115] * 3


def test_tubelets_of_equal_saliency_are_hidden_in_random_order() -> None:
    """The official map is the same for all tubelets: the cell at which the budget ends is hidden in some of them."""
    masks = [
        InteractionTopk(saliency="accel_official").paint(GRID, rng(0, s, batch=3), Sight(clip()))[0] for s in (0, 1)
    ]
    assert not torch.equal(masks[0].hidden, masks[1].hidden)
    assert (masks[0].hidden.sum(1) % GRID.t != 0).flatten(1).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "words"), [({"saliency": "flow"}, "saliency is 'flow'"), ({"budget": 1.0}, "budget is 1.0")]
)
def test_a_wrong_field_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InteractionTopk(**wrong)
