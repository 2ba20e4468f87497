"""DSCS and its parts on features of which the answer is known, and the maps of what reversal makes of a class."""

import math

import pytest
import torch

from vjepa_lab.probes._directions import PAIRS, antonyms, distances, figures, parts, symmetric
from vjepa_lab.registry import SOURCES


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scored(scores, backward, label, antonym, clean=None, other=None, same=None):
    n, k = scores.shape
    clean = torch.eye(n) if clean is None else clean
    distance = distances(clean, clean if other is None else other)
    same = torch.zeros(k, dtype=torch.bool) if same is None else same
    summed = parts(scores, backward, label, antonym, same, distance).sum(0, keepdim=True)
    return {name: value.item() for name, value in figures(summed).items()}


@pytest.mark.parametrize("alpha", [0, 0.1, 0.5, 1, 2])
def test_distance_of_what_reversal_negates_is_the_closed_form(alpha):
    """z = (s, alpha a), and a is negated: 1 - cosine is 2 alpha^2 / (1 + alpha^2)."""
    s, a = gaussian(2000, 256), alpha * gaussian(2000, 256, seed=1)
    centred, raw = distances(torch.cat((s, a), 1), torch.cat((s, -a), 1))
    expected = 2 * alpha**2 / (1 + alpha**2)
    assert raw.mean().item() == pytest.approx(expected, abs=0.03)
    assert centred.mean().item() == pytest.approx(expected, abs=0.03)


def test_a_common_offset_hides_a_reversal_unless_it_is_removed():
    s, a = gaussian(2000, 64), gaussian(2000, 64, seed=1)
    centred, raw = distances(torch.cat((s, a), 1) + 10, torch.cat((s, -a), 1) + 10)
    assert centred.mean().item() == pytest.approx(1, abs=0.03)
    assert raw.mean() < 0.03


def test_an_encoder_blind_to_time_scores_nothing():
    label = torch.arange(80) % 8
    scores = torch.nn.functional.one_hot(label, 8).double()
    z = gaussian(80, 16)
    got = scored(scores, scores, label, antonyms("synthetic", 8), z, z)
    assert got["dscs"] == got["afr"] == got["afr_u"] == got["afr_2"] == got["dscs_harmonic"] == 0
    assert got["cd"] == pytest.approx(0, abs=1e-12)
    assert got["unchanged"] == 1


def test_a_perfect_flip_of_orthogonal_features_scores_one():
    label = torch.arange(80) % 8
    turn = antonyms("synthetic", 8)
    one_hot = torch.nn.functional.one_hot
    z = torch.cat((torch.eye(80), torch.zeros(80, 80)), 1)
    other = torch.cat((torch.zeros(80, 80), torch.eye(80)), 1)
    other = other + z.mean(0)  # orthogonal once the clean set's mean is away
    got = scored(one_hot(label, 8).double(), one_hot(turn[label], 8).double(), label, turn, z, other)
    assert got["afr"] == got["afr_2"] == got["afr_u"] == 1
    assert got["dscs"] == pytest.approx(1, abs=0.02)
    assert got["dscs_geometric"] == pytest.approx(1, abs=0.02)
    assert got["dscs_harmonic"] == pytest.approx(1, abs=0.02)


def test_a_change_of_features_without_a_flip_of_meaning_scores_nothing():
    label = torch.arange(80) % 8
    garbage = torch.nn.functional.one_hot((label + 1) % 8, 8).double()
    got = scored(torch.nn.functional.one_hot(label, 8).double(), garbage, label, antonyms("synthetic", 8),
                 gaussian(80, 32), gaussian(80, 32, seed=1))  # fmt: skip
    assert got["cd"] == pytest.approx(0.5, abs=0.05)
    assert got["afr"] == got["dscs"] == 0
    assert got["afr_2"] == 0.5  # the scores say nothing about the two


