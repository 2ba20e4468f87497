"""The released recipe, peculiarities included: one plane for all of time, raster order, labels, wrong frames."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.dist import rng
from vjepa_lab.masks import Sight
from vjepa_lab.masks.ia_jepa import IaJepa

GRID = Grid(8, 6, 6)


def clip(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 48, 48, generator=torch.Generator().manual_seed(0))


def of_the_clip(recorded: int) -> float:
    """Frame 0 to 15 of a clip at which a frame of a recording of 128 lies."""
    return recorded * 15 / 127


def test_labels_are_off_by_default() -> None:
    assert IaJepa().gt_boost is False
    assert IaJepa().gt_index == "fixed"


def test_one_plane_decides_for_all_tubelets_and_the_last_cell_is_cut_in_raster_order() -> None:
    hidden = IaJepa().paint(GRID, rng(0, 0, batch=2), Sight(clip()))[0].hidden
    assert hidden.flatten(1).sum(1).tolist() == [115, 115]
    through = hidden.sum(1).flatten(1)
    for row in through:
        assert sorted(row.tolist()) == [0] * 21 + [115 - 14 * 8] + [8] * 14
    cut = (through == 3).nonzero()
    for row, cell in cut.tolist():
        assert hidden[row].flatten(1)[:, cell].tolist() == [True] * 3 + [False] * 5


def test_nothing_is_drawn() -> None:
    one, two = (IaJepa().paint(GRID, rng(0, s, batch=2), Sight(clip()))[0].hidden for s in (0, 1))
    assert torch.equal(one, two)


def test_a_static_clip_gets_its_first_tokens() -> None:
    hidden = IaJepa().paint(GRID, rng(0, 0, batch=1), Sight(torch.zeros(1, 3, 16, 48, 48)))[0].hidden.flatten()
    assert hidden.nonzero().flatten().tolist() == list(range(115))


@pytest.mark.parametrize(("index", "expected"), [("fixed", [0, 0, 0, 0, 1, 0, 0, 0]), ("buggy", [0] * 8)])
def test_an_event_at_frame_64_of_128_lands_in_tubelet_4_or_with_the_bug_nowhere(index: str, expected: list) -> None:
    strategy = IaJepa(gt_boost=True, gt_index=index)  # type: ignore[arg-type]
    assert strategy.events_per_tubelet(torch.tensor([[of_the_clip(64)]]), GRID, 16).tolist() == [expected]


def test_with_the_bug_an_early_event_lands_too_late() -> None:
    event = torch.tensor([[of_the_clip(12), torch.nan]])
    places = {
        index: IaJepa(gt_boost=True, gt_index=index).events_per_tubelet(event, GRID, 16)[0].nonzero().item()  # type: ignore[arg-type]
        for index in ("fixed", "buggy")
    }
    assert places == {"fixed": 0, "buggy": 6}


def test_labels_pull_the_mask_to_the_tubelet_of_the_event() -> None:
    event = torch.tensor([[of_the_clip(64), of_the_clip(64)], [torch.nan, torch.nan]])
    sight = Sight(clip(), event=event)
    boosted = IaJepa(gt_boost=True).paint(GRID, rng(0, 0, batch=2), sight)[0].hidden
    plain = IaJepa().paint(GRID, rng(0, 0, batch=2), sight)[0].hidden
    assert boosted[0, 4].all()
    assert not plain[0, 4].all()
    assert torch.equal(boosted[1], plain[1])
    assert boosted.flatten(1).sum(1).tolist() == [115, 115]


def test_labels_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="gt_boost needs annotated events"):
        IaJepa(gt_boost=True).paint(GRID, rng(0, 0, batch=2), Sight(clip()))


@pytest.mark.parametrize(("wrong", "words"), [({"gt_index": "raw"}, "gt_index"), ({"recorded": 1}, "recorded")])
def test_a_wrong_field_is_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IaJepa(**wrong)
