"""Arms that differ in what they do not say are refused before anything is measured or trained."""

from pathlib import Path

import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import AblateConfig, declared
from vjepa_lab.merge import load
from vjepa_lab.validate import validate
from vjepa_lab.validate_ablate import probe_config

TINY = str(Path(__file__).parent / "train/tiny.yaml")
RANDOM, TUBE = ({"masks": [{"name": name, "ratio": 0.5}]} for name in ("random", "tube"))


def ablation(**fields):
    config = load(AblateConfig)
    config.base, config.arms, config.records = TINY, {"random": RANDOM, "tube": TUBE}, ["loss"]
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def problems(**fields):
    with pytest.raises(ConfigError) as caught:
        validate(ablation(**fields))
    return str(caught.value)


def test_arms_that_differ_in_what_is_compared_are_accepted():
    validate(ablation())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"optim": {"steps": 7}}, "optim.steps"),
        ({"optim.lr": 1e-4}, "optim.lr"),
        ({"data": {"sources": [{"name": "synthetic", "speed": 0.5}]}}, "data.sources"),
        ({"keep": "head"}, "keep"),
        ({"encoder": {"depth": 3}}, "encoder.depth"),
        ({"ema": {"end": 0.99}}, "ema.end"),
    ],
)
def test_a_field_that_an_arm_does_not_share_is_refused_unless_declared(changes, field):
    arms = {"random": RANDOM, "tube": {**TUBE, **changes}}
    text = problems(arms=arms)
    assert f"arms.tube: {field} is " in text
    assert f"declare arms.tube.differs: [{field}]" in text
    arms["tube"]["differs"] = [field]
    validate(ablation(arms=arms))
    arms["tube"]["differs"] = [field.partition(".")[0]]  # its whole block
    validate(ablation(arms=arms))


def test_the_comparison_may_be_about_another_field():
    arms = {"random": {"keep": "random"}, "head": {"keep": "head"}}
    assert "keep is head, in the baseline random random" in problems(arms=arms)
    validate(ablation(arms=arms, compares=["keep"]))


def test_a_declared_difference_must_exist():
    text = problems(arms={"random": RANDOM, "tube": {**TUBE, "differs": ["optim.lr"]}})
    assert "arms.tube.differs: declares optim.lr, in which it equals random" in text
    text = problems(arms={"random": RANDOM, "tube": {**TUBE, "differs": ["flopz"]}})
    assert "arms.tube.differs: unknown 'flopz'; did you mean 'flops'?" in text


def test_two_equal_arms_are_refused():
    assert "arms.again: equals arm random in every field" in problems(arms={"random": RANDOM, "again": dict(RANDOM)})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"base": ""}, "base: got '', expected a YAML file"),
        ({"base": "nowhere.yaml"}, "base: no file nowhere.yaml"),
        ({"arms": {"random": RANDOM}}, "arms: got 1, expected at least 2"),
        ({"arms": {"random": RANDOM, "a/b": TUBE}}, "arms: got the name 'a/b'"),
        ({"arms": {"random": RANDOM, "tube": {**TUBE, "run": {"seed": 4}}}}, "arms.tube.run.seed: this verb sets it"),
        ({"changes": {"run.dir": "x"}}, "changes.run.dir: this verb sets it itself"),
        ({"baseline": "best"}, "baseline: got 'best', expected one of random, tube"),
        ({"pairs": [["tube", "tube"]]}, "pairs: got ['tube', 'tube'], expected two different arms"),
        ({"pairs": [["tube", "random"]]}, "is compared already: random is the baseline"),
        ({"seeds": [1, 1]}, "seeds: got [1, 1], expected different numbers"),
        ({"records": []}, "probes: nothing to compare"),
        ({"probes": [{"name": "motion"}] * 2}, "probes: 'motion' is listed twice"),
        ({"probes": [{"name": "motoin"}]}, "did you mean 'motion'?"),
        ({"probes": [{"name": "motion"}], "probe": {"threads": 0}}, "threads: got 0"),
        ({"probe": {"seed": 3}}, "probe.seed: this verb sets it itself"),
        ({"probe": {"devices": 3}}, "did you mean 'device'"),
        ({"metrics": ["energy/r2"]}, "metrics: 'energy/r2' is of no probe"),
        ({"controls": ["none"]}, "controls: got 'none'"),
        ({"tolerance": 1.0}, "tolerance: got 1.0"),
        ({"draws": 0}, "draws: got 0"),
        ({"batches": [0]}, "batches: got 0"),
        ({"slurm": True, "train": False}, "it does not go with train=false"),
        ({"changes": {"optim": {"steps": 0}}}, "arms.random: optim.steps: got 0"),
        ({"changes": {"optim": {"step": 3}}}, "changes: argument 'optim.step=3'"),
    ],
)
def test_a_mistake_is_told(fields, told):
    assert told in problems(**fields)


def test_fields_of_the_probe_may_be_null_and_nested_and_an_arm_may_declare_nothing():
    config = ablation(probe={"fps": None, "stride": 2, "load": {"heads": 2}}, probes=[{"name": "motion"}])
    config.arms = {"random": RANDOM, "tube": {**TUBE, "differs": None}}
    validate(config)
    assert declared(config, "tube") == []
    asked = probe_config(config)
    assert (asked.fps, asked.stride, asked.load, asked.keep_features) == (None, 2, {"heads": 2}, False)
    config.probe["keep_features"] = True
    assert probe_config(config).keep_features
