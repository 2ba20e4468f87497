"""Pretending is told from doing by the scores of the two classes."""

import torch

from vjepa_lab.probes._pretend import PRETEND, pretend_scores


def test_there_are_22_pairs_and_no_class_is_in_two():
    assert sorted(PRETEND) == list(range(63, 85))
    assert len(set(PRETEND.values())) == 22
    assert not set(PRETEND) & set(PRETEND.values())
    assert PRETEND[65] == 149
    assert PRETEND[84] == 164


def test_clips_are_counted_where_they_belong_and_ties_are_one_half():
    label = torch.tensor([65, 149, 65, 10])
    scores = torch.zeros(4, 174)
    scores[0, 65], scores[0, 3] = 1, 2  # beats its partner and the other 21, not class 3
    scores[1, 65] = 1
    got = pretend_scores(scores, label)
    assert got["top1"][:3].tolist()[::2] == [0, 0]
    assert got["top1_of_22"][0] == 1
    assert got["pretending"][0] == 1
    assert got["pretending"][2] == 0.5
    assert got["doing"][1] == 0
    assert got["doing"].isnan().tolist() == [True, False, True, True]
    assert got["pretending"].isnan().tolist() == got["top1"].isnan().tolist() == [False, True, False, True]
