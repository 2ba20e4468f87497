"""The bench of the masks: every row of its tables can be made."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from vjepa_lab.data.transforms import MEAN, STD

TOOLS = Path(__file__).parents[1] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("masks")


def test_every_map_and_every_mask_has_its_figures(bench):
    films = bench.targeting.films(2)
    maps = bench.table_of_maps(films)
    assert list(maps) == [row.title for row in bench.MAPS]
    assert maps["accel_matching"].auc > maps["velocity"].auc
    rows = bench.table_of_masks(films)
    assert list(rows) == list(bench.STRATEGIES)
    for title in ("random 40 %", "motion", "interaction_blocks", "future", "ia_jepa"):
        assert rows[title].ratio == pytest.approx(0.4, abs=1e-3)


def test_clips_are_normalised_as_in_training(bench):
    frames = bench.targeting.films(1)[0].frames[None]
    one = bench.normalised(frames)[0, :, 0, 0, 0]
    assert one.tolist() == pytest.approx(
        [(x - m) / s for x, m, s in zip(frames[0, :, 0, 0, 0].tolist(), MEAN, STD, strict=True)]
    )


def test_noise_is_a_function_of_the_film_and_costs_are_of_every_mask_and_model(bench, monkeypatch):
    (film,) = bench.targeting.films(1)
    noisy = [bench._noisy(i, film, 0.02).frames for i in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert (noisy[0] - film.frames).std().item() == pytest.approx(0.02, rel=0.05)
    few = {title: bench.STRATEGIES[title] for title in ("random 40 %", "interaction_blocks")}
    monkeypatch.setattr(bench, "STRATEGIES", few)
    found = bench.cost(32, batch=1, rounds=1, models=["tiny"])
    assert list(found.strategies) == list(few)
    assert 0 < found.strategies["random 40 %"] < found.strategies["interaction_blocks"] < found.steps["tiny"]
