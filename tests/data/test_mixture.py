"""The stream keeps its weights, visits everything once per pass, and is a function of (seed, slot)."""

from collections import Counter

import numpy as np
import pytest

from vjepa_lab.data.mixture import BLOCK, Mixture, permute


@pytest.mark.parametrize("size", [1, 2, 3, 10, 257, 1000])
def test_a_permutation_visits_everything_once(size):
    assert sorted(permute(i, size, key=7) for i in range(size)) == list(range(size))


def test_permutations_of_other_keys_differ_and_look_random():
    size = 1000
    one, two = ([permute(i, size, key) for i in range(size)] for key in (1, 2))
    assert one != two
    for order in (one, two):
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 5 / size**0.5
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / size**0.5


@pytest.mark.parametrize("weights", [[1.0], [0.335, 0.1, 0.565], [1, 1], [0.001, 0.999]])
def test_every_block_has_its_exact_shares_and_counts_go_on(weights):
    mixture = Mixture(weights, seed=0)
    seen = Counter()
    for slot in range(3 * BLOCK):
        source, count = mixture.locate(slot)
        assert count == seen[source]
        seen[source] += 1
    for source, weight in enumerate(weights):
        assert abs(seen[source] - 3 * BLOCK * weight / sum(weights)) <= 1


def test_a_slot_does_not_depend_on_what_was_asked_before():
    forward, backward = Mixture([0.3, 0.7], 5), Mixture([0.3, 0.7], 5)
    slots = [0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 17, 12345]
    assert [forward.locate(s) for s in slots] == [backward.locate(s) for s in reversed(slots)][::-1]
    assert [Mixture([0.3, 0.7], 6).locate(s) for s in range(64)] != [forward.locate(s) for s in range(64)]


def test_a_weight_too_small_to_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"data\.sources"):
        Mixture([1.0, 1e-5], 0)
