"""``vjepa_lab.load``: what is written is what is loaded, a damaged file never is, and heads are never guessed."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

import vjepa_lab
from vjepa_lab.batch import Grid
from vjepa_lab.config import EncoderConfig
from vjepa_lab.jepa import build_encoder, build_predictor
from vjepa_lab.nn.ac_predictor import ACPredictor
from vjepa_lab.nn.pooler import AttentiveClassifier
from vjepa_lab.weights import shapes

CLIP = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
P = "module.backbone."


def holds(network, tensors):
    got = network.state_dict()
    return got.keys() == tensors.keys() and all(torch.equal(got[key], tensors[key]) for key in got)


@pytest.mark.parametrize("family", ["vjepa2", "vjepa2.1"])
@pytest.mark.parametrize(("choice", "name"), [("auto", "target_encoder"), ("online", "encoder")])
def test_a_released_file_bit_for_bit(released, weights, save, given, family, choice, name):
    loaded = vjepa_lab.load(save(released(family)), encoder=choice, **given)
    assert holds(loaded.encoder, weights(family)[name])
    assert holds(loaded.predictor, weights(family)["predictor"])
    assert loaded.ac_predictor is None
    assert loaded.heads == []
    assert loaded.report.encoder == name
    assert loaded.config.encoder.family == family


@pytest.mark.parametrize("family", ["vjepa2", "vjepa2.1"])
@torch.no_grad()
def test_its_configuration_rebuilds_the_networks(released, save, given, family):
    loaded = vjepa_lab.load(save(released(family)), **given)
    encoder, predictor = build_encoder(loaded.config.encoder), build_predictor(loaded.config)
    encoder.load_state_dict(loaded.encoder.state_dict())
    predictor.load_state_dict(loaded.predictor.state_dict())
    assert torch.equal(encoder.eval()(CLIP), loaded.encoder(CLIP))
    context = encoder(CLIP, levels=family == "vjepa2.1")
    ids = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    args = context, ids, ids, Grid(2, 2, 2)
    torch.testing.assert_close(predictor.eval()(*args), loaded.predictor(*args), atol=0, rtol=0)


def test_a_distilled_file_gives_its_average_and_its_teachers_width(released, weights, save, given):
    raw = released("vjepa2.1")
    raw["ema_encoder"] = raw.pop("target_encoder")
    for key in [k for k in raw["predictor"] if "predictor_embed" in k]:
        del raw["predictor"][key]
    raw["predictor"] |= {P + "predictor_embed.weight": torch.zeros(24, 32), P + "predictor_embed.bias": torch.zeros(24)}
    for name in ("predictor_proj", "predictor_proj_context"):
        raw["predictor"] |= {f"{P}{name}.weight": torch.zeros(52, 24), f"{P}{name}.bias": torch.zeros(52)}
    loaded = vjepa_lab.load(save(raw), **given)
    assert loaded.report.encoder == "ema_encoder"
    assert (loaded.config.predictor.levels, loaded.config.predictor.out_width) == (1, 52)
    assert holds(loaded.encoder, weights("vjepa2.1")["target_encoder"])


def test_a_run_needs_nothing_to_be_told(weights, save):
    roles = {"jepa.context.": "encoder", "jepa.target.": "target_encoder", "jepa.predictor.": "predictor"}
    state = {prefix + k: v for prefix, name in roles.items() for k, v in weights("vjepa2")[name].items()}
    plain = {
        "encoder": {"width": 32, "depth": 2, "heads": 4, "frames": 4, "crop": 32, "rope": "exact"},
        "predictor": {"width": 24, "depth": 2, "heads": 3, "mask_tokens": 3},
    }
    loaded = vjepa_lab.load(save({"state_dict": state, "global_step": 9, "config": plain}))
    assert holds(loaded.encoder, weights("vjepa2")["target_encoder"])
    assert (loaded.encoder.head_dim, loaded.predictor.head_dim, loaded.encoder.rope) == (8, 8, "exact")
    assert loaded.report.facts == {"step": 9}


def test_the_kernel_of_attention_is_no_part_of_the_weights(weights, save):
    """A run with xformers on a GPU is read where there is none."""
    roles = {"jepa.context.": "encoder", "jepa.target.": "target_encoder", "jepa.predictor.": "predictor"}
    state = {prefix + k: v for prefix, name in roles.items() for k, v in weights("vjepa2")[name].items()}
    plain = {
        "encoder": {"width": 32, "depth": 2, "heads": 4, "rope": "exact", "attention": "xformers"},
        "predictor": {"width": 24, "depth": 2, "heads": 3, "mask_tokens": 3},
    }
    loaded = vjepa_lab.load(save({"state_dict": state, "global_step": 9, "config": plain}))
    assert loaded.encoder(CLIP).shape == (1, 8, 32)


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"frames": -2}])
def test_clips_of_no_size_are_refused(released, save, given, wrong):
    with pytest.raises(ValueError, match=r"(crop|frames): got (0|-2), expected 1 or more"):
        vjepa_lab.load(save(released()), **given, **wrong)


def test_an_export_needs_nothing_to_be_told(weights, tmp_path):
    plain = {"encoder": {"width": 32, "depth": 2, "heads": 4}, "predictor": {"width": 24, "depth": 2, "mask_tokens": 3}}
    tensors = {f"{name}.{k}": v for name, network in weights("vjepa2").items() for k, v in network.items()}
    metadata = {"format": "vjepa_lab", "config": json.dumps(plain), "step": "5"}
    save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / "x.safetensors", metadata)
    loaded = vjepa_lab.load(tmp_path / "x.safetensors", encoder="online")
    assert holds(loaded.encoder, weights("vjepa2")["encoder"])
    assert holds(loaded.predictor, weights("vjepa2")["predictor"])
    assert loaded.encoder.head_dim == 8


def test_an_action_conditioned_file(weights, save):
    made = ACPredictor(encoder_width=32, width=24, depth=2, heads=2)
    raw = {
        "encoder": {f"module.{k}": v for k, v in weights("vjepa2")["encoder"].items()},
        "predictor": {f"module.{k}": v for k, v in made.state_dict().items()},
    }
    loaded = vjepa_lab.load(save(raw), heads=2, predictor_heads=2, extrinsics=True)
    assert holds(loaded.ac_predictor, made.state_dict())
    assert loaded.ac_predictor.use_extrinsics
    assert loaded.predictor is None
    assert loaded.report.encoder == "encoder"


def test_a_probe_gives_classifiers_and_no_encoder(save):
    made = AttentiveClassifier(width=32, heads=16, depth=2, classes={"verb": 3, "noun": 4, "action": 5})
    raw = {"classifiers": [{f"module.{k}": v for k, v in made.state_dict().items()}] * 2}
    loaded = vjepa_lab.load(save(raw))
    assert loaded.encoder is None
    assert len(loaded.heads) == 2
    tokens = torch.randn(2, 6, 32)
    for name, scores in loaded.heads[1](tokens).items():
        assert torch.equal(scores, made.eval()(tokens)[name])
    with pytest.raises(ValueError, match="holds no target encoder; there is: classifiers"):
        vjepa_lab.load(save(raw), encoder="target")


def test_networks_are_for_evaluation_and_can_be_trained(released, save, given):
    path = save(released())
    loaded = vjepa_lab.load(path, **given)
    assert not loaded.encoder.training
    before = loaded.encoder.norm.weight.clone()
    with torch.no_grad():
        loaded.encoder(CLIP)
        loaded.encoder.norm.weight.add_(1)
    assert torch.equal(vjepa_lab.load(path, **given).encoder.norm.weight, before)
    assert all(p.requires_grad for p in loaded.encoder.parameters())


def test_the_loaded_model_is_in_memory_once(released, save, given, monkeypatch):
    given_to: list[int] = []
    opened = shapes.Parts.encoder

    def watch(parts, choice):
        given_to.extend(value.data_ptr() for value in parts.networks["target_encoder"].values())
        return opened(parts, choice)

    monkeypatch.setattr(shapes.Parts, "encoder", watch)
    loaded = vjepa_lab.load(save(released()), **given)
    assert {p.data_ptr() for p in loaded.encoder.parameters()} == set(given_to)


def damage(kind, tensors, blocks="blocks"):
    weight = f"{P}{blocks}.0.mlp.fc1.weight"
    if kind == "missing":
        del tensors[f"{P}{blocks}.1.norm2.bias"]
    elif kind == "excess":
        tensors[P + "cls_token"] = torch.zeros(1)
    elif kind == "transposed":
        tensors[weight] = tensors[weight].t().contiguous()
    elif kind == "shape":
        tensors[weight] = tensors[weight][:, :-1]
    elif kind == "depth":
        for key in [k for k in tensors if k.startswith(f"{P}{blocks}.0.")]:
            del tensors[key]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("missing", "1 missing: blocks.1.norm2.bias"),
        ("excess", "1 in excess: cls_token"),
        ("transposed", "1 transposed: blocks.0.mlp.fc1.weight (file (32, 128), expected (128, 32))"),
        ("shape", "1 of another shape: blocks.0.mlp.fc1.weight (file (128, 31), expected (128, 32))"),
        ("depth", "12 missing: blocks.0.attn.proj.bias, blocks.0.attn.proj.weight, blocks.0.attn.qkv.bias, "),
    ],
)
def test_each_damage_has_its_own_message(released, save, given, kind, line):
    raw = released()
    damage(kind, raw["target_encoder"])
    path = save(raw)
    with pytest.raises(ValueError, match="its tensors are not those") as told:
        vjepa_lab.load(path, **given)
    first, second = str(told.value).splitlines()
    assert first.startswith(f"{path}: target_encoder:")
    assert line in second
    assert vjepa_lab.load(path, encoder="online", **given).encoder is not None  # the other one is whole


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("missing", "1 missing: predictor_blocks.1.norm2.bias"),
        ("excess", "1 in excess: cls_token"),
        ("transposed", "1 transposed: predictor_blocks.0.mlp.fc1.weight (file (24, 96), expected (96, 24))"),
    ],
)
def test_a_damaged_predictor_is_told_too(released, save, given, kind, line):
    raw = released()
    damage(kind, raw["predictor"], "predictor_blocks")
    with pytest.raises(ValueError, match="predictor: its tensors are not those") as told:
        vjepa_lab.load(save(raw), **given)
    assert str(told.value).splitlines()[1].strip() == line


@pytest.mark.parametrize("kind", ["truncated", "pickled"])
def test_a_file_that_does_not_open_is_not_loaded(released, save, given, kind):
    path = save(released() | ({"config": EncoderConfig()} if kind == "pickled" else {}))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    words = {"truncated": "truncated or damaged", "pickled": r"pickled object \(vjepa_lab\.config\.EncoderConfig\)"}
    with pytest.raises(ValueError, match=words[kind]):
        vjepa_lab.load(path, **given)


def test_values_that_are_not_finite_are_warned_of_by_key(released, save, given):
    raw = released()
    raw["target_encoder"][P + "blocks.1.attn.qkv.bias"] = torch.full((96,), float("nan"))
    path = save(raw)
    with pytest.warns(UserWarning, match=r"target_encoder: not finite .*: blocks\.1\.attn\.qkv\.bias$"):
        report = vjepa_lab.load(path, **given).report
    assert "warning:" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vjepa_lab.load(path, encoder="online", **given)


def test_stale_positions_are_not_used_and_said(released, save, given):
    raw = released()
    raw["target_encoder"][P + "pos_embed"] = torch.zeros(1, 8, 32)
    raw["predictor"][P + "predictor_pos_embed"] = torch.zeros(1, 8, 24)
    ignored = vjepa_lab.load(save(raw), **given).report.ignored
    assert ignored == ["target_encoder.pos_embed", "predictor.predictor_pos_embed"]


def test_heads_come_from_the_table_and_other_heads_are_another_model(save, monkeypatch):
    """22 heads of 16 or 16 heads of 22: the same shapes, so nothing but the table can tell."""
    monkeypatch.setitem(shapes.HEADS, (352, 1), 22)
    config = EncoderConfig(width=352, depth=1, heads=22, rope="released")
    encoder = build_encoder(config).eval()
    path = save({"target_encoder": encoder.state_dict()})
    with torch.no_grad():
        with_table = vjepa_lab.load(path).encoder(CLIP)
        assert torch.equal(with_table, encoder(CLIP))
        asked = vjepa_lab.load(path, heads=16)
        assert (asked.encoder(CLIP) - with_table).abs().max() > 1e-3
    assert "heads 16 (given)" in str(asked.report)


def test_the_table_gives_the_giant_22_heads():
    assert shapes.HEADS[1408, 40] == 22
    assert shapes.HEADS[1664, 48] == 26


def test_without_a_row_in_the_table_heads_must_be_given(released, save):
    with pytest.raises(ValueError, match=r"no width 32 with depth 2: give heads=; .*give predictor_heads="):
        vjepa_lab.load(save(released()))


def test_the_package_offers_load_and_nothing_else_by_chance():
    assert vjepa_lab.load is vjepa_lab.weights.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = vjepa_lab.lod
