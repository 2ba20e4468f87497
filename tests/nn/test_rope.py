"""Rotary positions: a frozen released example, the properties of the exact layout, and a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vjepa_lab.batch import Grid
from vjepa_lab.nn import rope

GRID = Grid(3, 4, 5)


def rotate_slowly(x: Tensor, position: tuple[int, int, int], layout: str) -> Tensor:
    """One head vector (head_dim,), number by number."""
    pairs = (len(x) // 3) // 2
    out = x.clone()
    for axis, p in enumerate(position):
        start = axis * 2 * pairs
        for j in range(2 * pairs):
            k = j % pairs if layout == "released" else j // 2
            angle = p * 10000.0 ** (-k / pairs)
            other = -x[start + j + 1] if j % 2 == 0 else x[start + j - 1]
            out[start + j] = x[start + j] * math.cos(angle) + other * math.sin(angle)
    return out


def rotate(x: Tensor, grid: Grid, layout: rope.Layout, ids: Tensor | None = None) -> Tensor:
    return rope.apply(x, *rope.tables(grid, ids, head_dim=x.shape[-1], layout=layout))


@pytest.mark.parametrize("layout", ["released", "exact"])
@pytest.mark.parametrize("head_dim", [4, 5, 6, 7, 11, 12, 20, 32, 64])
def test_equals_the_slow_formula_at_any_head_width(layout, head_dim):
    x = torch.randn(GRID.n, head_dim, generator=torch.Generator().manual_seed(0))
    slow = [
        rotate_slowly(x[i], (i // 20, i % 20 // 5, i % 5), layout)  # raster order of a 3 x 4 x 5 grid
        for i in range(GRID.n)
    ]
    torch.testing.assert_close(rotate(x, GRID, layout), torch.stack(slow), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (
            "released",
            [-1.272232513, 2.206193185, 2.8786681, 4.008981987, -5.796682531, 7.209619968, 6.756886235, 8.020963969],
        ),
        (
            "exact",
            [-1.272232513, -1.838864985, 1.683928641, 4.707906576, 4.817777168, 6.147277704, 6.975968536, 8.020963969],
        ),
    ],
)
def test_frozen_example_of_one_axis(layout, expected):
    # Numbers 1..8 on the time axis of a head of 24, at position 3.
    x = torch.zeros(24)
    x[:8] = torch.arange(1.0, 9.0)
    table = rope.at(torch.tensor([3.0, 0.0, 0.0]), head_dim=24, layout=layout)
    out = rope.apply(x, *table)
    torch.testing.assert_close(out[:8], torch.tensor(expected), atol=1e-5, rtol=0)
    assert torch.equal(out[8:], x[8:])


def products(q: Tensor, k: Tensor, layout: rope.Layout) -> Tensor:
    """q k^T where every token holds the same query and the same key: (N, N)."""
    return rotate(q.expand(GRID.n, -1), GRID, layout) @ rotate(k.expand(GRID.n, -1), GRID, layout).T


@pytest.mark.parametrize(("layout", "holds"), [("exact", True), ("released", False)])
def test_exact_keeps_norms_and_released_does_not(layout, holds):
    x = torch.randn(GRID.n, 64, generator=torch.Generator().manual_seed(1))
    change = (rotate(x, GRID, layout).norm(dim=-1) - x.norm(dim=-1)).abs().max()
    assert (change < 1e-4) == holds


@pytest.mark.parametrize(("layout", "holds"), [("exact", True), ("released", False)])
def test_exact_depends_on_offsets_only_and_released_does_not(layout, holds):
    g = torch.Generator().manual_seed(2)
    table = products(torch.randn(64, generator=g), torch.randn(64, generator=g), layout)
    # Token 0 to token 26 = (1, 1, 1), and the same offset from (1, 2, 3) = 33 to (2, 3, 4) = 59.
    assert (abs(table[0, 26] - table[33, 59]) < 1e-4) == holds


def test_table_of_ids_is_a_gather_of_the_full_table():
    ids = torch.tensor([[0, 7, 59], [3, 3, 20]])
    full = rope.tables(GRID, head_dim=32)
    some = rope.tables(GRID, ids, head_dim=32)
    assert some.cos.shape == (2, 1, 3, 32)
    assert torch.equal(some.cos[:, 0], full.cos[ids])
    assert torch.equal(some.sin[:, 0], full.sin[ids])


def test_position_zero_and_the_rest_of_the_head_are_not_rotated():
    x = torch.randn(GRID.n, 64)
    out = rotate(x, GRID, "released")
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[:, 60:], x[:, 60:])


def test_narrow_inputs_are_rotated_in_float32():
    x = torch.randn(GRID.n, 64).bfloat16()
    out = rotate(x, GRID, "exact")
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, rotate(x.float(), GRID, "exact"), atol=1e-6, rtol=0)


def test_a_table_first_built_in_inference_mode_serves_training():
    grid = Grid(2, 3, 7)  # not used elsewhere, so that the table is new
    x = torch.randn(grid.n, 12, requires_grad=True)
    with torch.inference_mode():
        rotate(x, grid, "exact")
    rotate(x, grid, "exact").sum().backward()
    assert x.grad is not None


def test_full_tables_are_built_once():
    assert rope.tables(GRID, head_dim=48).cos is rope.tables(GRID, head_dim=48).cos


def test_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'released' or 'exact', got 'interleaved'"):
        rope.tables(GRID, head_dim=32, layout="interleaved")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("layout", ["released", "exact"])
@pytest.mark.parametrize("head_dim", [7, 12])
def test_gradients_of_first_and_second_order_are_those_of_the_rotation(layout, head_dim):
    ids = torch.tensor([[3, 17, 42], [0, 8, 59]])
    table = rope.at(torch.stack((ids // 20, ids % 20 // 5, ids % 5), -1), head_dim=head_dim, layout=layout)
    cos, sin = (t.double().unsqueeze(1) for t in table)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 3, head_dim, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rope.apply(x, cos, sin), (x,))
    assert torch.autograd.gradgradcheck(lambda x: rope.apply(x, cos, sin).square(), (x,))


def test_the_formula_left_to_the_compiler_is_the_same(monkeypatch):
    x = torch.randn(2, 3, GRID.n, 7, generator=torch.Generator().manual_seed(0))
    table = rope.tables(GRID, head_dim=7)
    eager = rope.apply(x, *table)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rope.apply(x, *table), eager, atol=1e-6, rtol=0)


def test_rows_and_columns_are_scaled_to_a_reference_and_time_is_not():
    grid, reference = Grid(3, 5, 1), 9
    scaled = rope.tables(grid, head_dim=20, layout="exact", reference=reference)
    t, h = torch.meshgrid(torch.arange(3.0), torch.arange(5.0) * 2, indexing="ij")  # 8 / 4 = 2 per row
    positions = torch.stack([t, h, torch.zeros_like(t)], -1).reshape(15, 3)
    expected = rope.at(positions, head_dim=20, layout="exact")
    torch.testing.assert_close(scaled.cos, expected.cos)
    torch.testing.assert_close(scaled.sin, expected.sin)


def test_a_grid_of_the_reference_size_is_not_scaled():
    for ids in (None, torch.tensor([[3, 1]])):
        plain, scaled = (rope.tables(Grid(2, 4, 4), ids, head_dim=12, reference=r) for r in (None, 4))
        assert torch.equal(plain.cos, scaled.cos)
