"""A slice of an energy is the energy, its minimum is where it is, and its figures are those of known shapes."""

import pytest
import torch

from vjepa_lab.planning.landscape import Landscape, landscape

TRUTH = torch.tensor([0.03, 0.0, -0.045, 0, 0, 0, 0])
BASE = torch.zeros(1, 7)


def bowl(actions):
    return (actions[:, 0, :3] - TRUTH[:3]).square().sum(-1)


def corners(actions):
    """Distances through a bent map, as features are."""
    return torch.tanh(3 * (actions[:, 0, :3] - TRUTH[:3])).abs().sum(-1)


@pytest.mark.parametrize("energy", [bowl, corners])
def test_the_minimum_is_the_grid_point_nearest_to_the_truth(energy):
    found = landscape(energy, BASE, (0, 2), (0.075, 0.075), cells=11, truth=TRUTH)
    assert found.energy.shape == (11, 11)
    assert found.minimum.tolist() == pytest.approx([0.03, -0.045], abs=1e-7)
    assert found.cells == pytest.approx(0, abs=1e-5)
    assert not found.on_the_edge
    summary = found.summary()
    assert summary["cosine"] == pytest.approx(1)
    assert summary["ratio"] == pytest.approx(1)
    assert summary["rank"] > 0.95
    assert summary["depth"] > 0.5


def test_a_bowl_is_convex_and_ranks_as_distance_does():
    summary = landscape(bowl, BASE, (0, 2), (0.075, 0.075), truth=TRUTH).summary()
    assert summary["convex"] == 1
    assert summary["rank"] > 0.999
    hill = landscape(lambda a: -bowl(a), BASE, (0, 2), (0.075, 0.075), truth=TRUTH).summary()
    assert hill["convex"] == 0
    assert hill["rank"] < -0.999


def test_a_truth_outside_the_grid_puts_the_minimum_on_the_edge():
    far = torch.tensor([0.0, -0.1, 0, 0, 0, 0, 0])
    found = landscape(lambda a: (a[:, 0] - far).square().sum(-1), BASE, (0, 1), (0.075, 0.075), cells=5, truth=far)
    assert found.minimum.tolist() == pytest.approx([0, -0.075])
    assert found.on_the_edge
    assert found.cells == pytest.approx(0.025 / 0.0375)


def test_cells_count_along_the_worse_axis():
    grid = torch.linspace(-1, 1, 5)
    energy = torch.ones(5, 5)
    energy[3, 1] = 0
    found = Landscape(("x", "y"), (grid, grid), energy, torch.tensor([0.5, 0.25]))
    assert found.minimum.tolist() == [0.5, -0.5]
    assert found.cells == 1.5


def test_other_numbers_and_steps_are_held():
    seen = []

    def energy(actions):
        seen.append(actions)
        return actions[:, 1, 2]

    base = torch.arange(14.0).view(2, 7)
    found = landscape(energy, base, (2,), (0.5,), cells=7, step=1, chunk=3)
    actions = torch.cat(seen)
    assert [len(part) for part in seen] == [3, 3, 1]
    torch.testing.assert_close(actions[:, 1, 2], torch.linspace(-0.5, 0.5, 7))
    actions[:, 1, 2] = base[1, 2]
    assert torch.equal(actions, base.expand(7, 2, 7))
    torch.testing.assert_close(found.energy, torch.linspace(-0.5, 0.5, 7))
    assert found.truth is None
    assert found.cells != found.cells  # unknown


def test_playing_backwards_turns_the_minimum_round():
    there, back = (
        landscape(lambda a, s=s: (a[:, 0] - s * TRUTH).square().sum(-1), BASE, (0, 2), (0.06, 0.06)) for s in (1, -1)
    )
    torch.testing.assert_close(there.minimum, -back.minimum)


@pytest.mark.parametrize("dims", [(0,), (0, 2)])
def test_files_and_pictures(tmp_path, dims):
    names = ("d_x", "d_y", "d_z", "d_roll", "d_pitch", "d_yaw", "d_gripper")
    found = landscape(bowl, BASE, dims, (0.075,) * len(dims), truth=TRUTH, names=names)
    found.save(tmp_path / "energy.npz")
    read = Landscape.load(tmp_path / "energy.npz")
    assert read.names == tuple(names[dim] for dim in dims)
    assert torch.equal(read.energy, found.energy)
    assert read.summary() == found.summary()
    found.draw(tmp_path / "energy.png", "a bowl")
    assert (tmp_path / "energy.png").read_bytes().startswith(b"\x89PNG")


def test_a_truth_that_is_unknown_stays_so_in_a_file(tmp_path):
    landscape(bowl, BASE, (0,), (0.1,)).save(tmp_path / "energy.npz")
    assert Landscape.load(tmp_path / "energy.npz").truth is None


@pytest.mark.parametrize(
    ("dims", "extents", "cells"), [((0, 1, 2), (1, 1, 1), 5), ((0,), (0.0,), 5), ((0, 1), (1,), 5), ((0,), (1,), 2)]
)
def test_what_is_no_slice_is_refused(dims, extents, cells):
    with pytest.raises(ValueError, match="landscape: expected one or two dims"):
        landscape(bowl, BASE, dims, extents, cells=cells)
