"""Attention equals its definition; a backend that cannot run is refused with a way out."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope
from vjepa_lab.nn.attention import Attention, attend


def attend_naively(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


def qkv(device="cpu", dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 17, 16, generator=g).to(device, dtype) for _ in range(3)]


def test_sdpa_equals_the_definition():
    q, k, v = qkv()
    torch.testing.assert_close(attend(q, k, v), attend_naively(q, k, v), atol=1e-6, rtol=0)


def test_module_equals_projections_around_the_definition():
    torch.manual_seed(0)
    attention = Attention(width=24, heads=2)
    x = torch.randn(2, 12, 24)
    cos, sin = rope.tables(Grid(2, 2, 3), head_dim=12, layout="released")
    parts = (x @ attention.qkv.weight.T + attention.qkv.bias).split(24, dim=-1)
    q, k, v = (torch.stack(part.split(12, dim=-1), dim=1) for part in parts)  # (B, H, N, d)
    y = attend_naively(rope.apply(q, cos, sin), rope.apply(k, cos, sin), v)
    expected = torch.cat(y.unbind(1), dim=-1) @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x, cos, sin), expected, atol=1e-6, rtol=0)


def test_without_positions_tokens_have_no_order():
    attention = Attention(width=24, heads=2)
    x, order = torch.randn(2, 9, 24), torch.randperm(9)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]), atol=1e-6, rtol=0)


def test_positions_matter_when_given():
    attention = Attention(width=24, heads=2)
    x, order = torch.randn(2, 12, 24), torch.arange(12).flip(0)
    table = rope.tables(Grid(2, 2, 3), head_dim=12)
    assert not torch.allclose(attention(x, *table)[:, order], attention(x[:, order], *table), atol=1e-4)


def test_asking_for_the_last_tokens_gives_the_end_of_the_whole():
    attention = Attention(width=24, heads=2)
    x, table = torch.randn(2, 12, 24), rope.tables(Grid(2, 2, 3), head_dim=12)
    torch.testing.assert_close(attention(x, *table, last=5), attention(x, *table)[:, -5:], atol=1e-6, rtol=0)


def test_bf16_autocast_stays_near_float32():
    attention = Attention(width=24, heads=2)
    x = torch.randn(2, 12, 24)
    table = rope.tables(Grid(2, 2, 3), head_dim=12)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(x, *table)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), attention(x, *table), atol=0.03, rtol=0)


def test_xformers_without_a_kernel_names_the_replacement():
    pytest.importorskip("xformers.ops", exc_type=ImportError)
    with pytest.raises(ValueError, match=r"no kernel for torch.float32 tensors on cpu; use attention: sdpa"):
        attend(*qkv(), backend="xformers")


def test_xformers_that_cannot_be_imported_names_the_replacement(monkeypatch):
    real = builtins.__import__

    def without_xformers(name, *args, **kwargs):
        if name.startswith("xformers"):
            raise ImportError("No module named 'xformers'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_xformers)
    with pytest.raises(ValueError, match=r"No module named 'xformers'.*use attention: sdpa"):
        attend(*qkv(), backend="xformers")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_xformers_equals_sdpa_or_is_refused():
    pytest.importorskip("xformers.ops", exc_type=ImportError)
    q, k, v = qkv("cuda", torch.bfloat16)
    try:
        out = attend(q, k, v, backend="xformers")
    except ValueError as refusal:
        pytest.skip(str(refusal))
    torch.testing.assert_close(out, attend(q, k, v), atol=0.02, rtol=0)


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'sdpa' or 'xformers', got 'flash'"):
        attend(*qkv(), backend="flash")  # pyright: ignore[reportArgumentType]


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="width=10, heads=3"):
        Attention(width=10, heads=3)
