"""What is measured before a training is what the training does."""

import math

import pytest
import torch

from vjepa_lab import masks
from vjepa_lab.ablate import measure
from vjepa_lab.config_ablate import run_config
from vjepa_lab.train.flops import step_flops_per_clip
from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import pretrain


@pytest.fixture
def trained(monkeypatch):
    """Masks and clips of a training as its steps got them, and the weights it began with."""
    seen = {"pairs": [], "clips": [], "flops": []}
    plain = PretrainModule._masks

    def spy(self, strategies, batch, step, purpose, notes):
        pairs = plain(self, strategies, batch, step, purpose, notes)
        seen["pairs"].append(pairs)
        seen["flops"].append(self.flops_per_sample / len(batch.key))
        return pairs

    monkeypatch.setattr(PretrainModule, "_masks", spy)
    return seen


@pytest.mark.parametrize("masks", [[{"name": "motion", "budget": 0.4}], [{"name": "multiblock"}, {"name": "tube"}]])
def test_tokens_and_operations_are_those_of_the_training(tiny, trained, masks):
    run = run_config(tiny(arms={"a": {"masks": masks}}), "a", 1)
    found = measure.shape(run, draws=2, batches=[], timed=0)
    assert not trained["pairs"]
    assert pretrain(run) == 0
    context, target = ([sum(p[side].shape[1] for p in pairs) for pairs in trained["pairs"]] for side in (0, 1))
    assert found.counts[0].context == sum(context) / 2
    assert found.counts[0].target == sum(target) / 2
    assert found.flops == pytest.approx(sum(trained["flops"]) / 2)
    ids = torch.cat([p.context.flatten() for pairs in trained["pairs"] for p in pairs])
    cells = found.tokens // len(found.counts[0].context_per_tubelet)
    rows = 2 * len(masks) * run.data.batch * cells
    expected = torch.bincount(ids // cells, minlength=len(found.counts[0].context_per_tubelet)) / rows
    assert found.counts[0].context_per_tubelet == pytest.approx(expected.tolist(), abs=1e-6)


def test_head_keeps_the_early_tubelets_and_fewer_the_larger_the_batch_and_random_does_not(tiny):
    over = {"encoder": {"frames": 16, "crop": 64, "patch": 8}, "masks": [{"name": "multiblock", "scale": 0.15}]}
    config = tiny(arms={"random": over, "head": {**over, "keep": "head"}})
    random, head = (
        measure.shape(run_config(config, arm, 0), draws=6, batches=[2, 24], timed=0).counts for arm in config.arms
    )
    assert [c.batch for c in random] == [4, 2, 24]
    assert len({(c.context, c.target) for c in random}) == 1
    assert head[2].context < head[1].context - 10
    for c in random:
        assert max(c.context_per_tubelet) - min(c.context_per_tubelet) < 0.05
    assert head[2].context_per_tubelet[-1] < 0.5 * head[2].context_per_tubelet[0]


def test_the_origin_is_a_function_of_the_seed_and_of_what_makes_it(tiny):
    config = tiny(
        arms={
            "a": {"masks": [{"name": "random"}]},
            "b": {"masks": [{"name": "tube"}], "optim.lr": 1e-5},
            "deep": {"predictor.depth": 2},
            "fast": {"data.sources": [{"name": "synthetic", "speed": 0.5}]},
        }
    )
    a, b, deep, fast = (measure.origin(run_config(config, arm, 0)) for arm in config.arms)
    other = measure.origin(run_config(config, "a", 1))
    assert a == b
    assert (deep.weights != a.weights, deep.data == a.data) == (True, True)
    assert (fast.weights == a.weights, fast.data != a.data) == (True, True)
    assert (other.weights != a.weights, other.data != a.data) == (True, True)


def test_weights_of_a_checkpoint_are_the_origin_of_what_starts_from_it(tiny):
    config = tiny()
    run = run_config(config, "random", 0)
    assert pretrain(run) == 0
    started = tiny(changes={"init": {"checkpoint": f"{run.run.dir}/last.ckpt"}})
    one, other = (measure.origin(run_config(started, "random", seed)) for seed in (0, 1))
    assert one.weights == other.weights != measure.origin(run).weights


def test_a_curriculum_is_counted_over_the_whole_training(tiny, monkeypatch):
    steps = []
    plain = masks.sample
    monkeypatch.setattr(
        masks, "sample", lambda s, g, r, sight, k, n: steps.append(sight.step) or plain(s, g, r, sight, k, n)
    )
    run = run_config(tiny(changes={"optim": {"steps": 100, "warmup": 0}}), "random", 0)
    measure.shape(run, draws=4, batches=[], timed=0)
    assert steps == [0, 25, 50, 75]


def test_a_timed_step_leaves_the_random_state_alone(tiny):
    state = torch.get_rng_state()
    found = measure.shape(run_config(tiny(), "tube", 0), draws=2, batches=[], timed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < found.mask_seconds < found.step_seconds
    assert math.isnan(measure.shape(run_config(tiny(), "tube", 0), draws=2, batches=[], timed=0).step_seconds)


def test_operations_grow_with_the_tokens(tiny):
    run = run_config(tiny(), "tube", 0)
    grid = PretrainModule(run).grid
    assert step_flops_per_clip(run, grid, [(4, 4)]) > step_flops_per_clip(run, grid, [(3, 4)])
