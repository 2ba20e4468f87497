"""Blocks equal their formulas; initialisation has the stated deviations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope
from vjepa_lab.nn.blocks import Block, CausalBlock, DropPath, Mlp, SwiGLU, init_weights, stack


def test_block_is_two_pre_norm_residual_branches():
    torch.manual_seed(0)
    block = Block(width=24, heads=2, mlp_hidden=48)
    x = torch.randn(2, 5, 24)
    y = x + block.attn(F.layer_norm(x, (24,), eps=1e-6))
    z = F.layer_norm(y, (24,), eps=1e-6) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    expected = y + z @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=0)


def test_block_asked_for_the_last_tokens_gives_the_end_of_the_whole():
    block, x = Block(width=24, heads=2, mlp_hidden=48), torch.randn(2, 7, 24)
    torch.testing.assert_close(block(x, last=3), block(x)[:, -3:], atol=1e-6, rtol=0)


def test_a_causal_block_over_one_frame_is_a_block():
    block, causal = (kind(width=24, heads=2, mlp_hidden=48) for kind in (Block, CausalBlock))
    causal.load_state_dict(block.state_dict())
    x, table = torch.randn(2, 6, 24), rope.tables(Grid(1, 2, 3), head_dim=12)
    assert torch.equal(causal(x, *table, 1), block(x, *table))


def test_a_causal_block_gives_what_it_remembers_only_when_asked():
    block, x = CausalBlock(width=24, heads=2, mlp_hidden=48), torch.randn(2, 12, 24)
    cos, sin = rope.tables(Grid(3, 2, 2), head_dim=12)
    whole = block(x, cos, sin, 3)
    first, one = block(x[:, :4], cos[:4], sin[:4], 1, ())
    rest, two = block(x[:, 4:], cos[4:], sin[4:], 2, (one,))
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole, atol=1e-6, rtol=0)
    assert (one.keys.shape, two.values.shape) == ((2, 2, 4, 12), (2, 2, 8, 12))


def test_swiglu_equals_its_formula_and_is_two_thirds_as_wide():
    torch.manual_seed(0)
    mlp = SwiGLU(width=16, hidden=64)
    assert mlp.fc1.out_features == 48  # ceil8(42)
    assert SwiGLU(width=16, hidden=4096).fc1.out_features == 2736  # released ViT-L with its narrow SwiGLU
    x = torch.randn(3, 16)
    gate = mlp.fc1(x)
    torch.testing.assert_close(mlp(x), mlp.fc3(gate * torch.sigmoid(gate) * mlp.fc2(x)), atol=1e-6, rtol=0)


def test_drop_path_keeps_the_mean_drops_whole_samples_and_follows_the_seed():
    drop = DropPath(rate=0.25)
    x = torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = drop(x)
    assert torch.equal(out[:, :1, :1].expand_as(out), out)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1.0, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(drop(x), out)


def test_drop_path_does_nothing_in_evaluation_and_draws_nothing_at_rate_zero():
    x = torch.ones(8, 2)
    assert DropPath(rate=0.5).eval()(x) is x
    state = torch.get_rng_state()
    assert DropPath(rate=0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dropped_block_is_the_identity():
    block = Block(width=24, heads=2, mlp_hidden=48, drop_path=0.999)
    x = torch.randn(2, 5, 24)
    torch.manual_seed(0)
    assert torch.equal(block(x), x)


def test_rates_rise_linearly_over_depth():
    blocks = stack(depth=5, width=12, heads=2, mlp_hidden=12, drop_path=0.2)
    assert [b.drop_path.rate for b in blocks] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    assert stack(depth=1, width=12, heads=2, mlp_hidden=12, drop_path=0.2)[0].drop_path.rate == 0.0


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_init_rescales_by_depth_what_writes_to_the_residual_stream(mlp):
    torch.manual_seed(0)
    blocks = stack(depth=3, width=192, heads=2, mlp_hidden=384, mlp=mlp)
    init_weights(blocks, blocks)
    for i, block in enumerate(blocks):
        scaled = {"attn.proj.weight", "mlp.fc2.weight" if mlp == "gelu" else "mlp.fc3.weight"}
        for name, p in block.named_parameters():
            if name.startswith("norm"):
                assert torch.equal(p, torch.ones_like(p) if name.endswith("weight") else torch.zeros_like(p))
            elif name.endswith("bias"):
                assert not p.any()
            else:
                expected = 0.02 / math.sqrt(2 * (i + 1)) if name in scaled else 0.02
                assert p.std().item() == pytest.approx(expected, rel=0.03), name


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match="'gelu' or 'swiglu', got 'relu'"):
        Block(width=12, heads=2, mlp_hidden=12, mlp="relu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"rate in \[0, 1\), got 1.0"):
        DropPath(rate=1.0)


def test_gelu_mlp_has_the_parameters_of_two_linear_layers():
    assert sum(p.numel() for p in Mlp(width=8, hidden=32).parameters()) == 8 * 32 + 32 + 32 * 8 + 8
