"""K heads side by side are K heads: the same scores, losses and gradients as the modules they stand for."""

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.probes import _heads
from vjepa_lab.probes._heads import Bank, Head

D = 48
KINDS = {
    "linear": Head("linear", D, {"label": 5}),
    "linear, three sets": Head("linear", D, {"verb": 4, "noun": 6, "action": 3}),
    "cross-attention": Head("attentive", D, {"label": 5}, depth=1, heads=4),
    "cross-attention, three queries": Head("attentive", D, {"verb": 4, "noun": 6, "action": 3}, depth=1, heads=4),
    "three blocks": Head("attentive", D, {"label": 5}, depth=3, heads=4),
}


def bank_of(head, seeds=(1, 1, 2, 3)):
    """Heads that have moved away from where they began, layer norms included."""
    bank = Bank(head, seeds)
    generator = torch.Generator().manual_seed(0)
    for weight in bank.weights.values():
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return bank


def batch_of(head, n=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 11, D, generator=generator) * 3 + 1
    labels = {name: torch.randint(0, c, (n,), generator=generator) for name, c in head.classes.items()}
    return (x[:, 0] if head.kind == "linear" else x), labels


def loss_on(labels):
    def loss(scores, part):
        per_set = [
            torch.stack([F.cross_entropy(one, labels[name][part], reduction="sum") for one in of_heads])
            for name, of_heads in scores.items()
        ]
        return torch.stack(per_set).sum(0) / len(next(iter(labels.values())))

    return loss


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_of_a_bank_is_the_module_with_its_weights(kind):
    head = KINDS[kind]
    bank, (x, labels) = bank_of(head), batch_of(head)
    losses, scores = bank.differentiate(x, loss_on(labels)), bank.scores(x)
    for k in range(bank.size):
        module = head.module()
        module.load_state_dict(bank.of(k))
        out = module(x)
        out = out if isinstance(out, dict) else {"label": out}
        loss = loss_on(labels)({name: s[None] for name, s in out.items()}, slice(None)).sum()
        loss.backward()
        assert losses[k].item() == pytest.approx(loss.item(), abs=1e-5)
        for name, s in out.items():
            assert torch.allclose(scores[name][k], s, atol=1e-5)
        for name, parameter in module.named_parameters():
            assert torch.allclose(bank.gradients[name][k], parameter.grad, atol=2e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_is_the_batch(kind, monkeypatch):
    head = KINDS[kind]
    bank, (x, labels) = bank_of(head), batch_of(head)
    whole, gradients, scores = bank.differentiate(x, loss_on(labels)), bank.gradients, bank.scores(x)
    monkeypatch.setattr(_heads, "_AT_ONCE", 4 * x[0].numel())  # parts of four rows and of two
    assert torch.allclose(bank.differentiate(x, loss_on(labels)), whole, atol=1e-5)
    assert all(torch.allclose(g, gradients[name], atol=2e-6) for name, g in bank.gradients.items())
    assert all(torch.allclose(s, scores[name], atol=1e-5) for name, s in bank.scores(x).items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_does_not_feel_its_company(kind):
    head = KINDS[kind]
    bank, (x, labels) = bank_of(head), batch_of(head)
    alone = bank.subset([2])
    together = bank.differentiate(x, loss_on(labels))
    assert torch.equal(alone.differentiate(x, loss_on(labels))[0], together[2])
    assert all(torch.equal(g[0], bank.gradients[name][2]) for name, g in alone.gradients.items())
    assert all(torch.equal(s[0], bank.scores(x)[name][2]) for name, s in alone.scores(x).items())


def test_first_weights_follow_the_seed_and_leave_the_callers_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    bank = Bank(KINDS["three blocks"], [7, 7, 8])
    assert torch.equal(torch.get_rng_state(), before)
    query = bank.weights["pooler.query_tokens"]
    assert torch.equal(query[0], query[1])
    assert not torch.equal(query[0], query[2])
    assert torch.equal(query[2], Bank(KINDS["three blocks"], [8]).weights["pooler.query_tokens"][0])


@pytest.mark.parametrize("depth", [1, 2])
def test_the_order_of_tokens_does_not_matter(depth):
    bank = bank_of(KINDS["cross-attention"]._replace(depth=depth))
    x, _ = batch_of(bank.head)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    scores, shuffled = bank.scores(x)["label"], bank.scores(x[:, order])["label"]
    assert torch.allclose(scores, shuffled, atol=1e-5)
    assert (scores[0, 0] - scores[0, 1]).abs().max() > 1e-2  # not by saying always the same


def test_a_width_that_the_heads_do_not_divide_is_refused_with_one_that_do():
    with pytest.raises(ValueError, match=r"heads: got 16, expected a divisor of the features' width 100.*is 10"):
        Bank(Head("attentive", 100, {"label": 3}), [0])
    with pytest.raises(ValueError, match="head: got 'mlp', expected attentive or linear"):
        Bank(Head("mlp", 48, {"label": 3}), [0])
    with pytest.raises(ValueError, match="at least two"):
        Bank(Head("linear", 48, {"label": 1}), [0])


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"got \(4, 48\), expected \(B, N, D\) with D=48"):
        Bank(KINDS["cross-attention"], [0]).scores(torch.zeros(4, 48))
    with pytest.raises(ValueError, match=r"expected \(B, D\) with D=48 for linear"):
        Bank(KINDS["linear"], [0]).scores(torch.zeros(4, 3, 48))
