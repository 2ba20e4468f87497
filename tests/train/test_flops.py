"""Counted operations agree with torch's own counter on the real step."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from vjepa_lab import dist, masks
from vjepa_lab.batch import Grid
from vjepa_lab.config import PretrainConfig
from vjepa_lab.jepa import build_jepa
from vjepa_lab.merge import load
from vjepa_lab.registry import MASKS
from vjepa_lab.train.flops import peak_flops, step_flops_per_clip


def test_the_formula_is_what_torch_counts(monkeypatch):
    monkeypatch.setattr("vjepa_lab.nn.linear._onednn_pays", lambda: False)  # products that torch's counter knows
    config = load(PretrainConfig, [], ["encoder.size=tiny", "encoder.depth=3", "encoder.crop=64", "predictor.depth=2"])
    grid = Grid.of(16, 64, 64, tubelet=2, patch=16)
    jepa = build_jepa(config)
    pairs = masks.sample([MASKS.build(e) for e in config.masks], grid, dist.rng(0, 0, batch=2))
    with FlopCounterMode(display=False) as counter:
        jepa(torch.randn(2, 3, 16, 64, 64), pairs)["loss"].backward()
    counts = [(p.context.shape[1], p.target.shape[1]) for p in pairs]
    ours = 2 * step_flops_per_clip(config, grid, counts)
    # the backward pass of attention recomputes its product (half an operation more), and pixels need no gradient
    assert abs(counter.get_total_flops() / ours - 1) < 0.06


def test_the_peak_of_this_machine_is_a_rate():
    assert 1e8 < peak_flops(torch.device("cpu"), "fp32") < 1e15
