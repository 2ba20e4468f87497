"""Class-mean recall weighs classes alike, whatever their share, and its interval knows which rows belong together."""

import pytest
import torch

from vjepa_lab.probes._recall import class_mean
from vjepa_lab.probes._sweep import within


def test_a_scorer_that_favours_the_common_class_does_well_on_rows_and_badly_on_classes():
    """Oracle EK-3: 100 classes, 2,000 rows of the first and 1,000 of the others; the first is always among the five."""
    by_class, by_row = [], []
    for draw in range(200):
        generator = torch.Generator().manual_seed(draw)
        label = torch.cat((torch.zeros(2000, dtype=torch.int64), torch.randint(1, 100, (1000,), generator=generator)))
        score = torch.rand(3000, 100, generator=generator)
        score[:, 0] = 2
        hit = within(score[None], label, 5)[0]
        by_class.append(class_mean(hit, label, torch.zeros(3000)).value)
        by_row.append(hit.mean().item())
    assert sum(by_class) / 200 == pytest.approx((1 + 99 * 4 / 99) / 100, abs=0.0015)  # three standard errors
    assert sum(by_row) / 200 == pytest.approx((2000 + 1000 * 4 / 99) / 3000, abs=0.001)


def test_it_is_the_mean_of_the_classes_that_occur_by_hand():
    label = torch.tensor([7, 7, 7, 2, 2, 40])
    hit = torch.tensor([1, 1, 0, 0, 0, 1])
    found = class_mean(hit, label, torch.arange(6))
    assert found.value == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found.units == 6


def test_rows_of_one_recording_are_one_unit():
    generator = torch.Generator().manual_seed(1)
    hit = (torch.rand(50, generator=generator) < 0.5).repeat_interleave(20)  # all rows of a recording alike
    label, unit = torch.randint(0, 4, (1000,), generator=generator), torch.arange(50).repeat_interleave(20)
    apart, together = class_mean(hit, label, torch.arange(1000)), class_mean(hit, label, unit)
    assert together.units == 50
    assert together.high - together.low > 3 * (apart.high - apart.low)
    assert class_mean(hit, label, torch.zeros(1000)).units == 1
