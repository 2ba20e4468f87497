"""Classes at a known distance are told apart as often as the closed form says, whatever the rotation and the scale."""

import math

import pytest
import torch

from vjepa_lab.probes._discriminability import discriminability, nearer_centroid, strata


def classes(distance, n=4000, d=4, k=2, seed=0):
    """k classes whose means are ``distance`` apart from each other, with isotropic noise of deviation 1."""
    label = torch.arange(n) % k
    mean = torch.eye(k, d, dtype=torch.float64) * distance / math.sqrt(2)
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean[label] + noise, label, torch.arange(n)


@pytest.mark.parametrize(("d", "published"), [(1, 0.691), (2, 0.840), (4, 0.977)])
def test_the_nearest_centroid_is_right_as_often_as_the_closed_form_says(d, published):
    x, label, _ = classes(d, n=40_000)
    got = nearer_centroid(x, label, 2)
    own = torch.nn.functional.one_hot(label, 2).bool()
    assert (got[own] == 0.5).all()  # a class and itself are no pair
    assert got[~own].mean().item() == pytest.approx(0.5 * (1 + math.erf(d / 2 / math.sqrt(2))), abs=0.01)
    assert got[~own].mean().item() == pytest.approx(published, abs=0.01)


def test_figures_have_intervals_over_videos():
    x, label, unit = classes(2, n=200)
    got = discriminability(x, label, unit // 2, strata(None, 2))["all/centroid"]
    assert got.low < got.value < got.high
    assert got.units == 100


def test_rotation_and_scale_change_nothing():
    x, label, unit = classes(2, n=300, d=8, k=5)
    q = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    one, other = (discriminability(z, label, unit, strata(None, 5)) for z in (x, 7 * x @ q + 3))
    for name in one:
        assert one[name].value == pytest.approx(other[name].value, abs=1e-9), name


def test_what_is_far_apart_is_told_apart_and_noise_is_not():
    far = discriminability(*classes(40, n=200, k=4), strata(None, 4))
    assert far["all/neighbour"].value == far["all/centroid"].value == far["all/auroc"].value == 1
    assert far["neighbour"].value == 1
    assert far["silhouette"].value > 0.9
    assert far["scatter_ratio"].value > 100
    none = discriminability(*classes(0, n=500, k=4), strata(None, 4))
    for name in ("all/neighbour", "all/centroid", "all/auroc"):
        assert none[name].value == pytest.approx(0.5, abs=0.05)
    assert none["neighbour"].value == pytest.approx(0.25, abs=0.05)
    assert abs(none["silhouette"].value) < 0.05
    assert none["scatter_ratio"].value < 0.03


def test_measures_are_those_of_a_plain_loop():
    x, label, unit = classes(1.5, n=41, d=5, k=3)
    got = discriminability(x, label, unit, strata(None, 3))
    z = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    near = z @ z.T
    neighbour, areas = [], []
    for a in range(3):
        for b in range(a + 1, 3):
            rows = [i for i in range(41) if label[i] in (a, b)]
            right = {a: [], b: []}
            within, between = [], []
            for i in rows:
                others = [j for j in rows if j != i]
                best = max(others, key=lambda j: near[i, j].item())
                right[label[i].item()].append(float(label[best] == label[i]))
                for j in others:
                    (within if label[i] == label[j] else between).append(near[i, j].item())
            neighbour.append(sum(sum(r) / len(r) for r in right.values()) / 2)
            areas.append(sum((w > s) + 0.5 * (w == s) for w in within for s in between) / len(within) / len(between))
    assert got["all/neighbour"].value == pytest.approx(sum(neighbour) / 3)
    assert got["all/auroc"].value == pytest.approx(sum(areas) / 3)
    silhouettes = []
    for i in range(41):
        means = [
            (1 - near[i, [j for j in range(41) if label[j] == k and j != i]]).mean().item() for k in range(3)
        ]  # fmt: skip
        a = means.pop(label[i])
        silhouettes.append((min(means) - a) / max(min(means), a))
    assert got["silhouette"].value == pytest.approx(sum(silhouettes) / 41)


def test_strata_follow_the_first_word():
    names = ["Pulling a from left", "Pulling a from right", "Holding a b"]
    found = strata(names, 3)
    assert set(found) == {"all", "same_verb", "different_verb"}
    assert found["same_verb"].nonzero().tolist() == [[0, 1], [1, 0]]
    assert found["different_verb"].sum() == 4
    assert set(strata(["left", "right"], 2)) == {"all"}
    assert strata(None, 174)["pretend_vs_real"].sum() == 44


def test_a_class_of_one_clip_is_left_out_and_a_single_class_is_refused():
    x, label, unit = classes(40, n=40, k=2)
    label = label.clone()
    label[0] = 2
    got = discriminability(x, label, unit, strata(None, 3))
    assert got["neighbour"].value == 1
    with pytest.raises(ValueError, match="got 1 classes with at least two clips"):
        discriminability(x, torch.zeros(40, dtype=torch.int64), unit, strata(None, 2))
