"""Partners are found whatever the order, and ties are one half."""

import pytest
import torch

from vjepa_lab.probes._choice import partners, wins


def test_partners_are_found_in_any_order_and_without_their_partner_rows_do_not_count():
    pair = torch.tensor([7, 3, 5, 3, 7, 9])
    first = torch.tensor([False, True, True, False, True, False])
    got = partners(pair, first)
    assert got.first.tolist() == [1, 4]
    assert got.second.tolist() == [3, 0]


def test_two_rows_of_a_kind_and_no_pair_at_all_are_refused():
    with pytest.raises(ValueError, match="pair 3: got two rows of one kind"):
        partners(torch.tensor([3, 3, 3]), torch.tensor([True, True, False]))
    with pytest.raises(ValueError, match="no pair with both"):
        partners(torch.tensor([1, 2]), torch.tensor([True, False]))


def test_a_tie_is_one_half():
    assert wins(torch.tensor([2.0, 0.0, -1e-30])).tolist() == [1, 0.5, 0]
