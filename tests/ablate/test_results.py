"""Comparisons are paired, counted as one family, and sentences say what the intervals allow and no more."""

import csv
import math
from pathlib import Path

import pytest

from vjepa_lab.ablate import plan, results, runs
from vjepa_lab.ablate.statistics import mean, paired
from vjepa_lab.config_ablate import runs_of

THREE = {name: {"masks": [{"name": name}]} for name in ("random", "tube", "motion")}


def made(config, values):
    means = {m: {a: mean(list(v.values())) for a, v in by.items()} for m, by in values.items()}
    seconds = {arm: mean([0.5]) for arm in config.arms}
    return results.Results(values, {}, means, results.compare(config, values), seconds, {})


def seeded(*numbers):
    return dict(enumerate(numbers))


def test_every_arm_meets_the_baseline_and_pairs_meet_in_every_metric(tiny):
    config = tiny(arms=THREE, seeds=[0, 1, 2], pairs=[["motion", "tube"]], baseline="random")
    values = {
        "a": {"random": seeded(1, 2, 3), "tube": seeded(2, 3.5, 4), "motion": seeded(1, 2.5, 2)},
        "b": {"random": seeded(0, 0, 1), "tube": seeded(0, 1, 1), "motion": seeded(3, 3, 3)},
    }
    found = results.compare(config, values)
    assert [(d.metric, d.arm, d.other) for d in found] == [
        (m, *pair) for m in "ab" for pair in (("tube", "random"), ("motion", "random"), ("motion", "tube"))
    ]
    assert found[0].mean == paired([2, 3.5, 4], [1, 2, 3])
    assert found[0].mean.value == pytest.approx(3.5 / 3)
    least = min(found, key=lambda d: d.mean.p)
    assert least.corrected == pytest.approx(min(1.0, 6 * least.mean.p))


def test_values_are_paired_by_seed_and_not_by_the_order_they_were_read_in(tiny):
    config = tiny(seeds=[0, 1, 2])
    values = {"a": {"random": {2: 3.0, 0: 1.0, 1: 2.0}, "tube": {0: 1.5, 1: 2.5, 2: 3.5}}}
    assert results.compare(config, values)[0].mean.value == 0.5
    assert results.compare(config, values)[0].mean.high == 0.5


def test_a_clear_difference_is_said_with_its_side_and_an_unclear_one_claims_nothing(tiny):
    config = tiny(arms=THREE, seeds=[0, 1, 2])
    values = {
        "clear": {
            "random": seeded(0.1, 0.5, 0.9),
            "tube": seeded(0.2001, 0.6, 0.9999),
            "motion": seeded(0.0001, 0.4, 0.7999),
        },
        "unclear": {"random": seeded(0, 0.1, 0.2), "tube": seeded(0.5, 0, 0), "motion": seeded(0.4, 0, 0.3)},
    }
    said = results.sentences(config, made(config, values))
    assert said[0].startswith("Of 4 comparisons 2 have a 95 % interval that leaves out 0, where 0.2 would be expected")
    assert any(s.startswith("clear: tube is above random by 0.100 (difference +0.100 [+0.1") for s in said)
    assert any(s.startswith("clear: motion is below random by 0.100 (difference -0.100 [-0.1") for s in said)
    unclear = next(s for s in said if s.startswith("unclear: "))
    assert "contains 0 for tube against random" in unclear
    assert "motion against random" in unclear
    assert "do not show that there is none" in unclear
    assert not any("unclear: tube is" in s for s in said)


def test_a_difference_that_does_not_survive_the_correction_is_said_to_be_possible_chance(tiny):
    config = tiny(arms=THREE, seeds=[0, 1, 2])
    noise = {"random": seeded(0, 0.1, 0.2), "tube": seeded(0.5, 0, 0), "motion": seeded(0.4, 0, 0.3)}
    just = {"random": seeded(0, 0, 0), "tube": seeded(0.1, 0.13, 0.16), "motion": seeded(0.5, -0.4, 0)}
    found = made(config, {"just": just, **{f"noise{i}": noise for i in range(5)}})
    d = found.differences[0]
    assert d.mean.low > 0
    assert d.corrected > 0.05
    said = results.sentences(config, found)
    assert "after Holm's correction for 12 comparisons 0 remain" in said[0]
    assert any(s.startswith("just: tube is above") and s.endswith("this can be chance.") for s in said)


