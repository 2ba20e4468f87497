"""What all trainings share at a step: the norm of the gradient, and nothing done when something is not finite."""

import pytest
import torch

from vjepa_lab.train.modules import PretrainModule
from vjepa_lab.train.run import pretrain
from vjepa_lab.train.step import grad_norm


def test_the_norm_of_the_gradient_is_that_of_torch(tiny):
    module = PretrainModule(tiny())
    for i, p in enumerate(q for q in module.parameters() if q.requires_grad):
        p.grad = torch.full_like(p, 0.01 * (i + 1))
    expected = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    assert torch.allclose(grad_norm(module), expected)


def poison(monkeypatch, steps):
    """The loss of these micro-batches is not finite."""
    plain = PretrainModule.training_step

    def training_step(self, batch, batch_idx):
        loss = plain(self, batch, batch_idx)
        if batch_idx in steps:
            self._micro[-1]["loss"] = self._micro[-1]["loss"] * torch.nan
            return loss * torch.nan
        return loss

    monkeypatch.setattr(PretrainModule, "training_step", training_step)


def test_a_step_that_is_not_finite_changes_no_weight(run_tiny, monkeypatch, snapshots):
    poison(monkeypatch, {2, 3})
    taken = snapshots
    with pytest.warns(UserWarning, match="step 3: the loss or a gradient is not finite"):
        run_tiny()
    for which in (0, 1):
        assert torch.equal(taken[2][which], taken[1][which])
        assert torch.equal(taken[3][which], taken[1][which])
        assert not torch.equal(taken[4][which], taken[3][which])


def test_too_many_such_steps_in_a_row_end_the_run_with_advice(tiny, monkeypatch):
    poison(monkeypatch, set(range(1, 99)))
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(ValueError, match=r"4 steps in a row.*optim\.lr"):
        pretrain(tiny("optim.steps=9"))
