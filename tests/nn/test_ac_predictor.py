"""The AC predictor: a slow reference, causality over frames, the cache, what may be wrapped around its blocks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope
from vjepa_lab.nn.ac_predictor import ACPredictor

GRID = (2, 3)
SIZES = {"action_dim": 3, "state_dim": 4, "extrinsics_dim": 2}


def tiny(**changes) -> ACPredictor:
    torch.manual_seed(0)
    arguments = {"encoder_width": 16, "width": 24, "depth": 2, "heads": 2, **SIZES, **changes}
    predictor = ACPredictor(**arguments).eval()
    for p in predictor.parameters():
        torch.nn.init.normal_(p, std=0.3)  # far from initialisation, so that attention is not uniform
    return predictor


def inputs(batch: int = 2, frames: int = 4, grid: tuple[int, int] = GRID) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    tokens = torch.randn(batch, frames, grid[0] * grid[1], 16, generator=g)
    return tokens, torch.randn(batch, frames, 3, generator=g), torch.randn(batch, frames, 4, generator=g)


def slowly(p: ACPredictor, tokens, actions, states, grid, extrinsics=None) -> Tensor:
    """One sample: token by token into a sequence, attention with the dense mask of every pair of tokens."""
    x, positions = [], []
    for t in range(len(tokens)):
        conditions = [p.action_encoder(actions[t]), p.state_encoder(states[t])]
        if extrinsics is not None:
            conditions.append(p.extrinsics_encoder(extrinsics[t]))
        x += conditions + [p.predictor_embed(cell) for cell in tokens[t]]
        positions += [(t, 0, 0)] * len(conditions)
        positions += [(t, row, column) for row in range(grid[0]) for column in range(grid[1])]
    x, frame = torch.stack(x), torch.tensor([t for t, _, _ in positions])
    sees = frame[:, None] >= frame[None, :]
    table = rope.at(torch.tensor(positions), head_dim=p.head_dim, layout=p.rope)
    for block in p.predictor_blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)  # heads first
        scores = rope.apply(q, *table) @ rope.apply(k, *table).mT / p.head_dim**0.5
        y = scores.masked_fill(~sees, -torch.inf).softmax(-1) @ v
        x = x + block.attn.proj(torch.cat(y.unbind(0), -1))
        x = x + block.mlp(block.norm2(x))
    out = p.predictor_proj(p.predictor_norm(x))
    return out.unflatten(0, (len(tokens), -1))[:, -grid[0] * grid[1] :]


def near(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("layout", ["released", "exact"])
@pytest.mark.parametrize("extrinsics", [False, True])
@pytest.mark.parametrize(("frames", "grid"), [(4, (2, 3)), (1, (3, 1)), (6, (1, 2))])
def test_equals_the_slow_formula_at_any_length_and_grid(layout, extrinsics, frames, grid):
    predictor = tiny(rope=layout, use_extrinsics=extrinsics).double()
    args = [x.double() for x in inputs(frames=frames, grid=grid)]
    poses = torch.randn(2, frames, 2, dtype=torch.float64) if extrinsics else None
    out = predictor(*args, grid, poses)
    assert out.shape == (2, frames, grid[0] * grid[1], 16)
    for i in range(2):
        one = slowly(predictor, *(x[i] for x in args), grid, None if poses is None else poses[i])
        near(out[i], one, atol=1e-6)  # tables of angles are float32


def test_rows_and_columns_of_a_grid_are_read_and_not_its_time():
    predictor, args = tiny(), inputs()
    assert torch.equal(predictor(*args, Grid(9, *GRID)), predictor(*args, GRID))
    assert not torch.allclose(predictor(*args, (3, 2)), predictor(*args, GRID), atol=1e-3)


def test_a_frame_depends_on_no_later_frame_and_on_all_of_its_own():
    predictor, args = tiny(), [x.requires_grad_() for x in inputs()]
    out = predictor(*args, GRID)
    for x, gradient in zip(args, torch.autograd.grad(out[:, 1, 0].sum(), args), strict=True):
        assert not gradient[:, 2:].any()
        assert gradient[:, :2].flatten(2).any(-1).all(), f"input of shape {tuple(x.shape)}"
    tokens_gradient = torch.autograd.grad(predictor(*args, GRID)[:, 1, 0].sum(), args[0])[0]
    assert tokens_gradient[:, :2].any(-1).all()  # every patch of frames 0 and 1
    changed = [torch.cat((x[:, :2], x[:, 2:] + 1.0), dim=1) for x in args]
    assert torch.equal(predictor(*changed, GRID)[:, :2], out[:, :2])
    assert not torch.allclose(predictor(*changed, GRID)[:, 2:], out[:, 2:], atol=1e-3)


@pytest.mark.parametrize("parts", [[1, 1, 1, 1], [2, 2], [3, 1], [4]])
@pytest.mark.parametrize("layout", ["released", "exact"])
def test_frames_fed_in_parts_give_what_they_give_at_once(parts, layout):
    predictor, args = tiny(rope=layout), inputs()
    whole, outputs, cache = predictor(*args, GRID), [], predictor.cache()
    for part in zip(*(x.split(parts, dim=1) for x in args), strict=True):
        out, cache = predictor(*part, GRID, cache=cache)
        outputs.append(out)
    near(torch.cat(outputs, dim=1), whole)
    assert (cache.frames, cache.tokens, cache.batch) == (4, 4 * 8, 2)


def test_gradients_through_the_cache_are_those_of_the_whole():
    predictor, args = tiny(), inputs()
    weights = [p for p in predictor.parameters() if p.requires_grad]
    whole = torch.autograd.grad(predictor(*args, GRID).square().sum(), weights)
    first, cache = predictor(*(x[:, :3] for x in args), GRID, cache=predictor.cache())
    last, _ = predictor(*(x[:, 3:] for x in args), GRID, cache=cache)
    parts = torch.autograd.grad(first.square().sum() + last.square().sum(), weights)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_samples_may_share_a_past_which_is_held_once():
    predictor, args = tiny().requires_grad_(False), inputs(batch=1, frames=2)
    later = inputs(batch=5, frames=2)
    _, shared = predictor(*args, GRID, cache=predictor.cache())
    out, cache = predictor(*later, GRID, cache=shared)
    repeated = [torch.cat((x.expand(5, -1, *x.shape[2:]), y), dim=1) for x, y in zip(args, later, strict=True)]
    near(out, predictor(*repeated, GRID)[:, 2:])
    assert (shared.frames, shared.batch, cache.frames, cache.batch) == (2, 1, 4, 5)
    for before, after in zip(shared.blocks, cache.blocks, strict=True):
        assert len(before) == 1
        assert after[0] is before[0]


def test_a_cache_is_not_changed_by_use_and_may_be_cut():
    predictor, args = tiny().requires_grad_(False), inputs()
    last = [x[:, 3:] for x in args]
    _, two = predictor(*(x[:, :2] for x in args), GRID, cache=predictor.cache())
    _, three = predictor(*(x[:, 2:3] for x in args), GRID, cache=two)
    expected, _ = predictor(*last, GRID, cache=two)
    for cache in (two, three.first(2)):
        assert torch.equal(predictor(*last, GRID, cache=cache)[0], expected)
    near(predictor(*last, GRID, cache=three)[0], predictor(*args, GRID)[:, 3:])
    assert three.first(0) == predictor.cache()
    assert three.first(1).tokens == 8
    with pytest.raises(ValueError, match="cache: expected 0 to 3 frames, got 4"):
        three.first(4)


def test_a_cache_holds_keys_and_values_and_nothing_else():
    predictor = tiny().requires_grad_(False)
    _, cache = predictor(*inputs(), GRID, cache=predictor.cache())
    held = sum(t.untyped_storage().nbytes() for pieces in cache.blocks for piece in pieces for t in piece)
    assert held == 2 * 2 * (2 * 4 * 8 * 24) * 4  # blocks, keys and values, numbers, bytes


def test_an_input_of_one_sample_serves_all():
    predictor, (tokens, actions, states) = tiny(), inputs(batch=3)
    out = predictor(tokens[:1], actions, states[:1], GRID)
    near(out, predictor(tokens[:1].expand(3, -1, -1, -1), actions, states[:1].expand(3, -1, -1), GRID))


def gradients(predictor: ACPredictor) -> dict[str, Tensor]:
    args = inputs()
    F.smooth_l1_loss(predictor(*args, GRID)[:, :-1], args[0][:, 1:]).backward()
    return {name: p.grad for name, p in predictor.named_parameters() if p.grad is not None}


def test_checkpointed_and_compiled_blocks_have_the_same_gradients():
    expected = gradients(tiny())
    assert len(expected) == len(list(tiny().parameters())) - 2  # all but the unused encoder of extrinsics
    checkpointed, compiled = tiny(), tiny()
    for block in checkpointed.predictor_blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for block in compiled.predictor_blocks:
        block.compile(backend="aot_eager")
    for predictor in (checkpointed, compiled):
        got = gradients(predictor)
        assert got.keys() == expected.keys()
        for name in got:
            near(got[name], expected[name], atol=1e-6)
        cached, _ = predictor(*inputs(), GRID, cache=predictor.cache())
        near(cached, tiny()(*inputs(), GRID))


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # of in-place changes to the output, which is a view
def test_sharded_blocks_have_the_same_gradients_and_carry_a_cache():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected, predictor = gradients(tiny()), tiny()
    torch_dist.init_process_group("gloo", store=torch_dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in predictor.predictor_blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(predictor, mesh=mesh)
        got = gradients(predictor)
        assert got.keys() == expected.keys()
        for name in got:
            near(got[name].full_tensor(), expected[name], atol=1e-6)
        args = inputs()
        _, cache = predictor(*(x[:, :3] for x in args), GRID, cache=predictor.cache())
        out, _ = predictor(*(x[:, 3:] for x in args), GRID, cache=cache)
        near(out, tiny()(*args, GRID)[:, 3:])
    finally:
        torch_dist.destroy_process_group()


def test_bf16_autocast_stays_near_float32():
    predictor, args = tiny().requires_grad_(False), inputs()
    expected = predictor(*args, GRID)
    with torch.autocast("cpu", torch.bfloat16):
        out, cache = predictor(*args, GRID, cache=predictor.cache())
    assert cache.blocks[0][0].keys.dtype == torch.bfloat16
    assert (out.float() - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_size_of_the_released_model():
    with torch.device("meta"):
        predictor = ACPredictor(encoder_width=1408)
    count = sum(p.numel() for p in predictor.parameters())
    block = (4 * 1024**2 + 4 * 1024) + (2 * 1024 * 4096 + 1024 + 4096) + 4 * 1024
    ends = (1408 + 1) * 1024 + (1024 + 1) * 1408 + (7 + 7 + 6 + 3) * 1024 + 2 * 1024
    assert count == 24 * block + ends
    assert count / 1e6 == pytest.approx(305.22, abs=0.01)


def test_initialisation_reaches_every_parameter():
    with torch.device("meta"):
        predictor = ACPredictor(encoder_width=16, width=24, depth=2, heads=2)
    predictor.to_empty(device="cpu")
    for p in predictor.parameters():
        torch.nn.init.constant_(p, float("nan"))
    predictor.init_weights()
    assert not any(p.isnan().any() for p in predictor.parameters())


@pytest.mark.parametrize("used", [False, True])
def test_the_encoder_of_extrinsics_is_trained_only_where_it_is_used(used):
    predictor = tiny(use_extrinsics=used)
    assert predictor.extrinsics_encoder.weight.requires_grad is used
    assert "extrinsics_encoder.weight" in predictor.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(2, 4, 5, 16)}, r"tokens: expected \(B, T, 6, 16\), got \(2, 4, 5, 16\)"),
        ({"tokens": torch.zeros(2, 24, 16)}, r"tokens: expected \(B, T, 6, 16\)"),
        ({"actions": torch.zeros(2, 3, 3)}, r"actions: expected \(B, 4, 3\), got \(2, 3, 3\)"),
        ({"states": torch.zeros(2, 4, 3)}, r"states: expected \(B, 4, 4\), got \(2, 4, 3\)"),
        ({"states": torch.zeros(3, 4, 4)}, "batch: expected 1 or 3 samples everywhere, got .*'tokens': 2.*'states': 3"),
        ({"extrinsics": torch.zeros(2, 4, 2)}, r"extrinsics: expected None \(use_extrinsics=False\), got a tensor"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    tokens, actions, states = inputs()
    args = {"tokens": tokens, "actions": actions, "states": states, "grid": GRID, **change}
    with pytest.raises(ValueError, match=message):
        tiny()(**args)


def test_missing_extrinsics_and_a_cache_of_another_grid_or_batch_are_refused():
    with pytest.raises(ValueError, match=r"extrinsics: expected a tensor \(use_extrinsics=True\), got None"):
        tiny(use_extrinsics=True)(*inputs(), GRID)
    predictor = tiny()
    _, cache = predictor(*inputs(frames=2), GRID, cache=predictor.cache())
    with pytest.raises(ValueError, match="cache: expected 12 tokens in 2 frames, got 16"):
        predictor(*inputs(grid=(2, 2)), (2, 2), cache=cache)
    with pytest.raises(ValueError, match=r"batch: expected 1 or 3 samples everywhere, got .*'cache': 2"):
        predictor(*inputs(batch=3), GRID, cache=cache)
