"""Pairs of frames: what is shown of them, and that an action which is not theirs is found out."""

import numpy as np
import pytest
import torch

from vjepa_lab.probes import _pairs
from vjepa_lab.probes._pairs import Names, Pairs, alignment, check_alignment, coarse, joined, partners, repeated


def written(rho: float, *, length: int = 40_000, seed: int = 0):
    """A recording as LIBERO writes it: place t is stored after action t. (1, T, 2) and (1, T, 2)."""
    rng = np.random.default_rng(seed)
    actions = np.zeros((length, 2))
    for t in range(1, length):
        actions[t] = rho * actions[t - 1] + rng.normal(size=2)
    return torch.from_numpy(np.cumsum(actions, 0))[None], torch.from_numpy(actions)[None]


@pytest.mark.parametrize(
    ("rho", "expected"), [(0.0, {-1: 0.0, 0: 0.0, 1: 1.0}), (0.9, {-1: 0.9**4, 0: 0.9**2, 1: 1.0})]
)
def test_the_offset_of_a_recording_is_found_also_where_actions_are_smooth(rho, expected):
    """Oracle O-ALIGN: by closed form the R² at distance d is rho^(2d): naive pairing gives 0.81 and looks well."""
    places, actions = written(rho)
    found = alignment(places, actions[:, :-1])
    assert max(found, key=lambda k: found[k]) == 1
    for offset, value in expected.items():
        assert found[offset] == pytest.approx(value, abs=0.02), (offset, found)
    assert found[1] > 1 - 1e-9


def pairs(places, actions) -> Pairs:
    names = Names(("d_x", "d_y"), {"translation": slice(0, 2)})
    empty = torch.zeros(len(places), places.shape[1], 1)
    return Pairs({}, empty, actions, places, torch.arange(len(places)), [""] * len(places), names)


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_a_wrong_pairing_is_refused_and_the_right_one_is_told(rho):
    places, actions = written(rho)
    stretches = places[0].unfold(0, 8, 7).transpose(1, 2)
    wrong, right = (actions[0, s : s + len(places[0]) - 1].unfold(0, 7, 7).transpose(1, 2) for s in (0, 1))
    n = min(len(stretches), len(right))
    assert check_alignment(pairs(stretches[:n], right[:n]), "a")[0] > 1 - 1e-9
    with pytest.raises(ValueError, match=r"source a: the motion .* is that of action t \+1, expected action t; R2 .*"):
        check_alignment(pairs(stretches[:n], wrong[:n]), "a")


def test_actions_that_never_change_fit_every_offset_and_are_not_refused():
    speed = torch.randn(50, 1, 2, generator=torch.Generator().manual_seed(0))
    places = speed * torch.arange(8)[None, :, None]
    found = check_alignment(pairs(places, speed.expand(-1, 7, -1)), "a")
    assert min(found.values()) > 1 - 1e-6


def test_too_few_pairs_are_not_judged():
    """Two pairs are explained by any two actions."""
    places, actions = torch.randn(2, 4, 2), torch.randn(2, 3, 2)
    assert check_alignment(pairs(places, actions), "a") == {}
    assert set(alignment(torch.randn(20, 4, 2), torch.randn(20, 3, 2))) == {0}


def test_without_states_nothing_is_checked():
    places, actions = written(0.0, length=9)
    assert check_alignment(pairs(places, actions[:, :8])._replace(states=None), "a") == {}


def test_partners_are_other_frames_than_this_and_the_next_and_all_of_them_occur():
    found = partners([f"clip {i}" for i in range(300)], 5)
    now = torch.arange(4)
    assert found.shape == (300, 4)
    assert (found != now).all()
    assert (found != now + 1).all()
    assert [sorted(found[:, t].unique().tolist()) for t in range(4)] == [[2, 3, 4], [0, 3, 4], [0, 1, 4], [0, 1, 2]]
    assert torch.equal(found[7], partners(["clip 7"], 5)[0]), "a function of the clip alone"
    with pytest.raises(ValueError, match="frames: got 2, expected at least 3"):
        partners(["a"], 2)


def test_a_frame_is_repeated_and_a_picture_made_coarse_frame_by_frame():
    clip = torch.randint(0, 256, (2, 3, 5, 16, 24), dtype=torch.uint8)
    shown = repeated(clip, 2)
    assert shown.shape == (10, 3, 2, 16, 24)
    assert torch.equal(shown[7, :, 0], clip[1, :, 2])
    assert torch.equal(shown[7, :, 1], clip[1, :, 2])
    small = coarse(clip)
    assert small.shape == (2, 5, 192)
    by_hand = (clip[1, 2, 3, 2:4, 3:6].float().mean() / 255).item()
    assert small[1, 3].view(3, 8, 8)[2, 1, 1].item() == pytest.approx(by_hand, abs=1e-6)


def test_pairs_are_joined_as_they_are_or_as_a_difference():
    now, then = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 7.0]])
    assert joined(now, then, "concat").tolist() == [[1, 2, 5, 7]]
    assert joined(now, then, "diff").tolist() == [[1, 2, 4, 5]]


def test_ridge_on_pairs_is_that_of_the_normal_equations():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 5, generator=g), torch.randn(200, 2, generator=g)
    y = y + x[:, :2]
    fitted, score = _pairs.linear((x[:150], y[:150]), (x[150:], y[150:]))
    predicted = _pairs.predicted(fitted, x[150:])
    truth = y[150:].double()
    by_hand = 1 - (truth - predicted).square().sum(0) / (truth - truth.mean(0)).square().sum(0)
    assert score == pytest.approx(by_hand.mean().item(), abs=1e-9)
    plain = torch.linalg.lstsq(torch.cat([x[:150], torch.ones(150, 1)], 1).double(), y[:150].double()).solution
    assert torch.allclose(fitted.weight, plain[:5], atol=0.05, rtol=0.12), "but for the penalty"