def test_a_metric_that_no_arm_has_learnt_is_said_to_decide_nothing(tiny):
    config = tiny(seeds=[0, 1, 2])
    values = {
        "learnt": {"random": seeded(0.50, 0.51, 0.52), "tube": seeded(0.1, 0.11, 0.12)},
        "floor": {"random": seeded(0.1, -0.2, 0.1), "tube": seeded(-0.1, 0.2, 0.1)},
    }
    controls = {m: {"untrained": seeded(0.3, 0.301, 0.305) if m == "learnt" else seeded(0, 0, 0)} for m in values}
    said = results.sentences(config, made(config, values)._replace(controls=controls))
    learnt, floor = (next(s for s in said if s.startswith(f"{m} against an untrained")) for m in values)
    assert "above random +0.208 [" in learnt
    assert "below tube -0.192 [" in learnt
    assert "No arm is shown" not in learnt
    assert "contains 0, random +0.000 [" in floor
    assert floor.endswith("No arm is shown to have learnt what it measures: differences between arms in it say little.")
    partly = {"learnt": {"untrained": {0: 0.3}}}
    assert not any("untrained" in s for s in results.sentences(config, made(config, values)._replace(controls=partly)))


def test_one_seed_allows_no_sentence_about_arms(tiny):
    config = tiny(seeds=[0])
    said = results.sentences(config, made(config, {"a": {"random": {0: 1.0}, "tube": {0: 9.0}}}))
    assert said == ["One seed: there are no intervals, and a difference between arms may be chance of any size."]
    found = made(config, {"a": {"random": {0: 1.0}, "tube": {0: 9.0}}})
    assert "nan" not in results.in_words(config, found, said)
    assert "nan" not in str(results.table(config, found))


def test_a_declared_difference_is_part_of_what_is_said(tiny):
    arms = {"random": THREE["random"], "tube": {**THREE["tube"], "differs": ["flops"]}}
    config = tiny(arms=arms, seeds=[0, 1])
    said = results.sentences(config, made(config, {"a": {"random": seeded(1, 2), "tube": seeded(2, 3.1)}}))
    assert any(s.startswith("tube differs from random also in flops") for s in said)


def test_metrics_of_runs_are_read_chosen_and_written(tiny):
    config = tiny(records=["loss", "lr"], metrics=["loss"], batches=[2])
    grid = runs_of(config)
    for run in grid:
        assert runs.train(run) == 0
    found = results.collect(config, grid)
    assert list(found.values) == ["loss"]
    assert set(found.values["loss"]) == {"random", "tube"}
    last = [r for r in results.read_metrics(runs.folder(grid[0])) if "loss" in r][-1]["loss"]
    assert found.values["loss"]["random"][0] == last
    assert [step for step, _ in found.losses["tube"]] == [1.0, 2.0]
    assert found.step_seconds["tube"].n == 2
    assert math.isfinite(found.step_seconds["tube"].value)
    said = results.sentences(config, found)
    results.write(config, plan.make(config), found, said)
    out = Path(config.out)
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(r["arm"], r["minus"]) for r in rows] == [("random", ""), ("tube", ""), ("tube", "random")]
    assert float(rows[2]["value"]) == pytest.approx(float(rows[1]["value"]) - float(rows[0]["value"]))
    assert len(list(csv.DictReader((out / "runs.csv").open()))) == 4
    text = (out / "table.md").read_text()
    assert text.splitlines()[0].startswith("| arm | loss |")
    assert all(f"- {s}" in text for s in said)
    landed = list(csv.DictReader((out / "landing.csv").open()))
    assert [(r["arm"], r["clips per process"], r["context ids"]) for r in landed] == [
        (arm, batch, "4.0") for arm in ("random", "tube") for batch in ("2", "4")
    ]
    assert all(sum(float(r[f"context of tubelet {t}"]) for t in (0, 1)) == pytest.approx(1, abs=1e-3) for r in landed)
    assert "| tube | 2 | 4.0 | 4.0 | 0.5" in text
    with pytest.raises(ValueError, match=r"metrics: mse: not measured; there are: loss, lr"):
        results.collect(tiny(records=["loss", "lr"], metrics=["mse"]), grid)
    with pytest.raises(ValueError, match=r"no column rankme; there are: .*loss"):
        results.collect(tiny(records=["rankme"]), grid)
