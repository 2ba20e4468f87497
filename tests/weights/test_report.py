"""A report says in words what was found, and where that came from which shapes cannot tell."""

from __future__ import annotations

import vjepa_lab


def test_it_says_what_was_loaded_and_from_where(released, save, given):
    raw = released()
    raw["encoder"]["module.backbone.pos_embed"] = raw["encoder"]["module.backbone.norm.weight"]
    path = save(raw | {"args": 1})
    text = str(vjepa_lab.load(path, encoder="online", crop=64, **given).report)
    assert text.splitlines()[0] == f"{path}: released V-JEPA 2 pretraining, family vjepa2"
    for words in (
        "encoder: 0.07 M parameters",
        "encoder taken: encoder (asked for)",
        "encoder: width 32, depth 2, heads 2 (given), MLP 128, patch 16, tubelet 2",
        "predictor: width 24, depth 2, heads 2 (given), mask tokens 3, levels 1",
        "rope: released (of its family)",
        "clips: frames 16 (assumed), pixels 64 (given)",
        "optimizer: no",
        "epoch 3, loss 0.5, lr 0.001",
        "not used: encoder.pos_embed, args",
    ):
        assert words in text


def test_it_counts_parameters(released, save, given, weights):
    report = vjepa_lab.load(save(released("vjepa2.1")), **given).report
    expected = sum(t.numel() for t in weights("vjepa2.1")["predictor"].values())
    assert report.parameters["predictor"] == expected
    assert report.family == "vjepa2.1"
    assert "interpolate: True (of its family)" in str(report)
