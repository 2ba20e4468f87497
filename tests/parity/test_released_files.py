"""Recorded weights, written as the released files are, loaded by ``vjepa_lab.load``: what comes out is as recorded.

Only what shapes cannot tell is given: heads, and where it matters the positions' scaling and the use of camera poses.
"""

from __future__ import annotations

import pytest
import torch

import vjepa_lab
from vjepa_lab.batch import Grid

DISTRIBUTED, PLAIN = "module.backbone.", "module."


def near(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def prefixed(tensors, prefix):
    return {prefix + key: value for key, value in tensors.items()}


@pytest.fixture
def write(tmp_path):
    def write(contents):
        torch.save(contents, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return write


@pytest.fixture
def pretrained(recorded, write):
    """A file of V-JEPA 2 pretraining; its target encoder is the encoder plus 0.01."""
    online, predictor = recorded("encoder")["state_dict"], recorded("predictor")["state_dict"]
    target = {key: value + 0.01 for key, value in online.items()}
    networks = {"encoder": online, "predictor": predictor, "target_encoder": target}
    rest = {"opt": {}, "scaler": None, "epoch": 3, "loss": 0.5, "batch_size": 2, "world_size": 1, "lr": 1e-3}
    return write({name: prefixed(tensors, DISTRIBUTED) for name, tensors in networks.items()} | rest)


@pytest.fixture
def action_conditioned(recorded, write):
    """A file of V-JEPA 2-AC, by the name of its recorded predictor."""

    def make(name):
        networks = {"encoder": recorded("encoder")["state_dict"], "predictor": recorded(name)["state_dict"]}
        return write({name: prefixed(tensors, PLAIN) for name, tensors in networks.items()} | {"epoch": 1})

    return make


@torch.no_grad()
def test_the_encoder_of_a_pretraining_file_at_every_recorded_size(recorded, pretrained):
    case = recorded("encoder")
    encoder = vjepa_lab.load(pretrained, encoder="online", heads=2, predictor_heads=2).encoder
    near(encoder(case["video"]), case["out_full"])
    near(encoder(case["video_other_size"]), case["out_other_size"])
    near(encoder(case["single_tubelet"]), case["out_single_tubelet"])
    for ids, out in zip(case["masks_context"], case["out_context"], strict=True):
        near(encoder(case["video"], ids), out)
    taps = encoder(case["video"], taps=case["layers"])[1]
    for layer, out in zip(case["layers"], case["out_layers"], strict=True):
        near(taps[layer], out)


def test_the_target_encoder_is_the_one_that_is_taken(recorded, pretrained):
    loaded = vjepa_lab.load(pretrained, heads=2, predictor_heads=2)
    online = recorded("encoder")["state_dict"]
    assert loaded.report.encoder == "target_encoder"
    assert all(torch.equal(value, online[key] + 0.01) for key, value in loaded.encoder.state_dict().items())


@torch.no_grad()
def test_the_predictor_of_a_pretraining_file(recorded, pretrained):
    case = recorded("predictor")
    predictor = vjepa_lab.load(pretrained, heads=2, predictor_heads=2).predictor
    inputs = zip(case["context"], case["masks_context"], case["masks_target"], case["mask_index"], strict=True)
    for (context, context_ids, target_ids, token), out in zip(inputs, case["out"], strict=True):
        near(predictor(context, context_ids, target_ids, Grid(3, 3, 3), mask_token=token), out)


@pytest.mark.parametrize("name", ["ac_predictor", "ac_predictor_extrinsics"])
@torch.no_grad()
def test_an_action_conditioned_file(recorded, action_conditioned, name):
    case, video = recorded(name), recorded("encoder")
    poses = case.get("extrinsics")
    loaded = vjepa_lab.load(action_conditioned(name), heads=2, predictor_heads=2, extrinsics=poses is not None)
    near(loaded.encoder(video["video"]), video["out_full"])
    tokens = case["features"].unflatten(1, (4, 9))
    near(loaded.ac_predictor(tokens, case["actions"], case["states"], (3, 3), poses).flatten(1, 2), case["out"])


@torch.no_grad()
def test_a_probe_file(recorded, write):
    case = recorded("attentive_classifier")
    path = write({"classifiers": [prefixed(case["state_dict"], PLAIN)], "opt": [{}], "scaler": None, "epoch": 20})
    near(vjepa_lab.load(path, heads=2).heads[0](case["tokens"]), case["out"])


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("name", ["target_encoder", "ema_encoder"])
@torch.no_grad()
def test_a_file_of_the_next_family(recorded, write, interpolate, name):
    case = recorded(f"vjepa21_interpolate_{str(interpolate).lower()}")
    networks = {name: case["encoder"], "predictor": case["predictor"]}
    path = write({name: prefixed(tensors, DISTRIBUTED) for name, tensors in networks.items()} | {"epoch": 40})
    # Interpolation is what released 2.1 models were trained with, so only its absence has to be told.
    told = {} if interpolate else {"interpolate": False}
    loaded = vjepa_lab.load(path, heads=2, predictor_heads=2, crop=32, frames=4, **told)
    near(loaded.encoder(case["video"]), case["out_video"])
    near(loaded.encoder(case["image"]), case["out_image"])
    near(loaded.encoder(case["video"], levels=True), case["out_hierarchical"])
    context = loaded.encoder(case["video"], case["mask_context"], levels=True)
    near(context, case["out_context_hierarchical"])
    ids = case["mask_context"], case["mask_target"]
    at_targets, at_context = loaded.predictor(context, *ids, Grid(2, 2, 2), case["mask_index"])
    near(at_targets, case["predicted_targets"])
    near(at_context, case["predicted_context"])
