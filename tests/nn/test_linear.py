"""The linear map equals its definition by either library, and steps aside where it does not apply."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.nn import linear as module
from vjepa_lab.nn.linear import Linear, linear

pays = pytest.mark.skipif(not module._onednn_pays(), reason="oneDNN is not used on this machine")


def parts(*shape: int, inner: int = 12, outer: int = 20, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=g, dtype=dtype) for s in ((*shape, inner), (outer, inner), (outer,))]


def gradients(function, x, weight, bias):
    """Output, and gradients of a sum with unequal weights."""
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    out = function(*inputs)
    scale = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * scale).sum(), inputs)]


@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 3, 5)])
def test_values_and_gradients_are_those_of_the_definition(shape):
    x, weight, bias = parts(*shape)
    slow = gradients(lambda x, w, b: (x.unsqueeze(-2) * w).sum(-1) + b, x, weight, bias)
    for ours, expected in zip(gradients(linear, x, weight, bias), slow, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_strided_inputs_and_gradients_are_read_in_their_order():
    x, weight, bias = parts(5, 8)
    x = x.transpose(0, 1)  # (8, 5, 12)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-5, rtol=0)
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    linear(x, ours).transpose(0, 1)[
        ..., ::2
    ].sum().backward()  # the gradient is an expanded scalar in every other place
    F.linear(x, theirs).transpose(0, 1)[..., ::2].sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


def test_only_asked_gradients_are_made():
    x, weight, bias = parts(6)
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand_as(weight), atol=1e-5, rtol=0)
    assert x.grad is None
    assert bias.grad is None
    with torch.no_grad():
        assert not linear(x, weight, bias).requires_grad


def test_double_precision_and_autocast_are_left_to_torch():
    x, weight, bias = parts(6, dtype=torch.float64)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    x, weight, bias = parts(6)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x, weight, bias)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, F.linear(x, weight, bias))


def test_no_rows_give_no_rows():
    _, weight, bias = parts(1)
    assert linear(torch.empty(0, 12), weight, bias).shape == (0, 20)


@pays
def test_onednn_is_used_where_it_pays(monkeypatch):
    calls = []
    product = module._product
    monkeypatch.setattr(module, "_product", lambda *args: calls.append(1) or product(*args))
    x, weight, bias = parts(6)
    gradients(linear, x, weight, bias)
    assert len(calls) == 3  # forward, gradient of x, gradient of the weight


def test_without_onednn_the_layer_is_that_of_torch(monkeypatch):
    layer, x = Linear(12, 20), parts(6)[0]
    fast = layer(x)
    monkeypatch.setattr(module, "_onednn_pays", lambda: False)
    slow = layer(x)
    assert torch.equal(slow, F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=0)


def test_weights_have_the_names_of_torch():
    assert list(Linear(3, 4).state_dict()) == ["weight", "bias"]
