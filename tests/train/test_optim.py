"""Parameter groups and AdamW, against the update written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vjepa_lab.train.optim import build_optimizer, param_groups, set_hyper

BETAS, EPS = (0.9, 0.95), 1e-6


class Model(nn.Module):
    """One parameter of every sort: matrix, bias, norm scale, mask token; and a frozen copy."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.target = copy.deepcopy(self.context).requires_grad_(False)
        self.mask_token = nn.Parameter(torch.randn(1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.context(x) * self.mask_token).pow(2).sum()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def names(model: nn.Module, group: dict) -> set[str]:
    ids = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_biases_and_vectors_are_not_decayed_and_mask_tokens_are(model: Model) -> None:
    decayed, plain = param_groups(model.named_parameters(), weight_decay=0.1)
    assert names(model, decayed) == {"context.0.weight", "mask_token"}
    assert names(model, plain) == {"context.0.bias", "context.1.weight", "context.1.bias"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_every_trained_parameter_is_in_exactly_one_group(model: Model) -> None:
    grouped = [id(p) for group in param_groups(model.named_parameters(), weight_decay=0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_bias_of_two_dimensions_is_not_decayed() -> None:
    table = nn.ParameterDict({"bias_table": nn.Parameter(torch.zeros(2, 2)), "weight": nn.Parameter(torch.zeros(2, 2))})
    decayed, plain = param_groups(table.named_parameters(), weight_decay=0.1)
    assert (names(table, decayed), names(table, plain)) == ({"weight"}, {"bias_table"})


def test_steps_equal_adamw_written_out_by_hand(model: Model) -> None:
    optimizer = build_optimizer(model, lr=1.0, weight_decay=1.0, betas=BETAS, eps=EPS)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    frozen = [p.clone() for p in model.target.parameters()]
    for step in range(1, 5):
        lr, weight_decay = 0.1 / step, 0.5 * step
        set_hyper(optimizer, lr=lr, weight_decay=weight_decay)
        optimizer.zero_grad()
        model(torch.randn(5, 4)).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            gradient = parameter.grad.double()
            if name in ("context.0.weight", "mask_token"):
                expected[name] *= 1 - lr * weight_decay
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient**2
            mean = first[name] / (1 - BETAS[0] ** step)
            square = second[name] / (1 - BETAS[1] ** step)
            expected[name] -= lr * mean / (square.sqrt() + EPS)
            torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-4, atol=1e-5)
    for before, after in zip(frozen, model.target.parameters(), strict=True):
        assert torch.equal(before, after)


def test_rates_reach_all_groups_and_weight_decay_only_the_decayed(model: Model) -> None:
    optimizer = build_optimizer(model, lr=1e-3, weight_decay=0.04)
    set_hyper(optimizer, lr=0.5, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.3), (0.5, 0.0)]


def test_rates_still_reach_the_right_groups_after_loading_a_state(model: Model) -> None:
    saved = build_optimizer(model, lr=1e-3, weight_decay=0.04).state_dict()
    optimizer = build_optimizer(model, lr=1.0, weight_decay=1.0)
    optimizer.load_state_dict(saved)
    set_hyper(optimizer, lr=0.5, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.3), (0.5, 0.0)]


def test_kernels_are_multi_tensor_on_the_cpu(model: Model) -> None:
    group = build_optimizer(model, lr=1e-3, weight_decay=0.04).param_groups[0]
    assert (group["fused"], group["foreach"]) == (False, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fused_steps_on_cuda_equal_the_plain_ones(model: Model) -> None:
    there = copy.deepcopy(model).cuda()
    here_optimizer, there_optimizer = (build_optimizer(m, lr=0.01, weight_decay=0.1) for m in (model, there))
    assert there_optimizer.param_groups[0]["fused"]
    for _ in range(3):
        x = torch.randn(5, 4)
        for m, optimizer, batch in ((model, here_optimizer, x), (there, there_optimizer, x.cuda())):
            optimizer.zero_grad()
            m(batch).backward()
            optimizer.step()
    for a, b in zip(model.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-4, atol=1e-5)


def test_a_model_without_trained_parameters_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        build_optimizer(model.requires_grad_(False), lr=1e-3, weight_decay=0.0)