def test_flips_are_counted_by_hand():
    turn = antonyms({0: 1}, 4)
    label = torch.tensor([0, 0, 0, 1, 2])
    now = [[3, 0, 0, 9], [5, 1, 0, 0], [5, 1, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0]]
    then = [[0, 3, 0, 9], [0, 5, 1, 0], [5, 0, 1, 0], [4, 0, 5, 0], [0, 0, 5, 0]]
    scores, backward = torch.tensor(now, dtype=torch.float64), torch.tensor(then, dtype=torch.float64)
    got = scored(scores, backward, label, turn, same=torch.tensor([0, 0, 1, 0]).bool())
    assert got["afr"] == pytest.approx(1 / 3)  # of rows 1, 2, 3 only row 1
    assert got["afr_u"] == pytest.approx(1 / 4)
    assert got["afr_2"] == pytest.approx(3 / 4)  # rows 0, 1 and 3 flip between the two; row 2 does not
    assert got["symmetric_stability"] == 1
    assert got["unchanged"] == 3 / 5


def test_nothing_to_count_is_no_number():
    got = scored(torch.eye(4).double(), torch.eye(4).double(), torch.arange(4), antonyms({}, 4))
    assert math.isnan(got["afr"])
    assert math.isnan(got["dscs"])
    assert math.isnan(got["symmetric_stability"])
    assert not math.isnan(got["cd"])


def test_maps_are_involutions_of_the_known_size():
    sizes = {"ssv2_strict": 20, "ssv2_lexical": 24, "ssv2_physical": 34, "synthetic": 8}
    for name in PAIRS:
        turn = antonyms(name, 8 if name == "synthetic" else 174)
        has = torch.nonzero(turn >= 0).flatten()
        assert len(has) == sizes[name]
        assert torch.equal(turn[turn[has]], has)
        assert (turn[has] != has).all()
        assert not symmetric(name, len(turn))[has].any()
    assert symmetric("ssv2_strict", 174).sum() == 11


def test_a_pull_reversed_is_a_push_and_words_say_otherwise():
    """Four classes on a line: pull and push, leftwards and rightwards, of an object that a hand on one side moves.

    Only the physical map gives a perfect reader of motion and hand side a perfect score.
    """
    pull_right, pull_left, push_right, push_left = 86, 87, 93, 94  # the hand leads, or follows
    state = {pull_right: (1, 1), pull_left: (-1, -1), push_right: (1, -1), push_left: (-1, 1)}  # motion, hand side
    backward = {k: next(j for j, s in state.items() if s == (-m, h)) for k, (m, h) in state.items()}
    label = torch.tensor(list(state))
    scores = torch.nn.functional.one_hot(label, 174).double()
    turned = torch.nn.functional.one_hot(torch.tensor([backward[k] for k in state]), 174).double()
    afr = {
        name: scored(scores, turned, label, antonyms(name, 174))["afr"] for name in ("ssv2_lexical", "ssv2_physical")
    }
    assert afr == {"ssv2_lexical": 0, "ssv2_physical": 1}


def test_the_synthetic_map_is_what_reversal_does():
    """A clip played backwards moves to the opposite sector: read from the exact positions of the world."""
    from vjepa_lab.data.clips import ClipSpec

    spec = ClipSpec(frames=8, height=32, width=32, fps=4.0, stride=None, random=False)
    reader = SOURCES.build({"name": "synthetic", "split": "val"}).open(spec)
    turn = antonyms("synthetic", 8)

    def sector(position):
        dx, dy = (position[4, 0] - position[3, 0]).tolist()
        return round(math.atan2(dy, dx) / (math.pi / 4)) % 8

    for index in range(30):
        sample = reader.read(index)
        position = sample.truth["position"]
        assert sector(position) == sample.label
        assert sector(position.flip(0)) == turn[sample.label]


@pytest.mark.parametrize(
    ("choice", "classes", "message"),
    [
        ("ssv2", 174, "expected one of ssv2_strict"),
        ("ssv2_strict", 100, "is for 174 classes, got 100"),
        ({0: 9}, 4, "two different classes in 0..3"),
        ({1: 1}, 4, "two different classes"),
        ({0: 1, 1: 2}, 4, "class 1 has two antonyms, 0 and 2"),
    ],
)
def test_maps_that_are_none_are_refused(choice, classes, message):
    with pytest.raises(ValueError, match=message):
        antonyms(choice, classes)
