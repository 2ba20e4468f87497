"""A path or name leads to the parts of what lies there; which encoder is meant, and of which family it is."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vjepa_lab.weights import names
from vjepa_lab.weights.parts import Parts, read


def test_a_folder_of_a_run_is_read_by_its_last_checkpoint(released, save, tmp_path):
    save(released(), "last.ckpt")
    assert read(tmp_path).path == tmp_path / "last.ckpt"
    assert read(str(tmp_path)).dialect == "vjepa2"


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without last\.ckpt .* without config\.json"):
        read(tmp_path)


def test_safetensors_are_told_by_their_suffix(weights, tmp_path):
    save_file(weights("vjepa2")["encoder"], tmp_path / "x.safetensors")
    assert list(read(tmp_path / "x.safetensors").networks) == ["encoder"]


def test_a_released_name_brings_resolution_and_frames(released, save, tmp_path, monkeypatch):
    monkeypatch.setenv(names.VARIABLE, str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    save(released(), "vitg-384.pt")
    for parts in (read("vjepa2-vitg-384"), read(tmp_path / "vitg-384.pt")):
        assert (parts.facts["crop"], parts.facts["frames"]) == (384, 64)
    assert "crop" not in read(save(released(), "mine.pt")).facts


def parts(**networks):
    return Parts(path="x.pt", dialect="vjepa2", networks={name: tensors or {} for name, tensors in networks.items()})


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["encoder"], "encoder"),
        (["encoder", "target_encoder"], "target_encoder"),
        (["encoder", "ema_encoder"], "ema_encoder"),
    ],
)
def test_of_several_encoders_the_average_is_taken(there, taken):
    assert parts(**dict.fromkeys(there)).encoder()[0] == taken


def test_an_encoder_may_be_asked_for():
    both = parts(encoder=None, target_encoder=None)
    assert both.encoder("online") == ("encoder", "asked for")
    assert both.encoder("target")[0] == "target_encoder"
    with pytest.raises(ValueError, match="holds no ema encoder; there is: encoder, target_encoder"):
        both.encoder("ema")
    with pytest.raises(ValueError, match="got 'teacher', expected one of auto, target, online, ema"):
        both.encoder("teacher")


def test_a_file_without_encoder_says_so():
    assert not parts(predictor=None).has_encoder
    with pytest.raises(ValueError, match="holds no encoder; there is: predictor"):
        parts(predictor=None).encoder()


def test_the_family_is_that_of_the_networks():
    norm = torch.zeros(1)
    assert parts(encoder={"norm.weight": norm}).family == "vjepa2"
    assert parts(encoder={"norms_block.0.weight": norm}).family == "vjepa2.1"
    assert parts(predictor={"video_mod_embed": norm}).family == "vjepa2.1"
    assert parts(**{"classifiers.0": None}).family is None


def test_the_configuration_of_a_run_comes_back_with_defaults_for_what_it_lacks():
    there = parts(encoder=None)
    assert there.config() is None
    there.facts["config"] = {"encoder": {"depth": 3}}
    config = there.config()
    assert config is not None
    assert (config.encoder.depth, config.encoder.patch) == (3, 16)


def test_a_configuration_with_unknown_fields_is_refused():
    there = parts(encoder=None)
    there.facts["config"] = {"encoder": {"depths": 3}}
    with pytest.raises(ValueError, match=r"x\.pt: its config is not a configuration of this version.*depths"):
        there.config()
