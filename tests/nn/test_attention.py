"""Attention, also causal over frames and across, equals its definition; a backend that cannot run is refused."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

from vjepa_lab.batch import Grid
from vjepa_lab.nn import attention as module
from vjepa_lab.nn import rope
from vjepa_lab.nn.attention import Attention, CrossAttention, attend, attend_causally


def attend_naively(q, k, v, sees=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if sees is not None:
        scores = scores.masked_fill(~sees, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def dense_mask(frames, n, past):
    """(frames * n, past + frames * n): a query sees the past and what is not of a later frame than its own."""
    frame = torch.arange(frames).repeat_interleave(n)
    return torch.cat((torch.zeros(past, dtype=torch.long), frame)) <= frame[:, None]


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


def frames_qkv(frames, n, past):
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 3, tokens, 16) for tokens in (frames * n, past + frames * n, past + frames * n)]
    return [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("past", [0, 7])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_causal_over_frames_equals_the_dense_mask_with_its_gradients(frames, past):
    inputs = frames_qkv(frames, 3, past)
    out = attend_causally(*inputs, frames=frames)
    expected = attend_naively(*inputs, sees=dense_mask(frames, 3, past))
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    got, wanted = (torch.autograd.grad((y * weights).sum(), inputs) for y in (out, expected))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_later_frames_cost_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "attend", lambda q, k, v, backend: asked.append((q.shape[2], k.shape[2])) or q)
    q, k, v = frames_qkv(4, 3, past=5)
    assert torch.equal(attend_causally(q, k, v, frames=4), q)  # what comes back is put together in order
    assert sorted(asked) == [(3, 8), (3, 11), (3, 14), (3, 17)]


def test_cross_attention_equals_projections_around_the_definition():
    torch.manual_seed(0)
    cross = CrossAttention(width=24, heads=2)
    query, tokens = torch.randn(2, 3, 24), torch.randn(2, 9, 24)
    q = query @ cross.q.weight.T + cross.q.bias
    k, v = (tokens @ cross.kv.weight.T + cross.kv.bias).split(24, dim=-1)
    q, k, v = (torch.stack(part.split(12, dim=-1), dim=1) for part in (q, k, v))  # (B, H, N, d)
    expected = torch.cat(attend_naively(q, k, v).unbind(1), dim=-1)
    torch.testing.assert_close(cross(query, tokens), expected, atol=1e-6, rtol=0)


def test_queries_of_one_sample_serve_all():
    cross, query, tokens = CrossAttention(width=24, heads=2), torch.randn(1, 3, 24), torch.randn(4, 9, 24)
    torch.testing.assert_close(cross(query, tokens), cross(query.repeat(4, 1, 1), tokens), atol=1e-6, rtol=0)


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
    with pytest.raises(ValueError, match=r"no kernel for torch.float32 tensors on cpu; use attention: sdpa"):
        attend_causally(*frames_qkv(2, 3, past=0), frames=2, backend="xformers")


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
    frames = [x.detach().to("cuda", torch.bfloat16) for x in frames_qkv(4, 8, past=8)]
    out = attend_causally(*frames, frames=4, backend="xformers")
    torch.testing.assert_close(out, attend_causally(*frames, frames=4), atol=0.02, rtol=0)


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'sdpa' or 'xformers', got 'flash'"):
        attend(*qkv(), backend="flash")  # pyright: ignore[reportArgumentType]


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="width=10, heads=3"):
        Attention(width=10, heads=3)
    with pytest.raises(ValueError, match="width=10, heads=3"):
        CrossAttention(width=10, heads=3)
