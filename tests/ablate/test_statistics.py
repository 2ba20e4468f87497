"""Intervals, paired differences and Holm's correction against closed forms and printed tables."""

import math

import pytest

from vjepa_lab.ablate.statistics import holm, inside, mean, paired, quantile


@pytest.mark.parametrize(
    ("df", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (14, 2.145), (30, 2.042), (120, 1.980)],
)
def test_the_quantile_is_that_of_the_printed_table(df, t):
    assert quantile(0.95, df) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0, 50.0])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t):
    assert inside(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-12)
    assert inside(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-12)


@pytest.mark.parametrize("df", [3, 4, 7, 8])
def test_more_degrees_of_freedom_agree_with_the_integral_of_the_density(df):
    density = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    n, t = 20_000, 1.7
    xs = ((i + 0.5) * t / n for i in range(n))
    area = 2 * t / n * sum(density * (1 + x * x / df) ** (-(df + 1) / 2) for x in xs)
    assert inside(t, df) == pytest.approx(area, abs=1e-8)


def test_a_mean_has_students_interval():
    m = mean([1.0, 2.0, 4.0])
    half = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)
    assert m.value == pytest.approx(7 / 3)
    assert (m.low, m.high) == (pytest.approx(7 / 3 - half, rel=1e-6), pytest.approx(7 / 3 + half, rel=1e-6))
    t = 7 / 3 / (math.sqrt(7 / 3) / math.sqrt(3))
    assert m.p == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_pairing_takes_out_what_seeds_share():
    seeds = [0.1, 0.5, 0.9]
    apart = paired([s + 0.02 + e for s, e in zip(seeds, (0.001, 0.0, -0.001), strict=True)], seeds)
    assert apart.value == pytest.approx(0.02)
    assert 0 < apart.low < apart.high < 0.03
    assert apart.p < 0.05
    assert mean(seeds).high - mean(seeds).low > 1.5  # unpaired, such a difference drowns


def test_seeds_that_do_not_match_are_no_pairs():
    with pytest.raises(ValueError, match="got 2 and 3"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


def test_one_seed_has_no_interval_and_nan_stays():
    assert math.isnan(mean([1.0]).low)
    assert math.isnan(mean([1.0]).p)
    assert math.isnan(mean([1.0, math.nan]).value)
    assert mean([2.0, 2.0]) == (2.0, 2.0, 2.0, 0.0, 2)
    assert mean([0.0, 0.0]).p == 1.0


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    corrected = holm([0.02, math.nan, 0.01])
    assert corrected[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(corrected[1])


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    import numpy as np

    draws = np.random.Generator(np.random.Philox(key=1)).normal(0.3, 2.0, size=(2000, 3))
    held = sum((m := mean(row)).low <= 0.3 <= m.high for row in draws)
    assert 0.935 < held / 2000 < 0.965
