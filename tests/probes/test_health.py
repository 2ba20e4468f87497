"""The health probe tells healthy features from collapsed ones, and reports what it was given."""

import math

import pytest
import torch

from vjepa_lab.data.streams import Look, Stream
from vjepa_lab.features import FrozenEncoder
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.probes._controls import control
from vjepa_lab.probes._spectrum import rankme
from vjepa_lab.probes.health import Health

N, T, D, S = 400, 4, 24, 8


def features(between, within=0.3, n=N, seed=0):
    """Tubelets and tokens of clips that differ by ``between`` along each axis."""
    g = torch.Generator().manual_seed(seed)
    clip = torch.randn(n, 1, D, generator=g) * torch.as_tensor(between, dtype=torch.float32)
    return clip + within * torch.randn(n, T, D, generator=g), clip + within * torch.randn(n, S, D, generator=g)


def figures(views, tokens, unit=None, **fields):
    unit = torch.arange(len(views)) if unit is None else unit
    return dict(Health(clusters=16, **fields).figures(views, tokens, unit))


def test_isotropic_features_have_full_rank_and_no_common_direction():
    found = figures(*features(torch.ones(D)))
    assert found["rankme"].value == pytest.approx(D, rel=0.02)
    assert found["rankme"].low < found["rankme"].value < found["rankme"].high
    assert abs(found["cosine"].value) < 0.01
    assert found["std_mean"].value == pytest.approx(math.sqrt(1 + 0.09 / T), rel=0.03)
    assert found["dead"].value == 0
    assert found["token_entropy"].value > 0.9
    assert found["rankme"].units == N


@pytest.mark.parametrize("rank", [1, 5])
def test_features_in_a_subspace_are_told_by_rank_lidar_and_dead_dimensions(rank):
    between = torch.tensor([1.0] * rank + [0.0] * (D - rank))
    views, tokens = features(between, within=0.0)
    views = views + 1e-3 * torch.randn(N, T, D, generator=torch.Generator().manual_seed(1)) * between
    found = figures(views, tokens)
    for name in ("rankme", "effective_rank", "participation_ratio", "lidar"):
        assert found[name].value == pytest.approx(rank, rel=0.05), name
    assert found["dead"].value == pytest.approx(1 - rank / D)
    assert found["std_min"].value == 0


def test_an_offset_hides_everything_from_the_uncentred_rank_and_shows_as_cosine():
    views, tokens = features(torch.ones(D))
    found = figures(views + 10, tokens + 10)
    assert found["rankme"].value == pytest.approx(D, rel=0.02)
    assert found["rankme_uncentred"].value < D / 2
    # two clips share 10 along each of D axes; the rest is of variance 1 + .09 / T
    assert found["cosine"].value == pytest.approx(100 / (101 + 0.09 / T), abs=2e-3)


def test_cosine_is_the_mean_over_pairs():
    views, tokens = features(torch.ones(D), n=30)
    rows = torch.nn.functional.normalize(views.mean(1), dim=1).double()
    pairs = (rows @ rows.T)[~torch.eye(30, dtype=torch.bool)]
    assert figures(views + 0, tokens)["cosine"].value == pytest.approx(pairs.mean().item(), abs=1e-6)


def test_clips_of_one_video_do_not_narrow_the_interval():
    views, tokens = features(torch.ones(D), n=100)
    once = figures(views, tokens)
    unit = torch.arange(100).repeat(4)
    copied = figures(views.repeat(4, 1, 1), tokens.repeat(4, 1, 1), unit)
    for name in ("rankme", "cosine", "token_entropy"):
        width = [e[name].high - e[name].low for e in (once, copied)]
        assert width[1] > 0.6 * width[0], name
        assert copied[name].units == 100


def test_constant_features_are_collapsed():
    ones = torch.ones(50, T, D)
    found = figures(ones, torch.ones(50, S, D))
    assert all(math.isfinite(e.value) for e in found.values()), found
    assert found["rankme"].value < 1.1
    assert found["cosine"].value == pytest.approx(1)
    assert found["token_entropy"].value == 0
    assert found["std_mean"].value == 0
    assert found["dead"].value == 1


def test_without_groups_there_is_no_interval_and_with_one_tubelet_no_lidar():
    views, tokens = features(torch.ones(D), n=60)
    found = figures(views[:, :1], tokens, groups=0)
    assert "lidar" not in found
    assert math.isnan(found["rankme"].low)
    assert math.isnan(found["token_entropy"].high)


def test_an_encoder_is_measured_on_the_clips_of_the_source():
    torch.manual_seed(0)
    frozen = FrozenEncoder(encoder=Encoder(width=24, depth=2, heads=2, patch=8), frames=4, crop=16)
    probe = Health(clips=40, batch=16, clusters=8)
    stream = Stream(probe.demands()["test"], Look(frames=4, crop=16), batch=16)
    found = dict(probe.run(frozen, {"test": stream}))
    rows = torch.cat([frozen.pooled(batch.clip)[batch.valid] for batch in stream])
    assert found["rankme"].value == pytest.approx(rankme(rows), rel=1e-4)
    assert found["std_min"].value == pytest.approx(rows.std(0, correction=0).min().item(), rel=1e-3)
    inner = dict(Health(clips=40, batch=16, clusters=8, layer=0).run(frozen, {"test": stream}))
    assert inner["rankme"].value != found["rankme"].value
    constant = dict(probe.run(control("constant", frozen), {"test": stream}))
    assert constant["rankme"].value < 1.1 < 2 < found["rankme"].value


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"tokens": 0}, "tokens: expected at least 1"), ({"clusters": 1}, "clusters"), ({"groups": -1}, "groups")],
)
def test_wrong_fields_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Health(**fields)


def test_too_few_clips_are_refused():
    with pytest.raises(ValueError, match="got 5 clips, expected more than 5"):
        figures(*features(torch.ones(D), n=5))
