"""The grid of an ablation: every run is the base with the fields of its arm, and nothing else."""

from pathlib import Path

import pytest

from vjepa_lab.config import ConfigError
from vjepa_lab.config_ablate import AblateConfig, covered, differences, run_config, runs_of
from vjepa_lab.merge import fields_with_docs, load

TINY = str(Path(__file__).parent / "train/tiny.yaml")


def ablation(**fields):
    config = load(AblateConfig)
    config.base, config.seeds = TINY, [3, 5]
    config.arms = {"a": {"masks": [{"name": "random", "ratio": 0.4}]}, "b": {"keep": "head", "optim.lr": 2e-5}}
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def test_every_field_is_explained():
    assert not [key for key, _, doc in fields_with_docs(AblateConfig) if not doc]


def test_all_arms_of_a_seed_come_before_the_next_seed():
    runs = runs_of(ablation(out="there"))
    assert [(r.arm, r.seed) for r in runs] == [("a", 3), ("b", 3), ("a", 5), ("b", 5)]
    assert [r.config.run.dir for r in runs] == ["there/a/3", "there/b/3", "there/a/5", "there/b/5"]
    assert [r.config.run.seed for r in runs] == [3, 3, 5, 5]


def test_an_arm_changes_its_fields_and_changes_are_those_of_all_arms():
    config = ablation(changes={"optim": {"steps": 9, "lr": 1e-4}, "data.batch": 3})
    a, b = (run_config(config, arm, 3) for arm in "ab")
    assert (a.optim.steps, a.data.batch, a.optim.lr) == (9, 3, 1e-4)
    assert (b.optim.steps, b.data.batch, b.optim.lr) == (9, 3, 2e-5)
    assert a.masks == [{"name": "random", "ratio": 0.4}]
    assert differences(a, b) == {
        "masks": (a.masks, b.masks),
        "keep": ("random", "head"),
        "optim.lr": (1e-4, 2e-5),
    }


def test_runs_of_an_arm_differ_in_nothing_but_the_seed():
    first, _, second, _ = runs_of(ablation())
    assert differences(first.config, second.config) == {}


def test_several_base_files_are_merged_left_to_right(tmp_path):
    (tmp_path / "over.yaml").write_text("optim: {steps: 77}\n")
    assert run_config(ablation(base=[TINY, str(tmp_path / "over.yaml")]), "a", 3).optim.steps == 77


@pytest.mark.parametrize(("where", "fields"), [("arms.c", {"arms": {"c": {"optim": {"stpes": 3}}}}), ("changes", {})])
def test_an_unknown_field_is_told_with_its_place(where, fields):
    config = ablation(**(fields or {"changes": {"optim.stpes": 3}}))
    with pytest.raises(ConfigError, match=rf"{where}: .*did you mean 'optim\.steps'"):
        runs_of(config)


def test_a_block_covers_its_fields_and_no_others():
    assert covered("optim.lr", ["optim"])
    assert covered("optim.lr", ["keep", "optim.lr"])
    assert not covered("optimizer", ["optim"])
    assert not covered("optim.lr", ["optim.lr_scale"])


def test_plugins_of_the_ablation_reach_every_run():
    assert run_config(ablation(plugins=["json"], changes={"plugins": ["csv"]}), "a", 3).plugins == ["csv", "json"]
