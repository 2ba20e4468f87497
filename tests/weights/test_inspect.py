"""``inspect`` says what a file holds, also where it could not be loaded, and reads no tensor for it."""

from __future__ import annotations

import torch

from vjepa_lab.cli import main
from vjepa_lab.weights.inspect import inspect
from vjepa_lab.weights.parts import Parts, read


def test_the_verb_prints_every_network_of_the_file(released, save, capsys):
    path = save(released("vjepa2.1"))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for words in ("released V-JEPA 2.1", "target_encoder: 0.1", "predictor: width 24", "levels 4", "epoch 3"):
        assert words in text


def test_heads_that_nothing_tells_are_said_to_be_unknown(released, save):
    text = str(inspect(read(save(released()))))
    assert "depth 2, heads unknown" in text
    assert "give heads=" in text


def test_every_network_is_compared_not_only_the_one_to_be_used(released, save):
    raw = released()
    del raw["encoder"]["module.backbone.norm.bias"]
    raw["target_encoder"]["module.backbone.pos_embed"] = torch.zeros(1)
    raw["predictor"]["module.backbone.extra"] = torch.zeros(1)
    report = inspect(read(save(raw)))
    assert report.warnings[2:] == ["encoder: 1 missing: norm.bias", "predictor: 1 in excess: extra"]
    assert report.ignored == ["target_encoder.pos_embed"]


def test_no_tensor_is_read(released):
    networks = {
        name: {key.removeprefix("module.backbone."): value.to("meta") for key, value in released()[name].items()}
        for name in ("encoder", "predictor")
    }
    report = inspect(Parts(path="x.pt", dialect="vjepa2", networks=networks))
    assert report.parameters["encoder"] == sum(value.numel() for value in networks["encoder"].values())


def test_a_file_that_does_not_open_is_a_mistake_of_the_user(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "none.pt")]) == 2
    assert "no such file" in capsys.readouterr().err
