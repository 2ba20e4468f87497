"""A file is recognised by its keys alone, and nothing of a network is lost when its prefix is taken off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vjepa_lab.weights import dialects
from vjepa_lab.weights.dialects import from_pickle, from_tensors

FILE = Path("x.pt")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("prefix", ["module.backbone.", "module.", "backbone.", "module.module.", ""])
def test_released_pretraining_with_any_released_prefix(released, weights, prefix):
    contents = from_pickle(FILE, released(prefix=prefix))
    assert contents.dialect == "vjepa2"
    assert all(same(contents.networks[name], tensors) for name, tensors in weights("vjepa2").items())
    assert contents.facts == {"epoch": 3, "loss": 0.5, "batch_size": 2, "world_size": 1, "lr": 1e-3}
    assert contents.optimizer is None  # it was empty


def test_a_prefix_that_not_all_names_have_stays(released):
    raw = released()
    raw["encoder"]["other"] = torch.zeros(1)
    assert "module.backbone.norm.weight" in from_pickle(FILE, raw).networks["encoder"]


def test_the_family_shows_in_the_norms_and_distillation_in_the_average(released):
    raw = released("vjepa2.1")
    assert from_pickle(FILE, raw).dialect == "vjepa2.1"
    raw["ema_encoder"] = raw.pop("target_encoder")
    assert from_pickle(FILE, raw).dialect == "vjepa2.1-distilled"


def test_an_action_encoder_makes_it_action_conditioned(released):
    raw = {"encoder": released()["encoder"], "predictor": {"module.action_encoder.weight": torch.zeros(4, 7)}}
    contents = from_pickle(FILE, raw)
    assert contents.dialect == "vjepa2-ac"
    assert list(contents.networks) == ["encoder", "ac_predictor"]


def test_a_list_of_classifiers_is_a_probe():
    head = {"module.pooler.query_tokens": torch.zeros(1, 1, 8)}
    contents = from_pickle(FILE, {"classifiers": [head, head], "opt": [{}, {}], "epoch": 2})
    assert contents.dialect == "probe"
    assert list(contents.networks) == ["classifiers.0", "classifiers.1"]
    assert list(contents.networks["classifiers.1"]) == ["pooler.query_tokens"]


def test_the_optimizer_is_handed_on(released):
    raw = released() | {"opt": {"state": {0: {}}, "param_groups": []}}
    assert from_pickle(FILE, raw).optimizer is raw["opt"]


def test_entries_that_no_layout_knows_are_listed(released):
    raw = released() | {"args": {"a": 1}, "momentum": 0.9}
    assert from_pickle(FILE, raw).facts["entries"] == ["args", "momentum"]


def run(weights):
    roles = {"jepa.context.": "encoder", "jepa.target.": "target_encoder", "jepa.predictor.": "predictor"}
    state = {prefix + k: v for prefix, name in roles.items() for k, v in weights("vjepa2")[name].items()}
    return {"state_dict": state, "global_step": 7, "config": {"keep": "head"}, "optimizer_states": [{"state": {}}]}


def test_a_checkpoint_of_a_run(weights):
    contents = from_pickle(FILE, run(weights))
    assert contents.dialect == "run"
    assert all(same(contents.networks[name], tensors) for name, tensors in weights("vjepa2").items())
    assert contents.facts == {"step": 7, "config": {"keep": "head"}}
    assert contents.optimizer == {"state": {}}


def test_a_run_with_another_network_is_not_read_in_part(weights):
    raw = run(weights)
    raw["state_dict"]["jepa.decoder.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"got 1 others: jepa\.decoder\.weight"):
        from_pickle(FILE, raw)


def test_our_safetensors_carry_their_configuration(weights):
    tensors = {f"{name}.{k}": v for name, network in weights("vjepa2").items() for k, v in network.items()}
    metadata = {"format": "vjepa_lab", "config": json.dumps({"keep": "head"}), "step": "9"}
    contents = from_tensors(FILE, tensors, metadata)
    assert contents.dialect == "safetensors"
    assert all(same(contents.networks[name], network) for name, network in weights("vjepa2").items())
    assert contents.facts == {"config": {"keep": "head"}, "step": 9}


def test_broken_metadata_is_told_as_such(weights):
    with pytest.raises(ValueError, match="metadata cannot be read"):
        from_tensors(FILE, weights("vjepa2")["encoder"], {"format": "vjepa_lab", "config": "{"})


@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("patch_embed.proj.weight", "encoder"),
        ("predictor_norm.weight", "predictor"),
        ("action_encoder.weight", "ac_predictor"),
        ("pooler.query_tokens", "classifiers.0"),
    ],
)
def test_the_state_dict_of_one_network_says_which(key, network):
    for contents in (from_pickle(FILE, {key: torch.zeros(1)}), from_tensors(FILE, {key: torch.zeros(1)}, {})):
        assert contents.dialect == "state-dict"
        assert list(contents.networks) == [network]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "at the top it has nothing"),
        ({"model": {}, "epoch": 1}, "at the top it has epoch, model"),
        ({"layer4.weight": torch.zeros(1)}, "no network that this package knows; it begins with layer4"),
        ({"encoder": {"norm.weight": 3}}, "expected 'encoder' to be a mapping of names to tensors"),
        ({"classifiers": [3]}, "expected 'classifiers.0' to be a mapping"),
    ],
)
def test_what_is_none_of_these_is_refused(raw, words):
    with pytest.raises(ValueError, match=words):
        from_pickle(FILE, raw)


def test_a_file_of_a_hugging_face_folder_is_told_to_be_opened_by_it():
    with pytest.raises(ValueError, match="give the folder"):
        from_tensors(FILE, {"encoder.layer.0.norm1.weight": torch.zeros(1)}, {"format": "pt"})


def test_every_layout_has_a_title():
    assert set(dialects.MAY_EXCEED) | set(dialects.RELEASED) <= dialects.TITLES.keys()


def test_stale_positions_may_be_in_released_files_alone():
    assert dialects.may_exceed("vjepa2", "target_encoder") == {"pos_embed"}
    assert dialects.may_exceed("vjepa2", "predictor") == {"predictor_pos_embed"}
    assert not dialects.may_exceed("vjepa2.1", "encoder")
    assert not dialects.may_exceed("run", "encoder")
