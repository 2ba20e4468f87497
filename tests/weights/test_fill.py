"""A network is filled with the very tensors it is given, after every key and shape has been compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vjepa_lab.weights.fill import compare, differences, fill, first_few


def network():
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))


def tensors():
    return {
        "0.weight": torch.randn(5, 3),
        "0.bias": torch.randn(5),
        "1.weight": torch.randn(5),
        "1.bias": torch.randn(5),
    }


def test_parameters_are_the_tensors_themselves():
    empty, given = network(), tensors()
    assert fill(empty, given) == []
    assert all(p.data_ptr() == given[name].data_ptr() for name, p in empty.named_parameters())
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in empty.parameters())
    assert not empty.training


def test_narrow_numbers_become_float32():
    filled, given = network(), {key: value.bfloat16() for key, value in tensors().items()}
    fill(filled, given)
    assert {p.dtype for p in filled.parameters()} == {torch.float32}
    assert torch.equal(filled[0].weight, given["0.weight"].float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(value):
    given = tensors()
    given["1.weight"][3] = value
    assert fill(network(), given) == ["1.weight"]


def change(key, value):
    return {**tensors(), key: value}


def without(key):
    return {k: v for k, v in tensors().items() if k != key}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (tensors(), None),
        (without("0.bias"), "1 missing: 0.bias"),
        (change("2.bias", torch.zeros(1)), "1 in excess: 2.bias"),
        (change("0.weight", torch.zeros(3, 5)), "1 transposed: 0.weight (file (3, 5), expected (5, 3))"),
        (change("0.bias", torch.zeros(6)), "1 of another shape: 0.bias (file (6,), expected (5,))"),
        (change("0.bias", torch.zeros(5, dtype=torch.int64)), "1 without floating-point numbers: 0.bias (torch.int64)"),
    ],
)
def test_each_difference_has_its_own_line(given, line):
    assert differences(network(), given) == ([] if line is None else [line])


def test_all_differences_are_told_at_once():
    given = {"0.weight": torch.zeros(3, 5), "x": torch.zeros(1)}
    with pytest.raises(
        ValueError, match=r"f\.pt: encoder: its tensors are not those of this network\n  3 missing"
    ) as told:
        compare(network(), given, path=Path("f.pt"), name="encoder")
    assert str(told.value).count("\n") == 3


def test_what_may_be_in_excess_is_no_difference():
    assert not differences(network(), change("pos_embed", torch.zeros(1)), {"pos_embed"})


def test_long_lists_are_cut_and_counted():
    assert first_few(list("abcde")) == "a, b, c, d and 1 more"
    assert first_few(["a"]) == "a"
