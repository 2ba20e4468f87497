"""The V-JEPA 2.1 objective equals a naive version, level by level and token by token; nothing leaks."""

from __future__ import annotations

import pytest
import torch

from vjepa_lab.batch import Grid, MaskPair
from vjepa_lab.dense_jepa import DenseJEPA, distance_to
from vjepa_lab.nn.encoder import Encoder
from vjepa_lab.nn.predictor import Predictor

GRID, STILL = Grid(2, 3, 3), Grid(1, 2, 2)


def tiny(power: float = 1.0, *, distance: bool = True, levels: int = 4) -> DenseJEPA:
    torch.manual_seed(0)
    context = Encoder(width=24, depth=4, heads=2, patch=4, levels=[0, 1, 2, 3], images=True)
    predictor = Predictor(encoder_width=24, width=12, depth=1, heads=2, levels=levels, images=True, dense=True)
    return DenseJEPA(context=context, predictor=predictor, power=power, distance=distance, image_share=0.25)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def pairs(grid: Grid, *, rows: int = 2, seen: int = 2) -> list[MaskPair]:
    g = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(grid.n, generator=g) for _ in range(rows)])
    ends = (order[:, :seen].sort().values, order[:, seen : seen + 2].sort().values)
    return [MaskPair(*ends), MaskPair(*ends[::-1])]


def naive(model: DenseJEPA, clip: torch.Tensor, pairs: list[MaskPair], grid: Grid, image: bool) -> tuple:
    """Loss at hidden and at visible tokens, one sample, token and level at a time."""
    width, levels = model.context.width, model.predictor.levels
    at_target, at_context = [], []
    for pair in pairs:
        one, two = [], []
        for b in range(len(clip)):
            x, seen, hidden = clip[b : b + 1], pair.context[b : b + 1], pair.target[b : b + 1]
            h = model.target(x, levels=levels > 1)[0]
            z, c = model.predictor(model.context(x, seen, levels=levels > 1), seen, hidden, grid, image=image)
            for prediction, ids, out in ((z[0], hidden[0], one), (c[0], seen[0], two)):
                for i, token in enumerate(ids.tolist()):
                    weight = 1.0
                    if model.distance and out is two:
                        place = torch.tensor([divmod(n, grid.h * grid.w) for n in [token, *hidden[0].tolist()]])
                        place = torch.stack([place[:, 0], place[:, 1] // grid.w, place[:, 1] % grid.w], 1).float()
                        weight = (place[1:] - place[0]).norm(dim=1).min() ** -0.5
                    for level in range(levels):
                        part = slice(level * width, (level + 1) * width)
                        t = h[token, part]
                        t = (t - t.mean()) / (t.var(correction=0) + 1e-5).sqrt()
                        out.append(((prediction[i, part] - t).abs() ** model.power).mean() / model.power * weight)
        at_target.append(torch.stack(one).mean())
        at_context.append(torch.stack(two).mean())
    return torch.stack(at_target).mean(), torch.stack(at_context).mean()


@pytest.mark.parametrize(("power", "distance", "levels"), [(1.0, True, 4), (1.5, True, 1), (1.0, False, 4)])
def test_loss_equals_the_naive_version(power, distance, levels):
    model = tiny(power, distance=distance, levels=levels)
    clip, image = noise(2, 3, 4, 12, 12), noise(3, 3, 1, 8, 8)
    clip_pairs, image_pairs = pairs(GRID, seen=6), pairs(STILL, rows=3)
    out = model(clip, clip_pairs, image, image_pairs, context_weight=(0.5, 0.7))
    target, context = naive(model, clip, clip_pairs, GRID, False)
    still_target, still_context = naive(model, image, image_pairs, STILL, True)
    torch.testing.assert_close(out["loss/target"], target.detach())
    torch.testing.assert_close(out["loss/context"], context.detach())
    torch.testing.assert_close(out["image/loss/context"], still_context.detach())
    expected = 0.75 * (target + 0.5 * context) + 0.25 * (still_target + 0.7 * still_context)
    torch.testing.assert_close(out["loss"], expected)
    by_level = torch.stack([out[f"loss/level{j}"] for j in range(levels)])
    torch.testing.assert_close(by_level.mean(), out["loss/target"])


def test_every_parameter_but_the_target_learns_from_a_batch_of_both():
    model = tiny()
    args = noise(2, 3, 4, 12, 12), pairs(GRID, seen=6), noise(3, 3, 1, 8, 8), pairs(STILL, rows=3)
    model(*args, context_weight=(0.5, 0.5))["loss"].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without
    assert all(n.startswith("target.") for n in without)


def test_before_the_ramp_the_context_projection_gets_no_gradient_but_is_part_of_the_graph():
    model = tiny()
    model(noise(2, 3, 4, 12, 12), pairs(GRID, seen=6))["loss"].backward()
    assert model.predictor.predictor_proj_context.weight.grad.abs().max() == 0
    assert model.predictor.predictor_proj.weight.grad.abs().max() > 0


def test_a_hidden_token_never_influences_a_prediction():
    model, clip, pair = tiny(), noise(2, 3, 4, 12, 12), pairs(GRID, seen=6)[0]
    changed = clip.clone()
    row, column = divmod(int(pair.target[0, 0]) % 9, 3)
    tubelet = int(pair.target[0, 0]) // 9
    changed[0, :, 2 * tubelet : 2 * tubelet + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    for x, same in ((clip, True), (changed, True)):
        context = model.context(x, pair.context, levels=True)
        assert torch.equal(context, model.context(clip, pair.context, levels=True)) is same
    assert not torch.equal(model.target(changed), model.target(clip))


@pytest.mark.parametrize("grid", [Grid(1, 1, 5), Grid(4, 3, 2), Grid(3, 7, 5)])
def test_distances_equal_those_to_every_target(grid):
    g = torch.Generator().manual_seed(3)
    ids = torch.stack([torch.randperm(grid.n, generator=g)[:2] for _ in range(4)])
    places = torch.cartesian_prod(*(torch.arange(float(n)) for n in grid)).reshape(grid.n, 3)
    slow = torch.stack([torch.cdist(places, places[row]).amin(1) for row in ids])
    torch.testing.assert_close(distance_to(ids, grid), slow)


def test_the_target_follows_the_context_encoder():
    model = tiny()
    with torch.no_grad():
        model.context.img_mod_embed.add_(1.0)
    model.update_target(0.25)
    torch.testing.assert_close(model.target.img_mod_embed, model.context.img_mod_embed - 0.25)
