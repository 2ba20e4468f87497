"""The module of pretraining: equal seeds, gradients everywhere, the target after each step."""

import pytest
import torch

from vjepa_lab import dist, masks
from vjepa_lab.train.folder import read_metrics
from vjepa_lab.train.modules import PretrainModule

GOLDEN = [
    0.8188781142234802,
    0.7751216292381287,
    0.7716040015220642,
    0.761695921421051,
    0.7445721626281738,
    0.7505245208740234,
]


def test_the_losses_of_the_first_steps_are_the_recorded_ones(run_tiny):
    rows = read_metrics(run_tiny())
    assert [r["loss"] for r in rows] == pytest.approx(GOLDEN, abs=2e-5)


def test_equal_seeds_make_equal_models_and_leave_the_callers_random_state(tiny):
    before = torch.get_rng_state()
    one, two, three = PretrainModule(tiny()), PretrainModule(tiny()), PretrainModule(tiny("run.seed=1"))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [m.jepa.context.blocks[0].attn.qkv.weight for m in (one, two, three)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_whatever_is_trained_gets_a_gradient(tiny):
    """DDP waits for all of them; of several mask tokens only the first is used."""
    module = PretrainModule(tiny("predictor.mask_tokens=3"))
    pairs = masks.sample(module.strategies, module.grid, dist.rng(0, 0, batch=2))
    module.jepa(torch.randn(2, 3, 4, 16, 16), pairs)["loss"].backward()
    assert [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(module.jepa.predictor.mask_tokens) == 3


def test_the_target_follows_by_the_momentum_of_the_step(run_tiny, snapshots):
    taken = snapshots
    run = run_tiny("ema.start=0.5", "ema.end=0.7")
    momenta = [r["momentum"] for r in read_metrics(run)]
    assert momenta[0] == 0.5
    for s in range(1, 6):
        context, target = taken[s]
        expected = momenta[s] * taken[s - 1][1] + (1 - momenta[s]) * context
        assert torch.allclose(target, expected, atol=1e-7)
