"""Shapes give back the sizes that made them, and what they cannot tell is told by somebody or is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vjepa_lab.config import SIZES, EncoderConfig, PredictorConfig, PretrainConfig
from vjepa_lab.jepa import build_encoder, build_predictor
from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.pooler import AttentiveClassifier
from vjepa_lab.weights.parts import Parts
from vjepa_lab.weights.shapes import Asked, describe


def parts_of(config, *, facts=None):
    with torch.device("meta"):
        networks = {"encoder": build_encoder(config.encoder), "predictor": build_predictor(config)}
    state = {name: dict(network.state_dict()) for name, network in networks.items()}
    return Parts(path=Path("x.pt"), dialect="vjepa2", networks=state, facts=facts or {})


def described(config, **asked):
    return describe(parts_of(config), "encoder", Asked(**asked))


RELEASED = {"rope": "released"}
NEWER = {"family": "vjepa2.1", "rope": "exact", "interpolate": True}


@pytest.mark.parametrize("size", ["small", "large", "huge", "giant", "gigantic"])
def test_a_released_size_is_known_by_name_with_its_heads(size):
    config = PretrainConfig(encoder=EncoderConfig(size=size, **RELEASED), predictor=PredictorConfig(mask_tokens=10))
    found = described(config)
    assert found.config == config
    assert found.config.encoder.resolved() == SIZES[size]
    assert found.origin["heads"] == "table of released sizes"
    assert not found.unknown


@pytest.mark.parametrize(
    "config",
    [
        PretrainConfig(encoder=EncoderConfig(width=64, depth=3, heads=4, mlp_width=96, patch=8, tubelet=4, **RELEASED)),
        PretrainConfig(
            encoder=EncoderConfig(width=64, depth=8, heads=4, **NEWER), predictor=PredictorConfig(levels=4, heads=4)
        ),
        PretrainConfig(  # distilled: a teacher of 1664 dimensions
            encoder=EncoderConfig(size="base", **NEWER), predictor=PredictorConfig(mask_tokens=8, out_width=1664)
        ),
    ],
)
def test_shapes_give_back_the_configuration(config):
    heads = config.encoder.heads
    assert described(config, heads=heads, predictor_heads=config.predictor.heads).config == config


def test_g_has_22_heads_although_16_would_fit():
    config = PretrainConfig(encoder=EncoderConfig(size="giant", **RELEASED))
    assert described(config).config.encoder.resolved().heads == 22
    assert described(config, heads=16).config.encoder.resolved().heads == 16


def test_heads_that_nothing_tells_are_asked_for():
    config = PretrainConfig(
        encoder=EncoderConfig(width=64, depth=2, heads=2, **RELEASED), predictor=PredictorConfig(width=48, depth=2)
    )
    found = described(config)
    assert ["give heads=" in found.unknown[0], "give predictor_heads=" in found.unknown[1]] == [True, True]
    assert "width 64 with depth 2" in found.unknown[0]


def test_the_caller_is_heard_before_the_file_and_the_file_before_the_table():
    config = PretrainConfig(encoder=EncoderConfig(size="giant", **RELEASED))
    parts = parts_of(config, facts={"heads": 44, "crop": 384, "rope": "exact"})
    found = describe(parts, "encoder", Asked(crop=128))
    encoder = found.config.encoder
    assert (encoder.heads, encoder.crop, encoder.rope, encoder.frames) == (44, 128, "exact", 16)
    assert [found.origin[name] for name in ("heads", "crop", "rope", "frames")] == ["file", "given", "file", "assumed"]


def test_a_configuration_in_the_file_says_everything():
    config = PretrainConfig(encoder=EncoderConfig(width=64, depth=2, heads=8, frames=8, rope="exact", mlp="swiglu"))
    plain = {"encoder": {"width": 64, "depth": 2, "heads": 8, "frames": 8, "rope": "exact", "mlp": "swiglu"}}
    found = describe(parts_of(config, facts={"config": plain}), "encoder", Asked())
    assert found.config == config
    assert set(found.origin.values()) == {"file"}


@pytest.mark.parametrize("asked", [{"heads": 3}, {"heads": 0}, {"heads": 2, "predictor_heads": 5}])
def test_heads_that_do_not_divide_the_width_are_refused(asked):
    config = PretrainConfig(encoder=EncoderConfig(width=64, depth=2, heads=2, **RELEASED))
    with pytest.raises(ValueError, match="does not divide the width"):
        described(config, **asked)


def test_an_unknown_rope_is_refused():
    with pytest.raises(ValueError, match="rope: got 'tiled'"):
        described(PretrainConfig(encoder=EncoderConfig(**RELEASED)), rope="tiled")


def test_an_encoder_of_single_images_is_refused():
    parts = parts_of(PretrainConfig(encoder=EncoderConfig(**RELEASED)))
    parts.networks["encoder"]["patch_embed.proj.weight"] = torch.empty(1024, 3, 16, 16, device="meta")
    with pytest.raises(ValueError, match="single images"):
        describe(parts, "encoder", Asked())


@pytest.mark.parametrize("config", [EncoderConfig(**RELEASED), EncoderConfig(size="base", **NEWER)])
def test_a_predictor_alone_says_how_wide_its_encoder_is(config):
    parts = parts_of(PretrainConfig(encoder=config, predictor=PredictorConfig(levels=4 if config.interpolate else 1)))
    del parts.networks["encoder"]
    assert describe(parts, None, Asked()).config.encoder.resolved().width == config.resolved().width


def test_the_sizes_of_the_action_conditioned_predictor():
    with torch.device("meta"):
        made = ACPredictor(encoder_width=1408, action_dim=5, extrinsics_dim=4)
    parts = Parts(path=Path("x.pt"), dialect="vjepa2-ac", networks={"ac_predictor": dict(made.state_dict())})
    got = describe(parts, None, Asked(extrinsics=True)).arguments["ac_predictor"]
    assert got == {
        "encoder_width": 1408,
        "width": 1024,
        "depth": 24,
        "heads": 16,
        "mlp_hidden": 4096,
        "use_extrinsics": True,
        "rope": "released",
        "action_dim": 5,
        "state_dim": 7,
        "extrinsics_dim": 4,
    }


def classifier(classes, facts=None):
    with torch.device("meta"):
        made = AttentiveClassifier(width=64, heads=4, depth=3, classes=classes)
    state = dict(sorted(made.state_dict().items()))  # as safetensors list them
    return Parts(path=Path("x.pt"), dialect="probe", networks={"classifiers.0": state}, facts=facts or {})


@pytest.mark.parametrize("classes", [7, {"verb": 5, "noun": 6, "action": 7}, {"action": 3}])
def test_the_sizes_of_a_classifier_with_its_queries_in_their_order(classes):
    got = describe(classifier(classes), None, Asked()).arguments["classifiers.0"]
    assert got == {"width": 64, "heads": 16, "depth": 3, "classes": classes, "eps": 1e-5}
    assert not isinstance(classes, dict) or list(got["classes"]) == list(classes)


def test_a_file_may_say_how_its_classifier_was_run():
    parts = classifier(7, {"pooler_heads": 8, "pooler_eps": 1e-6})
    got = describe(parts, None, Asked()).arguments["classifiers.0"]
    assert (got["heads"], got["eps"]) == (8, 1e-6)
    assert describe(parts, None, Asked(heads=4)).arguments["classifiers.0"]["heads"] == 4
